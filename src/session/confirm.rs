//! Ends that wait until the other side has them; dropping never waits, and never says.

use std::{future::poll_fn, io, task::Poll, time::Duration};

use tokio::time::timeout;

use super::{
    Ended, Session, Shared, Stream,
    stream::{session_error, write_error},
};
use crate::proto::{ErrorKind, Reset, mux::Delivery};

/// What was written before a reset has room at the peer, and leaves as fast as the connection of the session takes it.
const LEAVES_WITHIN: Duration = Duration::from_secs(5);

impl Stream {
    /// As [`Self::reset`], behind what was written: who was sent something before a connection broke off reads it first.
    ///
    /// # Cancellation
    /// The stream goes on.
    pub async fn reset_behind(&self, reset: Reset) {
        let _ = timeout(LEAVES_WITHIN, self.queued_down_to(0)).await;
        self.reset(reset);
    }

    /// Whether all that was written, and our end, are with the driver of the connection, or nobody wants them.
    pub fn has_left(&self) -> bool {
        !matches!(self.shared.lock().mux.delivery(self.id), Delivery::Waiting)
    }

    /// Ends both halves after what was written, and waits until the peer has taken all of it and knows of the end.
    ///
    /// # Errors
    /// The peer reset the stream before, or the session is over: perhaps not everything has come.
    ///
    /// # Cancellation
    /// As dropping the stream: what was written is still delivered, and nobody hears of it.
    pub async fn close(self) -> io::Result<()> {
        self.finish();
        let (mut sent, mut is_closed) = (None, false);
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if let Some(ended) = &state.ended {
                return Poll::Ready(Err(session_error(ended.clone())));
            }
            if sent.is_none() {
                match state.mux.delivery(self.id) {
                    Delivery::Broken(reset) => return Poll::Ready(Err(write_error(reset))),
                    Delivery::Sent(frames) => sent = Some(frames),
                    Delivery::Waiting => {}
                }
            }
            if sent.is_some_and(|frames| frames <= state.mux.acknowledged_frames()) {
                // The peer's half, should it be open: it hears that nobody reads any more. Once, for each turn of the driver wakes us.
                if !is_closed {
                    is_closed = true;
                    state.mux.close(self.id);
                    state.wake_driver();
                }
                if state.mux.is_forgotten(self.id) {
                    return Poll::Ready(Ok(()));
                }
            }
            state.closers.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Session {
    /// Ends the session at once, and waits until the peer has closed the connection, too.
    ///
    /// # Errors
    /// The session was over before, or the peer did not confirm the end.
    ///
    /// # Cancellation
    /// It ends, and nobody hears of it.
    pub async fn end_confirmed(&self, text: &str) -> Result<(), Ended> {
        if let Some(ended) = self.over() {
            return Err(ended);
        }
        self.end(ErrorKind::Lost, text);
        self.ended().await;
        if self.shared.lock().confirmed {
            return Ok(());
        }
        let text = "the other side did not confirm the end of the session".to_owned();
        Err(Ended { kind: ErrorKind::Lost, text, by_peer: false })
    }

    /// Ends the session at once, and waits until that is said: a process that ends before has said nothing.
    ///
    /// # Cancellation
    /// It ends.
    #[cfg(feature = "run")]
    pub async fn end_said(&self, text: &str) {
        self.end(ErrorKind::Lost, text);
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if state.has_left {
                return Poll::Ready(());
            }
            state.closers.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Waits until the peer has taken what was written on every stream.
    ///
    /// # Errors
    /// The session is over.
    pub async fn delivered(&self) -> Result<(), Ended> {
        let shared: &Shared = &self.shared;
        poll_fn(|cx| {
            let mut state = shared.lock();
            match &state.ended {
                Some(ended) => Poll::Ready(Err(ended.clone())),
                None if state.mux.is_delivered() => Poll::Ready(Ok(())),
                None => {
                    state.closers.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use crate::session::both_ends_of_a_stream;

    use super::*;

    /// The peer says so only after a while, and with a clock that stands still never to who is always busy.
    #[tokio::test(start_paused = true)]
    async fn who_waits_until_the_peer_knows_of_the_end_keeps_nobody_busy() {
        let [(_borrower, near), (_lender, _far)] = both_ends_of_a_stream().await;
        let (mut close, mut polls) = (pin!(near.close()), 0);
        let closed = poll_fn(|cx| {
            polls += 1;
            assert!(polls < 100, "it is asked again and again");
            close.as_mut().poll(cx)
        });
        closed.await.unwrap();
    }
}
