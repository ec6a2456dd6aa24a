//! Memory that a socket or a pipe is read into, and that is sent on as it is.

use bytes::{Buf, BufMut, BytesMut};

/// Left free in front of what is read, in bytes. A large block begins with a page, and so does the TLS record that it is copied
/// into, behind two headers: where the target lies 1 to 31 bytes further in its page than the source, AMD's Zen 3 takes up to
/// forty times as long for REP MOVSB, by which glibc and Linux copy (glibc's bug 30994). Each frame of a batch is 8 bytes further.
const LEAD_BYTES: usize = 64;

/// Makes an empty buffer take at least so many bytes.
pub(super) fn make_room(buffer: &mut BytesMut, bytes: usize) {
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
}
