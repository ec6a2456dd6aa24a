//! What can go wrong: the one list of error kinds, and every way in which a peer can break the protocol.

use super::{Kind, StreamId};

/// The one list of what can go wrong, for `error[kind]`, JSON, the audit log and the wire. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A wrong flag or argument.
    Usage = 1,
    /// A file that is missing, broken, or too open.
    Config = 2,
    /// A certificate or key that does not fit.
    Identity = 3,
    /// No way to the lender.
    Unreachable = 4,
    /// The TLS handshake failed.
    Tls = 5,
    /// Password or ticket refused.
    Login = 6,
    /// The policy says no.
    Policy = 7,
    /// The lender has no room now; trying again later may work.
    Busy = 8,
    /// The resource at the lender failed.
    Target = 9,
    /// The two ends speak no common version.
    Version = 10,
    /// The peer broke the protocol.
    Protocol = 11,
    /// The connection is gone.
    Lost = 12,
    /// The lender took back user, device or session.
    Revoked = 13,
    /// Something on this machine failed.
    Local = 14,
}

impl ErrorKind {
    /// Every kind, in the order of its number.
    pub const ALL: [Self; 14] = [
        Self::Usage,
        Self::Config,
        Self::Identity,
        Self::Unreachable,
        Self::Tls,
        Self::Login,
        Self::Policy,
        Self::Busy,
        Self::Target,
        Self::Version,
        Self::Protocol,
        Self::Lost,
        Self::Revoked,
        Self::Local,
    ];

    /// The word in `error[kind]`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Config => "config",
            Self::Identity => "identity",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Login => "login",
            Self::Policy => "policy",
            Self::Busy => "busy",
            Self::Target => "target",
            Self::Version => "version",
            Self::Protocol => "protocol",
            Self::Lost => "lost",
            Self::Revoked => "revoked",
            Self::Local => "local",
        }
    }

    /// The kind with this number, if it is one we know.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

impl std::fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a peer broke the protocol. The session ends with a GOAWAY that carries this text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// Low four bits that are no kind.
    #[error("unknown frame kind in flags {flags:#04x}")]
    UnknownKind {
        /// The byte.
        flags: u8,
    },
    /// Bits that this kind does not have.
    #[error("flags {flags:#04x} do not go with {kind:?}")]
    UnknownFlags {
        /// The kind.
        kind: Kind,
        /// The byte.
        flags: u8,
    },
    /// A session frame on a stream, or the other way round.
    #[error("{kind:?} does not belong on stream {stream}")]
    WrongStream {
        /// The kind.
        kind: Kind,
        /// Where it came.
        stream: StreamId,
    },
    /// Longer than the limit.
    #[error("{kind:?} frame of {length} bytes, the limit is {limit}")]
    FrameTooLong {
        /// The kind.
        kind: Kind,
        /// Its length, in bytes.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// Shorter than its kind needs.
    #[error("{kind:?} frame of {length} bytes, it has at least {least}")]
    FrameTooShort {
        /// The kind.
        kind: Kind,
        /// Its length, in bytes.
        length: usize,
        /// What it needs, in bytes.
        least: usize,
    },
    /// RESUME without the feature.
    #[error("RESUME was not offered")]
    ResumeNotOffered,
    /// A new stream whose number belongs to the other side.
    #[error("stream {0} has the parity of the other side")]
    WrongParity(StreamId),
    /// A new stream whose number is not above all before it.
    #[error("stream {0} was used before")]
    StreamReused(StreamId),
    /// A second SYN, a frame of a stream that never began, or one after its end.
    #[error("{kind:?} on stream {stream}, which is not open")]
    NotOpen {
        /// The kind.
        kind: Kind,
        /// The stream.
        stream: StreamId,
    },
    /// More bytes than were granted.
    #[error("{length} bytes on stream {stream}, its credit is {credit}")]
    CreditOverrun {
        /// The stream.
        stream: StreamId,
        /// What came, in bytes.
        length: usize,
        /// What was left, in bytes.
        credit: u32,
    },
    /// A WINDOW of nothing, or over the largest window.
    #[error("WINDOW of {credit} on stream {stream} is outside 1 to {limit}")]
    WrongCredit {
        /// The stream.
        stream: StreamId,
        /// What was granted in one frame.
        credit: u32,
        /// Largest sum, in bytes.
        limit: u32,
    },
    /// More streams at once than the greeting allowed.
    #[error("more than {limit} streams at once")]
    TooManyStreams {
        /// The limit.
        limit: u32,
    },
    /// Streams that are opened and reset before they are answered.
    #[error("too many streams reset before their answer")]
    ResetFlood,
    /// PINGs faster than anyone needs.
    #[error("too many PINGs")]
    PingFlood,
    /// Frames without bytes, faster than anyone needs.
    #[error("too many empty frames")]
    EmptyFlood,
    /// An acknowledgement of frames that were never sent.
    #[error("ACK of {acked} frames, {sent} were sent")]
    AckAhead {
        /// What the peer says.
        acked: u64,
        /// What we sent.
        sent: u64,
    },
    /// A PONG that answers nothing.
    #[error("PONG that answers no PING")]
    StrayPong,
    /// A greeting, login or request that cannot be read.
    #[error("{what} cannot be read: {why}")]
    Malformed {
        /// Which message.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Something else than the message that is due.
    #[error("expected {expected}, got {got}")]
    Unexpected {
        /// The message that was due.
        expected: &'static str,
        /// What came.
        got: String,
    },
}
