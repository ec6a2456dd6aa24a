//! How a connection that the lender did not make looks to the program.

use std::net::IpAddr;

use super::packet::Unreachable;
use crate::{
    BorrowError,
    proto::{Errno, ErrorKind},
};

const EPERM: Errno = Errno(1);
const ENETDOWN: Errno = Errno(100);

/// What `connect` is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A reset: ECONNREFUSED.
    Refused,
    /// It was connected at the lender and reset before it was used: so it is here, and the program has ECONNRESET.
    Reset,
    /// ICMP.
    Unreachable(Unreachable),
    /// Nothing: the program tries again, and in the end has ETIMEDOUT, when it would have it on the lender's machine.
    Silence,
}

impl Outcome {
    /// That of an attempt through the lender.
    pub fn of(error: &BorrowError) -> Self {
        match error {
            BorrowError::Refused { kind: ErrorKind::Policy | ErrorKind::Revoked, .. } => {
                Self::Unreachable(Unreachable::Prohibited)
            }
            // As many as it can: later there may be room.
            BorrowError::Busy { .. } | BorrowError::Refused { kind: ErrorKind::Busy, .. } => Self::Silence,
            BorrowError::Ended { .. } | BorrowError::Protocol { .. } => Self::Unreachable(Unreachable::Network),
            other => other.errno().map_or(Self::Unreachable(Unreachable::Host), Self::of_errno),
        }
    }

    /// That of an attempt that failed with this number.
    pub fn of_errno(errno: Errno) -> Self {
        match errno {
            Errno::ECONNREFUSED => Self::Refused,
            Errno::ECONNRESET => Self::Reset,
            Errno::ETIMEDOUT => Self::Silence,
            Errno::EACCES | EPERM => Self::Unreachable(Unreachable::Prohibited),
            Errno::ENETUNREACH | ENETDOWN | Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL => {
                Self::Unreachable(Unreachable::Network)
            }
            _ => Self::Unreachable(Unreachable::Host),
        }
    }
}

/// The policy's no to what goes to `target`, as the network says it; `None`: nobody listens there. On loopback a program looks for
/// servers of its own, and waits for one that does not listen yet.
pub fn prohibited(target: IpAddr) -> Option<Unreachable> {
    (!target.to_canonical().is_loopback()).then_some(Unreachable::Prohibited)
}

/// What connect(2) says of it, where it can say any number.
pub fn errno_of(error: &BorrowError) -> Errno {
    match error {
        BorrowError::Refused { kind: ErrorKind::Policy | ErrorKind::Revoked, .. } => Errno::EACCES,
        BorrowError::Busy { .. } | BorrowError::Refused { kind: ErrorKind::Busy, .. } => Errno::ETIMEDOUT,
        BorrowError::Ended { .. } | BorrowError::Protocol { .. } => Errno::ENETUNREACH,
        other => other.errno().unwrap_or(Errno::EHOSTUNREACH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_keep_their_meaning() {
        for (number, outcome) in [
            (111, Outcome::Refused),
            (104, Outcome::Reset),
            (110, Outcome::Silence),
            (113, Outcome::Unreachable(Unreachable::Host)),
            (101, Outcome::Unreachable(Unreachable::Network)),
            (99, Outcome::Unreachable(Unreachable::Network)),
            (13, Outcome::Unreachable(Unreachable::Prohibited)),
        ] {
            let source = std::io::Error::from_raw_os_error(number);
            let (lender, target, why) = ("lab".into(), "db:1".into(), source.to_string());
            let error = BorrowError::Dial { lender, target, why, source, notes: Vec::new() };
            assert_eq!(Outcome::of(&error), outcome, "{number}");
        }
        let busy = BorrowError::Busy { lender: "lab".into(), why: "4096".into(), notes: Vec::new() };
        assert_eq!(Outcome::of(&busy), Outcome::Silence);
        let ended = BorrowError::Ended { lender: "lab".into(), kind: ErrorKind::Lost, text: "gone".into() };
        assert_eq!(Outcome::of(&ended), Outcome::Unreachable(Unreachable::Network));
        let refusal = |kind| BorrowError::Refused {
            lender: "lab".into(),
            kind,
            reason: "no".into(),
            errno: Some(Errno::EACCES),
            notes: Vec::new(),
            warnings: Vec::new(),
        };
        assert_eq!(Outcome::of(&refusal(ErrorKind::Policy)), Outcome::Unreachable(Unreachable::Prohibited));
        assert_eq!(Outcome::of(&refusal(ErrorKind::Busy)), Outcome::Silence);
    }
}
