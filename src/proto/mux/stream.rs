//! One stream as one end sees it: two halves that end on their own, and the bytes waiting in each.
//!
//! ```text
//!   outgoing: Open ──finish──▶ Finishing ──FIN sent──▶ Finished          any ──RST──▶ Reset
//!   incoming: Open ──────────── FIN received ────────▶ Finished
//! ```
//! The stream is closed on the wire when both halves are over.

use bytes::Bytes;

use super::{
    chunks::Chunks,
    schedule::Turn,
    transmit::BATCH_BYTES,
    window::{CreditPool, Window},
};
use crate::proto::{FRAME_PAYLOAD_MAX, HEADER_BYTES, Reset};

/// Most bytes queued on one stream before they are sent, in bytes: the payload of a batch, which can be queued again while
/// the last one is written. With more, what was read has left the processor's cache before it is encrypted.
pub const SEND_QUEUE_BYTES: usize = BATCH_BYTES - BATCH_BYTES.div_ceil(FRAME_PAYLOAD_MAX + HEADER_BYTES) * HEADER_BYTES;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    Open,
    /// FIN follows the queue.
    Finishing,
    Finished,
    /// Our RST is queued.
    Resetting,
    /// A RST went either way.
    Reset,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    Open,
    Finished,
    Reset(Reset),
}

pub(super) struct Stream {
    pub(super) outgoing: Outgoing,
    pub(super) incoming: Incoming,
    /// The handle is gone: nobody reads, and nobody will ask.
    pub(super) abandoned: bool,
    pub(super) out: SendQueue,
    pub(super) turn: Turn,
    pub(super) inbox: Chunks,
    /// This end has sent something: a reset is no longer an open that nobody wanted.
    pub(super) answered: bool,
    pub(super) window: Window,
    /// Credit that the peer has not been told of, in bytes; a WINDOW for it is queued while it is above 0.
    pub(super) owed_credit: u32,
}

impl Stream {
    pub(super) fn new(initial_credit: u32, peer_initial_credit: u32) -> Self {
        Self {
            outgoing: Outgoing::Open,
            incoming: Incoming::Open,
            abandoned: false,
            out: SendQueue { credit: peer_initial_credit, ..SendQueue::default() },
            turn: Turn::default(),
            inbox: Chunks::default(),
            answered: false,
            window: Window::new(initial_credit),
            owed_credit: 0,
        }
    }

    pub(super) fn is_open_on_wire(&self) -> bool {
        match (self.outgoing, self.incoming) {
            (Outgoing::Reset, _) | (_, Incoming::Reset(_)) | (Outgoing::Finished, Incoming::Finished) => false,
            (Outgoing::Open | Outgoing::Finishing | Outgoing::Finished | Outgoing::Resetting, _) => true,
        }
    }

    /// Bytes, the end of our half, or the word that nobody reads any more.
    pub(super) fn has_something_to_send(&self) -> bool {
        self.out.bytes() > 0 || self.outgoing == Outgoing::Finishing || self.owes_reset()
    }

    /// The handle is gone, our half is finished, and the peer's is not: it must hear that nobody reads.
    pub(super) fn owes_reset(&self) -> bool {
        self.abandoned && self.outgoing == Outgoing::Finished && self.incoming == Incoming::Open
    }

    /// Why nothing can be written any more, if so.
    pub(super) fn write_closed(&self) -> Option<Reset> {
        match (self.incoming, self.outgoing) {
            (Incoming::Reset(reset), _) => Some(reset),
            (Incoming::Open | Incoming::Finished, Outgoing::Open) => None,
            (Incoming::Open | Incoming::Finished, _) => Some(Reset::Cancelled),
        }
    }

    /// Hands borrowed credit back to the session.
    pub(super) fn release(&mut self, pool: &mut CreditPool) {
        self.window.release(pool);
    }
}

/// Bytes that were written and wait for their turn; all of them are covered by credit.
#[derive(Default)]
pub(super) struct SendQueue {
    chunks: Chunks,
    /// What the peer has granted and nothing has been queued for.
    pub(super) credit: u32,
    /// A writer found no room and waits.
    pub(super) wanted: bool,
    /// The SYN has not left yet.
    pub(super) unannounced: bool,
}

impl SendQueue {
    pub(super) fn room(&self) -> usize {
        (self.credit as usize).min(SEND_QUEUE_BYTES.saturating_sub(self.chunks.bytes()))
    }

    pub(super) fn queued(&self) -> usize {
        self.chunks.bytes()
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.charge(bytes.len());
        self.chunks.push(bytes);
    }

    pub(super) fn push_copy(&mut self, bytes: &[u8]) {
        self.charge(bytes.len());
        self.chunks.push_copy(bytes);
    }

    fn charge(&mut self, bytes: usize) {
        self.credit = self.credit.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    pub(super) fn bytes(&self) -> usize {
        self.chunks.bytes()
    }

    pub(super) fn pop(&mut self, most: usize) -> Option<Bytes> {
        self.chunks.pop(most)
    }

    pub(super) fn clear(&mut self) {
        self.chunks = Chunks::default();
    }
}
