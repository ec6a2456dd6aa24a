//! However a peer's bytes were split on the way, the same frames come out of them, or the same error; and a frame says
//! no more than its bytes did.

#![no_main]

use capuchin::proto::{Frame, FrameReader, HEADER_BYTES, Header, Kind, ProtocolError, StreamId};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// Before login frames are shorter.
    payload_max: Option<u16>,
    /// Sizes of the pieces that arrive, over and over.
    cuts: Vec<u8>,
    pieces: Vec<Piece<'a>>,
}

#[derive(Arbitrary, Debug)]
enum Piece<'a> {
    Raw(&'a [u8]),
    /// A header that tells the truth about its length, so that what follows is reached.
    Frame {
        stream: u8,
        flags: u8,
        payload: &'a [u8],
    },
    /// As above, with a number that needs all 40 bits.
    Far {
        stream: [u8; 5],
        flags: u8,
        payload: &'a [u8],
    },
}

impl Piece<'_> {
    fn append_to(&self, wire: &mut Vec<u8>) {
        let (stream, flags, payload) = match self {
            Self::Raw(bytes) => return wire.extend_from_slice(bytes),
            Self::Frame { stream, flags, payload } => ([0, 0, 0, 0, *stream], *flags, payload),
            Self::Far { stream, flags, payload } => (*stream, *flags, payload),
        };
        wire.extend_from_slice(&stream);
        wire.push(flags);
        wire.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        wire.extend_from_slice(payload);
    }
}

/// Every frame with the number of bytes it had, and the error that ended it.
type Outcome = (Vec<(Frame, usize)>, Option<ProtocolError>);

fn read_all(mut reader: FrameReader, wire: &[u8], mut next_cut: impl FnMut() -> usize) -> Outcome {
    let (mut frames, mut rest, mut since_last) = (Vec::new(), wire, 0);
    while !rest.is_empty() {
        let piece = &rest[..next_cut().min(rest.len())];
        match reader.read(piece) {
            Ok((taken, frame)) => {
                assert!(taken > 0 && taken <= piece.len(), "progress, and never past what was given");
                assert!(frame.is_some() || taken == piece.len(), "only a whole frame ends before the piece does");
                rest = &rest[taken..];
                since_last += taken;
                assert_eq!(reader.is_between_frames(), frame.is_some());
                frames.extend(frame.map(|frame| (frame, std::mem::take(&mut since_last))));
            }
            Err(error) => return (frames, Some(error)),
        }
    }
    (frames, None)
}

/// What the frame says, in the one way to say it; `None` where a reader forgives what a writer never sends.
fn encode(frame: &Frame) -> Option<Vec<u8>> {
    let plain = |stream, kind, payload: &[u8]| {
        let header = Header { stream, kind, syn: false, fin: false, length: payload.len() as u16 };
        Some([&header.encode()[..], payload].concat())
    };
    match frame {
        Frame::Data { stream, syn, fin, payload } => {
            let header =
                Header { stream: *stream, kind: Kind::Data, syn: *syn, fin: *fin, length: payload.len() as u16 };
            Some([&header.encode()[..], payload].concat())
        }
        Frame::Window { stream, credit } => plain(*stream, Kind::Window, &credit.to_be_bytes()),
        Frame::Ping(number) => plain(StreamId::SESSION, Kind::Ping, &number.to_be_bytes()),
        Frame::Pong(number) => plain(StreamId::SESSION, Kind::Pong, &number.to_be_bytes()),
        Frame::Ack(number) => plain(StreamId::SESSION, Kind::Ack, &number.to_be_bytes()),
        Frame::Rst { .. } | Frame::Goaway(_) => None,
    }
}

fuzz_target!(|input: Input<'_>| {
    let mut wire = Vec::new();
    input.pieces.iter().for_each(|piece| piece.append_to(&mut wire));
    let reader = || match input.payload_max {
        Some(most) => FrameReader::with_payload_max(most.into()),
        None => FrameReader::new(),
    };

    let whole = read_all(reader(), &wire, || usize::MAX);
    let mut cuts = input.cuts.iter().cycle();
    let pieces = read_all(reader(), &wire, || cuts.next().map_or(1, |cut| usize::from(*cut).max(1)));
    assert_eq!(whole, pieces);

    let mut at = 0;
    for (frame, length) in &whole.0 {
        assert!(*length >= HEADER_BYTES);
        if let Some(encoded) = encode(frame) {
            assert_eq!(encoded, wire[at..at + length]);
        }
        at += length;
    }
});
