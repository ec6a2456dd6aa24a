//! Copies between a socket and a stream until both directions are done; half-close is kept.
//!
//! Bytes are read straight into the block that is sent and kept, and nothing is held for a connection that is quiet.

use std::{
    convert::Infallible,
    future::ready,
    io::{self, IoSlice},
    time::Duration,
};

use bytes::Buf;
use tokio::{io::Interest, sync::Notify};

use super::{Meter, Stream, block::Block, rounds::let_driver_send, socket::Socket};
use crate::proto::{Errno, Reset, mux::Batch};

/// What was sent before the stream was given up may take so long to be taken by the socket; a peer that reads nothing
/// must not hold it for ever.
const LAST_WORDS_MAX: Duration = Duration::from_secs(30);
/// How soon, and how often at least, it is looked whether the peer's kernel has all: it acknowledges within 40 ms.
const ARRIVED_FIRST_LOOK: Duration = Duration::from_millis(5);
const ARRIVED_LOOK_MAX: Duration = Duration::from_secs(1);
/// Written at once to a socket, in bytes: two of the largest segments that Linux makes, and no small one behind them.
pub(super) const WRITE_BYTES: usize = 126 * 1024;
/// Pieces written at once to a socket: more than a batch of full frames has.
const WRITE_SLICES: usize = 64;

/// Relays until both directions have ended; a failure of one end reaches the other as a reset.
///
/// # Cancellation
/// Dropping the future resets the socket: what it was still to get is missing.
pub async fn relay(socket: impl Socket, stream: &Stream, meter: &Meter) {
    let Ok(()) = both_ways(socket, stream, meter, ready(Ok::<(), Infallible>(())), ready(())).await;
}

/// As [`relay`], on a stream whose `answer` is still to come: what the socket sends goes up meanwhile, and an answer that is an
/// error ends both directions with a reset of the socket. A socket that fails before the answer fails its stream only with it, or
/// once `may_give_up` is ready, so that whoever connects and resets cannot make us flood the other side with resets.
///
/// # Errors
/// That of `answer`.
///
/// # Cancellation
/// As [`relay`].
pub async fn relay_unanswered<E>(
    socket: impl Socket,
    stream: &Stream,
    meter: &Meter,
    answer: impl Future<Output = Result<(), E>>,
    may_give_up: impl Future<Output = ()>,
) -> Result<(), E> {
    let has_answer = Notify::new();
    let answer = async {
        let answer = answer.await;
        has_answer.notify_one();
        answer
    };
    let may_reset = async {
        tokio::select! {
            biased;
            () = has_answer.notified() => {}
            () = may_give_up => {}
        }
    };
    both_ways(socket, stream, meter, answer, may_reset).await
}

/// Relays what the socket sends from now on, and what is for it from its `answer` on; a failure of the socket waits for
/// `may_reset` before it reaches the stream.
async fn both_ways<E>(
    socket: impl Socket,
    stream: &Stream,
    meter: &Meter,
    answer: impl Future<Output = Result<(), E>>,
    may_reset: impl Future<Output = ()>,
) -> Result<(), E> {
    let mut unfinished = Unfinished { socket, whole: false };
    let has_ended = Notify::new();
    let up = async {
        let is_read = to_stream(&unfinished.socket, stream, meter, may_reset).await;
        has_ended.notify_one();
        Ok(is_read)
    };
    let down = async {
        answer.await?;
        Ok::<_, E>(from_stream(stream, &unfinished.socket, meter, &has_ended).await.is_ok())
    };
    let (is_read, whole) = tokio::try_join!(up, down)?;
    if whole && !is_read {
        // An orderly end would let it write on into the void; the reset must not overtake what it has still to get.
        arrived(&unfinished.socket).await;
    }
    unfinished.whole = whole && is_read;
    Ok(())
}

/// A socket whose peer must see a reset and not an orderly end as long as bytes are missing.
struct Unfinished<S: Socket> {
    socket: S,
    whole: bool,
}

impl<S: Socket> Drop for Unfinished<S> {
    fn drop(&mut self) {
        if !self.whole {
            self.socket.abort_on_drop();
        }
    }
}

