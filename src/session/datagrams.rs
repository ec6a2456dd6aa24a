//! Datagrams on a stream: messages that come too fast are dropped as by any full link, and never wait for long.

use std::{cell::RefCell, future::poll_fn, io, net::SocketAddr, task::Poll};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::net::UdpSocket;

use super::{
    Stream,
    stream::{session_error, write_error},
};
use crate::proto::{
    ProtocolError, UdpMessage,
    mux::{self, Batch},
};

/// Most bytes of datagrams that wait in one direction of a stream: the longest one, or some 40 of a full Ethernet frame.
/// What comes on top is dropped, so that what waits is never old.
pub const QUEUE_BYTES: usize = 64 * 1024;
/// Read from a stream at once, in bytes.
const READ_BYTES: usize = 64 * 1024;
/// What a socket gives in one go before others have their turn, in datagrams.
const RECEIVED_AT_ONCE: usize = 64;
/// More than the longest datagram has, in bytes.
const RECEIVE_BYTES: usize = 64 * 1024;

/// Datagrams on their way into a stream.
#[derive(Default)]
pub struct DatagramQueue {
    /// Not in the stream yet; written with the next [`Self::flush`].
    batch: BytesMut,
    /// Flushed, and without credit so far.
    rest: Bytes,
    room: usize,
    dropped: u64,
}

impl DatagramQueue {
    /// Takes a message for the next [`Self::flush`], or drops it where too many wait, or where it is longer than the other side
    /// takes; `false` if so.
    pub fn push(&mut self, stream: &Stream, message: &UdpMessage<'_>) -> bool {
        if message.is_too_long() {
            self.dropped += 1;
            return false;
        }
        if self.batch.is_empty() {
            // What waits for credit waits alone: behind it everything would be late.
            let room = QUEUE_BYTES.saturating_sub(stream.queued());
            self.room = if self.rest.is_empty() { room } else { 0 };
        }
        if self.batch.len() + message.wire_bytes() > self.room {
            self.dropped += 1;
            return false;
        }
        message.encode(&mut self.batch);
        true
    }

    /// Writes what was taken.
    ///
    /// # Errors
    /// As [`Stream::write_room`].
    pub fn flush(&mut self, stream: &Stream) -> io::Result<()> {
        if !self.batch.is_empty() {
            self.rest = stream.write_now(self.batch.split().freeze())?;
        }
        Ok(())
    }

    /// Whether something waits for credit.
    pub fn is_waiting(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Writes what waits for credit.
    ///
    /// # Errors
    /// As [`Stream::write_room`].
    ///
    /// # Cancellation
    /// Nothing is lost: it waits on.
    pub async fn drain(&mut self, stream: &Stream) -> io::Result<()> {
        stream.write_rest(&mut self.rest).await
    }

    /// How many were dropped so far.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// Datagrams on their way out of a stream.
#[derive(Default)]
pub struct DatagramReader {
    unread: BytesMut,
    /// The message that was given last.
    current: BytesMut,
}

impl DatagramReader {
    /// Waits for more bytes; `false` at the end.
    ///
    /// # Errors
    /// As [`Stream::read_batch`].
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn fill(&mut self, stream: &Stream) -> io::Result<bool> {
        let mut batch = Batch::default();
        let more = stream.read_batch(&mut batch, READ_BYTES).await?;
        self.unread.put(batch);
        Ok(more)
    }

    /// The next message that is there.
    ///
    /// # Errors
    /// `InvalidData` with the [`ProtocolError`] for one that cannot be read.
    pub fn next_message(&mut self) -> io::Result<Option<UdpMessage<'_>>> {
        let Some(length) = UdpMessage::whole(&self.unread) else { return Ok(None) };
        self.current = self.unread.split_to(length);
        let broken = |error: ProtocolError| io::Error::new(io::ErrorKind::InvalidData, error);
        UdpMessage::decode(&self.current).map(Some).map_err(broken)
    }
}

impl Stream {
    /// Writes what there is room for now, and gives back the rest.
    ///
    /// # Errors
    /// As [`Self::write_room`].
    pub fn write_now(&self, mut bytes: Bytes) -> io::Result<Bytes> {
        let mut state = self.shared.lock();
        if let Some(ended) = &state.ended {
            return Err(session_error(ended.clone()));
        }
        match state.mux.poll_write(self.id, bytes.len()) {
            mux::Write::Room(room) => {
                state.mux.write(self.id, bytes.split_to(room.min(bytes.len())));
                state.wake_driver();
            }
            mux::Write::Closed(reset) => return Err(write_error(reset)),
            mux::Write::Pending => {}
        }
        Ok(bytes)
    }

