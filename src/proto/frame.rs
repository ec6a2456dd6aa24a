//! Frames, the unit on the wire: an 8-byte header and at most [`FRAME_PAYLOAD_MAX`] bytes.
//!
//! ```text
//!   0        5       6        8
//!   | stream | flags | length | payload …          all numbers big-endian
//!     u40      u8      u16
//!              low 4 bits: kind;  0x10 SYN, 0x20 FIN (DATA only)
//! ```
//!
//! Everything a header can lie about is checked when the header is complete, before a byte of payload is allocated.
//!
//! # Security
//! [`FrameReader`] is the only code that touches a peer's raw bytes on a connection. It never panics and never holds
//! more than one frame.

use bytes::{Bytes, BytesMut};

use super::{ErrorKind, ProtocolError, lead::with_lead};

/// Size of a header, in bytes.
pub const HEADER_BYTES: usize = 8;
/// Largest payload, in bytes: with its header two full TLS records, so that one stream cannot hold the socket long.
pub const FRAME_PAYLOAD_MAX: usize = 32 * 1024 - HEADER_BYTES;
/// Longest text of a GOAWAY, in bytes: a paragraph for a person, not a channel.
pub const GOAWAY_TEXT_MAX: usize = 1024;
const _: () = assert!(FRAME_PAYLOAD_MAX <= u16::MAX as usize); // the length field is 16 bits

const SYN: u8 = 0x10;
const FIN: u8 = 0x20;

/// Number of one multiplexed byte pipe: 40 bits, odd when the borrower opened it, even when the lender did.
/// 0 is the session itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

impl StreamId {
    /// The session itself: greeting, login, PING, PONG, GOAWAY, ACK, RESUME.
    pub const SESSION: Self = Self(0);
    /// The largest number that fits in a header.
    pub const MAX: Self = Self((1 << 40) - 1);

    /// `None` above 40 bits.
    pub fn new(number: u64) -> Option<Self> {
        (number <= Self::MAX.0).then_some(Self(number))
    }

    /// The number itself.
    pub fn number(self) -> u64 {
        self.0
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What a frame is; the discriminants are the low four bits on the wire and are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Bytes of a stream.
    Data = 0,
    /// The sender neither sends nor reads on this stream any more.
    Rst = 1,
    /// Credit for a stream.
    Window = 2,
    /// Asks for a PONG.
    Ping = 3,
    /// Answers a PING with its own payload.
    Pong = 4,
    /// The session ends, and why.
    Goaway = 5,
    /// How many counted frames the sender has taken.
    Ack = 6,
    /// Reserved for resumption: no feature bit announces it yet, so it is refused.
    Resume = 7,
}

impl Kind {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Data,
            1 => Self::Rst,
            2 => Self::Window,
            3 => Self::Ping,
            4 => Self::Pong,
            5 => Self::Goaway,
            6 => Self::Ack,
            7 => Self::Resume,
            _ => return None,
        })
    }
}

/// A checked header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whose frame it is.
    pub stream: StreamId,
    /// What it is.
    pub kind: Kind,
    /// First frame of a stream.
    pub syn: bool,
    /// Last frame of the sender on this stream.
    pub fin: bool,
    /// Length of the payload in bytes.
    pub length: u16,
}

