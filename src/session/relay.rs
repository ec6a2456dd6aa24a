//! Copies between a socket and a stream until both directions are done; half-close is kept.
//!
//! Bytes are read straight into the block that is sent and kept, and nothing is held for a connection that is quiet.

use std::{
    convert::Infallible,
    io::{self, IoSlice},
    time::Duration,
};

use bytes::{Buf, BufMut, BytesMut};
use tokio::{io::Interest, sync::Notify};

use super::{Meter, Stream, rounds::let_driver_send, socket::Socket};
use crate::proto::{
    Errno, FRAME_PAYLOAD_MAX, Reset,
    mux::{Batch, COPY_BYTES_MAX},
};

/// Read at once from a busy socket, in bytes: four full frames.
const BUSY_BYTES: usize = 4 * FRAME_PAYLOAD_MAX;
/// Read at once from a socket that sends little, in bytes.
pub(super) const QUIET_BYTES: usize = 4 * 1024;
/// What was sent before the stream was given up may take so long to be taken by the socket; a peer that reads nothing
/// must not hold it for ever.
const LAST_WORDS_MAX: Duration = Duration::from_secs(30);
/// Written at once to a socket, in bytes.
pub(super) const WRITE_BYTES: usize = 128 * 1024;
/// Pieces written at once to a socket: more than a batch of full frames has.
const WRITE_SLICES: usize = 64;

/// Relays until both directions have ended; a failure of one end reaches the other as a reset.
///
/// # Cancellation
/// Dropping the future resets the socket: what it was still to get is missing.
pub async fn relay(socket: impl Socket, stream: &Stream, meter: &Meter) {
    let Ok(()) = relay_unanswered(socket, stream, meter, std::future::ready(Ok::<(), Infallible>(()))).await;
}

/// As [`relay`], on a stream whose `answer` is still to come: what the socket sends goes up meanwhile, and an answer
/// that is an error ends both directions with a reset of the socket.
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
) -> Result<(), E> {
    both_ways(socket, stream, meter, answer, std::future::ready(())).await
}

/// As [`relay_unanswered`], for a stream that we opened because of a stranger: a socket that fails before the answer has
/// come fails its stream only afterwards, so that whoever connects and resets cannot make us open and reset streams.
///
/// # Errors
/// That of `answer`.
///
/// # Cancellation
/// As [`relay`].
pub async fn relay_accepted<E>(
    socket: impl Socket,
    stream: &Stream,
    meter: &Meter,
    answer: impl Future<Output = Result<(), E>>,
) -> Result<(), E> {
    let has_answer = Notify::new();
    let answer = async {
        let answer = answer.await;
        has_answer.notify_one();
        answer
    };
    both_ways(socket, stream, meter, answer, has_answer.notified()).await
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
    let up = async {
        to_stream(&unfinished.socket, stream, meter, may_reset).await;
        Ok(())
    };
    let down = answered(&unfinished.socket, stream, meter, answer);
    let ((), whole) = tokio::try_join!(up, down)?;
    unfinished.whole = whole;
    Ok(())
}

