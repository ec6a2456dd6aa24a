//! What the peer has taken of what was written, for whoever ends something and wants to be sure.

use super::{Mux, stream::Outgoing};
use crate::proto::{Reset, StreamId};

/// How far the peer has come with a half that was finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The end has not left yet.
    Waiting,
    /// The end is one of so many frames that were sent.
    Sent(u64),
    /// The peer, or this end, reset the stream.
    Broken(Reset),
}

impl Mux {
    /// How far a half that was finished is.
    pub fn delivery(&self, id: StreamId) -> Delivery {
        let Some(stream) = self.streams.get(&id) else { return Delivery::Sent(self.kept.sent()) };
        match (stream.incoming, stream.outgoing) {
            (_, Outgoing::Finished) => Delivery::Sent(self.kept.sent()),
            (super::stream::Incoming::Reset(reset), _) => Delivery::Broken(reset),
            (_, Outgoing::Reset | Outgoing::Resetting) => Delivery::Broken(Reset::Cancelled),
            (_, Outgoing::Open | Outgoing::Finishing) => Delivery::Waiting,
        }
    }

    /// How many of the frames that were sent the peer has taken.
    pub fn acknowledged_frames(&self) -> u64 {
        self.kept.acked()
    }

    /// Whether the peer knows that this stream is over.
    pub fn is_forgotten(&self, id: StreamId) -> bool {
        !self.streams.contains_key(&id) && !self.lingering.contains(id)
    }

    /// Whether the peer has ended its half of a stream, so that all of it is here, read or not.
    pub fn has_come_whole(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_some_and(|stream| stream.incoming == super::stream::Incoming::Finished)
    }

    /// Whether the peer has taken everything that was written on any stream.
    pub fn is_delivered(&self) -> bool {
        let written = || self.streams.values().any(super::stream::Stream::has_something_to_send);
        self.kept.acked() == self.kept.sent() && self.urgent.is_empty() && !written()
    }
}
