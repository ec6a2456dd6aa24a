//! Unix sockets of the lender: to connect to, and to listen on.

use std::{io, os::unix::ffi::OsStrExt, path::Path};

use super::{
    BorrowError, Borrower, answer,
    arrivals::Arrival,
    byte_stream::{read_by, write_by},
    listener::Listener,
};
use crate::{
    proto::{BACKLOG, Ready, Request, UnixListen},
    session::{ReadHalf, Stream, WriteHalf},
};

impl Borrower {
    /// Connects to the Unix socket at `path` of the lender.
    ///
    #[cfg_attr(feature = "lend", doc = "```")]
    #[cfg_attr(not(feature = "lend"), doc = "```text")]
    /// use tokio::io::{AsyncReadExt, AsyncWriteExt};
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc_lab.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let (profiles, _web, folder) = lab().await?;
    /// # let lab = capuchin::Borrower::connect_with(&profiles, "lab").await?;
    /// # let path = folder.path().canonicalize()?.join("lent/greeter");
    ///
    /// let listener = lab.unix_listen(&path).await?;
    /// let (visit, accepted) = tokio::join!(lab.unix_connect(&path), listener.accept());
    /// let (mut visit, mut accepted) = (visit?, accepted?);
    /// visit.write_all(b"good day").await?;
    /// visit.close().await?;
    /// let mut said = String::new();
    /// accepted.read_to_string(&mut said).await?;
    /// assert_eq!(said, "good day");
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// `path` is not absolute, or too long; the policy refuses it, judging where its links lead; or the lender's system does:
    /// [`BorrowError::Dial`] has the error number of its `connect`.
    ///
    /// # Cancellation
    /// Dropping the future makes the lender give up.
    pub async fn unix_connect(&self, path: impl AsRef<Path>) -> Result<UnixStream, BorrowError> {
        let path = path.as_ref();
        let request = Request::UnixConnect(bytes_of(path)?);
        let (stream, Ready {}) = answer::ask(self, &request, &path.display().to_string()).await?;
        Ok(UnixStream { stream })
    }

    /// Creates a Unix socket at `path` of the lender, for the user alone whom the lender acts as, and listens on it. A socket that a
    /// listener left which is gone is replaced.
    ///
    /// # Errors
    /// As [`Self::unix_connect`], of the lender's `bind`: [`BorrowError::Listen`].
    ///
    /// # Cancellation
    /// Dropping the future removes the socket.
    pub async fn unix_listen(&self, path: impl AsRef<Path>) -> Result<UnixListener, BorrowError> {
        let path = path.as_ref();
        let request = Request::UnixListen(UnixListen { path: bytes_of(path)?, backlog: Some(BACKLOG) });
        let (Ready {}, listener) = Listener::open(self, &request, path.display().to_string()).await?;
        Ok(UnixListener { listener })
    }
}

/// A path as a request has it.
pub(super) fn bytes_of(path: &Path) -> Result<Vec<u8>, BorrowError> {
    if path.is_absolute() {
        return Ok(path.as_os_str().as_bytes().to_vec());
    }
    Err(BorrowError::usage(format!("{:?} is not an absolute path", path.display())))
}

/// A connection to or from a Unix socket of the lender. `shutdown` ends our half and leaves the other open.
///
/// # Cancellation
/// Dropping it delivers what was written, then closes the connection; it never waits.
#[derive(Debug)]
pub struct UnixStream {
    stream: Stream,
}

impl UnixStream {
    /// Closes the connection after what was written, and waits until the lender has all of it: dropping does the same and
    /// does not say how it went.
    ///
    /// # Errors
    /// The other end or the lender closed first, or the session is over: perhaps not everything has come.
    ///
    /// # Cancellation
    /// As dropping it.
    pub async fn close(self) -> io::Result<()> {
        self.stream.close().await
    }

    /// Two halves for two tasks. Dropping the writing one ends our half; when both are gone, so is the connection.
    pub fn into_split(self) -> (UnixReader, UnixWriter) {
        let (reader, writer) = self.stream.into_split();
        (UnixReader { half: reader }, UnixWriter { half: writer })
    }
}

/// The reading half of a [`UnixStream`].
#[derive(Debug)]
pub struct UnixReader {
    half: ReadHalf,
}

/// The writing half of a [`UnixStream`]; dropping it ends our half.
#[derive(Debug)]
pub struct UnixWriter {
    half: WriteHalf,
}

read_by!(UnixStream, stream);
write_by!(UnixStream, stream);
read_by!(UnixReader, half);
write_by!(UnixWriter, half);

/// A Unix socket at the lender, and the connections that come to it.
///
/// # Cancellation
/// Dropping it removes the socket; connections that were not accepted fail, accepted ones go on.
#[derive(Debug)]
pub struct UnixListener {
    listener: Listener,
}

impl UnixListener {
    /// The next connection. What the peer sends is on its way already.
    ///
    /// # Errors
    /// The lender has closed it, because an admin or a new policy took it back, say; or the session is over.
    ///
    /// # Cancellation
    /// Dropping the future loses no connection.
    pub async fn accept(&self) -> Result<UnixStream, BorrowError> {
        let Arrival { stream, .. } = self.listener.accept().await?;
        Ok(UnixStream { stream })
    }

    pub(super) fn into_listener(self) -> Listener {
        self.listener
    }

    /// Removes the socket, and waits until it is gone. Connections that were not accepted fail.
    ///
    /// # Errors
    /// The session is over, which removes it too.
    ///
    /// # Cancellation
    /// Dropping the future removes it all the same.
    pub async fn close(self) -> Result<(), BorrowError> {
        self.listener.close().await
    }
}
