//! A borrowed TCP connection: bytes in and out here, the socket at the lender.

use std::{io, net::SocketAddr};

use super::{
    BorrowError, Borrower, answer,
    byte_stream::{read_by, write_by},
};
use crate::{
    proto::{Request, Target, TcpConnected},
    session::{ReadHalf, Stream, WriteHalf},
};

/// A TCP connection that the lender made for us.
///
/// Errors carry the error number of the lender's socket. `shutdown` ends our half and leaves the other open, as on any
/// TCP connection.
///
/// # Cancellation
/// Dropping it delivers what was written, then closes the connection; it never waits.
///
#[cfg_attr(feature = "lend", doc = "```")]
#[cfg_attr(not(feature = "lend"), doc = "```text")]
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc_lab.rs"));
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// # let (profiles, web, _folder) = lab().await?;
/// # let lab = capuchin::Borrower::connect_with(&profiles, "lab").await?;
///
/// let (mut answer, mut question) = lab.tcp_connect(web.to_string()).await?.into_split();
/// assert_eq!(answer.peer_addr(), web);
/// let asking = tokio::spawn(async move { question.write_all(b"GET / HTTP/1.0\r\n\r\n").await });
/// let mut first = [0; 4];
/// answer.read_exact(&mut first).await?;
/// asking.await??;
/// assert_eq!(&first, b"HTTP");
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Debug)]
pub struct TcpStream {
    stream: Stream,
    connected: TcpConnected,
}

impl TcpStream {
    pub(super) fn new(stream: Stream, connected: TcpConnected) -> Self {
        Self { stream, connected }
    }

    /// The address that the lender connected to.
    pub fn peer_addr(&self) -> SocketAddr {
        self.connected.peer.0
    }

    /// The lender's own address of this connection.
    pub fn local_addr(&self) -> SocketAddr {
        self.connected.local.0
    }

    /// Closes the connection after what was written, and waits until the lender has all of it: dropping does the same and
    /// does not say how it went.
    ///
    /// # Errors
    /// The server or the lender closed first, or the session is over: perhaps not everything has come.
    ///
    /// # Cancellation
    /// As dropping it.
    ///
    #[cfg_attr(feature = "lend", doc = "```")]
    #[cfg_attr(not(feature = "lend"), doc = "```text")]
    /// use tokio::io::AsyncWriteExt;
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc_lab.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let (profiles, web, _folder) = lab().await?;
    /// let lab = capuchin::Borrower::connect_with(&profiles, "lab").await?;
    /// let mut log = lab.tcp_connect(web.to_string()).await?;
    /// log.write_all(b"the last line\n").await?;
    /// log.close().await?;
    /// lab.close().await?;
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    pub async fn close(self) -> io::Result<()> {
        self.stream.close().await
    }

    /// Two halves for two tasks. Dropping the [`OwnedWriteHalf`] ends our half; when both are gone, so is the
    /// connection.
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        let connected = self.connected;
        let (reader, writer) = self.stream.into_split();
        (OwnedReadHalf { half: reader, connected }, OwnedWriteHalf { half: writer, connected })
    }
}

/// The reading half of a [`TcpStream`].
#[derive(Debug)]
pub struct OwnedReadHalf {
    half: ReadHalf,
    connected: TcpConnected,
}

/// The writing half of a [`TcpStream`]; dropping it ends our half.
#[derive(Debug)]
pub struct OwnedWriteHalf {
    half: WriteHalf,
    connected: TcpConnected,
}

impl OwnedReadHalf {
    /// The address that the lender connected to.
    pub fn peer_addr(&self) -> SocketAddr {
        self.connected.peer.0
    }

    /// The lender's own address of this connection.
    pub fn local_addr(&self) -> SocketAddr {
        self.connected.local.0
    }
}

impl OwnedWriteHalf {
    /// Breaks the connection off, so that its target does not take what it has for the whole.
    #[cfg(feature = "cli")]
    pub(crate) fn reset(&self) {
        self.half.reset(crate::proto::Reset::Cancelled);
    }

    /// The address that the lender connected to.
    pub fn peer_addr(&self) -> SocketAddr {
        self.connected.peer.0
    }

    /// The lender's own address of this connection.
    pub fn local_addr(&self) -> SocketAddr {
        self.connected.local.0
    }
}

/// Has the lender connect to `target`.
///
/// # Errors
/// As [`Borrower::tcp_connect`].
///
/// # Cancellation
/// Dropping the future makes the lender give up.
pub(super) async fn connect(borrower: &Borrower, target: &Target) -> Result<(Stream, TcpConnected), BorrowError> {
    answer::ask(borrower, &Request::TcpConnect(target.clone()), &target.to_string()).await
}

read_by!(TcpStream, stream);
write_by!(TcpStream, stream);
read_by!(OwnedReadHalf, half);
write_by!(OwnedWriteHalf, half);
