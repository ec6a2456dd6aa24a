//! Whether this process has its terminal to itself.

use std::os::fd::{AsFd, AsRawFd};

/// Whether this process is in the foreground of `terminal`. Whoever else is has it as he wants it, and we would be stopped for
/// changing it.
pub fn is_in_foreground(terminal: &impl AsFd) -> bool {
    // Not as rustix gives them, as numbers that are not 0: both are where the group began outside of this PID namespace.
    // SAFETY: both take numbers alone; the descriptor is open as long as it is borrowed, and -1 is no group's number.
    unsafe { libc::tcgetpgrp(terminal.as_fd().as_raw_fd()) == libc::getpgrp() }
}