impl Header {
    /// The eight bytes on the wire.
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let [.., a, b, c, d, e] = self.stream.0.to_be_bytes();
        let flags = self.kind as u8 | if self.syn { SYN } else { 0 } | if self.fin { FIN } else { 0 };
        let [high, low] = self.length.to_be_bytes();
        [a, b, c, d, e, flags, high, low]
    }

    /// Parses and checks a header; `payload_max` is [`FRAME_PAYLOAD_MAX`], or less before login.
    pub fn decode(bytes: [u8; HEADER_BYTES], payload_max: usize) -> Result<Self, ProtocolError> {
        let [a, b, c, d, e, flags, high, low] = bytes;
        let stream = StreamId(u64::from_be_bytes([0, 0, 0, a, b, c, d, e]));
        let kind = Kind::from_bits(flags & 0x0f).ok_or(ProtocolError::UnknownKind { flags })?;
        let (syn, fin) = (flags & SYN != 0, flags & FIN != 0);
        if flags & !(0x0f | SYN | FIN) != 0 || ((syn || fin) && kind != Kind::Data) {
            return Err(ProtocolError::UnknownFlags { kind, flags });
        }
        let header = Self { stream, kind, syn, fin, length: u16::from_be_bytes([high, low]) };
        header.check_stream()?;
        header.check_length(payload_max)?;
        Ok(header)
    }

    fn check_stream(self) -> Result<(), ProtocolError> {
        let session = self.stream == StreamId::SESSION;
        let fits = match self.kind {
            // DATA on the session is the greeting and the login; the mux itself refuses it.
            Kind::Data => !(session && (self.syn || self.fin)),
            Kind::Rst | Kind::Window => !session,
            Kind::Ping | Kind::Pong | Kind::Goaway | Kind::Ack | Kind::Resume => session,
        };
        if fits { Ok(()) } else { Err(ProtocolError::WrongStream { kind: self.kind, stream: self.stream }) }
    }

    fn check_length(self, payload_max: usize) -> Result<(), ProtocolError> {
        let length = usize::from(self.length);
        let (least, most) = match self.kind {
            Kind::Data | Kind::Resume => (0, payload_max),
            Kind::Rst | Kind::Window => (4, 4),
            Kind::Ping | Kind::Pong | Kind::Ack => (8, 8),
            Kind::Goaway => (1, 1 + GOAWAY_TEXT_MAX),
        };
        if length > most {
            return Err(ProtocolError::FrameTooLong { kind: self.kind, length, limit: most });
        }
        if length < least {
            return Err(ProtocolError::FrameTooShort { kind: self.kind, length, least });
        }
        Ok(())
    }
}

/// Why a stream was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// The handle was dropped; nothing failed.
    Cancelled,
    /// The resource failed with this errno (Linux's generic numbers).
    Failed(u16),
    /// The stream would have been one too many, or its request never came.
    Refused,
    /// The lender took it back: its policy does not allow it any more, or its admin has cut it.
    TakenBack(ErrorKind),
}

impl Reset {
    /// The payload on the wire: reason, then errno.
    pub fn encode(self) -> [u8; 4] {
        let (reason, errno): (u16, u16) = match self {
            Self::Cancelled => (0, 0),
            Self::Failed(errno) => (1, errno),
            Self::Refused => (2, 0),
            Self::TakenBack(kind) => (3, kind as u16),
        };
        let [a, b] = reason.to_be_bytes();
        let [c, d] = errno.to_be_bytes();
        [a, b, c, d]
    }

    /// A reason that a newer peer may have added reads as cancelled: the stream is gone either way.
    fn decode([a, b, c, d]: [u8; 4]) -> Self {
        match u16::from_be_bytes([a, b]) {
            1 => Self::Failed(u16::from_be_bytes([c, d])),
            2 => Self::Refused,
            3 => Self::TakenBack(
                u8::try_from(u16::from_be_bytes([c, d]))
                    .ok()
                    .and_then(ErrorKind::from_number)
                    .unwrap_or(ErrorKind::Revoked),
            ),
            _ => Self::Cancelled,
        }
    }
}

/// Why the peer ends the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goaway {
    /// Which of the error kinds.
    pub kind: ErrorKind,
    /// One line for a person; escape it before it reaches a terminal.
    pub text: String,
}

impl Goaway {
    /// The payload on the wire: kind, then UTF-8 cut at [`GOAWAY_TEXT_MAX`].
    pub fn encode(&self) -> Vec<u8> {
        let mut end = self.text.len().min(GOAWAY_TEXT_MAX);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let mut payload = vec![self.kind as u8];
        payload.extend(self.text.bytes().take(end));
        payload
    }

    fn decode(payload: &[u8]) -> Self {
        let (kind, text) = payload.split_first().map_or((0, &[][..]), |(kind, text)| (*kind, text));
        let kind = ErrorKind::from_number(kind).unwrap_or(ErrorKind::Lost);
        Self { kind, text: String::from_utf8_lossy(text).into_owned() }
    }
}

/// A whole frame from the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of a stream.
    Data {
        /// The stream.
        stream: StreamId,
        /// It begins with this frame.
        syn: bool,
        /// The sender ends its half with this frame.
        fin: bool,
        /// The bytes.
        payload: Bytes,
    },
    /// The stream is over.
    Rst {
        /// The stream.
        stream: StreamId,
        /// Why.
        reset: Reset,
    },
    /// More credit, in bytes.
    Window {
        /// The stream.
        stream: StreamId,
        /// How much more.
        credit: u32,
    },
    /// To be answered with the same number.
    Ping(u64),
    /// The answer.
    Pong(u64),
    /// The session ends.
    Goaway(Goaway),
    /// Counted frames taken since the session began.
    Ack(u64),
}

