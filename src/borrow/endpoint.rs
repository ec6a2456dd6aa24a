//! Where a forward listens and where it leads: a TCP address or a Unix socket, on either side.

use std::{fmt, net::SocketAddr, path::PathBuf};

use super::{BorrowError, answer, unix};
use crate::{
    proto::{Ready, Request, Target, TcpConnected},
    session::Stream,
};

/// What is listened on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// An address and port; port 0 picks one.
    Tcp(SocketAddr),
    /// The path of a Unix socket that is created.
    Unix(PathBuf),
}

/// What is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// A host and port; the side that connects resolves the name.
    Tcp(Target),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl Destination {
    /// The policy's kind and target, as [`Borrower::check`](super::Borrower::check) takes both.
    pub fn wanted(&self) -> (&'static str, String) {
        let kind = match self {
            Self::Tcp(_) => "connect",
            Self::Unix(_) => "unix",
        };
        (kind, self.to_string())
    }

    pub(super) fn request(&self) -> Result<Request, BorrowError> {
        Ok(match self {
            Self::Tcp(target) => Request::TcpConnect(target.clone()),
            Self::Unix(path) => Request::UnixConnect(unix::bytes_of(path)?),
        })
    }

    /// The lender's answer to [`Self::request`] on `stream`.
    ///
    /// # Cancellation
    /// Dropping the future before the answer resets the stream, so that the lender gives up.
    pub(super) async fn answer(&self, stream: &Stream, host: &str) -> Result<(), BorrowError> {
        match self {
            Self::Tcp(target) => answer::granted::<TcpConnected>(stream, host, &target.to_string()).await.map(drop),
            Self::Unix(path) => {
                let Ready {} = answer::granted(stream, host, &path.display().to_string()).await?;
                Ok(())
            }
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<Target> for Destination {
    fn from(target: Target) -> Self {
        Self::Tcp(target)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(target) => target.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}
