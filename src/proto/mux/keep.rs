//! Frames that were sent are kept until the peer has taken them, so that a session can outlive its connection.
//!
//! Only whole frames count, and only those that carry a stream's fate: DATA, RST, WINDOW and GOAWAY. What is kept is
//! the very `Bytes` that went to the socket, not a copy.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::proto::{ProtocolError, StreamId};

/// Most bytes kept, in bytes; beyond it nothing counted is sent until an ACK comes.
pub const KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most pieces kept: each costs a block of its own beside its bytes, however few those are. At a round trip of a third of a second
/// these are 800,000 small frames a second, each sent alone.
const KEPT_PARTS_MAX: usize = 256 * 1024;
/// An ACK is due after so many bytes …
pub const ACK_BYTES: usize = 256 * 1024;
/// … or this long after the first frame that was not acknowledged.
pub const ACK_AFTER: Duration = Duration::from_millis(50);
/// Most streams that wait for their RST to be acknowledged: 50 ms of resets, many times over.
const LINGERING_MAX: usize = 65_536;

/// What we sent.
#[derive(Default)]
pub(super) struct Kept {
    /// Pieces in the order of the wire, each with the number of frames that end in it.
    parts: VecDeque<(Bytes, u64)>,
    bytes: usize,
    /// Of all that was ever pushed.
    bytes_sent: u64,
    sent: u64,
    acked: u64,
    /// Frames whose every piece has been let go.
    released: u64,
}

impl Kept {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes since the session's beginning, and how many of them the peer has taken.
    pub(super) fn bytes_sent_and_acked(&self) -> (u64, u64) {
        (self.bytes_sent, self.bytes_sent - self.bytes as u64)
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes >= KEPT_BYTES_MAX || self.parts.len() >= KEPT_PARTS_MAX
    }

    /// How many counted frames have been sent.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// How many of them the peer has taken.
    pub(super) fn acked(&self) -> u64 {
        self.acked
    }

    pub(super) fn push(&mut self, part: Bytes, frames: u64) {
        self.bytes += part.len();
        self.bytes_sent += part.len() as u64;
        self.sent += frames;
        self.parts.push_back((part, frames));
    }

    /// The frame whose last piece was pushed last is whole.
    pub(super) fn end_frame(&mut self) {
        if let Some((_, frames)) = self.parts.back_mut() {
            *frames += 1;
            self.sent += 1;
        }
    }

    pub(super) fn handle_ack(&mut self, acked: u64) -> Result<(), ProtocolError> {
        if acked > self.sent {
            return Err(ProtocolError::AckAhead { acked, sent: self.sent });
        }
        self.acked = self.acked.max(acked);
        while let Some((part, frames)) = self.parts.front()
            && self.released + frames <= acked
            // A piece in which no frame ends belongs to the frame that ends behind it.
            && (*frames > 0 || self.released < acked)
        {
            self.released += frames;
            self.bytes -= part.len();
            self.parts.pop_front();
        }
        Ok(())
    }
}

/// What we took.
#[derive(Default)]
pub(super) struct Acknowledged {
    taken: u64,
    reported: u64,
    bytes: usize,
    due: Option<Instant>,
    send_now: bool,
}

impl Acknowledged {
    pub(super) fn count(&mut self, now: Instant, bytes: usize) {
        self.taken += 1;
        self.bytes += bytes;
        self.due.get_or_insert(now + ACK_AFTER);
        self.send_now |= self.bytes >= ACK_BYTES;
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        // Not due any more although it may wait for the socket: a time in the past would keep the driver spinning.
        self.send_now |= self.due.take_if(|due| now >= *due).is_some();
    }

    /// The number to send, when one is due.
    pub(super) fn poll(&mut self) -> Option<u64> {
        std::mem::take(&mut self.send_now).then(|| self.report()).flatten()
    }

    /// The number to send, if it says anything new, due or not.
    pub(super) fn report(&mut self) -> Option<u64> {
        (self.bytes, self.due, self.send_now) = (0, None, false);
        (std::mem::replace(&mut self.reported, self.taken) < self.taken).then_some(self.taken)
    }
}

/// Streams that we reset. Until the peer has acknowledged our RST, data for them may be on its way; afterwards it
/// would break the protocol.
#[derive(Default)]
pub(super) struct Lingering {
    order: VecDeque<(u64, StreamId)>,
    streams: HashSet<StreamId>,
}

impl Lingering {
    /// `frame`: how many counted frames had been sent, the RST included.
    pub(super) fn push(&mut self, frame: u64, id: StreamId) {
        self.order.push_back((frame, id));
        self.streams.insert(id);
    }

    pub(super) fn contains(&self, id: StreamId) -> bool {
        self.streams.contains(&id)
    }

    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    pub(super) fn is_too_long(&self) -> bool {
        self.streams.len() > LINGERING_MAX
    }

    pub(super) fn handle_ack(&mut self, acked: u64) {
        while let Some((frame, id)) = self.order.front()
            && *frame <= acked
        {
            self.streams.remove(id);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_let_go_when_every_frame_in_it_was_taken() {
        let mut kept = Kept::default();
        kept.push(Bytes::from_static(&[0; 30]), 3); // three small frames and a header
        kept.push(Bytes::from_static(&[0; 100]), 0); // the first piece of the fourth
        kept.push(Bytes::from_static(&[0; 100]), 1); // its last
        assert_eq!(kept.handle_ack(2), Ok(()));
        assert_eq!(kept.bytes(), 230);
        assert_eq!(kept.handle_ack(3), Ok(()));
        assert_eq!(kept.bytes(), 200);
        assert_eq!(kept.handle_ack(4), Ok(()));
        assert_eq!(kept.bytes(), 0);
        assert_eq!(kept.handle_ack(5), Err(ProtocolError::AckAhead { acked: 5, sent: 4 }));
    }

    #[test]
    fn pieces_of_a_few_bytes_are_bounded_in_number() {
        let (mut kept, mut pieces) = (Kept::default(), 0);
        while !kept.is_full() {
            kept.push(Bytes::from_static(&[0; 9]), 1);
            pieces += 1;
        }
        // Some hundred bytes each, whatever is in them.
        assert_eq!((pieces, kept.bytes()), (KEPT_PARTS_MAX, 9 * KEPT_PARTS_MAX));
        assert_eq!(kept.handle_ack(1), Ok(()));
        assert!(!kept.is_full());
    }

    #[test]
    fn what_is_kept_is_bounded_in_bytes() {
        let (mut kept, piece) = (Kept::default(), Bytes::from(vec![0; 1 << 20]));
        while !kept.is_full() {
            kept.push(piece.clone(), 1);
        }
        assert_eq!(kept.bytes(), KEPT_BYTES_MAX);
        assert_eq!(kept.handle_ack(1), Ok(()));
        assert!(!kept.is_full());
    }

    #[test]
    fn an_ack_is_due_after_many_bytes_or_a_little_time() {
        let (mut taken, now) = (Acknowledged::default(), Instant::now());
        taken.count(now, 100);
        assert_eq!(taken.poll(), None);
        taken.handle_timeout(now + ACK_AFTER);
        assert_eq!(taken.due(), None, "a time in the past would keep the driver spinning while the socket is full");
        assert_eq!((taken.poll(), taken.due()), (Some(1), None));
        taken.count(now, ACK_BYTES);
        assert_eq!(taken.poll(), Some(2));
    }
}
