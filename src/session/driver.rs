//! The one future that owns a connection: bytes in, bytes out, timers; every decision is the mux's.
//!
//! Reading never waits for writing, so two ends that both write cannot lock each other up.

use std::{
    future::Future,
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};

use bytes::Buf;
use tokio::{
    io::{AsyncBufRead, AsyncWrite},
    time::Sleep,
};

use super::{CLOSED, Ended, Shared, State, Wakers};
use crate::proto::{
    ErrorKind, Goaway, ProtocolError, Reset,
    mux::{BATCH_BYTES, Batch, Event, Mux, Role},
};

/// Slices given to one write: what rustls and the kernel take at once without allocating.
const SLICES: usize = 64;
/// Taken from the connection in one turn, in bytes, before those who wait for it and what is to be sent have theirs: as much as
/// a batch is in the other direction.
const RECEIVE_BYTES: usize = BATCH_BYTES;
/// Given to the connection before it is read from again, in bytes: as much as is taken from it, or one direction would
/// starve the other.
const SEND_BYTES: usize = BATCH_BYTES;
/// How long the last words may take once the session is over.
const FAREWELL: Duration = Duration::from_secs(2);

pub(super) struct Driver<C> {
    connection: C,
    /// Whether a peer that answers nothing may be there nevertheless.
    is_there: fn(&C) -> bool,
    shared: Arc<Shared>,
    batch: Batch,
    flushed: bool,
    timer: Pin<Box<Sleep>>,
    /// When the mux wants to be told of the time.
    due: Instant,
    /// The timer is moved at the next look.
    moves_timer: bool,
    /// Woken outside the lock.
    wakers: Vec<Waker>,
    phase: Phase,
}

/// `Running ──ended──▶ Leaving ──flushed, shut down, or too late──▶ done`
enum Phase {
    Running,
    Leaving { until: Pin<Box<Sleep>> },
}

impl<C: AsyncBufRead + AsyncWrite + Unpin> Driver<C> {
    pub(super) fn new(connection: C, is_there: fn(&C) -> bool, shared: Arc<Shared>) -> Self {
        let due = shared.lock().mux.poll_timeout();
        Self {
            connection,
            is_there,
            shared,
            batch: Batch::default(),
            flushed: true,
            due,
            moves_timer: false,
            timer: Box::pin(tokio::time::sleep_until(due.into())),
            wakers: Vec::new(),
            phase: Phase::Running,
        }
    }

    /// Takes what has come. `Err`: the session is over.
    fn receive(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let mut taken_bytes = 0;
        while let Poll::Ready(chunk) = Pin::new(&mut self.connection).poll_fill_buf(cx) {
            let chunk = chunk.map_err(|error| lost(&error))?;
            let length = chunk.len();
            let mut state = self.shared.lock();
            if length == 0 {
                return Err(closed());
            }
            let taken = state.mux.handle_bytes(Instant::now(), chunk).and_then(|()| state.mux.check_backlog());
            state.collect_events(&mut self.wakers);
            let ended = state.ended.clone();
            drop(state);
            Pin::new(&mut self.connection).consume(length);
            self.wakers.drain(..).for_each(Waker::wake);
            taken.map_err(|error| broken(&error))?;
            if let Some(ended) = ended {
                return Err(ended);
            }
            taken_bytes += length;
            if taken_bytes >= RECEIVE_BYTES {
                cx.waker().wake_by_ref();
                break;
            }
        }
        Ok(())
    }

