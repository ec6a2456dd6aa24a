//! Two state machines against each other: simulated time, any split, any interleaving, and hostile bytes.

use std::time::Duration;

use bytes::Buf;
use proptest::prelude::*;

use super::*;
use crate::proto::{COPY_BYTES_MAX, ErrorKind, FRAME_PAYLOAD_MAX, HEADER_BYTES, Header, Kind, ProtocolError};

mod hostile;
mod interleaved;

/// Two ends and the bytes between them.
struct Pair {
    now: Instant,
    borrower: Mux,
    lender: Mux,
    to_lender: Vec<u8>,
    to_borrower: Vec<u8>,
}

impl Pair {
    fn new() -> Self {
        Self::with(Config::default())
    }

    fn with(config: Config) -> Self {
        let now = Instant::now();
        Self {
            now,
            borrower: Mux::new(Role::Borrower, config.clone(), now),
            lender: Mux::new(Role::Lender, config, now),
            to_lender: Vec::new(),
            to_borrower: Vec::new(),
        }
    }

    /// Moves bytes until neither end has anything to say.
    fn settle(&mut self) {
        while self.step(usize::MAX) {}
    }

    /// One batch each way, delivered in pieces of `cut`; `false` when there was nothing.
    fn step(&mut self, cut: usize) -> bool {
        pull(&mut self.borrower, self.now, &mut self.to_lender);
        pull(&mut self.lender, self.now, &mut self.to_borrower);
        let moved = !self.to_lender.is_empty() || !self.to_borrower.is_empty();
        for piece in std::mem::take(&mut self.to_lender).chunks(cut) {
            self.lender.handle_bytes(self.now, piece).unwrap();
        }
        for piece in std::mem::take(&mut self.to_borrower).chunks(cut) {
            self.borrower.handle_bytes(self.now, piece).unwrap();
        }
        moved
    }

    fn sleep(&mut self, time: Duration) {
        self.now += time;
        assert!(self.borrower.handle_timeout(self.now) && self.lender.handle_timeout(self.now));
        self.settle();
    }

    /// A stream that both ends know.
    fn open(&mut self, first: &'static [u8]) -> StreamId {
        let id = self.borrower.open(Bytes::from_static(first)).unwrap();
        self.settle();
        assert!(events(&mut self.lender).contains(&Event::Opened(id)));
        assert_eq!(read_all(&mut self.lender, self.now, id), first);
        id
    }
}

fn pull(mux: &mut Mux, now: Instant, wire: &mut Vec<u8>) {
    let mut batch = Batch::default();
    mux.poll_transmit(now, &mut batch);
    while batch.has_remaining() {
        wire.extend_from_slice(batch.chunk());
        batch.advance(batch.chunk().len());
    }
}

fn events(mux: &mut Mux) -> Vec<Event> {
    std::iter::from_fn(|| mux.poll_event()).collect()
}

fn read_all(mux: &mut Mux, now: Instant, id: StreamId) -> Vec<u8> {
    let mut out = Vec::new();
    while let Read::Bytes(bytes) = mux.read(now, id, usize::MAX) {
        out.extend_from_slice(&bytes);
    }
    out
}

/// Writes as much as there is room for.
fn write_some(mux: &mut Mux, id: StreamId, bytes: &[u8]) -> usize {
    match mux.poll_write(id, bytes.len()) {
        Write::Room(room) => {
            mux.write_copy(id, &bytes[..room]);
            room
        }
        Write::Pending | Write::Closed(_) => 0,
    }
}

#[test]
fn the_first_bytes_travel_with_the_syn() {
    let mut pair = Pair::new();
    pair.borrower.open(Bytes::from_static(b"hello")).unwrap();
    pull(&mut pair.borrower, pair.now, &mut pair.to_lender);
    let ping = 16;
    assert_eq!(&pair.to_lender[ping..], b"\x00\x00\x00\x00\x01\x10\x00\x05hello");
}

