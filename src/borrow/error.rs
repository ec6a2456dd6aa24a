//! Everything that can go wrong on the borrower's side, and what its user can do about it.

mod of_lender;

use std::io;

use crate::{
    proto::{Errno, ErrorKind, ProtocolError},
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
    /// The host's name was given to another lender since the session began; that one's is over, and no other follows it.
    #[error("{host} is another lender by now: the one that the session was with is not joined any more")]
    OtherLender {
        /// The host, as the user calls it.
        host: String,
    },
    /// A key, certificate or settings file is missing, broken or open to others.
    #[error("{}", with_reason(.source))]
    File {
        /// Which, and what is wrong with it.
        source: KeyFileError,
        /// What to do besides mending it.
        notes: Vec<String>,
    },
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
    /// The lender allows the program, but did not come as far as executing it; the source has the true error number.
    #[error("{lender}: {reason}")]
    Start {
        /// The lender, as the user calls it.
        lender: String,
        /// Which step failed and why, as entering its working directory; in the lender's words.
        reason: String,
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
            Self::UnknownHost { .. } | Self::OtherLender { .. } | Self::File { .. } | Self::Profile { .. } => {
                ErrorKind::Config
            }
            Self::Unreachable { .. } => ErrorKind::Unreachable,
            Self::Identity { .. } => ErrorKind::Identity,
            Self::Tls { .. } => ErrorKind::Tls,
            Self::Login { .. } => ErrorKind::Login,
            Self::Refused { kind, .. } | Self::Ended { kind, .. } => *kind,
            Self::Dial { .. } | Self::Listen { .. } | Self::Start { .. } => ErrorKind::Target,
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
            | Self::File { notes, .. }
            | Self::Unreachable { notes, .. }
            | Self::Identity { notes, .. }
            | Self::Tls { notes, .. }
            | Self::Login { notes, .. }
            | Self::Refused { notes, .. }
            | Self::Dial { notes, .. }
            | Self::Listen { notes, .. }
            | Self::Start { notes, .. }
            | Self::Busy { notes, .. } => notes,
            Self::OtherLender { .. }
            | Self::Profile { .. }
            | Self::Ended { .. }
            | Self::Protocol { .. }
            | Self::Local { .. } => &[],
        }
    }

    /// The error number of the target or of the refusal, where one exists.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { errno, .. } => *errno,
            Self::Dial { source, .. }
            | Self::Listen { source, .. }
            | Self::Start { source, .. }
            | Self::Local { source, .. } => Errno::of(source),
            _ => None,
        }
    }

    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self::Usage { text: text.into(), notes: Vec::new() }
    }

    pub(super) fn local(what: impl Into<String>, source: io::Error) -> Self {
        Self::Local { what: what.into(), source }
    }

    /// With one more line for the user, where the error has such lines.
    pub(super) fn with_note(mut self, note: String) -> Self {
        match &mut self {
            Self::Usage { notes, .. }
            | Self::UnknownHost { notes, .. }
            | Self::File { notes, .. }
            | Self::Unreachable { notes, .. }
            | Self::Identity { notes, .. }
            | Self::Tls { notes, .. }
            | Self::Login { notes, .. }
            | Self::Refused { notes, .. }
            | Self::Dial { notes, .. }
            | Self::Listen { notes, .. }
            | Self::Start { notes, .. }
            | Self::Busy { notes, .. } => notes.push(note),
            _ => {}
        }
        self
    }
}

/// Of the kind of the error number that a system call would give, and else of one that fits; the whole error is inside.
///
/// ```
/// use std::io;
///
/// async fn page(lab: &capuchin::Borrower) -> io::Result<capuchin::TcpStream> {
///     Ok(lab.tcp_connect("intranet:80").await?)
/// }
/// # let error: capuchin::BorrowError = "no host!".parse::<capuchin::Alias>().unwrap_err();
/// # let error = io::Error::from(error);
/// # assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
/// # assert!(error.get_ref().unwrap().is::<capuchin::BorrowError>());
/// ```
impl From<BorrowError> for io::Error {
    fn from(error: BorrowError) -> Self {
        use io::ErrorKind as Io;
        let kind = match (&error, error.errno()) {
            (_, Some(errno)) => Self::from(errno).kind(),
            (BorrowError::Local { source, .. }, None) => source.kind(),
            // As the streams of that session say it.
            (BorrowError::Ended { .. }, None) => Io::ConnectionReset,
            _ => match error.kind() {
                ErrorKind::Usage => Io::InvalidInput,
                ErrorKind::Identity | ErrorKind::Login | ErrorKind::Policy | ErrorKind::Revoked => Io::PermissionDenied,
                ErrorKind::Unreachable => Io::HostUnreachable,
                ErrorKind::Busy => Io::ResourceBusy,
                ErrorKind::Tls | ErrorKind::Version | ErrorKind::Protocol => Io::InvalidData,
                ErrorKind::Lost => Io::ConnectionReset,
                ErrorKind::Config | ErrorKind::Target | ErrorKind::Local => Io::Other,
            },
        };
        Self::new(kind, error)
    }
}

impl From<KeyFileError> for BorrowError {
    fn from(source: KeyFileError) -> Self {
        Self::File { source, notes: Vec::new() }
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

/// A file's error as one line: its own text does not say what the system said.
fn with_reason(error: &KeyFileError) -> String {
    match std::error::Error::source(error) {
        Some(why) => format!("{error}: {why}"),
        None => error.to_string(),
    }
}
