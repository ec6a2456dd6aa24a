//! Whose turn it is: deficit round robin with a head start for streams that just became active, as in fq_codel
//! (RFC 8290 §4.1), so that a keystroke does not wait behind a copy.

use std::collections::{HashMap, VecDeque};

use super::stream::Stream;
use crate::proto::StreamId;

/// What a stream may send in one turn, in bytes: one full frame.
pub const QUANTUM_BYTES: i32 = 32 * 1024;

/// A stream's place in the schedule.
#[derive(Default)]
pub(super) struct Turn {
    listed: bool,
    deficit: i32,
}

/// Streams that have something to send. A number whose stream is gone is skipped when its turn comes.
#[derive(Default)]
pub(super) struct Schedule {
    /// Their SYN has not left: in order of their numbers, before all others.
    opening: VecDeque<StreamId>,
    fresh: VecDeque<StreamId>,
    steady: VecDeque<StreamId>,
}

impl Schedule {
    pub(super) fn open(&mut self, id: StreamId) {
        self.opening.push_back(id);
    }

    pub(super) fn forget_opening(&mut self, id: StreamId) {
        self.opening.retain(|opening| *opening != id);
    }

    pub(super) fn next_opening(&mut self) -> Option<StreamId> {
        self.opening.pop_front()
    }

    /// Lists a stream that has something to send, if it is not listed yet.
    pub(super) fn activate(&mut self, id: StreamId, stream: &mut Stream) {
        if !stream.turn.listed && !stream.out.unannounced {
            stream.turn = Turn { listed: true, deficit: QUANTUM_BYTES };
            self.fresh.push_back(id);
        }
    }

    /// The stream whose turn it is, of those that just became active or of all; [`Self::sent`] must follow.
    pub(super) fn next(&mut self, streams: &mut HashMap<StreamId, Stream>, all: bool) -> Option<StreamId> {
        loop {
            let (id, was_fresh) = match self.fresh.front() {
                Some(id) => (*id, true),
                None if all => (*self.steady.front()?, false),
                None => return None,
            };
            let list = if was_fresh { &mut self.fresh } else { &mut self.steady };
            let Some(stream) = streams.get_mut(&id) else {
                list.pop_front();
                continue;
            };
            if stream.turn.deficit > 0 && stream.has_something_to_send() {
                return Some(id);
            }
            list.pop_front();
            let turn = &mut stream.turn;
            if turn.deficit <= 0 {
                turn.deficit += QUANTUM_BYTES;
                self.steady.push_back(id);
            } else if was_fresh {
                // Once more round the others before it counts as new again, or a ping-pong would starve them.
                self.steady.push_back(id);
            } else {
                turn.listed = false;
            }
        }
    }

    /// Charges a stream for a frame.
    pub(super) fn sent(turn: &mut Turn, bytes: usize) {
        turn.deficit -= i32::try_from(bytes).unwrap_or(i32::MAX);
    }
}