#[test]
fn each_half_ends_on_its_own_and_nothing_is_left_behind() {
    let mut pair = Pair::new();
    let id = pair.open(b"request");
    pair.borrower.finish(id);
    pair.settle();
    assert_eq!(pair.lender.read(pair.now, id, 1), Read::End);
    assert_eq!(write_some(&mut pair.lender, id, b"answer after the end"), 20);
    pair.lender.finish(id);
    pair.settle();
    assert_eq!(read_all(&mut pair.borrower, pair.now, id), b"answer after the end");
    assert_eq!(pair.borrower.read(pair.now, id, 1), Read::End);
    pair.borrower.close(id);
    pair.lender.close(id);
    pair.settle();
    assert_eq!((pair.borrower.stream_count(), pair.lender.stream_count()), (0, 0));
}

#[test]
fn dropping_a_handle_delivers_what_was_written_and_ends_the_other_half() {
    let mut pair = Pair::new();
    let id = pair.open(b"x");
    write_some(&mut pair.borrower, id, &[7; 50_000]);
    pair.borrower.close(id);
    pair.settle();
    assert_eq!(read_all(&mut pair.lender, pair.now, id), vec![7; 50_000]);
    assert_eq!(pair.lender.read(pair.now, id, 1), Read::End, "the end came before the reset");
    assert_eq!(pair.lender.poll_write(id, 1), Write::Closed(Reset::Cancelled));
    pair.lender.close(id);
    pair.sleep(ACK_AFTER);
    assert_eq!((pair.borrower.stream_count(), pair.lender.stream_count()), (0, 0));
}

#[test]
fn a_reset_carries_its_errno_and_drops_what_was_queued() {
    let mut pair = Pair::new();
    let id = pair.open(b"x");
    write_some(&mut pair.lender, id, &[1; 1000]);
    pair.lender.reset(id, Reset::Failed(104));
    pair.settle();
    assert_eq!(pair.borrower.read(pair.now, id, 1), Read::Reset(Reset::Failed(104)));
    assert_eq!(pair.borrower.poll_write(id, 1), Write::Closed(Reset::Failed(104)));
    assert!(events(&mut pair.borrower).contains(&Event::Readable(id)));
}

#[test]
fn a_stream_reset_before_its_syn_left_is_never_heard_of() {
    let mut pair = Pair::new();
    let first = pair.borrower.open(Bytes::from_static(b"a")).unwrap();
    let second = pair.borrower.open(Bytes::from_static(b"b")).unwrap();
    pair.borrower.reset(first, Reset::Cancelled);
    pair.settle();
    assert_eq!(events(&mut pair.lender), [Event::Opened(second)]);
    assert_eq!(pair.borrower.stream_count(), 1);
}

#[test]
fn data_that_crosses_our_reset_is_discarded_and_afterwards_it_is_an_error() {
    let mut pair = Pair::new();
    let id = pair.open(b"x");
    write_some(&mut pair.lender, id, b"on its way");
    pull(&mut pair.lender, pair.now, &mut pair.to_borrower);
    pair.borrower.reset(id, Reset::Cancelled);
    pair.settle();
    assert_eq!(pair.borrower.stream_count(), 1, "lingers until the reset is acknowledged");
    pair.sleep(ACK_AFTER);
    assert_eq!(pair.borrower.stream_count(), 0);
    let late = Header { stream: id, kind: Kind::Data, syn: false, fin: false, length: 1 }.encode();
    let error = pair.borrower.handle_bytes(pair.now, &[&late[..], b"!"].concat()).unwrap_err();
    assert_eq!(error, ProtocolError::NotOpen { kind: Kind::Data, stream: id });
}

#[test]
fn a_stalled_reader_stops_its_writer_at_the_window_and_nobody_else() {
    let mut pair = Pair::new();
    let (stalled, other) = (pair.open(b"s"), pair.open(b"o"));
    let mut sent = 0;
    loop {
        match write_some(&mut pair.borrower, stalled, &[0; 10_000]) {
            0 => break,
            room => sent += room,
        }
        pair.settle();
    }
    assert_eq!(sent, 64 * 1024 - 1, "the window less what opened the stream and, read, has not come back yet");
    for _ in 0..100 {
        assert_eq!(write_some(&mut pair.borrower, other, &[1; 10_000]), 10_000);
        pair.settle();
        assert_eq!(read_all(&mut pair.lender, pair.now, other).len(), 10_000);
        pair.settle();
    }
    assert_eq!(pair.lender.unread_bytes(), sent);
    events(&mut pair.borrower);
    read_all(&mut pair.lender, pair.now, stalled);
    pair.settle();
    assert_eq!(events(&mut pair.borrower), [Event::Writable(stalled)]);
}

