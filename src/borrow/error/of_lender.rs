//! What a lender says and what becomes of its streams, as an error of the borrower's.

use std::io;

use super::BorrowError;
use crate::{
    proto::{Errno, ErrorKind, ProtocolError, Refusal, mux},
    session::{Ended, OpenError, TakenBack},
};

impl BorrowError {
    /// A lender's no to a request on `target`.
    pub(in crate::borrow) fn refused(lender: &str, target: &str, refusal: &Refusal) -> Self {
        let (lender, notes) = (lender.to_owned(), refusal.notes().to_vec());
        match (refusal.kind(), refusal.errno()) {
            (ErrorKind::Target, Some(errno)) => {
                let source = io::Error::from(errno);
                let said = source.to_string();
                // A name that is not known has no error number of its own.
                let why = if refusal.text().ends_with(&said) { said } else { refusal.text().to_owned() };
                Self::Dial { lender, target: target.to_owned(), why, source, notes }
            }
            _ => Self::unanswered(&lender, refusal),
        }
    }

    /// A lender's no to a question: nothing was tried.
    pub(in crate::borrow) fn unanswered(lender: &str, refusal: &Refusal) -> Self {
        Self::Refused {
            lender: lender.to_owned(),
            kind: refusal.kind(),
            reason: refusal.text().to_owned(),
            errno: refusal.errno(),
            notes: refusal.notes().to_vec(),
            warnings: refusal.warnings().to_vec(),
        }
    }

    /// A lender's no to a program.
    pub(in crate::borrow) fn not_started(lender: &str, refusal: &Refusal) -> Self {
        match refusal.errno() {
            Some(errno) if refusal.is_before_program() && refusal.kind() == ErrorKind::Target => Self::Start {
                lender: lender.to_owned(),
                reason: refusal.text().to_owned(),
                source: errno.into(),
                notes: refusal.notes().to_vec(),
            },
            _ => Self::unanswered(lender, refusal),
        }
    }

    /// Something that was lent, and that the lender took back.
    pub(in crate::borrow) fn taken_back(lender: &str, what: &str, taken: TakenBack) -> Self {
        Self::Refused {
            lender: lender.to_owned(),
            kind: taken.0,
            reason: format!("{what} was taken back: {}", taken.why()),
            errno: Some(Errno::EACCES),
            notes: Vec::new(),
            warnings: Vec::new(),
        }
    }

    pub(in crate::borrow) fn ended(lender: &str, ended: Ended) -> Self {
        Self::Ended { lender: lender.to_owned(), kind: ended.kind, text: ended.text }
    }

    pub(in crate::borrow) fn protocol(lender: &str, source: ProtocolError) -> Self {
        Self::Protocol { lender: lender.to_owned(), source }
    }

    /// Whether a lender that listens nowhere by IPv6 says this: EAFNOSUPPORT, EADDRNOTAVAIL.
    pub(in crate::borrow) fn is_for_want_of_ipv6(&self) -> bool {
        self.errno().is_some_and(|errno| [Errno::EAFNOSUPPORT, Errno::EADDRNOTAVAIL].contains(&errno))
    }

    pub(in crate::borrow) fn open(lender: &str, error: OpenError) -> Self {
        match error {
            OpenError::Ended(ended) => Self::ended(lender, ended),
            OpenError::Mux(error) => {
                let more = "help: ask the lender's admin to write this in an [[allow]] of policy.toml that names you:";
                let notes = match error {
                    // More than that no policy gives.
                    mux::OpenError::TooMany { limit } if limit < mux::Config::default().max_streams => {
                        vec![more.to_owned(), "limits = { streams = N }".to_owned()]
                    }
                    _ => Vec::new(),
                };
                Self::Busy { lender: lender.to_owned(), why: error.to_string(), notes }
            }
        }
    }

    /// What reading an answer from a stream failed with.
    pub(in crate::borrow) fn answer(lender: &str, target: &str, error: io::Error) -> Self {
        if let Some(errno) = Errno::of(&error) {
            let (lender, target, source) = (lender.to_owned(), target.to_owned(), io::Error::from(errno));
            return Self::Dial { lender, target, why: source.to_string(), source, notes: Vec::new() };
        }
        if let Some(taken) = TakenBack::of(&error) {
            return Self::taken_back(lender, target, taken);
        }
        let text = error.to_string();
        match error.into_inner().map(|inner| inner.downcast::<Ended>().map_err(|other| other.downcast())) {
            Some(Ok(ended)) => Self::ended(lender, *ended),
            Some(Err(Ok(protocol))) => Self::protocol(lender, *protocol),
            Some(Err(Err(_))) | None => {
                let got = format!("nothing: {text}");
                Self::protocol(lender, ProtocolError::Unexpected { expected: "answer", got })
            }
        }
    }

