//! What a socket or a pipe is read into: memory that is sent on as it is, and as much of it as the one that is read fills.

use bytes::{Buf, BufMut, BytesMut, buf::Limit};

use super::Stream;
use crate::proto::mux::{COPY_BYTES_MAX, SEND_QUEUE_BYTES};

/// Read at once from what is busy, in bytes: what a stream takes at once.
const BUSY_BYTES: usize = SEND_QUEUE_BYTES;
/// Read at once from what sends little, in bytes.
const QUIET_BYTES: usize = 4 * 1024;
/// Left free in front of what is read, in bytes. A large block begins with a page, and so does the TLS record that it is copied
/// into, behind two headers: where the target lies 1 to 31 bytes further in its page than the source, AMD's Zen 3 takes up to
/// forty times as long for REP MOVSB, by which glibc and Linux copy (glibc's bug 30994). Each frame of a batch is 8 bytes further.
const LEAD_BYTES: usize = 64;

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
        make_room(&mut self.bytes, self.room.min(self.size));
        Ok((&mut self.bytes).limit(self.room))
    }

    /// Sends what was read.
    pub(super) fn send(&mut self, stream: &Stream) -> Sent {
        let length = self.bytes.len();
        let sent = Sent { is_small: length <= COPY_BYTES_MAX, is_all: length < self.room.min(self.size) };
        if sent.is_small {
            stream.write_copy(&self.bytes);
            self.bytes.clear();
        } else {
            stream.write_bytes(self.bytes.split().freeze());
        }
        // A full queue leaves less room than would be filled, which says nothing about who is read.
        if self.room >= self.size {
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

/// Makes an empty buffer take at least so many bytes.
fn make_room(buffer: &mut BytesMut, bytes: usize) {
    if buffer.capacity() < bytes {
        *buffer = BytesMut::with_capacity(LEAD_BYTES + bytes);
        buffer.put_bytes(0, LEAD_BYTES);
        buffer.advance(LEAD_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_empty_is_used_up_and_does_not_begin_with_its_memory() {
        let mut buffer = BytesMut::new();
        make_room(&mut buffer, 4000);
        assert!(buffer.is_empty() && buffer.capacity() >= 4000);
        let began = buffer.as_ptr();
        buffer.put_slice(b"read");
        assert_eq!(buffer.split(), b"read"[..]);
        make_room(&mut buffer, 3996);
        assert_eq!(buffer.as_ptr(), began.wrapping_add(4), "what is left has room");
        // All of the memory is one's own again: the lead comes out of it.
        assert!(buffer.try_reclaim(4000 + LEAD_BYTES));
        assert_eq!(buffer.as_ptr(), began.wrapping_sub(LEAD_BYTES));
    }

    #[test]
    fn sizes_follow_what_is_given() {
        let busy = (0..4).fold(QUIET_BYTES, |size, _| next_size(size, size));
        assert_eq!(busy, BUSY_BYTES);
        let quiet = (0..8).fold(busy, |size, _| next_size(size, 10));
        assert_eq!(quiet, QUIET_BYTES);
        assert_eq!(next_size(8192, 4096), 8192);
    }
}
