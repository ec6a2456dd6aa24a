//! Raw bytes that no honest peer sends, each with the error that names it.

use super::*;
use crate::proto::FrameReader;

fn frame(stream: u64, kind: Kind, flags: &str, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        stream: StreamId::new(stream).unwrap(),
        kind,
        syn: flags.contains('s'),
        fin: flags.contains('f'),
        length: payload.len() as u16,
    };
    [&header.encode()[..], payload].concat()
}

fn lender() -> (Mux, Instant) {
    let now = Instant::now();
    (Mux::new(Role::Lender, Config::default(), now), now)
}

fn refused(frames: &[Vec<u8>]) -> ProtocolError {
    let (mut mux, now) = lender();
    mux.handle_bytes(now, &frames.concat()).expect_err("a hostile frame was taken")
}

fn id(number: u64) -> StreamId {
    StreamId::new(number).unwrap()
}

#[test]
fn data_on_a_stream_that_never_began_is_refused() {
    let error = ProtocolError::NotOpen { kind: Kind::Data, stream: id(1) };
    assert_eq!(refused(&[frame(1, Kind::Data, "", b"x")]), error);
}

#[test]
fn data_after_the_peers_own_end_or_reset_is_refused() {
    let error = ProtocolError::NotOpen { kind: Kind::Data, stream: id(1) };
    assert_eq!(refused(&[frame(1, Kind::Data, "sf", b"x"), frame(1, Kind::Data, "", b"y")]), error);
    let reset = frame(1, Kind::Rst, "", &[0; 4]);
    assert_eq!(refused(&[frame(1, Kind::Data, "s", b"x"), reset, frame(1, Kind::Data, "", b"y")]), error);
}

#[test]
fn numbers_of_the_other_side_and_used_numbers_are_refused() {
    assert_eq!(refused(&[frame(2, Kind::Data, "s", b"")]), ProtocolError::WrongParity(id(2)));
    let again = [frame(3, Kind::Data, "s", b""), frame(3, Kind::Data, "s", b"")];
    assert_eq!(refused(&again), ProtocolError::StreamReused(id(3)));
    let lower = [frame(3, Kind::Data, "s", b""), frame(1, Kind::Data, "s", b"")];
    assert_eq!(refused(&lower), ProtocolError::StreamReused(id(1)));
}

/// It may go on for ever: its credit is given back as its bytes are read.
#[test]
fn a_peer_that_sends_and_takes_nothing_makes_us_queue_one_window_for_a_stream() {
    let (mut mux, now) = lender();
    mux.handle_bytes(now, &frame(1, Kind::Data, "s", b"x")).unwrap();
    for _ in 0..1000 {
        mux.handle_bytes(now, &frame(1, Kind::Data, "", &[0; 32_000])).unwrap();
        while let Read::Bytes(_) = mux.read(now, id(1), usize::MAX) {}
    }
    assert_eq!(mux.urgent.len(), 1);
    let mut wire = Vec::new();
    pull(&mut mux, now, &mut wire);
    let mut windows = Vec::new();
    let (mut reader, mut rest) = (FrameReader::new(), &wire[..]);
    while let Ok((taken, Some(frame))) = reader.read(rest) {
        rest = &rest[taken..];
        if let crate::proto::Frame::Window { credit, .. } = frame {
            windows.push(credit);
        }
    }
    // All of it but what is not worth a frame.
    assert!(matches!(windows[..], [credit] if credit > 31_900_000), "{windows:?}");
}

#[test]
fn more_bytes_than_were_granted_are_refused() {
    let full = frame(1, Kind::Data, "", &[0; 32_000]);
    let error = refused(&[frame(1, Kind::Data, "s", &[0; 32_000]), full.clone(), full]);
    assert_eq!(error, ProtocolError::CreditOverrun { stream: id(1), length: 32_000, credit: 65_536 - 64_000 });
}

#[test]
fn windows_of_nothing_and_windows_beyond_the_largest_are_refused() {
    for credit in [0, CREDIT_MAX, u32::MAX] {
        let error = refused(&[frame(1, Kind::Data, "s", b""), frame(1, Kind::Window, "", &credit.to_be_bytes())]);
        assert_eq!(error, ProtocolError::WrongCredit { stream: id(1), credit, limit: CREDIT_MAX });
    }
    let unknown = frame(1, Kind::Window, "", &1_u32.to_be_bytes());
    assert_eq!(refused(&[unknown]), ProtocolError::NotOpen { kind: Kind::Window, stream: id(1) });
}

#[test]
fn a_peer_that_never_grants_credit_holds_one_queue_and_no_more() {
    let now = Instant::now();
    let mut mux = Mux::new(Role::Lender, Config { peer_initial_credit: 0, ..Config::default() }, now);
    mux.handle_bytes(now, &frame(1, Kind::Data, "s", b"")).unwrap();
    assert_eq!(mux.poll_write(id(1), 10), Write::Pending);
}

#[test]
fn a_hundred_thousand_opens_end_at_the_limit() {
    let opens: Vec<_> = (0..100_000).map(|n| frame(2 * n + 1, Kind::Data, "s", b"")).collect();
    let (mut mux, now) = lender();
    let error = mux.handle_bytes(now, &opens.concat()).unwrap_err();
    assert_eq!(error, ProtocolError::TooManyStreams { limit: 4096 });
    assert_eq!(mux.stream_count(), 4096);
}

