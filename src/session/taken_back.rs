//! A stream that its lender took back, as an error that says so.

use std::io;

use crate::proto::{ErrorKind, Reset};

/// Why the lender took a stream back, as [`ErrorKind::Policy`], [`ErrorKind::Revoked`], or the kind of the session's end: the
/// inner error of what reading and writing then give, with [`io::ErrorKind::PermissionDenied`].
///
/// ```
/// use capuchin::{proto::ErrorKind, session::TakenBack};
/// use std::io;
///
/// let error = io::Error::new(io::ErrorKind::PermissionDenied, TakenBack(ErrorKind::Policy));
/// assert_eq!(TakenBack::of(&error), Some(TakenBack(ErrorKind::Policy)));
/// assert_eq!(error.to_string(), "the lender took it back: its policy does not allow it any more");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the lender took it back: {}", self.why())]
pub struct TakenBack(pub ErrorKind);

impl TakenBack {
    /// That of an error of a stream.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.get_ref()?.downcast_ref().copied()
    }

    /// In words for a person.
    pub fn why(self) -> &'static str {
        match self.0 {
            ErrorKind::Policy => "its policy does not allow it any more",
            ErrorKind::Revoked => "its admin has cut it",
            _ => "it ends the session",
        }
    }
}

impl From<TakenBack> for Reset {
    fn from(TakenBack(kind): TakenBack) -> Self {
        Self::TakenBack(kind)
    }
}
