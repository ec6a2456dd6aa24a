//! A descriptor whose readiness tokio waits for.

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

/// Registers a descriptor that will be waited on until it can be read. Needs a tokio runtime.
///
/// # Errors
/// If it is of a kind that cannot be waited for, as a plain file is.
pub fn await_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, is always the same descriptor, and is closed by nobody but the AsyncFd that owns it now.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}
