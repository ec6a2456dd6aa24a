//! Memory for bytes that are sent on as they are.

use bytes::{Buf, BufMut, BytesMut};

/// In bytes. A large block begins with a page, and so does the TLS record that it is copied into, behind two headers: where the
/// target lies 1 to 31 bytes further in its page than the source, AMD's Zen 3 takes up to forty times as long for REP MOVSB, by
/// which glibc and Linux copy (glibc's bug 30994). Each frame of a batch is 8 bytes further.
const LEAD_BYTES: usize = 64;
/// Payloads up to this size are copied next to their headers, in bytes: cheaper than another slice for the socket. They need no lead.
pub const COPY_BYTES_MAX: usize = 2 * 1024;

/// Empty, with room for at least so many bytes, which do not begin where a large block of memory does.
pub(crate) fn with_lead(bytes: usize) -> BytesMut {
    if bytes <= COPY_BYTES_MAX {
        return BytesMut::with_capacity(bytes);
    }
    let mut buffer = BytesMut::with_capacity(LEAD_BYTES + bytes);
    buffer.put_bytes(0, LEAD_BYTES);
    buffer.advance(LEAD_BYTES);
    buffer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_empty_has_room_and_does_not_begin_with_its_memory() {
        let mut buffer = with_lead(4000);
        assert!(buffer.is_empty() && buffer.capacity() >= 4000);
        let began = buffer.as_ptr();
        buffer.put_slice(b"sent");
        assert_eq!(buffer.split(), b"sent"[..]);
        // All of the memory is one's own again: the lead comes out of it.
        assert!(buffer.try_reclaim(4000 + LEAD_BYTES));
        assert_eq!(buffer.as_ptr(), began.wrapping_sub(LEAD_BYTES));
        assert_eq!(with_lead(16).capacity(), 16, "a small one costs no more than its bytes");
    }
}
