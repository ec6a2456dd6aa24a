//! A second process of ours.

use std::{fs, io};

use rustix::process::Pid;

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Forked {
    /// The one that was there, with the other's number.
    Parent(Pid),
    /// The new one.
    Child,
}

/// Makes a copy of this process.
///
/// # Errors
/// `EBUSY` in a process with more than one thread: the copy would have the locks of the others and not the others. Else
/// what fork(2) says.
pub fn fork() -> io::Result<Forked> {
    let threads = fs::read_dir("/proc/self/task").map_err(|error| match error.kind() {
        // Of whatever was to be started it would be said that it is not there.
        io::ErrorKind::NotFound => io::Error::new(error.kind(), "/proc is not mounted"),
        _ => error,
    })?;
    if threads.count() != 1 {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: this is the only thread, as was just counted, so that nothing is half done in the copy.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid).map_or(Forked::Child, Forked::Parent)),
    }
}