/// From the socket into the stream, until the socket ends or the stream is closed; gives whether all of it was taken.
async fn to_stream(socket: &impl Socket, stream: &Stream, meter: &Meter, may_reset: impl Future<Output = ()>) -> bool {
    match copy_to_stream(socket, stream, meter).await {
        Ok(()) => {
            stream.finish();
            meter.finish();
            true
        }
        Err(Broken::Socket(error)) => {
            may_reset.await;
            stream.reset_behind(reset_of(&error)).await;
            false
        }
        // No reset: what the peer sent before it closed is still to be read.
        Err(Broken::Stream) => false,
    }
}

/// Which end failed.
enum Broken {
    Socket(io::Error),
    Stream,
}

async fn copy_to_stream(socket: &impl Socket, stream: &Stream, meter: &Meter) -> Result<(), Broken> {
    let mut block = Block::new();
    let mut is_first = true;
    loop {
        tokio::select! {
            biased;
            ready = socket.ready(Interest::READABLE) => drop(ready.map_err(Broken::Socket)?),
            _ = stream.write_closed() => return Err(Broken::Stream),
        }
        let mut room = tokio::select! {
            biased;
            room = block.room(stream) => room.map_err(|_| Broken::Stream)?,
            // A stalled stream must not hide that the socket's program is gone.
            _ = socket.ready(Interest::ERROR) => {
                return Err(Broken::Socket(socket.take_error().unwrap_or_else(|| Errno::ECONNRESET.into())));
            }
        };
        match socket.try_read_buf(&mut room) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                let sent = block.send(stream);
                meter.went_to_stream(length);
                tokio::select! {
                    biased;
                    () = meter.keep_pace(length) => {}
                    _ = stream.write_closed() => return Err(Broken::Stream),
                }
                if sent.is_all {
                    let_driver_send().await;
                }
                // A new connection acknowledges at once by itself.
                if sent.is_small && !is_first {
                    socket.acknowledge();
                }
                is_first = false;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => block.free(),
            Err(error) => return Err(Broken::Socket(error)),
        }
    }
}

/// From the stream into the socket, until the stream ends or either fails; `has_ended`: nobody reads the socket any more.
async fn from_stream(stream: &Stream, socket: &impl Socket, meter: &Meter, has_ended: &Notify) -> io::Result<()> {
    let mut batch = Batch::default();
    // A peer that has ended its half may be gone before there is anything to write, which would tell.
    let broken = async {
        has_ended.notified().await;
        // Either way it is of no use any more.
        let _ = socket.ready(Interest::ERROR).await;
    };
    tokio::pin!(broken);
    loop {
        let read = tokio::select! {
            biased;
            read = stream.read_batch(&mut batch, WRITE_BYTES) => read,
            () = &mut broken => Err(Errno::ECONNRESET.into()),
        };
        match read {
            Ok(true) => {
                let length = batch.remaining();
                let paced = async {
                    meter.keep_pace(length).await;
                    write_all(socket, &mut batch).await
                };
                tokio::select! {
                    biased;
                    written = paced => written?,
                    () = abandoned(stream) => return Err(Errno::ETIMEDOUT.into()),
                }
                meter.went_from_stream(length);
            }
            Ok(false) => {
                meter.end_of_stream();
                socket.finish();
                return Ok(());
            }
            Err(error) => return Err(error),
        }
    }
}

async fn write_all(socket: &impl Socket, batch: &mut Batch) -> io::Result<()> {
    while batch.has_remaining() {
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES];
        let filled = batch.chunks_vectored(&mut slices);
        match socket.try_write_vectored(slices.get(..filled).unwrap_or_default()) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(length) => batch.advance(length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => drop(socket.ready(Interest::WRITABLE).await?),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Waits until the peer's kernel has all that was written, or will never take it.
async fn arrived(socket: &impl Socket) {
    let all_there = async {
        let mut pause = ARRIVED_FIRST_LOOK;
        while !socket.is_all_there() {
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(ARRIVED_LOOK_MAX);
        }
    };
    tokio::select! {
        () = all_there => {}
        _ = socket.ready(Interest::ERROR) => {}
        () = tokio::time::sleep(LAST_WORDS_MAX) => {}
    }
}

/// Ready half a minute after the stream was given up: what was said before has had its time to go on. To be awaited in the task
/// that writes to the stream.
pub async fn abandoned(stream: &Stream) {
    stream.given_up().await;
    tokio::time::sleep(LAST_WORDS_MAX).await;
}

fn reset_of(error: &io::Error) -> Reset {
    Errno::of(error).map_or(Reset::Cancelled, |errno| Reset::Failed(errno.0))
}

#[cfg(test)]
mod tests;
