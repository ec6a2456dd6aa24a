//! Streams whose other end must not take their end for an orderly one.

use std::sync::{Arc, Weak};

use super::Stream;
use crate::proto::Reset;

/// Dropped before the stream has ended, as by a signal or a failure, it breaks the stream off.
pub struct Unended(Weak<Stream>);

impl Unended {
    /// For a stream that others hold.
    pub fn of(stream: &Arc<Stream>) -> Self {
        Self(Arc::downgrade(stream))
    }

    /// It ends in good order from here on.
    pub fn has_ended(mut self) {
        self.0 = Weak::new();
    }
}

impl Drop for Unended {
    fn drop(&mut self) {
        if let Some(stream) = self.0.upgrade() {
            stream.reset(Reset::Cancelled);
        }
    }
}