/// After an answer that is a yes, from the stream into the socket; gives whether all of it came.
async fn answered<E>(
    socket: &impl Socket,
    stream: &Stream,
    meter: &Meter,
    answer: impl Future<Output = Result<(), E>>,
) -> Result<bool, E> {
    answer.await?;
    Ok(from_stream(stream, socket, meter).await.is_ok())
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

/// From the socket into the stream, until the socket ends or the stream is closed.
async fn to_stream(socket: &impl Socket, stream: &Stream, meter: &Meter, may_reset: impl Future<Output = ()>) {
    match copy_to_stream(socket, stream, meter).await {
        Ok(()) => {
            stream.finish();
            meter.finish();
        }
        Err(Broken::Socket(error)) => {
            may_reset.await;
            stream.reset(reset_of(&error));
        }
        // No reset: what the peer sent before it closed is still to be read.
        Err(Broken::Stream) => {}
    }
}

/// Which end failed.
enum Broken {
    Socket(io::Error),
    Stream,
}

async fn copy_to_stream(socket: &impl Socket, stream: &Stream, meter: &Meter) -> Result<(), Broken> {
    let mut buffer = BytesMut::new();
    let mut size = QUIET_BYTES;
    let mut is_first = true;
    loop {
        tokio::select! {
            biased;
            ready = socket.ready(Interest::READABLE) => drop(ready.map_err(Broken::Socket)?),
            _ = stream.write_closed() => return Err(Broken::Stream),
        }
        let room = tokio::select! {
            biased;
            room = stream.write_room(size) => room.map_err(|_| Broken::Stream)?,
            // A stalled stream must not hide that the socket's program is gone.
            _ = socket.ready(Interest::ERROR) => {
                return Err(Broken::Socket(socket.take_error().unwrap_or_else(|| Errno::ECONNRESET.into())));
            }
        };
        buffer.reserve(room.min(size));
        // `room` first: what is read can then always be written, and a stalled stream stops the socket.
        match socket.try_read_buf(&mut (&mut buffer).limit(room)) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                let is_small = length <= COPY_BYTES_MAX;
                if is_small {
                    stream.write_copy(&buffer);
                    buffer.clear();
                } else {
                    stream.write_bytes(buffer.split().freeze());
                }
                meter.went_to_stream(length);
                tokio::select! {
                    biased;
                    () = meter.keep_pace(length) => {}
                    _ = stream.write_closed() => return Err(Broken::Stream),
                }
                // It has given what it had.
                if length < room.min(size) {
                    let_driver_send().await;
                }
                // A new connection acknowledges at once by itself.
                if is_small && !is_first {
                    socket.acknowledge();
                }
                // A full queue leaves less room than the socket would fill, which says nothing about the socket.
                if room >= size {
                    size = next_size(size, length);
                }
                is_first = false;
            }
            // A quiet connection holds no buffer.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => buffer = BytesMut::new(),
            Err(error) => return Err(Broken::Socket(error)),
        }
    }
}

/// A socket that fills what it is given gets more, one that does not gets less.
pub(super) fn next_size(size: usize, filled: usize) -> usize {
    if filled >= size {
        (size * 4).min(BUSY_BYTES)
    } else if filled < size / 4 {
        (size / 2).max(QUIET_BYTES)
    } else {
        size
    }
}

