//! What a socket or a pipe is read into: memory that is sent on as it is, and as much of it as the one that is read fills.

use bytes::{BufMut, BytesMut, buf::Limit};

use super::Stream;
use crate::proto::{COPY_BYTES_MAX, mux::SEND_QUEUE_BYTES, with_lead};

/// Read at once from what is busy, in bytes: what a stream takes at once.
const BUSY_BYTES: usize = SEND_QUEUE_BYTES;
/// Read at once from what sends little, in bytes.
const QUIET_BYTES: usize = 4 * 1024;

/// Read into and sent, again and again, by one copy.
#[derive(Debug)]
pub(super) struct Block {
    bytes: BytesMut,
    /// Read at once, in bytes: more for whoever fills it, less for whoever does not.
    size: usize,
    /// What the stream had room for when it was last asked.
    room: usize,
}

impl Block {
    pub(super) fn new() -> Self {
        Self { bytes: BytesMut::new(), size: QUIET_BYTES, room: 0 }
    }

    /// The memory for the next read, once `stream` has room: what is read can then always be written, and a stalled stream stops
    /// whoever is read.
    ///
    /// # Errors
    /// Nobody reads the stream any more.
    pub(super) async fn room(&mut self, stream: &Stream) -> std::io::Result<Limit<&mut BytesMut>> {
        self.room = stream.write_room(self.size).await?;
        if self.bytes.capacity() < self.room {
            self.bytes = with_lead(self.room);
        }
        Ok((&mut self.bytes).limit(self.room))
    }

    /// Sends what was read.
    pub(super) fn send(&mut self, stream: &Stream) -> Sent {
        let length = self.bytes.len();
        let sent = Sent { is_small: length <= COPY_BYTES_MAX, is_all: length < self.room };
        if sent.is_small {
            stream.write_copy(&self.bytes);
            self.bytes.clear();
        } else {
            stream.write_bytes(self.bytes.split().freeze());
        }
        // A full queue leaves less room than would be filled, which says nothing about who is read.
        if self.room == self.size {
            self.size = next_size(self.size, length);
        }
        sent
    }

    /// Holds no memory until the next read: what is quiet costs none.
    pub(super) fn free(&mut self) {
        self.bytes = BytesMut::new();
    }
}

/// What [`Block::send`] has sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// So little that it was copied.
    pub(super) is_small: bool,
    /// Less than there was room for: who was read has given what it had.
    pub(super) is_all: bool,
}

fn next_size(size: usize, filled: usize) -> usize {
    if filled >= size {
        (size * 4).min(BUSY_BYTES)
    } else if filled < size / 4 {
        (size / 2).max(QUIET_BYTES)
    } else {
        size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_what_is_given() {
        let busy = (0..4).fold(QUIET_BYTES, |size, _| next_size(size, size));
        assert_eq!(busy, BUSY_BYTES);
        let quiet = (0..8).fold(busy, |size, _| next_size(size, 10));
        assert_eq!(quiet, QUIET_BYTES);
        assert_eq!(next_size(8192, 4096), 8192);
    }
}