    /// Sends what is there, as much as is one turn's. Ready: nothing is left, and the driver is woken when there is.
    fn transmit(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        let mut sent_bytes = 0;
        loop {
            while self.batch.has_remaining() {
                let mut slices = [io::IoSlice::new(&[]); SLICES];
                let count = self.batch.chunks_vectored(&mut slices);
                let slices = slices.get(..count).unwrap_or_default();
                let written = ready!(Pin::new(&mut self.connection).poll_write_vectored(cx, slices));
                let written = written.map_err(|error| lost(&error))?;
                self.batch.advance(written);
                sent_bytes += written;
                self.flushed = false;
            }
            let mut state = self.shared.lock();
            state.mux.poll_transmit(Instant::now(), &mut self.batch);
            state.collect_events(&mut self.wakers);
            self.due = state.mux.poll_timeout();
            if !self.batch.has_remaining() {
                state.driver = Some(cx.waker().clone());
            }
            drop(state);
            self.wakers.drain(..).for_each(Waker::wake);
            if !self.batch.has_remaining() {
                break;
            }
            if sent_bytes >= SEND_BYTES {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        if !self.flushed {
            ready!(Pin::new(&mut self.connection).poll_flush(cx)).map_err(|error| lost(&error))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready: time did something to the mux that may have to be sent.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Ended>> {
        // Only ever moved earlier before it fires: a timer that fires too soon costs less than moving it each time. That is a
        // system call: those who were woken by what has come go first, and may answer what it would be for.
        if self.due >= self.timer.deadline().into_std() {
            self.moves_timer = false;
        } else if mem::replace(&mut self.moves_timer, true) {
            self.moves_timer = false;
            self.timer.as_mut().reset(self.due.into());
        } else {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        ready!(self.timer.as_mut().poll(cx));
        let mut state = self.shared.lock();
        if !state.mux.handle_timeout(Instant::now()) && !(self.is_there)(&self.connection) {
            let text = "the other side has not answered for too long".to_owned();
            return Poll::Ready(Err(Ended { kind: ErrorKind::Lost, text, by_peer: false }));
        }
        self.due = state.mux.poll_timeout();
        drop(state);
        self.timer.as_mut().reset(self.due.into());
        Poll::Ready(Ok(()))
    }

    /// Does all that can be done now. `Err`: the session is over.
    fn run(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        loop {
            self.receive(cx)?;
            if let Poll::Ready(sent) = self.transmit(cx) {
                sent?;
            }
            match self.poll_timer(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => break,
            }
        }
        let mut state = self.shared.lock();
        // Also while the socket takes nothing: whoever ends the session must be heard.
        state.driver.get_or_insert_with(|| cx.waker().clone());
        match &state.ended {
            Some(ended) => Err(ended.clone()),
            None if state.orphaned && state.mux.stream_count() == 0 => Err(let_go(&mut state.mux)),
            None => Ok(()),
        }
    }

    /// Says that nothing follows, then waits for the peer to say so too: closing a socket that has unread bytes would
    /// reset it, and the peer might never read why the session ended.
    fn hang_up(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.connection).poll_shutdown(cx))?;
        let mut state = self.shared.lock();
        state.has_left = true;
        self.wakers.append(&mut state.closers);
        drop(state);
        self.wakers.drain(..).for_each(Waker::wake);
        loop {
            match ready!(Pin::new(&mut self.connection).poll_fill_buf(cx))?.len() {
                0 => return Poll::Ready(Ok(())),
                length => Pin::new(&mut self.connection).consume(length),
            }
        }
    }

    /// Nothing is accepted any more; everybody who waits is told.
    fn leave(&mut self, ended: Ended) {
        let mut state = self.shared.lock();
        if ended.kind == ErrorKind::Protocol {
            state.mux.go_away(Goaway { kind: ended.kind, text: ended.text.clone() });
        }
        state.end(ended);
        state.collect_all(&mut self.wakers);
        drop(state);
        self.wakers.drain(..).for_each(Waker::wake);
        self.phase = Phase::Leaving { until: Box::pin(tokio::time::sleep(FAREWELL)) };
    }
}

impl<C> Drop for Driver<C> {
    /// The last words are said, or nobody will say them.
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.end(closed());
        state.has_left = true;
        // Nobody, unless a panic has ended it, or it was too late to say anything.
        state.collect_all(&mut self.wakers);
        drop(state);
        self.wakers.drain(..).for_each(Waker::wake);
        self.shared.over.send_replace(true);
    }
}

impl<C: AsyncBufRead + AsyncWrite + Unpin> Future for Driver<C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            match &mut this.phase {
                Phase::Running => match this.run(cx) {
                    Ok(()) => return Poll::Pending,
                    Err(ended) => this.leave(ended),
                },
                Phase::Leaving { until } => {
                    if until.as_mut().poll(cx).is_ready() {
                        return Poll::Ready(());
                    }
                    // Whatever comes back now, there is nobody left to tell.
                    if ready!(this.transmit(cx)).is_ok() && ready!(this.hang_up(cx)).is_ok() {
                        this.shared.lock().confirmed = true;
                    }
                    return Poll::Ready(());
                }
            }
        }
    }
}

impl State {
    /// Everybody who waits for anything.
    fn collect_all(&mut self, wakers: &mut Vec<Waker>) {
        for waiting in self.streams.values_mut() {
            wakers.extend(waiting.reader.take());
            wakers.extend(waiting.writer.take());
        }
        wakers.extend(self.acceptor.take());
        wakers.append(&mut self.closers);
    }

    fn collect_events(&mut self, wakers: &mut Vec<Waker>) {
        wakers.append(&mut self.closers);
        while let Some(event) = self.mux.poll_event() {
            match event {
                // Nobody is left to accept it, or nobody has asked for it: thousands of them would fill the memory.
                Event::Opened(id) if self.orphaned || !self.takes_streams => self.mux.reset(id, Reset::Refused),
                Event::Opened(id) => {
                    self.streams.insert(id, Wakers::default());
                    self.accepted.push_back(id);
                    wakers.extend(self.acceptor.take());
                }
                Event::Readable(id) => wakers.extend(self.streams.get_mut(&id).and_then(|w| w.reader.take())),
                Event::Writable(id) => wakers.extend(self.streams.get_mut(&id).and_then(|w| w.writer.take())),
                Event::Goaway(Goaway { kind, text }) => self.end(Ended { kind, text, by_peer: true }),
            }
        }
    }
}

pub(super) fn closed() -> Ended {
    Ended { kind: ErrorKind::Lost, text: "the other side closed the connection".to_owned(), by_peer: false }
}

/// Nobody here has the session any more. A lender has said why before.
fn let_go(mux: &mut Mux) -> Ended {
    if mux.role() == Role::Lender {
        return closed();
    }
    let ended = Ended { kind: ErrorKind::Lost, text: CLOSED.to_owned(), by_peer: false };
    mux.go_away(Goaway { kind: ended.kind, text: ended.text.clone() });
    ended
}

fn lost(error: &io::Error) -> Ended {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return closed();
    }
    Ended { kind: ErrorKind::Lost, text: format!("the connection failed: {error}"), by_peer: false }
}

fn broken(error: &ProtocolError) -> Ended {
    Ended { kind: ErrorKind::Protocol, text: format!("the peer broke the protocol: {error}"), by_peer: false }
}

#[cfg(test)]
mod tests;
