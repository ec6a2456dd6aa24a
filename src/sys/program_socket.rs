//! What is done to a socket in the place of the program that has it.

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd},
};

/// bind(2) with the bytes that the program gave.
///
/// # Errors
/// What the kernel would have told the program.
pub fn bind_as_given(socket: impl AsFd, address: &[u8]) -> io::Result<()> {
    let length = address.len() as libc::socklen_t;
    // SAFETY: the pointer is to `length` bytes that outlive the call; what they mean the kernel finds out by itself.
    match unsafe { libc::bind(socket.as_fd().as_raw_fd(), address.as_ptr().cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Which network namespace a socket belongs to: a number that no other has.
///
/// # Errors
/// `ENOPROTOOPT` where the kernel (before Linux 5.14) has none.
pub fn network_of(socket: impl AsFd) -> io::Result<u64> {
    let (mut cookie, mut size) = (0_u64, size_of::<u64>() as libc::socklen_t);
    let option = (libc::SOL_SOCKET, libc::SO_NETNS_COOKIE);
    // SAFETY: the value is 8 bytes that outlive the call, and `size` says so.
    let got = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), option.0, option.1, (&raw mut cookie).cast(), &raw mut size)
    };
    if got == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
