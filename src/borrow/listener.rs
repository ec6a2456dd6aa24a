//! Something of the lender's that connections come to, whatever its kind.

use tokio::{
    sync::{Mutex, mpsc},
    task::coop,
};

use super::{
    BorrowError, Borrower, answer,
    arrivals::{Arrival, Expected, Opened},
};
use crate::{
    proto::{Answer, ProtocolError, Ready, Request, StartListening},
    session::Stream,
};

/// A listener at the lender. Dropping it closes it, and resets what was not accepted.
pub(super) struct Listener {
    borrower: Borrower,
    stream: Stream,
    /// As its user calls it.
    address: String,
    arrival_rx: Mutex<mpsc::Receiver<Arrival>>,
    _expected: Expected,
}

impl Listener {
    /// Asks for it, and gives what the lender has to tell of it.
    ///
    /// # Cancellation
    /// Dropping the future closes it.
    pub(super) async fn open<A>(
        borrower: &Borrower,
        request: &Request,
        address: String,
    ) -> Result<(A, Self), BorrowError>
    where
        A: for<'b> minicbor::Decode<'b, ()>,
    {
        let Opened { stream, expected, arrival_rx } = borrower.open_listener(request)?;
        let arrival_rx = Mutex::new(arrival_rx);
        let listener = Self { borrower: borrower.clone(), stream, address, arrival_rx, _expected: expected };
        Ok((listener.answer().await?, listener))
    }

    /// As its user calls it.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Its address is known better now.
    pub(super) fn is_at(&mut self, address: String) {
        self.address = address;
    }

    /// Listens, if it is only bound so far.
    pub(super) async fn start(&self, backlog: u32) -> Result<(), BorrowError> {
        self.stream.write_message(&StartListening { backlog }).await.map_err(|error| self.failed(error))?;
        self.answer().await.map(|Ready {}| ())
    }

    /// The next connection, accepted.
    ///
    /// # Cancellation
    /// Dropping the future loses none.
    pub(super) async fn accept(&self) -> Result<Arrival, BorrowError> {
        let mut arrival_rx = self.arrival_rx.lock().await;
        loop {
            let arrival = tokio::select! {
                biased;
                ended = self.ended() => return Err(ended),
                arrival = arrival_rx.recv() => arrival.ok_or_else(|| self.stray("no more connections"))?,
            };
            // There is room for it, and without a budget nothing waits here: who is taken out of the queue would be lost with
            // the future. A connection that is gone meanwhile is not worth an error.
            if coop::unconstrained(arrival.stream.write_message(&Answer::Granted(Ready {}))).await.is_ok() {
                return Ok(arrival);
            }
        }
    }

    /// Closes it, and waits until it is closed.
    pub(super) async fn close(self) -> Result<(), BorrowError> {
        self.stream.finish();
        match self.stream.read_all(&mut [0]).await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(self.failed(error)),
            Ok(()) => Err(self.stray("bytes")),
        }
    }

    /// Waits for its end at the lender, which says nothing more of it until then.
    async fn ended(&self) -> BorrowError {
        match self.stream.read_all(&mut [0]).await {
            Err(error) => self.failed(error),
            Ok(()) => self.stray("bytes"),
        }
    }

    pub(super) fn stray(&self, got: &str) -> BorrowError {
        let source = ProtocolError::Unexpected { expected: "connections", got: got.to_owned() };
        BorrowError::protocol(self.borrower.host(), source)
    }

    fn failed(&self, error: std::io::Error) -> BorrowError {
        BorrowError::answer(self.borrower.host(), &self.address, error).of_listener()
    }

    /// The lender's next answer. An answer that nobody waits for any more resets the stream, so that it is closed.
    async fn answer<A>(&self) -> Result<A, BorrowError>
    where
        A: for<'b> minicbor::Decode<'b, ()>,
    {
        let granted = answer::granted(&self.stream, self.borrower.host(), &self.address).await;
        granted.map_err(BorrowError::of_listener)
    }
}
