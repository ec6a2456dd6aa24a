//! Why a lender does not start, or does not do what its admin asks.

use std::{io, path::PathBuf};

use super::admin::Refused;
use crate::{
    policy::PolicyError,
    proto::ErrorKind,
    trust::{
        authority::AuthorityError, identity::IdentityError, join_line::JoinLineError, keyfile::KeyFileError,
        password::PasswordError, pem::PemError, request::RequestError, store::StoreError, tls::TlsError,
    },
};

/// Why a lender does not start, or does not do what its admin asks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LendError {
    /// There is no lender in this folder.
    #[error("{} holds no lender: make one with `capuchind init`, or name its folder with --dir", .0.display())]
    NoLender(PathBuf),
    /// There is one already.
    #[error("{} holds a lender already: `capuchind serve` starts it", .0.display())]
    Exists(PathBuf),
    /// A setting in lender.toml.
    #[error("{}: {problem}", .path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, and how to mend it.
        problem: String,
    },
    /// policy.toml.
    #[error("{0}")]
    Policy(#[from] PolicyError),
    /// A key or an admin's file that is missing or too open.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The CA.
    #[error("{what}: {source}")]
    Authority {
        /// Which file or step.
        what: String,
        /// What is wrong.
        source: AuthorityError,
    },
    /// A certificate or key that cannot be read.
    #[error("{what}: {source}")]
    Pem {
        /// Which file.
        what: String,
        /// What is wrong.
        source: PemError,
    },
    /// A key pair.
    #[error(transparent)]
    Key(#[from] RequestError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A certificate of ours that names nobody.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An invitation that cannot be written as a line.
    #[error("the join line cannot be made: {0}; mend `advertise` in lender.toml")]
    JoinLine(#[from] JoinLineError),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}; choose another with `listen` in lender.toml")]
    Listen {
        /// The address.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// What was to last is not on the disk.
    #[error(
        "this is NOT written, and does not last: live sessions were cut ({sessions}), but new ones can begin; \
         mend the disk and say it again"
    )]
    NotLasting {
        /// How many live sessions were cut all the same.
        sessions: usize,
        /// Why it is not.
        source: StoreError,
    },
    /// A grant was removed, and not where it is kept.
    #[error(
        "this is NOT written, and does not last: grant {number} allows nothing until the lender starts again; mend the disk and say it again"
    )]
    GrantStands {
        /// Its number.
        number: u64,
        /// Why it is not.
        source: StoreError,
    },
    /// Users and revocations are gone.
    #[error(
        "there is no {}, but the audit log in {} is of a lender that had one: restore it from a backup; to begin \
         without users and revocations, move that log away", store.display(), audit.display()
    )]
    StoreGone {
        /// Where it should be.
        store: PathBuf,
        /// Where the log is.
        audit: PathBuf,
    },
    /// An inherited socket.
    #[error(transparent)]
    ListenFd(#[from] crate::sys::ListenFdError),
    /// Sockets that were passed to it.
    #[error(
        "LISTEN_FDS={value}: {why}; have as many listening TCP sockets passed, as descriptors 3 and up, or unset it to listen \
         where lender.toml says"
    )]
    Passed {
        /// The variable.
        value: String,
        /// What is wrong with it, or with a socket.
        why: String,
    },
    /// The audit log.
    #[error("audit: {0}")]
    Audit(#[from] super::audit::AuditError),
    /// The admin's socket.
    #[error("{}: {source}", .path.display())]
    AdminSocket {
        /// The socket.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The daemon's answer cannot be understood.
    #[error("the running capuchind answered strangely ({0}): is it of the same version?")]
    AdminAnswer(String),
    /// The daemon has hung up on what was asked without having read it.
    #[error("capuchind hung up before it read this, as it does when it stops: nothing was done, say it again")]
    AdminUnheard,
    /// The daemon has hung up on what was asked.
    #[error(
        "capuchind hung up before it answered, as it does when it stops: whether this was done is not known, look at it, or \
         say it again"
    )]
    AdminUnanswered,
    /// Another process has the folder.
    #[error(
        "the lender in {} is in use by a running capuchind{}: stop that one first, or name another folder with --dir",
        dir.display(),
        in_brackets(*pid)
    )]
    InUse {
        /// Its folder.
        dir: PathBuf,
        /// The daemon, if it is one and can be asked.
        pid: Option<i32>,
    },
    /// The daemon said no.
    #[error("{}", .0.text)]
    Admin(Refused),
    /// No address to print into a join line.
    #[error("port 0 is chosen when the daemon starts: start it first, or say --advertise HOST:PORT")]
    NoAddress,
}

/// The number of a process behind its name, if it is known. The kernel has none for one outside of our PID namespace (unix(7)), and
/// says 0.
pub(super) fn in_brackets(pid: Option<i32>) -> String {
    match pid {
        None => String::new(),
        Some(0) => " (outside of this PID namespace)".to_owned(),
        Some(pid) => format!(" (pid {pid})"),
    }
}

impl LendError {
    /// Which of the error kinds.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Admin(refused) => {
                ErrorKind::ALL.into_iter().find(|kind| kind.as_str() == refused.kind).unwrap_or(ErrorKind::Local)
            }
            Self::Password(_) => ErrorKind::Login,
            Self::Store(
                StoreError::NoUser(_) | StoreError::UserExists(_) | StoreError::NoGrant(_) | StoreError::NoDevice(_),
            ) => ErrorKind::Usage,
            Self::Listen { .. }
            | Self::ListenFd(_)
            | Self::Passed { .. }
            | Self::AdminSocket { .. }
            | Self::AdminAnswer(_) => ErrorKind::Local,
            Self::AdminUnheard | Self::AdminUnanswered | Self::InUse { .. } => ErrorKind::Local,
            Self::Audit(_) | Self::NotLasting { .. } | Self::GrantStands { .. } => ErrorKind::Local,
            Self::Store(StoreError::InUse | StoreError::Stopping | StoreError::Storage(_) | StoreError::Hangs) => {
                ErrorKind::Local
            }
            _ => ErrorKind::Config,
        }
    }

    /// What was asked for is not what it should be.
    pub(super) fn usage(why: impl ToString) -> Self {
        Self::Admin(Refused { kind: ErrorKind::Usage.to_string(), text: why.to_string() })
    }

    /// The line for a person: with what the system said, where that stands behind the error and not in it.
    pub fn line(&self) -> String {
        let mut line = self.to_string();
        let mut behind = std::error::Error::source(self);
        while let Some(source) = behind {
            let why = source.to_string();
            if !line.contains(&why) {
                line = format!("{line}: {why}");
            }
            behind = source.source();
        }
        line
    }
}
