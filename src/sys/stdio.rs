//! Standard descriptors that this process is done with.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, RawFd},
};

/// Ends stdout for whoever reads it: nothing more comes.
///
/// # Errors
/// Without `/dev/null`.
pub fn close_stdout() -> io::Result<()> {
    // A socket may be stdin as well, and is then not closed by losing one of its numbers; for a pipe this does nothing.
    let _ = rustix::net::shutdown(io::stdout(), rustix::net::Shutdown::Write);
    replace(libc::STDOUT_FILENO)
}

/// Lets go of all three.
///
/// # Errors
/// Without `/dev/null`.
pub fn silence_stdio() -> io::Result<()> {
    [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO].into_iter().try_for_each(replace)
}

/// Puts `/dev/null` in the place of a standard descriptor, so that its number is never another file's.
fn replace(standard: RawFd) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    // SAFETY: both are descriptors, which is all that dup2 takes; 0, 1 and 2 are owned by nobody in this process.
    match unsafe { libc::dup2(null.as_raw_fd(), standard) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
