//! What a relay needs of a socket, whether it is of TCP or of Unix.

use std::io::{self, IoSlice};

use bytes::BufMut;
use tokio::{
    io::{Interest, Ready},
    net::{TcpStream, UnixStream},
};

/// A connected socket of this machine.
pub trait Socket: std::os::fd::AsFd + Send + Sync {
    /// Waits until one of these may go on.
    fn ready(&self, interest: Interest) -> impl Future<Output = io::Result<Ready>> + Send;

    /// Reads what is there.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing.
    fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize>;

    /// Writes what there is room for.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room.
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// The error that waits to be told.
    fn take_error(&self) -> Option<io::Error>;

    /// Acknowledges at once what was read. A program that does not know TCP_NODELAY holds its next small write back until
    /// then, and a kernel that expects an answer to carry the acknowledgement waits 40 ms for one.
    fn acknowledge(&self);

    /// Whether a reset takes nothing away any more: all that was written is with the peer's kernel.
    fn is_all_there(&self) -> bool;

    /// Makes the peer see a reset when it is dropped, where its kind has one.
    fn abort_on_drop(&self);

    /// Ends our half.
    fn finish(&self) {
        // An end that cannot be passed on has been seen by the peer already.
        let _ = rustix::net::shutdown(self, rustix::net::Shutdown::Write);
    }
}

impl Socket for TcpStream {
    async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        self.ready(interest).await
    }

    fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        self.try_read_buf(buffer)
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_write_vectored(slices)
    }

    fn take_error(&self) -> Option<io::Error> {
        self.take_error().ok().flatten()
    }

    fn acknowledge(&self) {
        // Not doing so costs time and nothing else.
        let _ = rustix::net::sockopt::set_tcp_quickack(self, true);
    }

    fn is_all_there(&self) -> bool {
        crate::sys::is_all_acknowledged(self).unwrap_or(true)
    }

    fn abort_on_drop(&self) {
        let _ = self.set_zero_linger();
    }
}

impl Socket for UnixStream {
    async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        self.ready(interest).await
    }

    fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        self.try_read_buf(buffer)
    }

    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_write_vectored(slices)
    }

    fn take_error(&self) -> Option<io::Error> {
        self.take_error().ok().flatten()
    }

    /// A Unix socket holds nothing back.
    fn acknowledge(&self) {}

    /// What was written is with the peer at once.
    fn is_all_there(&self) -> bool {
        true
    }

    /// A Unix socket has no reset: its peer sees one where bytes of it are still unread here, and else an end.
    fn abort_on_drop(&self) {}
}
