//! The handle of one stream: an `AsyncRead + AsyncWrite` whose drop gives the stream back.

use std::{
    fmt,
    future::poll_fn,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use minicbor::{Decode, Encode};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop,
};

use super::{Shared, State, TakenBack, Wakers};
use crate::proto::{
    Errno, ProtocolError, Reset, StreamId, message,
    mux::{self, Batch},
};

/// One multiplexed byte pipe.
///
/// Reads and writes take `&self`, so that one task may relay both directions; at most one task waits for each.
///
/// # Cancellation
/// Dropping the handle delivers what was written, ends our half, and tells the peer that nobody reads any more.
/// [`Stream::reset`] ends it at once. Neither waits.
pub struct Stream {
    pub(super) shared: Arc<Shared>,
    pub(super) id: StreamId,
}

impl Stream {
    pub(super) fn new(shared: Arc<Shared>, id: StreamId) -> Self {
        Self { shared, id }
    }

    /// Its number on the wire.
    pub fn id(&self) -> StreamId {
        self.id
    }

    /// Why its session is over, if it is.
    pub fn over(&self) -> Option<super::Ended> {
        self.shared.lock().ended.clone()
    }

    /// Why the lender took it back, if it did.
    pub fn taken_back(&self) -> Option<TakenBack> {
        match self.shared.lock().mux.reset_by_peer(self.id) {
            Some(Reset::TakenBack(kind)) => Some(TakenBack(kind)),
            _ => None,
        }
    }

    /// Ends the stream at once; what was written and has not left is dropped.
    pub fn reset(&self, reset: Reset) {
        let mut state = self.shared.lock();
        state.mux.reset(self.id, reset);
        let waiting = state.streams.get_mut(&self.id).map(std::mem::take);
        state.wake_driver();
        // Outside of the lock, as all whose tasks are not our own.
        drop(state);
        if let Some(Wakers { reader, writer }) = waiting {
            reader.into_iter().chain(writer).for_each(std::task::Waker::wake);
        }
    }

    /// Ends our half after what was written.
    pub fn finish(&self) {
        let mut state = self.shared.lock();
        state.mux.finish(self.id);
        state.wake_driver();
    }

    /// As [`Self::finish`].
    ///
    /// # Errors
    /// As shutdown(2) of a connection that is known to be lost: the peer has reset the stream, or the session is over.
    pub(super) fn shut_down(&self) -> io::Result<()> {
        let mut state = self.shared.lock();
        if let Some(reset) = state.mux.reset_by_peer(self.id) {
            return Err(write_error(reset));
        }
        let is_open = matches!(state.mux.poll_write(self.id, 0), mux::Write::Room(_));
        if let Some(ended) = state.ended.clone().filter(|_| is_open) {
            return Err(session_error(ended));
        }
        state.mux.finish(self.id);
        state.wake_driver();
        Ok(())
    }

