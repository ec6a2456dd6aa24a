//! Everything that can go wrong on the borrower's side, and what its user can do about it.

use std::io;

use crate::{
    proto::{Errno, ErrorKind, ProtocolError, Refusal, mux},
    session::{Ended, OpenError},
    trust::{keyfile::KeyFileError, ticket::TicketFileError},
};

/// Why something was not borrowed. As one line: what failed and why; [`notes`](Self::notes) says more.
///
/// # Security
/// Texts that the lender wrote stand in it as they came. Escape them before they reach a terminal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BorrowError {
    /// An argument is not what it should be.
    #[error("{text}")]
    Usage {
        /// What is wrong with it.
        text: String,
        /// What would be right.
        notes: Vec<String>,
    },
    /// This machine has not joined such a lender, or not as that user.
    #[error("{host:?} is not a host that this machine has joined")]
    UnknownHost {
        /// What was asked for.
        host: String,
        /// Which hosts there are, and how to join.
        notes: Vec<String>,
    },
    /// A key, certificate or settings file is missing, broken or open to others.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// A file of a profile does not hold what it should.
    #[error("{path}: {why}")]
    Profile {
        /// The file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
    /// None of the lender's addresses answered.
    #[error("cannot reach {lender} at {tried}: {why}")]
    Unreachable {
        /// The lender, as the user calls it.
        lender: String,
        /// Its addresses.
        tried: String,
        /// What happened at the last of them.
        why: String,
        /// What to look at.
        notes: Vec<String>,
    },
    /// One end does not take the other's certificate.
    #[error("{text}")]
    Identity {
        /// Who did not take whose, and why.
        text: String,
        /// What to do.
        notes: Vec<String>,
    },
    /// The TLS handshake failed.
    #[error("{text}")]
    Tls {
        /// How.
        text: String,
        /// What to look at.
        notes: Vec<String>,
    },
    /// The password, the ticket or the invitation is not taken, or there is none.
    #[error("{text}")]
    Login {
        /// Which, and why.
        text: String,
        /// What to do.
        notes: Vec<String>,
    },
    /// The lender says no: its policy, its limits, or it does not know the request.
    #[error("{lender}: {reason}")]
    Refused {
        /// The lender, as the user calls it.
        lender: String,
        /// Which kind of no it is.
        kind: ErrorKind,
        /// What was refused and why, in the lender's words.
        reason: String,
        /// The error number that a system call would give, where one exists.
        errno: Option<Errno>,
        /// The rule that decided, the nearest that would allow it, how to mend it; in the lender's words.
        notes: Vec<String>,
        /// Of a check alone: rules of this user that say less than they seem to; in the lender's words.
        warnings: Vec<String>,
    },
    /// The lender allows it, but the target does not answer; the source has the true error number.
    #[error("{lender} could not connect to {target}: {why}")]
    Dial {
        /// The lender, as the user calls it.
        lender: String,
        /// What was to be connected to.
        target: String,
        /// What its system said, or, where that says less, the lender.
        why: String,
        /// What the lender's system said.
        source: io::Error,
        /// More, in the lender's words.
        notes: Vec<String>,
    },
    /// The lender allows it, but cannot listen there, or has stopped; the source has the true error number.
    #[error("{lender} cannot listen on {address}: {why}")]
    Listen {
        /// The lender, as the user calls it.
        lender: String,
        /// What was to be listened on.
        address: String,
        /// What its system said, or, where that says less, the lender.
        why: String,
        /// What the lender's system said.
        source: io::Error,
        /// More, in the lender's words.
        notes: Vec<String>,
    },
    /// The session is over.
    #[error("the session with {lender} is over: {text}")]
    Ended {
        /// The lender, as the user calls it.
        lender: String,
        /// Why, by kind.
        kind: ErrorKind,
        /// Why, in words that may be the lender's.
        text: String,
    },
    /// The lender sent what no lender sends.
    #[error("{lender} broke the protocol: {source}")]
    Protocol {
        /// The lender, as the user calls it.
        lender: String,
        /// How.
        source: ProtocolError,
    },
    /// More streams at once than the lender allows.
    #[error("{lender} takes no more at once: {why}")]
    Busy {
        /// The lender, as the user calls it.
        lender: String,
        /// The limit.
        why: String,
        /// What to send to the lender's admin, where that can raise it.
        notes: Vec<String>,
    },
    /// Something on this machine failed.
    #[error("{what}: {source}")]
    Local {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl BorrowError {
    /// Which of the error kinds it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Usage { .. } => ErrorKind::Usage,
            Self::UnknownHost { .. } | Self::File(_) | Self::Profile { .. } => ErrorKind::Config,
            Self::Unreachable { .. } => ErrorKind::Unreachable,
            Self::Identity { .. } => ErrorKind::Identity,
            Self::Tls { .. } => ErrorKind::Tls,
            Self::Login { .. } => ErrorKind::Login,
            Self::Refused { kind, .. } | Self::Ended { kind, .. } => *kind,
            Self::Dial { .. } | Self::Listen { .. } => ErrorKind::Target,
            Self::Protocol { .. } => ErrorKind::Protocol,
            Self::Busy { .. } => ErrorKind::Busy,
            Self::Local { .. } => ErrorKind::Local,
        }
    }

    /// More lines for the user: what decided, and what to do.
    pub fn notes(&self) -> &[String] {
        match self {
            Self::Usage { notes, .. }
            | Self::UnknownHost { notes, .. }
            | Self::Unreachable { notes, .. }
            | Self::Identity { notes, .. }
            | Self::Tls { notes, .. }
            | Self::Login { notes, .. }
            | Self::Refused { notes, .. }
            | Self::Dial { notes, .. }
            | Self::Listen { notes, .. }
            | Self::Busy { notes, .. } => notes,
            Self::File(_) | Self::Profile { .. } | Self::Ended { .. } | Self::Protocol { .. } | Self::Local { .. } => {
                &[]
            }
        }
    }

    /// The error number of the target or of the refusal, where one exists.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => *errno,
            Self::Dial { source, .. } | Self::Listen { source, .. } | Self::Local { source, .. } => Errno::of(source),
            _ => None,
        }
    }

    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self::Usage { text: text.into(), notes: Vec::new() }
    }

    /// A lender's no to a request on `target`.
    pub(super) fn refused(lender: &str, target: &str, refusal: &Refusal) -> Self {
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
    pub(super) fn unanswered(lender: &str, refusal: &Refusal) -> Self {
        Self::Refused {
            lender: lender.to_owned(),
            kind: refusal.kind(),
            reason: refusal.text().to_owned(),
            errno: refusal.errno(),
            notes: refusal.notes().to_vec(),
            warnings: refusal.warnings().to_vec(),
        }
    }

    pub(super) fn ended(lender: &str, ended: Ended) -> Self {
        Self::Ended { lender: lender.to_owned(), kind: ended.kind, text: ended.text }
    }

    pub(super) fn protocol(lender: &str, source: ProtocolError) -> Self {
        Self::Protocol { lender: lender.to_owned(), source }
    }

    /// Whether a lender that listens nowhere by IPv6 says this: EAFNOSUPPORT, EADDRNOTAVAIL.
    pub(super) fn is_for_want_of_ipv6(&self) -> bool {
        self.errno().is_some_and(|errno| [Errno::EAFNOSUPPORT, Errno(99)].contains(&errno))
    }

    pub(super) fn open(lender: &str, error: OpenError) -> Self {
        match error {
            OpenError::Ended(ended) => Self::ended(lender, ended),
            OpenError::Mux(error) => {
                let more = "ask the lender's admin to write this in an [[allow]] of policy.toml that names you:";
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
    pub(super) fn answer(lender: &str, target: &str, error: io::Error) -> Self {
        if let Some(errno) = Errno::of(&error) {
            let (lender, target, source) = (lender.to_owned(), target.to_owned(), io::Error::from(errno));
            return Self::Dial { lender, target, why: source.to_string(), source, notes: Vec::new() };
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

    /// The same of something that listens at `target`, and not of a connection to it.
    pub(super) fn of_listener(self) -> Self {
        match self {
            Self::Dial { lender, target, why, source, notes } => {
                Self::Listen { lender, address: target, why, source, notes }
            }
            other => other,
        }
    }

    pub(super) fn local(what: impl Into<String>, source: io::Error) -> Self {
        Self::Local { what: what.into(), source }
    }

    /// With one more line for the user, where the error has such lines.
    pub(super) fn with_note(mut self, note: String) -> Self {
        match &mut self {
            Self::Usage { notes, .. }
            | Self::UnknownHost { notes, .. }
            | Self::Unreachable { notes, .. }
            | Self::Identity { notes, .. }
            | Self::Tls { notes, .. }
            | Self::Login { notes, .. }
            | Self::Refused { notes, .. }
            | Self::Dial { notes, .. }
            | Self::Listen { notes, .. }
            | Self::Busy { notes, .. } => notes.push(note),
            _ => {}
        }
        self
    }
}

impl From<TicketFileError> for BorrowError {
    fn from(error: TicketFileError) -> Self {
        match error {
            TicketFileError::File(error) => error.into(),
            other => Self::Login { text: other.to_string(), notes: Vec::new() },
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
