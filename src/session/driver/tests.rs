use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, ReadBuf},
    sync::oneshot,
};

use super::*;
use crate::{
    proto::{
        StreamId,
        mux::{Config, Mux, Read, Role, Write},
    },
    session::{Crew, Reachable, Session, Stream, both_ends},
};

const STREAMS: usize = 64;
const BLOCK_BYTES: usize = 64 * 1024;
const MOVED_BYTES: usize = 256 * 1024 * 1024;

/// What a peer has sent and taken, in bytes.
#[derive(Default)]
struct Moved {
    sent: usize,
    taken: usize,
    /// Taken since it last sent, and the most of that.
    taken_in_a_row: usize,
    taken_in_a_row_most: usize,
    enough: Option<oneshot::Sender<()>>,
}

/// A connection that never waits, with a peer behind it that sends on every stream all that it may.
struct EagerPeer {
    mux: Mux,
    streams: Vec<StreamId>,
    sending: Vec<u8>,
    moved: Arc<Mutex<Moved>>,
}

impl EagerPeer {
    fn send_on_every_stream(&mut self) {
        let block = Bytes::from(vec![7; BLOCK_BYTES]);
        for id in &self.streams {
            if let Write::Room(room) = self.mux.poll_write(*id, BLOCK_BYTES) {
                self.mux.write(*id, block.slice(..room));
            }
        }
        let mut batch = Batch::default();
        self.mux.poll_transmit(Instant::now(), &mut batch);
        self.sending.extend_from_slice(&batch.copy_to_bytes(batch.remaining()));
    }

    fn take(&mut self, bytes: &[u8]) {
        self.mux.handle_bytes(Instant::now(), bytes).unwrap();
        while let Some(event) = self.mux.poll_event() {
            let (Event::Opened(id) | Event::Readable(id)) = event else { continue };
            if matches!(event, Event::Opened(_)) {
                self.streams.push(id);
            }
            while let Read::Bytes(_) = self.mux.read(Instant::now(), id, BLOCK_BYTES) {}
        }
    }
}

impl AsyncRead for EagerPeer {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        unreachable!("a driver reads what the connection has buffered")
    }
}

impl AsyncBufRead for EagerPeer {
    fn poll_fill_buf(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.sending.is_empty() {
            this.send_on_every_stream();
        }
        // A driver that has nothing to read is woken when it has something to send.
        if this.sending.is_empty() { Poll::Pending } else { Poll::Ready(Ok(&this.sending)) }
    }

    fn consume(self: Pin<&mut Self>, length: usize) {
        let this = self.get_mut();
        this.sending.drain(..length);
        let mut moved = this.moved.lock().unwrap();
        moved.sent += length;
        moved.taken_in_a_row = 0;
    }
}

impl AsyncWrite for EagerPeer {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.take(bytes);
        let mut moved = this.moved.lock().unwrap();
        moved.taken += bytes.len();
        moved.taken_in_a_row += bytes.len();
        moved.taken_in_a_row_most = moved.taken_in_a_row_most.max(moved.taken_in_a_row);
        if moved.sent + moved.taken > MOVED_BYTES
            && let Some(enough) = moved.enough.take()
        {
            enough.send(()).unwrap();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

async fn write_and_read(stream: Stream) {
    let block = Bytes::from(vec![7; BLOCK_BYTES]);
    let write = async { while stream.write_all_bytes(block.clone()).await.is_ok() {} };
    let read = async {
        let mut batch = Batch::default();
        while stream.read_batch(&mut batch, 2 * BLOCK_BYTES).await.unwrap_or(false) {
            batch = Batch::default();
        }
    };
    tokio::join!(write, read);
}

#[tokio::test]
async fn what_many_streams_send_each_way_at_once_moves_alike() {
    let (enough_tx, enough_rx) = oneshot::channel();
    let moved = Arc::new(Mutex::new(Moved { enough: Some(enough_tx), ..Moved::default() }));
    let mux = Mux::new(Role::Lender, Config::default(), Instant::now());
    let peer = EagerPeer { mux, streams: Vec::new(), sending: Vec::new(), moved: moved.clone() };
    let session = Session::start(peer, Role::Borrower, Config::default());
    let mut crew = Crew::new();
    for _ in 0..STREAMS {
        let stream = session.open(Bytes::from_static(b"?")).unwrap();
        crew.spawn(&session, write_and_read(stream));
    }
    enough_rx.await.unwrap();
    let moved = moved.lock().unwrap();
    let [up, down] = [moved.taken, moved.sent].map(|bytes| bytes >> 20);
    assert!(up.abs_diff(down) < up / 4, "{up} MiB up, {down} MiB down");
    let most = moved.taken_in_a_row_most;
    assert!(most <= 2 * SEND_BYTES + BLOCK_BYTES, "{most} bytes went up before anything was read again");
}

/// Thousands of streams, each with its first bytes, would be held for nobody.
#[tokio::test]
async fn a_borrower_refuses_streams_until_it_has_asked_for_something_that_they_come_to() {
    let [borrower, lender] = both_ends(&Config::default());
    for _ in 0..3 {
        let unasked = lender.open(Bytes::from_static(b"!")).unwrap();
        let refused = tokio::time::timeout(Duration::from_secs(20), unasked.read_all(&mut [0])).await;
        assert_eq!(refused.expect("it is refused").unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
    assert_eq!((borrower.peer_streams(), borrower.over()), (0, None));
    borrower.take_streams();
    let asked = lender.open(Bytes::from_static(b"!")).unwrap();
    let accepted = borrower.accept().await.unwrap();
    accepted.write_all_bytes(Bytes::from_static(b"?")).await.unwrap();
    asked.read_all(&mut [0]).await.unwrap();
}

/// A peer that never says anything, on a machine that is there as long as this is `true`.
struct Silent {
    is_there: Arc<AtomicBool>,
}

impl AsyncRead for Silent {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncBufRead for Silent {
    fn poll_fill_buf(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        Poll::Pending
    }

    fn consume(self: Pin<&mut Self>, _: usize) {}
}

impl AsyncWrite for Silent {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Reachable for Silent {
    fn is_reachable(&self) -> bool {
        self.is_there.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_silent_peer_is_waited_for_while_its_machine_is_there_if_that_is_asked_for() {
    let config = Config { ping_period: Duration::from_millis(20), ..Config::default() };
    let is_there = Arc::new(AtomicBool::new(true));
    let silent = || Silent { is_there: is_there.clone() };
    let patient = Session::start_patient(silent(), Role::Lender, config.clone());
    // Ten such sessions are given up in turn: as many times two periods and more.
    for _ in 0..10 {
        let given_up = Session::start(silent(), Role::Borrower, config.clone()).ended().await;
        assert_eq!(given_up.text, "the other side has not answered for too long");
    }
    assert_eq!(patient.over(), None);
    is_there.store(false, Ordering::Relaxed);
    assert_eq!(patient.ended().await.kind, ErrorKind::Lost);
}
