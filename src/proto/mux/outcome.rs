//! What the mux tells the application.

use bytes::Bytes;

use crate::proto::{Goaway, Reset, StreamId};

/// What the application should look at next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer opened this stream; its first bytes are there to read.
    Opened(StreamId),
    /// Bytes, the end, or a reset can be read.
    Readable(StreamId),
    /// A write that found no room can be tried again, or fails now.
    Writable(StreamId),
    /// The peer ends the session.
    Goaway(Goaway),
}

/// What reading gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// The next bytes, in order.
    Bytes(Bytes),
    /// The peer finished its half.
    End,
    /// The peer reset the stream; what it sent before was read before.
    Reset(Reset),
    /// Nothing yet; [`Event::Readable`] follows.
    Pending,
}

/// What writing gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// So many bytes may be queued now; at least 1.
    Room(usize),
    /// The peer reset the stream, or this end finished it.
    Closed(Reset),
    /// No credit or no room; [`Event::Writable`] follows.
    Pending,
}

/// Why a stream could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The peer allows no more.
    #[error("{limit} streams are open, the other side allows no more")]
    TooMany {
        /// The peer's limit.
        limit: u32,
    },
    /// The first bytes are longer than the first credit.
    #[error("a request of {length} bytes is longer than the {limit} that a new stream may carry")]
    TooLong {
        /// The length, in bytes.
        length: usize,
        /// The limit, in bytes.
        limit: usize,
    },
    /// All 2^39 numbers are used up.
    #[error("the session has no stream numbers left; connect again")]
    Exhausted,
}