    /// What reading a program's output failed with: some of it is missing.
    pub(in crate::borrow) fn output(lender: &str, error: io::Error) -> Self {
        if let Some(taken) = TakenBack::of(&error) {
            return Self::taken_back(lender, "the program's output", taken);
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Ended>()) {
            Some(ended) => Self::ended(lender, ended.clone()),
            None => Self::Refused {
                lender: lender.to_owned(),
                kind: ErrorKind::Target,
                reason: format!("the program's output broke off: {error}"),
                errno: Errno::of(&error),
                notes: Vec::new(),
                warnings: Vec::new(),
            },
        }
    }

    /// The same of something that listens at `target`, and not of a connection to it.
    pub(in crate::borrow) fn of_listener(self) -> Self {
        match self {
            Self::Dial { lender, target, why, source, notes } => {
                Self::Listen { lender, address: target, why, source, notes }
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_fails_keeps_its_errno_and_a_refusal_its_notes() {
        let text = "10.0.0.1:1: Connection refused (os error 111)";
        let down = Refusal::new(ErrorKind::Target, text).with_errno(Some(Errno::ECONNREFUSED));
        let error = BorrowError::refused("lab", "db:1", &down);
        assert_eq!(error.kind(), ErrorKind::Target);
        assert_eq!(error.errno(), Some(Errno::ECONNREFUSED));
        assert_eq!(error.to_string(), "lab could not connect to db:1: Connection refused (os error 111)");

        let unknown = Refusal::new(ErrorKind::Target, "the lender cannot resolve db: Name or service not known");
        let unknown = unknown.with_errno(Some(Errno::EHOSTUNREACH));
        let error = BorrowError::refused("lab", "db:1", &unknown);
        let said = "lab could not connect to db:1: the lender cannot resolve db: Name or service not known";
        assert_eq!((error.errno(), error.to_string().as_str()), (Some(Errno::EHOSTUNREACH), said));

        let no = Refusal::new(ErrorKind::Policy, "connect db:1 is refused: no rule allows it")
            .with_errno(Some(Errno::EACCES))
            .with_notes(["help: ask".to_owned()]);
        let error = BorrowError::refused("lab", "db:1", &no);
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Policy, Some(Errno::EACCES)));
        assert_eq!(error.to_string(), "lab: connect db:1 is refused: no rule allows it");
        assert_eq!(error.notes(), ["help: ask"]);
    }

    #[test]
    fn a_folder_that_cannot_be_entered_is_no_program_that_cannot_be_executed() {
        let no = Refusal::new(ErrorKind::Target, "/bin/ls: the folder").with_errno(Some(Errno(2)));
        let error = BorrowError::not_started("lab", &no.clone().with_before_program(true));
        assert!(matches!(error, BorrowError::Start { .. }), "{error:?}");
        assert_eq!(
            (error.kind(), error.errno(), error.to_string()),
            (ErrorKind::Target, Some(Errno(2)), "lab: /bin/ls: the folder".into())
        );
        let error = BorrowError::not_started("lab", &no);
        assert!(matches!(error, BorrowError::Refused { .. }), "{error:?}");
    }

    #[test]
    fn a_broken_answer_says_who_broke_what() {
        let ended = Ended { kind: ErrorKind::Revoked, text: "ana was revoked".into(), by_peer: false };
        let error = BorrowError::answer("lab", "db:1", io::Error::new(io::ErrorKind::ConnectionReset, ended));
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::Revoked, "the session with lab is over: ana was revoked")
        );
        let end = BorrowError::answer("lab", "db:1", io::ErrorKind::UnexpectedEof.into());
        assert_eq!(end.kind(), ErrorKind::Protocol);
        let reset = BorrowError::answer("lab", "db:1", Errno::ECONNRESET.into());
        assert_eq!(reset.errno(), Some(Errno::ECONNRESET));
    }
}
