//! A local port whose connections are made by the lender: the library's side of `capuchin forward -L`.
//!
//! What a local program sends first goes up with the request and does not wait for the answer. If the answer is no, or
//! the target is down, the local connection is reset: its program sees a failure and not an empty reply.

use super::{
    BorrowError, Borrower,
    endpoint::{Destination, Endpoint},
    local::{LocalListener, LocalSocket, fail},
};
use crate::session::{Meter, Socket, Stream, relay_unanswered};

/// A bound local port or Unix socket that is not served yet.
pub struct Forward {
    listener: LocalListener,
    local: Endpoint,
    destination: Destination,
    borrower: Borrower,
}

impl Forward {
    /// Binds a local port, where 0 picks one, or a Unix socket, which is for this user alone.
    ///
    #[cfg_attr(feature = "lend", doc = "```")]
    #[cfg_attr(not(feature = "lend"), doc = "```text")]
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc_lab.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let (profiles, web, _folder) = lab().await?;
    /// # let lab = capuchin::Borrower::connect_with(&profiles, "lab").await?;
    /// use capuchin::{Destination, Endpoint, Forward};
    ///
    /// let local = Endpoint::Tcp("127.0.0.1:0".parse()?);
    /// let forward = Forward::bind(&lab, local, Destination::Tcp(web.to_string().parse()?)).await?;
    /// println!("the web server is at {}", forward.local());
    /// let serving = tokio::spawn(forward.serve(|failure| eprintln!("{failure}")));
    /// // Aborting it closes the port and every connection.
    /// serving.abort();
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// The port cannot be bound, or the socket cannot be created.
    pub async fn bind(
        borrower: &Borrower,
        local: impl Into<Endpoint>,
        destination: impl Into<Destination>,
    ) -> Result<Self, BorrowError> {
        let (listener, local) = LocalListener::bind(&local.into()).await?;
        Ok(Self { listener, local, destination: destination.into(), borrower: borrower.clone() })
    }

    /// What programs connect to, with the port that was picked.
    pub fn local(&self) -> &Endpoint {
        &self.local
    }

    /// Where the lender connects to.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// Serves connections until the session is over, and says why it is. `failed` hears of each connection that the
    /// lender did not make.
    ///
    /// # Cancellation
    /// Dropping the future closes the port and every connection.
    pub async fn serve(self, failed: impl FnMut(&BorrowError)) -> BorrowError {
        let Self { listener, destination, borrower, .. } = self;
        let carry = |socket| {
            let (borrower, destination) = (borrower.clone(), destination.clone());
            async move {
                match socket {
                    LocalSocket::Tcp(socket) => carry(borrower, destination, socket).await,
                    LocalSocket::Unix(socket) => carry(borrower, destination, socket).await,
                }
            }
        };
        listener.serve(&borrower, carry, failed).await
    }
}

/// One connection, until both directions have ended.
async fn carry(borrower: Borrower, destination: Destination, socket: impl Socket) -> Result<(), BorrowError> {
    let stream = destination.request().and_then(|request| borrower.open(&request)).inspect_err(|_| fail(&socket))?;
    // On the heap: its room is free again while the connection idles.
    let answer = Box::pin(destination.answer(&stream, borrower.host()));
    let give_ups = borrower.shared().present().give_ups;
    let may_give_up = async move { Box::pin(give_ups.next()).await };
    relay_unanswered(socket, &stream, &Meter::default(), answer, may_give_up).await?;
    still_lent(&stream, &borrower, &destination)
}

/// An error if the lender took the connection back; its program sees a reset and no more.
pub(super) fn still_lent(
    stream: &Stream,
    borrower: &Borrower,
    destination: &impl std::fmt::Display,
) -> Result<(), BorrowError> {
    match stream.taken_back() {
        Some(taken) => Err(BorrowError::taken_back(borrower.host(), &destination.to_string(), taken)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
