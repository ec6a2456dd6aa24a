//! Socket options that the safe libraries do not offer.

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd},
};

/// setsockopt(2) with one number.
///
/// # Errors
/// What the kernel says.
pub(super) fn set_option(
    socket: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is one int that outlives the call, and `size` is its size.
    match unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const value).cast(), size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