#[test]
fn a_keystroke_goes_before_a_copy_and_copies_take_turns() {
    let mut pair = Pair::new();
    let (one, two, key) = (pair.open(b"1"), pair.open(b"2"), pair.open(b"k"));
    for id in [one, two] {
        write_some(&mut pair.borrower, id, &[0; 60_000]);
    }
    // A first batch makes both of them old hands; the keystroke comes behind them.
    let mut wire = Vec::new();
    let mut batch = Batch::default();
    pair.borrower.poll_transmit(pair.now, &mut batch);
    write_some(&mut pair.borrower, key, b"q");
    for id in [one, two] {
        write_some(&mut pair.borrower, id, &[0; 60_000]);
    }
    pull(&mut pair.borrower, pair.now, &mut wire);
    assert_eq!(streams_on(&wire).first(), Some(&key));
    while batch.has_remaining() {
        pair.to_lender.extend_from_slice(batch.chunk());
        batch.advance(batch.chunk().len());
    }
    let order = streams_on(&pair.to_lender);
    assert_eq!(order.first(), Some(&one));
    assert_eq!(order.get(1), Some(&two), "a quantum each, not a queue each: {order:?}");
}

fn streams_on(wire: &[u8]) -> Vec<StreamId> {
    let (mut reader, mut rest, mut out) = (crate::proto::FrameReader::new(), wire, Vec::new());
    while !rest.is_empty() {
        let (taken, frame) = reader.read(rest).unwrap();
        rest = &rest[taken..];
        if let Some(crate::proto::Frame::Data { stream, .. }) = frame {
            out.push(stream);
        }
    }
    out
}

#[test]
fn credit_grows_until_a_long_path_is_full() {
    let mut pair = Pair::new();
    let one_way = Duration::from_millis(25);
    let id = pair.borrower.open(Bytes::from_static(b"x")).unwrap();
    let mut per_trip = Vec::new();
    for _ in 0..16 {
        pull(&mut pair.borrower, pair.now, &mut pair.to_lender);
        while write_some(&mut pair.borrower, id, &[0; 65_536]) > 0 {
            pull(&mut pair.borrower, pair.now, &mut pair.to_lender);
        }
        pull(&mut pair.lender, pair.now, &mut pair.to_borrower);
        pair.now += one_way;
        pair.lender.handle_bytes(pair.now, &std::mem::take(&mut pair.to_lender)).unwrap();
        per_trip.push(read_all(&mut pair.lender, pair.now, id).len());
        pull(&mut pair.lender, pair.now, &mut pair.to_borrower);
        pair.now += one_way;
        pair.borrower.handle_bytes(pair.now, &std::mem::take(&mut pair.to_borrower)).unwrap();
        pair.lender.handle_timeout(pair.now);
    }
    let last = per_trip.last().copied().unwrap();
    assert!(last > 8 * 1024 * 1024, "bytes each round trip: {per_trip:?}");
}

/// A batch that is just longer costs one small segment more each time.
#[test]
fn what_copies_write_leaves_in_batches_of_whole_tls_records() {
    for writers in [1, 2, 5] {
        let credit = 1024 * 1024;
        let mut pair = Pair::with(Config { initial_credit: credit, peer_initial_credit: credit, ..Config::default() });
        let ids: Vec<_> = (0..writers).map(|_| pair.open(b"")).collect();
        for _ in 0..4 {
            for id in &ids {
                if let Write::Room(room) = pair.borrower.poll_write(*id, SEND_QUEUE_BYTES) {
                    pair.borrower.write(*id, Bytes::from(vec![0; room]));
                }
            }
            let mut batch = Batch::default();
            pair.borrower.poll_transmit(pair.now, &mut batch);
            assert_eq!(batch.remaining(), BATCH_BYTES, "{writers} streams");
            while batch.pop().is_some() {}
        }
    }
}