    /// Adds what has come to `batch`, at least one byte and about `most` at the most; `false` at the end.
    ///
    /// # Errors
    /// The peer reset the stream, or the session is over.
    pub async fn read_batch(&self, batch: &mut Batch, most: usize) -> io::Result<bool> {
        let mut any = false;
        poll_fn(|cx| {
            let mut left = most;
            while left > 0 {
                match self.poll_read_bytes(cx, left) {
                    Poll::Ready(Ok(Some(bytes))) => {
                        left = left.saturating_sub(bytes.len());
                        any = true;
                        batch.push(bytes);
                    }
                    // What has come is handed out first; the end or the error comes again at the next call.
                    _ if any => break,
                    Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
        .map(|()| any)
    }

    /// Waits until some of `wanted` bytes may be written, and says how many.
    ///
    /// # Errors
    /// The peer reset the stream, our half is finished, or the session is over.
    pub async fn write_room(&self, wanted: usize) -> io::Result<usize> {
        poll_fn(|cx| self.poll_write_room(cx, wanted)).await
    }

    /// Writes bytes that [`Self::write_room`] made room for, without copying them.
    pub fn write_bytes(&self, bytes: Bytes) {
        let mut state = self.shared.lock();
        state.mux.write(self.id, bytes);
        state.wake_driver();
    }

    /// Writes bytes that [`Self::write_room`] made room for.
    pub fn write_copy(&self, bytes: &[u8]) {
        let mut state = self.shared.lock();
        state.mux.write_copy(self.id, bytes);
        state.wake_driver();
    }

    /// Waits until the peer has reset the stream, or the session is over; what it sent before can still be read. To be
    /// awaited in the task that writes.
    pub async fn given_up(&self) {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if state.ended.is_some() || state.mux.was_reset(self.id) {
                return Poll::Ready(());
            }
            if let Some(wakers) = state.streams.get_mut(&self.id) {
                wakers.writer = Some(cx.waker().clone());
            }
            Poll::Pending
        })
        .await;
    }

    /// Whether nothing can be written any more, as [`Self::write_closed`] waits for.
    pub fn is_write_closed(&self) -> bool {
        let mut state = self.shared.lock();
        state.ended.is_some() || matches!(state.mux.poll_write(self.id, 0), mux::Write::Closed(_))
    }

    /// Waits until nothing can be written any more because the peer reset the stream or the session is over.
    pub async fn write_closed(&self) -> io::Error {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            let closed = match state.mux.poll_write(self.id, 0) {
                mux::Write::Closed(reset) => Some(write_error(reset)),
                mux::Write::Room(_) | mux::Write::Pending => state.ended.clone().map(session_error),
            };
            if closed.is_none()
                && let Some(wakers) = state.streams.get_mut(&self.id)
            {
                wakers.writer = Some(cx.waker().clone());
            }
            closed.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Writes a message with its length before it.
    ///
    /// # Errors
    /// As [`Self::write_room`].
    pub async fn write_message<M: Encode<()>>(&self, message: &M) -> io::Result<()> {
        self.write_all_bytes(message::encode_prefixed(message)).await
    }

    /// Writes all of `bytes`, without copying them.
    ///
    /// # Errors
    /// As [`Self::write_room`].
    pub async fn write_all_bytes(&self, mut bytes: Bytes) -> io::Result<()> {
        self.write_rest(&mut bytes).await
    }

    /// As [`Self::write_all_bytes`].
    ///
    /// # Errors
    /// As [`Self::write_room`].
    ///
    /// # Cancellation
    /// What was not written is left in `rest`.
    pub async fn write_rest(&self, rest: &mut Bytes) -> io::Result<()> {
        while !rest.is_empty() {
            let room = self.write_room(rest.len()).await?;
            self.write_bytes(rest.split_to(room.min(rest.len())));
        }
        Ok(())
    }

    /// Reads a message with its length before it; what follows it stays in the stream.
    ///
    /// # Errors
    /// As reading, and `InvalidData` with the [`ProtocolError`] for a message that cannot be read.
    pub async fn read_message<M: for<'b> Decode<'b, ()>>(&self, what: &'static str) -> io::Result<M> {
        message::decode(what, &self.read_message_bytes(what).await?).map_err(invalid)
    }

    /// As [`Self::read_message`], before it is decoded.
    ///
    /// # Errors
    /// As [`Self::read_message`].
    pub async fn read_message_bytes(&self, what: &'static str) -> io::Result<Vec<u8>> {
        let mut prefix = [0; message::LENGTH_BYTES];
        self.read_all(&mut prefix).await?;
        let length = message::decode_length(what, prefix).map_err(invalid)?;
        // It grows with what comes: whoever says a length and no more makes us hold nothing.
        let mut body = Vec::new();
        while body.len() < length {
            let more = poll_fn(|cx| self.poll_read_bytes(cx, length - body.len())).await?;
            body.extend_from_slice(&more.ok_or(io::ErrorKind::UnexpectedEof)?);
        }
        Ok(body)
    }

    /// Fills `bytes`.
    ///
    /// # Errors
    /// The peer reset the stream, the session is over, or `UnexpectedEof` where the peer ended its half.
    ///
    /// # Cancellation
    /// What was read before is lost.
    pub async fn read_all(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut buf = ReadBuf::new(bytes);
        while buf.remaining() > 0 {
            let before = buf.filled().len();
            poll_fn(|cx| self.poll_read_into(cx, &mut buf)).await?;
            if buf.filled().len() == before {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    fn poll_read_bytes(&self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<Option<Bytes>>> {
        let budget = ready!(coop::poll_proceed(cx));
        let mut state = self.shared.lock();
        let read = match state.mux.read(Instant::now(), self.id, most) {
            mux::Read::Bytes(bytes) => Ok(Some(bytes)),
            mux::Read::End => Ok(None),
            mux::Read::Reset(reset) => Err(read_error(reset)),
            mux::Read::Pending => match &state.ended {
                Some(ended) => Err(session_error(ended.clone())),
                None => {
                    if let Some(wakers) = state.streams.get_mut(&self.id) {
                        wakers.reader = Some(cx.waker().clone());
                    }
                    return Poll::Pending;
                }
            },
        };
        if state.mux.has_urgent() {
            state.wake_driver();
        }
        budget.made_progress();
        Poll::Ready(read)
    }

    fn poll_write_room(&self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, wanted, |_, room| room)
    }

    /// Waits for room for some of `wanted` bytes, and uses it under the same lock.
    fn poll_write_with<R>(
        &self,
        cx: &mut Context<'_>,
        wanted: usize,
        write: impl FnOnce(&mut State, usize) -> R,
    ) -> Poll<io::Result<R>> {
        let budget = ready!(coop::poll_proceed(cx));
        let mut state = self.shared.lock();
        if let Some(ended) = &state.ended {
            return Poll::Ready(Err(session_error(ended.clone())));
        }
        let written = match state.mux.poll_write(self.id, wanted) {
            mux::Write::Room(room) => Ok(write(&mut state, room)),
            mux::Write::Closed(reset) => Err(write_error(reset)),
            mux::Write::Pending => {
                if let Some(wakers) = state.streams.get_mut(&self.id) {
                    wakers.writer = Some(cx.waker().clone());
                }
                return Poll::Pending;
            }
        };
        budget.made_progress();
        Poll::Ready(written)
    }

    pub(super) fn poll_read_into(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() > 0
            && let Some(bytes) = ready!(self.poll_read_bytes(cx, buf.remaining()))?
        {
            buf.put_slice(&bytes);
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write_from(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, bytes.len(), |state, room| {
            let (head, _) = bytes.split_at(room.min(bytes.len()));
            state.mux.write_copy(self.id, head);
            state.wake_driver();
            head.len()
        })
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stream").field(&self.id).finish()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.mux.close(self.id);
        state.streams.remove(&self.id);
        state.wake_driver();
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_read_into(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_from(cx, bytes)
    }

    /// Written bytes leave by themselves.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shut_down())
    }
}

fn read_error(reset: Reset) -> io::Error {
    match reset {
        Reset::TakenBack(kind) => io::Error::new(io::ErrorKind::PermissionDenied, TakenBack(kind)),
        Reset::Failed(errno) => Errno(errno).into(),
        Reset::Cancelled | Reset::Refused => Errno::ECONNRESET.into(),
    }
}

pub(super) fn write_error(reset: Reset) -> io::Error {
    match reset {
        Reset::Failed(errno) => Errno(errno).into(),
        Reset::TakenBack(_) => read_error(reset),
        Reset::Cancelled | Reset::Refused => io::ErrorKind::BrokenPipe.into(),
    }
}

pub(super) fn session_error(ended: super::Ended) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, ended)
}

fn invalid(error: ProtocolError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
