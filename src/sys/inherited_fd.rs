//! Descriptors that a program would inherit.

use std::{io, os::fd::RawFd};

/// Whether this process has a descriptor of this number.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: fcntl(2) with F_GETFD takes a number, and fails with EBADF for a descriptor that is not open.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Keeps every descriptor above stderr from the next program, but for those in `keep`.
///
/// # Errors
/// `EBADF` if one of `keep` is not open.
pub fn close_at_exec(keep: &[RawFd]) -> io::Result<()> {
    // SAFETY: close_range(2) takes three numbers; with this flag it closes nothing now.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked != 0 {
        return Err(io::Error::last_os_error());
    }
    for fd in keep {
        // SAFETY: fcntl(2) with F_SETFD takes two numbers, and fails with EBADF for a descriptor that is not open.
        if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
