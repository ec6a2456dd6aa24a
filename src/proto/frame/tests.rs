use proptest::prelude::*;

use super::*;

fn read_all(mut bytes: &[u8], cut: usize) -> Result<Vec<Frame>, ProtocolError> {
    let (mut reader, mut frames) = (FrameReader::new(), Vec::new());
    while !bytes.is_empty() {
        let (piece, _) = bytes.split_at(cut.min(bytes.len()));
        let (taken, frame) = reader.read(piece)?;
        assert!(taken > 0 && taken <= piece.len(), "progress, and never past what was given");
        frames.extend(frame);
        bytes = &bytes[taken..];
    }
    Ok(frames)
}

fn refused(bytes: &[u8]) -> ProtocolError {
    read_all(bytes, bytes.len()).unwrap_err()
}

/// The bytes of every kind of frame, as they stand for good.
fn golden() -> Vec<(&'static [u8], Frame)> {
    let id = |number| StreamId::new(number).unwrap();
    vec![
        (
            b"\x00\x00\x00\x00\x01\x10\x00\x02hi",
            Frame::Data { stream: id(1), syn: true, fin: false, payload: Bytes::from_static(b"hi") },
        ),
        (
            b"\xff\xff\xff\xff\xff\x20\x00\x00",
            Frame::Data { stream: StreamId::MAX, syn: false, fin: true, payload: Bytes::new() },
        ),
        (b"\x00\x00\x00\x01\x00\x01\x00\x04\x00\x00\x00\x00", Frame::Rst { stream: id(256), reset: Reset::Cancelled }),
        (b"\x00\x00\x00\x00\x03\x01\x00\x04\x00\x01\x00\x68", Frame::Rst { stream: id(3), reset: Reset::Failed(104) }),
        (b"\x00\x00\x00\x00\x03\x01\x00\x04\x00\x02\x00\x00", Frame::Rst { stream: id(3), reset: Reset::Refused }),
        (
            b"\x00\x00\x00\x00\x03\x01\x00\x04\x00\x03\x00\x07",
            Frame::Rst { stream: id(3), reset: Reset::TakenBack(ErrorKind::Policy) },
        ),
        (b"\x00\x00\x00\x00\x02\x02\x00\x04\x00\x01\x00\x00", Frame::Window { stream: id(2), credit: 65536 }),
        (b"\x00\x00\x00\x00\x00\x03\x00\x08\x00\x00\x00\x00\x00\x00\x00\x07", Frame::Ping(7)),
        (b"\x00\x00\x00\x00\x00\x04\x00\x08\x00\x00\x00\x00\x00\x00\x00\x07", Frame::Pong(7)),
        (
            b"\x00\x00\x00\x00\x00\x05\x00\x05\x0dgone",
            Frame::Goaway(Goaway { kind: ErrorKind::Revoked, text: "gone".into() }),
        ),
        (b"\x00\x00\x00\x00\x00\x06\x00\x08\x00\x00\x00\x00\x00\x00\x01\x00", Frame::Ack(256)),
    ]
}

#[test]
fn every_kind_of_frame_has_its_golden_bytes_however_they_are_split() {
    let wire: Vec<u8> = golden().iter().flat_map(|(bytes, _)| bytes.iter().copied()).collect();
    let frames: Vec<_> = golden().into_iter().map(|(_, frame)| frame).collect();
    for cut in 1..=wire.len() {
        assert_eq!(read_all(&wire, cut).unwrap(), frames, "in pieces of {cut}");
    }
}

#[test]
fn headers_payloads_of_resets_and_goaways_encode_to_their_golden_bytes() {
    let header = Header { stream: StreamId::new(1).unwrap(), kind: Kind::Data, syn: true, fin: true, length: 0x0102 };
    assert_eq!(header.encode(), [0, 0, 0, 0, 1, 0x30, 1, 2]);
    assert_eq!(Reset::Failed(111).encode(), [0, 1, 0, 111]);
    let long = Goaway { kind: ErrorKind::Busy, text: "é".repeat(600) }.encode();
    assert_eq!((long.first(), long.len()), (Some(&8), 1 + GOAWAY_TEXT_MAX));
}

#[test]
fn a_frame_of_0xffff_bytes_is_refused_before_its_payload_comes() {
    let header = [0, 0, 0, 0, 1, 0x10, 0xff, 0xff];
    assert_eq!(
        refused(&header),
        ProtocolError::FrameTooLong { kind: Kind::Data, length: 65535, limit: FRAME_PAYLOAD_MAX }
    );
}

#[test]
fn unknown_kinds_and_flags_are_refused() {
    assert_eq!(refused(&[0, 0, 0, 0, 1, 8, 0, 0]), ProtocolError::UnknownKind { flags: 8 });
    assert_eq!(refused(&[0, 0, 0, 0, 1, 0x40, 0, 0]), ProtocolError::UnknownFlags { kind: Kind::Data, flags: 0x40 });
    assert_eq!(refused(&[0, 0, 0, 0, 1, 0x11, 0, 4]), ProtocolError::UnknownFlags { kind: Kind::Rst, flags: 0x11 });
}

#[test]
fn frames_of_the_session_stay_on_the_session_and_those_of_streams_off_it() {
    for kind in [3, 4, 5, 6, 7] {
        assert!(matches!(refused(&[0, 0, 0, 0, 1, kind, 0, 8]), ProtocolError::WrongStream { .. }), "{kind}");
    }
    for (flags, length) in [(1, 4), (2, 4), (0x10, 1), (0x20, 0)] {
        assert!(matches!(refused(&[0, 0, 0, 0, 0, flags, 0, length]), ProtocolError::WrongStream { .. }), "{flags}");
    }
}

#[test]
fn control_frames_have_exactly_their_length() {
    for (kind, length) in [(1, 3), (1, 5), (2, 3), (2, 5)] {
        let error = refused(&[0, 0, 0, 0, 1, kind, 0, length]);
        assert!(matches!(error, ProtocolError::FrameTooShort { .. } | ProtocolError::FrameTooLong { .. }), "{error}");
    }
    for (kind, length) in [(3, 7), (4, 9), (6, 0), (5, 0)] {
        let error = refused(&[0, 0, 0, 0, 0, kind, 0, length]);
        assert!(matches!(error, ProtocolError::FrameTooShort { .. } | ProtocolError::FrameTooLong { .. }), "{error}");
    }
}

#[test]
fn resume_is_refused_until_it_is_offered() {
    assert_eq!(refused(&[0, 0, 0, 0, 0, 7, 0, 0]), ProtocolError::ResumeNotOffered);
}

proptest! {
    #[test]
    fn any_bytes_in_any_pieces_give_frames_or_an_error_and_never_a_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 1..50_usize,
    ) {
        let whole = read_all(&bytes, bytes.len().max(1));
        prop_assert_eq!(read_all(&bytes, cut), whole);
    }

    #[test]
    fn headers_survive_the_wire(number in 1..(1_u64 << 40), syn: bool, fin: bool, length in 0..=FRAME_PAYLOAD_MAX as u16) {
        let header = Header { stream: StreamId::new(number).unwrap(), kind: Kind::Data, syn, fin, length };
        prop_assert_eq!(Header::decode(header.encode(), FRAME_PAYLOAD_MAX), Ok(header));
    }
}
