//! What both ends agreed on before the first stream.

use std::time::Duration;

use super::keepalive::PING_PERIOD;

/// Which end of the session this is; it decides the parity of the streams that this end opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens streams 1, 3, 5 …
    Borrower,
    /// Opens streams 2, 4, 6 …
    Lender,
}

/// What the two greetings agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Credit that this end gives a new stream, in bytes; from 1 KiB to [`CREDIT_MAX`](super::CREDIT_MAX).
    pub initial_credit: u32,
    /// Credit that the peer gives a new stream, in bytes.
    pub peer_initial_credit: u32,
    /// Streams that the peer may have open at once.
    pub max_streams: u32,
    /// Streams that this end may have open at once.
    pub peer_max_streams: u32,
    /// How often a quiet peer is asked whether it is there.
    pub ping_period: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            initial_credit: 64 * 1024,
            peer_initial_credit: 64 * 1024,
            max_streams: 4096,
            peer_max_streams: 4096,
            ping_period: PING_PERIOD,
        }
    }
}