#[test]
fn a_small_answer_takes_along_that_its_question_has_come() {
    let mut pair = Pair::new();
    let id = pair.open(b"question");
    let answer = |pair: &mut Pair, bytes: &[u8]| {
        assert_eq!(write_some(&mut pair.lender, id, bytes), bytes.len());
        pull(&mut pair.lender, pair.now, &mut pair.to_borrower);
        let wire = pair.to_borrower.clone();
        pair.settle();
        wire
    };
    let full = [0; COPY_BYTES_MAX + 1];
    assert_eq!(answer(&mut pair, &full).len(), HEADER_BYTES + full.len(), "a record that is full is not made longer");
    assert_eq!(pair.lender.poll_timeout(), pair.now + ACK_AFTER);
    let data = *b"\0\0\0\0\x01\0\0\x06answer";
    let ack = *b"\0\0\0\0\0\x06\0\x08\0\0\0\0\0\0\0\x01";
    assert_eq!(answer(&mut pair, b"answer"), [&data[..], &ack].concat());
    assert_eq!(pair.borrower.kept.bytes(), 0);
    assert!(pair.lender.poll_timeout() > pair.now + ACK_AFTER, "no other is due");
    assert_eq!(answer(&mut pair, b"answer"), data, "it would say nothing new");
}

#[test]
fn no_data_is_sent_while_too_much_is_on_its_way_and_an_ack_mends_it() {
    let mut pair = Pair::new();
    let ids: Vec<_> = (0..600).map(|_| pair.borrower.open(Bytes::from(vec![0; 60_000])).unwrap()).collect();
    let mut wire = Vec::new();
    loop {
        let before = wire.len();
        pull(&mut pair.borrower, pair.now, &mut wire);
        if wire.len() == before {
            break;
        }
    }
    // What opens a stream may be sent beyond the limit, by a batch.
    assert!(pair.borrower.kept_bytes() >= FLIGHT_MIN + BATCH_BYTES);
    assert!(pair.borrower.kept_bytes() < FLIGHT_MIN + 2 * BATCH_BYTES + FRAME_PAYLOAD_MAX);
    pair.lender.handle_bytes(pair.now, &wire).unwrap();
    pair.settle();
    pair.sleep(ACK_AFTER);
    pair.sleep(ACK_AFTER);
    assert_eq!(pair.borrower.kept_bytes(), 0);
    assert_eq!(pair.lender.unread_bytes(), ids.len() * 60_000);
}

#[test]
fn a_silent_peer_is_given_up_in_time() {
    let mut pair = Pair::new();
    pair.settle();
    let end = pair.now + 4 * PING_PERIOD;
    let mut alone = pair.borrower;
    loop {
        let now = alone.poll_timeout();
        assert!(now <= end, "two misses of ten seconds");
        if !alone.handle_timeout(now) {
            break;
        }
        pull(&mut alone, now, &mut Vec::new());
    }
}

#[test]
fn goaway_reaches_the_other_end_with_its_reason() {
    let mut pair = Pair::new();
    let goaway = Goaway { kind: ErrorKind::Revoked, text: "user alice was revoked".into() };
    pair.lender.go_away(goaway.clone());
    pair.settle();
    assert_eq!(events(&mut pair.borrower), [Event::Goaway(goaway)]);
}

#[test]
fn nothing_follows_a_goaway() {
    let mut pair = Pair::new();
    let id = pair.open(b"request");
    pair.settle();
    pair.lender.write(id, Bytes::from(vec![7; 60_000]));
    pair.lender.go_away(Goaway { kind: ErrorKind::Revoked, text: "over".into() });
    let mut batch = Batch::default();
    pair.lender.poll_transmit(pair.now, &mut batch);
    assert!(batch.remaining() < 100, "what was queued for somebody who was cut off stays here");
    pair.lender.poll_transmit(pair.now, &mut batch);
    assert!(batch.remaining() < 100);
}

#[test]
fn opening_stops_at_the_peers_limit_and_goes_on_when_a_stream_ends() {
    let mut pair = Pair::with(Config { max_streams: 2, peer_max_streams: 2, ..Config::default() });
    let first = pair.open(b"1");
    pair.open(b"2");
    assert_eq!(pair.borrower.open(Bytes::new()), Err(OpenError::TooMany { limit: 2 }));
    pair.borrower.reset(first, Reset::Cancelled);
    pair.settle();
    pair.open(b"3");
}

#[test]
fn a_request_longer_than_the_first_credit_is_refused_at_home() {
    let mut pair = Pair::new();
    let error = pair.borrower.open(Bytes::from(vec![0; 65_537])).unwrap_err();
    assert_eq!(error, OpenError::TooLong { length: 65_537, limit: 65_536 });
}