#[test]
fn closed_streams_that_nobody_reads_keep_their_places() {
    let (mut mux, now) = lender();
    let mut bytes = 0;
    for n in 0..3 * 4096 {
        let id = id(2 * n + 1);
        for (flags, length) in [("s", 32_000), ("f", 32_000)] {
            mux.handle_bytes(now, &frame(id.number(), Kind::Data, flags, &vec![7; length])).unwrap();
        }
        mux.finish(id); // closed on the wire, and unread
        pull(&mut mux, now, &mut Vec::new());
        bytes = mux.unread_bytes();
        assert!(bytes <= 4096 * 65_536 + window::POOL_BYTES as usize);
    }
    assert!(bytes > 4000 * 64_000, "the bound was reached: {bytes}");
    assert_eq!(mux.open(Bytes::new()), Err(OpenError::TooMany { limit: 4096 }));
    // Reading one of them makes room for one more.
    read_all(&mut mux, now, id(1));
    mux.close(id(1));
    let next = id(6 * 4096 + 1);
    mux.handle_bytes(now, &frame(next.number(), Kind::Data, "s", b"x")).unwrap();
    assert_eq!(read_all(&mut mux, now, next), b"x");
}

#[test]
fn an_open_reset_storm_ends_soon() {
    let storm: Vec<_> = (0..100_000)
        .flat_map(|n| [frame(2 * n + 1, Kind::Data, "s", b""), frame(2 * n + 1, Kind::Rst, "", &[0; 4])])
        .collect();
    let (mut mux, now) = lender();
    assert_eq!(mux.handle_bytes(now, &storm.concat()), Err(ProtocolError::ResetFlood));
    assert!(mux.stream_count() < 2000);
}

#[test]
fn floods_of_pings_and_of_empty_frames_end_soon() {
    let ping = frame(0, Kind::Ping, "", &[0; 8]);
    assert_eq!(refused(&vec![ping; 1000]), ProtocolError::PingFlood);
    let mut empty = vec![frame(1, Kind::Data, "", b""); 1000];
    empty.insert(0, frame(1, Kind::Data, "s", b""));
    assert_eq!(refused(&empty), ProtocolError::EmptyFlood);
}

#[test]
fn acks_of_the_future_and_stray_pongs_are_refused() {
    let ack = frame(0, Kind::Ack, "", &9_u64.to_be_bytes());
    assert_eq!(refused(&[ack]), ProtocolError::AckAhead { acked: 9, sent: 0 });
    assert_eq!(refused(&[frame(0, Kind::Pong, "", &[0; 8])]), ProtocolError::StrayPong);
}

#[test]
fn session_data_after_the_login_is_refused() {
    assert!(matches!(refused(&[frame(0, Kind::Data, "", b"x")]), ProtocolError::Unexpected { .. }));
}

#[test]
fn one_byte_frames_cost_little_more_than_their_bytes() {
    let (mut mux, now) = lender();
    mux.handle_bytes(now, &frame(1, Kind::Data, "s", b"")).unwrap();
    for _ in 0..60_000 {
        mux.handle_bytes(now, &frame(1, Kind::Data, "", b"x")).unwrap();
    }
    let mut pieces = 0;
    while let Read::Bytes(_) = mux.read(now, id(1), usize::MAX) {
        pieces += 1;
    }
    assert!(pieces < 10, "60,000 bytes in {pieces} pieces");
}

proptest! {
    /// Whole frames with any content reach every state; the only outcomes are a typed error or an orderly mux.
    #[test]
    fn any_frames_leave_the_bounds_intact(
        frames in proptest::collection::vec((0..12_u64, 0..8_u8, 0..4_u8, proptest::collection::vec(any::<u8>(), 0..40)), 0..60),
    ) {
        let (mut mux, now) = lender();
        for (stream, kind, flags, payload) in frames {
            let [.., a, b, c, d, e] = stream.to_be_bytes();
            let header = [a, b, c, d, e, kind | flags << 4, 0, payload.len() as u8];
            let result = mux.handle_bytes(now, &[&header[..], &payload].concat());
            while mux.poll_event().is_some() {}
            pull(&mut mux, now, &mut Vec::new());
            prop_assert!(mux.unread_bytes() <= 60 * 64 * 1024);
            if result.is_err() {
                return Ok(());
            }
        }
    }

    #[test]
    fn what_a_mux_sends_is_always_whole_frames(sizes in proptest::collection::vec(0..70_000_usize, 1..20)) {
        let now = Instant::now();
        let mut mux = Mux::new(Role::Borrower, Config::default(), now);
        for size in &sizes {
            if let Ok(id) = mux.open(Bytes::from(vec![0; (*size).min(65_536)])) {
                mux.finish(id);
            }
        }
        let mut wire = Vec::new();
        for _ in 0..sizes.len() * 2 {
            pull(&mut mux, now, &mut wire);
        }
        let mut reader = FrameReader::new();
        let mut rest = &wire[..];
        while !rest.is_empty() {
            let (taken, _) = reader.read(rest).unwrap();
            rest = &rest[taken..];
        }
        prop_assert!(reader.is_between_frames());
    }
}
