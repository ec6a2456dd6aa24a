//! A local port whose connections are made by the lender: the library's side of `capuchin forward -L`.
//!
//! What a local program sends first goes up with the request and does not wait for the answer. If the answer is no, or
//! the target is down, the local connection is reset: its program sees a failure and not an empty reply.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{BorrowError, Borrower, tcp};
use crate::{
    proto::{Request, Target},
    session::{Backoff, Meter, relay_unanswered, socket_options},
};

/// What the connections of a session that is over may take to deliver what had come.
const CONNECTIONS_END_MAX: Duration = Duration::from_secs(1);

/// A bound local port that is not served yet.
pub struct Forward {
    listener: TcpListener,
    local: SocketAddr,
    target: Target,
    borrower: Borrower,
}

impl Forward {
    /// Binds a local port; port 0 picks one.
    ///
    #[cfg_attr(feature = "lend", doc = "```")]
    #[cfg_attr(not(feature = "lend"), doc = "```text")]
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc_lab.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let (profiles, web, _folder) = lab().await?;
    /// # let lab = capuchin::Borrower::connect_with(&profiles, "lab").await?;
    /// let forward = capuchin::Forward::bind(&lab, "127.0.0.1:0".parse()?, web.to_string().parse()?).await?;
    /// println!("the web server is at {}", forward.local_addr());
    /// let serving = tokio::spawn(forward.serve(|failure| eprintln!("{failure}")));
    /// // Aborting it closes the port and every connection.
    /// serving.abort();
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// The port cannot be bound.
    pub async fn bind(borrower: &Borrower, address: SocketAddr, target: Target) -> Result<Self, BorrowError> {
        let failed = |error| BorrowError::local(format!("cannot listen on {address}"), error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, local, target, borrower: borrower.clone() })
    }

    /// The local address that programs connect to.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Where the lender connects to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Serves connections until the session is over, and says why it is. `failed` hears of each connection that the
    /// lender did not make.
    ///
    /// # Cancellation
    /// Dropping the future closes the port and every connection.
    pub async fn serve(self, mut failed: impl FnMut(&BorrowError)) -> BorrowError {
        let mut connections = JoinSet::new();
        let mut backoff = Backoff::new();
        let ended = self.borrower.ended();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                socket = accept(&self.listener, &mut backoff) => {
                    connections.spawn(carry(self.borrower.clone(), self.target.clone(), socket));
                }
                Some(done) = connections.join_next() => {
                    if let Ok(Err(error)) = done {
                        tracing::debug!(target = %self.target, %error, "forwarded connection failed");
                        failed(&error);
                    }
                }
                end = &mut ended => {
                    // Each delivers what had come and resets its socket; one that hangs is reset here.
                    let all = async { while connections.join_next().await.is_some() {} };
                    let _ = tokio::time::timeout(CONNECTIONS_END_MAX, all).await;
                    connections.shutdown().await;
                    return end;
                }
            }
        }
    }
}

/// The next connection, whatever comes between.
async fn accept(listener: &TcpListener, backoff: &mut Backoff) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                backoff.reset();
                return socket;
            }
            Err(error) => backoff.wait("forward", &error).await,
        }
    }
}

/// One connection, until both directions have ended.
async fn carry(borrower: Borrower, target: Target, socket: TcpStream) -> Result<(), BorrowError> {
    socket_options(&socket);
    let stream = borrower.open(&Request::TcpConnect(target.clone())).inspect_err(|_| {
        // Its program must see a failure.
        let _ = socket.set_zero_linger();
    })?;
    // On the heap: its room is free again while the connection idles.
    let answer = Box::pin(async { tcp::answer(&stream, borrower.host(), &target).await.map(drop) });
    relay_unanswered(socket, &stream, &Meter::default(), answer).await
}

#[cfg(test)]
mod tests;
