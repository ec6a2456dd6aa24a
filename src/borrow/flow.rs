//! One socket of the lender, for one that sends on this machine: a program's socket, or a client of a forward.

use std::{collections::VecDeque, io};

use tokio::time::{Duration, Instant, sleep, timeout};

use super::{BorrowError, Borrower, lane::LaneReceiver, udp};
use crate::{
    proto::{Errno, Request, UdpBind, UdpMessage},
    session::{DatagramQueue, DatagramReader, QUEUE_BYTES, Stream},
};

/// How long a flow may be quiet: what RFC 4787 §4.3 recommends for translators of addresses. The next datagram begins another,
/// which is another port at the lender.
pub(super) const QUIET_MAX: Duration = Duration::from_secs(300);

/// What goes with the request at most, in bytes: beside that, the longest datagram would find no room.
const EARLY_BYTES_MAX: usize = QUEUE_BYTES / 2;

/// How long the lender may take to say its last of what was sent before the end.
const LAST_WORDS_MAX: Duration = Duration::from_secs(5);

/// Whom a flow is for.
pub(super) trait Side {
    /// A datagram of it.
    type Outgoing;

    /// As it goes to the lender.
    fn outgoing<'a>(&mut self, outgoing: &'a Self::Outgoing) -> UdpMessage<'a>;

    /// What the lender says.
    fn incoming(&mut self, message: UdpMessage<'_>);
}

/// A flow that is open.
pub(super) struct Flow<'a> {
    borrower: &'a Borrower,
    wanted: UdpBind,
    stream: Stream,
    queue: DatagramQueue,
    reader: DatagramReader,
}

impl<'a> Flow<'a> {
    /// Opens it; what waits in `lane` goes with the request if it is not much.
    ///
    /// # Errors
    /// The lender refuses the socket, or the session is over.
    ///
    /// # Cancellation
    /// Dropping the future closes the socket at the lender.
    pub(super) async fn open<S: Side>(
        borrower: &'a Borrower,
        wanted: UdpBind,
        lane: &mut LaneReceiver<S::Outgoing>,
        side: &mut S,
    ) -> Result<Self, BorrowError> {
        let stream = borrower.open(&Request::UdpBind(wanted))?;
        let (queue, reader) = (DatagramQueue::default(), DatagramReader::default());
        let mut flow = Self { borrower, wanted, stream, queue, reader };
        // What the stream has no credit for is drained when it is carried.
        if lane.waiting_bytes() <= EARLY_BYTES_MAX {
            flow.send(&mut lane.take_now(), side)?;
        }
        udp::answer(borrower, &flow.stream, wanted).await?;
        Ok(flow)
    }

    /// Carries what is in `lane`, and what comes back, until the lane ends or nothing went either way for `quiet_max`.
    ///
    /// # Errors
    /// The lender takes the socket back, or the session is over.
    ///
    /// # Cancellation
    /// As for [`Self::open`].
    pub(super) async fn carry<S: Side>(
        mut self,
        lane: &mut LaneReceiver<S::Outgoing>,
        side: &mut S,
        quiet_max: Duration,
    ) -> Result<(), BorrowError> {
        let mut taken = VecDeque::new();
        let mut quiet = std::pin::pin!(sleep(quiet_max));
        loop {
            let waiting = self.queue.is_waiting();
            tokio::select! {
                drained = self.queue.drain(&self.stream), if waiting => drained.map_err(|error| self.failed(error))?,
                more = self.reader.fill(&self.stream) => if !more.map_err(|error| self.failed(error))? {
                    return Err(self.failed(Errno::ECONNRESET.into()));
                },
                more = lane.take(&mut taken) => {
                    if !more {
                        break;
                    }
                    self.send(&mut taken, side)?;
                }
                () = &mut quiet => {
                    let until = lane.used() + quiet_max;
                    if until <= Instant::now() {
                        break;
                    }
                    quiet.as_mut().reset(until);
                }
            }
            if self.receive(side)? {
                lane.note_use();
            }
        }
        // A session that is over has taken nothing more, and says so elsewhere.
        let _ = timeout(LAST_WORDS_MAX, self.hear_out(side)).await;
        let _ = self.stream.close().await;
        Ok(())
    }

    /// Sends what waits, and hands out what the lender says of it: a refusal, an error.
    async fn hear_out<S: Side>(&mut self, side: &mut S) -> Result<(), BorrowError> {
        let mut more = true;
        while more {
            let waiting = self.queue.is_waiting();
            if !waiting {
                self.stream.finish();
            }
            tokio::select! {
                drained = self.queue.drain(&self.stream), if waiting => drained.map_err(|error| self.failed(error))?,
                filled = self.reader.fill(&self.stream) => more = filled.map_err(|error| self.failed(error))?,
            }
            self.receive(side)?;
        }
        Ok(())
    }

    fn send<S: Side>(&mut self, taken: &mut VecDeque<S::Outgoing>, side: &mut S) -> Result<(), BorrowError> {
        for outgoing in taken.drain(..) {
            self.queue.push(&self.stream, &side.outgoing(&outgoing));
        }
        self.queue.flush(&self.stream).map_err(|error| self.failed(error))
    }

    /// Hands out what has come, and says whether anything had.
    fn receive<S: Side>(&mut self, side: &mut S) -> Result<bool, BorrowError> {
        let mut any = false;
        loop {
            match self.reader.next_message() {
                Ok(Some(message)) => side.incoming(message),
                Ok(None) => return Ok(any),
                Err(error) => return Err(self.failed(error)),
            }
            any = true;
        }
    }

    fn failed(&self, error: io::Error) -> BorrowError {
        BorrowError::answer(self.borrower.host(), &self.wanted.address.to_string(), error)
    }
}
