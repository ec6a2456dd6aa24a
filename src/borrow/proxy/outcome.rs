//! What became of a connection, as each protocol's replies can say it.

use crate::{
    BorrowError,
    proto::{Errno, ErrorKind},
};

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Refused,
    NetworkUnreachable,
    HostUnreachable,
    TimedOut,
    ByPolicy,
    /// The lender has no room now, or is away.
    Unavailable,
    Other,
}

impl Outcome {
    pub(super) fn of(error: &BorrowError) -> Self {
        match (error.kind(), error.errno()) {
            (ErrorKind::Policy, _) => Self::ByPolicy,
            (ErrorKind::Busy | ErrorKind::Lost | ErrorKind::Unreachable | ErrorKind::Revoked, _) => Self::Unavailable,
            (_, Some(Errno::ECONNREFUSED)) => Self::Refused,
            (_, Some(Errno::ENETUNREACH)) => Self::NetworkUnreachable,
            (_, Some(Errno::EHOSTUNREACH)) => Self::HostUnreachable,
            (_, Some(Errno::ETIMEDOUT)) => Self::TimedOut,
            _ => Self::Other,
        }
    }

    /// RFC 1928 §6.
    pub(super) fn socks5(self) -> u8 {
        match self {
            Self::Other | Self::Unavailable => 1,
            Self::ByPolicy => 2,
            Self::NetworkUnreachable => 3,
            Self::HostUnreachable => 4,
            Self::Refused => 5,
            // "TTL expired" is what it has for a time that is over.
            Self::TimedOut => 6,
        }
    }

    /// RFC 9110 §15.
    pub(super) fn http(self) -> &'static str {
        match self {
            Self::ByPolicy => "403 Forbidden",
            Self::Refused | Self::NetworkUnreachable | Self::HostUnreachable | Self::Other => "502 Bad Gateway",
            Self::Unavailable => "503 Service Unavailable",
            Self::TimedOut => "504 Gateway Timeout",
        }
    }
}