impl Frame {
    fn parse(header: Header, payload: BytesMut) -> Result<Self, ProtocolError> {
        let short = || ProtocolError::FrameTooShort { kind: header.kind, length: payload.len(), least: 8 };
        let four = || payload.first_chunk::<4>().copied().ok_or_else(short);
        let eight = || payload.first_chunk::<8>().copied().map(u64::from_be_bytes).ok_or_else(short);
        Ok(match header.kind {
            Kind::Rst => Self::Rst { stream: header.stream, reset: Reset::decode(four()?) },
            Kind::Window => Self::Window { stream: header.stream, credit: u32::from_be_bytes(four()?) },
            Kind::Ping => Self::Ping(eight()?),
            Kind::Pong => Self::Pong(eight()?),
            Kind::Ack => Self::Ack(eight()?),
            Kind::Goaway => Self::Goaway(Goaway::decode(&payload)),
            Kind::Resume => return Err(ProtocolError::ResumeNotOffered),
            Kind::Data => {
                Self::Data { stream: header.stream, syn: header.syn, fin: header.fin, payload: payload.freeze() }
            }
        })
    }
}

/// Cuts a peer's byte stream into frames, however it was split on the way.
///
/// ```
/// use capuchin::proto::{Frame, FrameReader};
/// let mut reader = FrameReader::new();
/// let wire = [0, 0, 0, 0, 0, 3, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7];
/// assert_eq!(reader.read(&wire[..5]), Ok((5, None)));
/// assert_eq!(reader.read(&wire[5..]), Ok((11, Some(Frame::Ping(7)))));
/// ```
pub struct FrameReader {
    header: [u8; HEADER_BYTES],
    header_len: usize,
    body: Option<(Header, BytesMut)>,
    payload_max: usize,
}

impl Default for FrameReader {
    fn default() -> Self {
        Self::new()
    }
}

impl FrameReader {
    /// A reader for a logged-in session.
    pub fn new() -> Self {
        Self::with_payload_max(FRAME_PAYLOAD_MAX)
    }

    /// A reader that takes payloads of at most `payload_max` bytes, as before login.
    pub fn with_payload_max(payload_max: usize) -> Self {
        Self { header: [0; HEADER_BYTES], header_len: 0, body: None, payload_max: payload_max.min(FRAME_PAYLOAD_MAX) }
    }

    /// Takes bytes up to the end of one frame: how many were taken, and the frame if it is complete.
    ///
    /// # Errors
    /// The first wrong header ends the connection: what follows it cannot be trusted to be a header at all.
    pub fn read(&mut self, bytes: &[u8]) -> Result<(usize, Option<Frame>), ProtocolError> {
        let mut rest = bytes;
        let (header, mut payload) = match self.body.take() {
            Some(body) => body,
            None => {
                let wanted = HEADER_BYTES - self.header_len;
                let (head, tail) = rest.split_at(wanted.min(rest.len()));
                for (slot, byte) in self.header.iter_mut().skip(self.header_len).zip(head) {
                    *slot = *byte;
                }
                self.header_len += head.len();
                rest = tail;
                if self.header_len < HEADER_BYTES {
                    return Ok((bytes.len(), None));
                }
                self.header_len = 0;
                let header = Header::decode(self.header, self.payload_max)?;
                (header, with_lead(header.length.into()))
            }
        };
        let wanted = usize::from(header.length) - payload.len();
        let (head, tail) = rest.split_at(wanted.min(rest.len()));
        payload.extend_from_slice(head);
        let taken = bytes.len() - tail.len();
        if payload.len() < header.length.into() {
            self.body = Some((header, payload));
            return Ok((taken, None));
        }
        Ok((taken, Some(Frame::parse(header, payload)?)))
    }

    /// Whether the bytes so far end on a frame's border: a connection that closes elsewhere was cut.
    pub fn is_between_frames(&self) -> bool {
        self.header_len == 0 && self.body.is_none()
    }
}

#[cfg(test)]
mod tests;