    /// Bytes that were written and have not left.
    pub fn queued(&self) -> usize {
        self.shared.lock().mux.queued(self.id)
    }

    /// Waits until at most `most` bytes that were written have not left.
    ///
    /// # Errors
    /// As [`Self::write_room`].
    pub async fn queued_down_to(&self, most: usize) -> io::Result<()> {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if let Some(ended) = &state.ended {
                return Poll::Ready(Err(session_error(ended.clone())));
            }
            match state.mux.poll_queued(self.id, most) {
                mux::Write::Room(_) => Poll::Ready(Ok(())),
                mux::Write::Closed(reset) => Poll::Ready(Err(write_error(reset))),
                mux::Write::Pending => {
                    if let Some(wakers) = state.streams.get_mut(&self.id) {
                        wakers.writer = Some(cx.waker().clone());
                    }
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// Hands out what has come to `socket`, a number at a time.
///
/// # Errors
/// `WouldBlock` when no more is there; what recvfrom(2) says.
pub fn receive_datagrams(socket: &UdpSocket, mut take: impl FnMut(SocketAddr, &[u8])) -> io::Result<()> {
    let receive = |socket: &UdpSocket, buffer: &mut [u8]| {
        let (length, peer) = socket.try_recv_from(buffer)?;
        Ok((length, peer, ()))
    };
    receive_datagrams_by(socket, receive, |peer, (), content| take(peer, content))
}

/// As [`receive_datagrams`], each by `receive`, which may tell more of it.
///
/// # Errors
/// That of `receive`.
pub fn receive_datagrams_by<A>(
    socket: &UdpSocket,
    receive: impl Fn(&UdpSocket, &mut [u8]) -> io::Result<(usize, SocketAddr, A)>,
    mut take: impl FnMut(SocketAddr, A, &[u8]),
) -> io::Result<()> {
    thread_local! {
        // One for all sockets of a thread: nothing of it is kept across an await.
        static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; RECEIVE_BYTES].into());
    }
    BUFFER.with_borrow_mut(|buffer| {
        for _ in 0..RECEIVED_AT_ONCE {
            let (length, peer, at) = receive(socket, buffer)?;
            let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
            take(peer, at, buffer.get(..length).unwrap_or_default());
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::BufReader;

    use super::*;
    use crate::{
        proto::{
            DATAGRAM_BYTES_MAX, UdpBody,
            mux::{Config, Role},
        },
        session::Session,
    };

    /// The shortest message: of an empty datagram, with its length, kind, port and address.
    const SHORTEST_BYTES: usize = 2 + 1 + 2 + 4;
    const PIECES: u8 = 64;
    const PIECE_BYTES: usize = QUEUE_BYTES / PIECES as usize;

    /// Both ends of a stream, the first with this credit and nothing in it. What is between them moves only while a test waits.
    async fn stream(credit: u32) -> [Stream; 2] {
        let (here, there) = tokio::io::duplex(QUEUE_BYTES);
        let config = Config { initial_credit: credit, peer_initial_credit: credit, ..Config::default() };
        let start = |connection, role| Session::start(BufReader::new(connection), role, config.clone());
        let (lender, borrower) = (start(here, Role::Lender), start(there, Role::Borrower));
        let far = borrower.open(Bytes::from_static(b"?")).unwrap();
        [lender.accept().await.unwrap(), far]
    }

    /// A datagram of so many bytes on the wire, each of which is its number.
    fn push(queue: &mut DatagramQueue, stream: &Stream, number: u8, wire_bytes: usize) -> bool {
        let payload = vec![number; wire_bytes - SHORTEST_BYTES];
        queue.push(stream, &UdpMessage::datagram("10.0.0.1:53".parse().unwrap(), &payload))
    }

    /// The numbers of the next datagrams.
    async fn receive(stream: &Stream, count: usize) -> Vec<u8> {
        let (mut reader, mut numbers) = (DatagramReader::default(), Vec::new());
        while numbers.len() < count {
            assert!(reader.fill(stream).await.unwrap());
            while let Some(message) = reader.next_message().unwrap() {
                let UdpMessage { body: UdpBody::Datagram(payload), .. } = message else { panic!("{message:?}") };
                numbers.push(payload[0]);
            }
        }
        numbers
    }

    #[tokio::test]
    async fn what_comes_on_top_of_64_kib_is_dropped_until_some_of_it_has_left() {
        let ([near, far], mut queue) = (stream(1024 * 1024).await, DatagramQueue::default());
        let half = PIECES / 2;
        assert!((0..half).all(|number| push(&mut queue, &near, number, PIECE_BYTES)));
        queue.flush(&near).unwrap();
        assert!(
            (half..PIECES).all(|number| push(&mut queue, &near, number, PIECE_BYTES)),
            "what is flushed counts once"
        );
        assert!(!push(&mut queue, &near, 99, SHORTEST_BYTES), "before it is flushed");
        queue.flush(&near).unwrap();
        assert!(!push(&mut queue, &near, 99, SHORTEST_BYTES), "while it is in the stream");
        assert_eq!((near.queued(), queue.dropped()), (64 * 1024, 2));

        near.queued_down_to(0).await.unwrap();
        assert!(push(&mut queue, &near, PIECES, QUEUE_BYTES / 2), "there is room again");
        assert!(!push(&mut queue, &near, 99, QUEUE_BYTES / 2 + 1), "and no more than before");
        assert!(push(&mut queue, &near, PIECES + 1, QUEUE_BYTES / 2), "a shorter one still fits");
        queue.flush(&near).unwrap();
        assert_eq!((near.queued(), queue.dropped()), (64 * 1024, 3));
        let expected: Vec<_> = (0..=PIECES + 1).collect();
        assert_eq!(receive(&far, expected.len()).await, expected);
    }

    #[tokio::test]
    async fn the_longest_datagram_has_room_alone_and_a_longer_one_takes_none() {
        let ([near, _far], mut queue) = (stream(1024 * 1024).await, DatagramQueue::default());
        let peer = "[fd00::1]:53".parse().unwrap();
        let longer = [7; DATAGRAM_BYTES_MAX + 1];
        assert!(!queue.push(&near, &UdpMessage::datagram(peer, &longer)));
        assert_eq!(queue.dropped(), 1);
        assert!(queue.push(&near, &UdpMessage::datagram(peer, &longer[1..])));
        assert!(!push(&mut queue, &near, 99, SHORTEST_BYTES));
        assert_eq!(queue.dropped(), 2);
    }

    #[tokio::test]
    async fn behind_a_datagram_that_waits_for_credit_everything_is_dropped() {
        let ([near, far], mut queue) = (stream(64 * 1024).await, DatagramQueue::default());
        assert!((0..PIECES).all(|number| push(&mut queue, &near, number, PIECE_BYTES)));
        queue.flush(&near).unwrap();
        assert!(!queue.is_waiting());
        near.queued_down_to(0).await.unwrap();
        assert!(push(&mut queue, &near, PIECES, PIECE_BYTES));
        queue.flush(&near).unwrap();
        assert!(queue.is_waiting(), "all credit is spent");
        assert!(!push(&mut queue, &near, 99, PIECE_BYTES));
        assert_eq!((near.queued(), queue.dropped()), (0, 1));

        let expected: Vec<_> = (0..=PIECES).collect();
        let (drained, received) = tokio::join!(queue.drain(&near), receive(&far, expected.len()));
        drained.unwrap();
        assert_eq!(received, expected);
        assert!(!queue.is_waiting() && push(&mut queue, &near, 0, PIECE_BYTES), "there is room again");
    }
}