/// From the stream into the socket, until the stream ends or either fails.
async fn from_stream(stream: &Stream, socket: &impl Socket, meter: &Meter) -> io::Result<()> {
    let mut batch = Batch::default();
    loop {
        match stream.read_batch(&mut batch, WRITE_BYTES).await {
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
mod tests {
    use bytes::Bytes;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, BufReader, duplex},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::{
        proto::mux::{Config, Role},
        session::Session,
    };

    /// Both ends of one stream, with their sessions.
    async fn stream_pair() -> ((Session, Stream), (Session, Stream)) {
        let (near, far) = duplex(64 * 1024);
        let borrower = Session::start(BufReader::new(near), Role::Borrower, Config::default());
        let lender = Session::start(BufReader::new(far), Role::Lender, Config::default());
        let ours = borrower.open(Bytes::from_static(b"?")).unwrap();
        let theirs = lender.accept().await.unwrap();
        assert!(theirs.read_batch(&mut Batch::default(), 1).await.unwrap());
        ((borrower, ours), (lender, theirs))
    }

    async fn socket_pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn what_the_peer_sent_before_it_closed_still_arrives() {
        let ((_borrower, ours), (_lender, theirs)) = stream_pair().await;
        let (mut near, far) = socket_pair().await;
        let sent = vec![7; 60_000];
        theirs.write_bytes(sent.clone().into());
        // The whole stream is closed at the other end, not only its sending half, before a byte was relayed.
        drop(theirs);
        ours.write_closed().await;
        let relay = tokio::spawn(async move {
            let meter = Meter::default();
            relay(far, &ours, &meter).await;
            meter.from_stream()
        });
        let mut got = Vec::new();
        near.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, sent);
        assert_eq!(relay.await.unwrap(), 60_000);
    }

    #[tokio::test]
    async fn bytes_go_up_before_the_answer_and_a_no_resets_the_socket() {
        let ((_borrower, ours), (_lender, theirs)) = stream_pair().await;
        let (mut near, far) = socket_pair().await;
        let (answer_tx, answer_rx) = tokio::sync::oneshot::channel::<Result<(), &str>>();
        let relay = tokio::spawn(async move {
            relay_unanswered(far, &ours, &Meter::default(), async { answer_rx.await.unwrap() }).await
        });
        near.write_all(b"early").await.unwrap();
        let mut batch = Batch::default();
        assert!(theirs.read_batch(&mut batch, 16).await.unwrap());
        answer_tx.send(Err("no")).unwrap();
        assert_eq!(relay.await.unwrap(), Err("no"));
        let error = near.read(&mut [0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    /// Whoever connects and resets must not make us open and reset streams: that is a flood to the other side.
    #[tokio::test]
    async fn a_socket_that_fails_before_the_answer_fails_its_stream_only_after_it() {
        let ((_borrower, ours), (_lender, theirs)) = stream_pair().await;
        let (near, far) = socket_pair().await;
        let (answer_tx, answer_rx) = tokio::sync::oneshot::channel::<Result<(), &str>>();
        let relay = tokio::spawn(async move {
            relay_accepted(far, &ours, &Meter::default(), async { answer_rx.await.unwrap() }).await
        });
        near.set_zero_linger().unwrap();
        drop(near);
        let mut batch = Batch::default();
        tokio::select! {
            biased;
            ended = theirs.read_batch(&mut batch, 1) => panic!("{ended:?} before the answer"),
            // On this one thread the relay runs until nothing is left for it to do.
            () = turns(1000) => {}
        }
        answer_tx.send(Ok(())).unwrap();
        assert_eq!(theirs.read_batch(&mut batch, 1).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(relay.await.unwrap(), Ok(()));
    }

    async fn turns(count: usize) {
        for _ in 0..count {
            tokio::task::yield_now().await;
        }
    }

    /// Without it every question but the first would wait for 40 ms.
    #[tokio::test]
    async fn a_question_in_two_writes_waits_for_no_delayed_acknowledgement() {
        let ((_borrower, ours), (_lender, theirs)) = stream_pair().await;
        // Neither end of this connection has TCP_NODELAY.
        let (mut near, far) = socket_pair().await;
        tokio::spawn(async move { relay(far, &ours, &Meter::default()).await });
        tokio::spawn(async move {
            while theirs.read_all(&mut [0; 2]).await.is_ok() {
                theirs.write_all_bytes(Bytes::from_static(b"!")).await.unwrap();
            }
        });
        let mut fastest = Duration::MAX;
        for round in 0..20 {
            let began = std::time::Instant::now();
            near.write_all(b"1").await.unwrap();
            near.write_all(b"2").await.unwrap();
            near.read_exact(&mut [0]).await.unwrap();
            if round > 3 {
                fastest = fastest.min(began.elapsed());
            }
        }
        assert!(fastest < Duration::from_millis(30), "{fastest:?}");
    }

    #[test]
    fn read_sizes_follow_what_the_socket_gives() {
        let busy = (0..4).fold(QUIET_BYTES, |size, _| next_size(size, size));
        assert_eq!(busy, BUSY_BYTES);
        let quiet = (0..8).fold(busy, |size, _| next_size(size, 10));
        assert_eq!(quiet, QUIET_BYTES);
        assert_eq!(next_size(8192, 4096), 8192);
    }
}
