//! Why a program's socket is not bound, or does not listen.

use super::port::NotListening;
use crate::{BorrowError, proto::Errno};

/// Why something is not bound: the program's error number, and what the person is told who started it.
pub struct NotBound(pub Errno, pub Option<BorrowError>);

impl NotBound {
    /// As the lender refused it.
    pub fn of(error: BorrowError) -> Self {
        let errno = match &error {
            BorrowError::Listen { .. } => error.errno().unwrap_or(Errno::EACCES),
            BorrowError::Busy { .. } => error.errno().unwrap_or(Errno::EMFILE),
            BorrowError::Ended { .. } | BorrowError::Protocol { .. } => Errno(libc::ENETDOWN as u16),
            _ => error.errno().unwrap_or(Errno::EACCES),
        };
        Self(errno, Some(error))
    }
}

impl From<Errno> for NotBound {
    fn from(errno: Errno) -> Self {
        Self(errno, None)
    }
}

impl From<NotListening> for NotBound {
    fn from(error: NotListening) -> Self {
        match error {
            NotListening::Here(errno) => errno.into(),
            NotListening::Lender(error) => Self::of(error),
        }
    }
}

/// Below Linux 5.19 no program can wait for the lender.
pub fn too_old() -> BorrowError {
    let source = std::io::Error::new(std::io::ErrorKind::Unsupported, "this machine's kernel is older than Linux 5.19");
    BorrowError::local("programs can listen on loopback alone", source)
}
