//! Ports at the lender, and the connections that come to them.

use std::net::SocketAddr;

use super::{BorrowError, Borrower, TcpStream, arrivals::Arrival, listener::Listener};
use crate::proto::{BACKLOG, Listening, Request, TcpConnected, TcpListen};

/// How a port at the lender is bound. The default is what servers do: both families on `[::]`, and a port that
/// connections of an earlier listener still linger on is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// IPV6_V6ONLY: the wildcard of IPv6 leaves IPv4 alone.
    pub v6_only: bool,
    /// SO_REUSEADDR.
    pub reuse_address: bool,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self { v6_only: false, reuse_address: true }
    }
}

impl Borrower {
    /// Listens at the lender; port 0 takes one that the policy allows.
    ///
    #[cfg_attr(feature = "lend", doc = "```")]
    #[cfg_attr(not(feature = "lend"), doc = "```text")]
    /// use tokio::io::AsyncReadExt;
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc_lab.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let (profiles, _web, _folder) = lab().await?;
    /// # let lab = capuchin::Borrower::connect_with(&profiles, "lab").await?;
    ///
    /// let listener = lab.tcp_listen("127.0.0.1:0").await?;
    /// let port = listener.local_addr();
    /// // Somebody at the lender's side.
    /// let visitor = std::thread::spawn(move || {
    ///     std::io::Write::write_all(&mut std::net::TcpStream::connect(port)?, b"good day")
    /// });
    /// let (mut stream, peer) = listener.accept().await?;
    /// assert!(peer.ip().is_loopback());
    /// let mut said = String::new();
    /// stream.read_to_string(&mut said).await?;
    /// assert_eq!(said, "good day");
    /// listener.close().await?;
    /// assert!(std::net::TcpStream::connect(port).is_err());
    /// # visitor.join().unwrap()?;
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// `address` is none; the policy refuses it ([`BorrowError::Refused`]); the lender's system does
    /// ([`BorrowError::Listen`], with its EADDRINUSE, EACCES or EADDRNOTAVAIL).
    ///
    /// # Cancellation
    /// Dropping the future closes the port.
    pub async fn tcp_listen(&self, address: impl AsRef<str>) -> Result<TcpListener, BorrowError> {
        let wrong = |_| BorrowError::usage(format!("{:?} is not ADDRESS:PORT, as in 0.0.0.0:8080", address.as_ref()));
        self.tcp_listen_on(address.as_ref().parse().map_err(wrong)?, TcpOptions::default()).await
    }

    /// As [`Self::tcp_listen`], at an address that was read before.
    ///
    /// # Errors
    /// As [`Self::tcp_listen`].
    pub async fn tcp_listen_on(&self, address: SocketAddr, options: TcpOptions) -> Result<TcpListener, BorrowError> {
        let TcpBound { listener, local } = self.bind(address, options, Some(BACKLOG)).await?;
        Ok(TcpListener { listener, local })
    }

    /// Binds a port at the lender, and leaves it to [`TcpBound::listen`] to be connected to.
    ///
    /// # Errors
    /// As [`Self::tcp_listen`].
    ///
    /// # Cancellation
    /// As [`Self::tcp_listen`].
    pub async fn tcp_bind(&self, address: SocketAddr, options: TcpOptions) -> Result<TcpBound, BorrowError> {
        self.bind(address, options, None).await
    }

    async fn bind(
        &self,
        address: SocketAddr,
        TcpOptions { v6_only, reuse_address }: TcpOptions,
        backlog: Option<u32>,
    ) -> Result<TcpBound, BorrowError> {
        let request = Request::TcpListen(TcpListen { address, backlog, v6_only, reuse_address });
        let (Listening { local }, mut listener) = Listener::open(self, &request, address.to_string()).await?;
        listener.is_at(local.0.to_string());
        Ok(TcpBound { listener, local: local.0 })
    }
}

/// A port at the lender that is bound and not connected to yet.
///
/// # Cancellation
/// Dropping it closes the port.
#[derive(Debug)]
pub struct TcpBound {
    listener: Listener,
    local: SocketAddr,
}

impl TcpBound {
    /// The lender's address, with the port that was picked.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Listens, with room for `backlog` connections in the lender's kernel.
    ///
    /// # Errors
    /// The lender's system refuses it: EADDRINUSE where another socket listens on the port by now.
    ///
    /// # Cancellation
    /// Dropping the future closes the port.
    pub async fn listen(self, backlog: u32) -> Result<TcpListener, BorrowError> {
        let Self { listener, local } = self;
        listener.start(backlog).await?;
        Ok(TcpListener { listener, local })
    }

    #[cfg(feature = "run")]
    pub(super) fn into_listener(self) -> Listener {
        self.listener
    }
}

/// A port at the lender, and the connections that come to it.
///
/// # Cancellation
/// Dropping it closes the port; connections that were not accepted are reset, accepted ones go on.
#[derive(Debug)]
pub struct TcpListener {
    listener: Listener,
    local: SocketAddr,
}

impl TcpListener {
    /// The lender's address, with the port that was picked.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The next connection, and who made it. What the peer sends is on its way already.
    ///
    /// # Errors
    /// The lender has closed the port, because an admin or a new policy took it back, say; or the session is over.
    ///
    /// # Cancellation
    /// Dropping the future loses no connection.
    pub async fn accept(&self) -> Result<(TcpStream, SocketAddr), BorrowError> {
        let Arrival { stream, accepted } = self.listener.accept().await?;
        match (accepted.peer, accepted.local) {
            (Some(peer), Some(local)) => Ok((TcpStream::new(stream, TcpConnected { peer, local }), peer.0)),
            _ => Err(self.listener.stray("a connection without addresses")),
        }
    }

    pub(super) fn into_listener(self) -> Listener {
        self.listener
    }

    /// Closes the port, and waits until it is closed. Connections that were not accepted are reset.
    ///
    /// # Errors
    /// The session is over, which closes the port too.
    ///
    /// # Cancellation
    /// Dropping the future closes it all the same.
    pub async fn close(self) -> Result<(), BorrowError> {
        self.listener.close().await
    }
}
