//! Signals kept from this thread, and a descriptor that tells of them instead.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{FromRawFd, OwnedFd},
};

use rustix::process::Signal;

/// Keeps signals from this thread, and from threads and processes that it starts.
///
/// # Errors
/// What sigprocmask(2) says.
pub fn block_signals(signals: &[Signal]) -> io::Result<()> {
    mask(libc::SIG_BLOCK, &set_of(signals))
}

/// A descriptor from which `signals` are read, as far as they are blocked.
///
/// # Errors
/// What signalfd(2) says.
pub fn signal_fd(signals: &[Signal]) -> io::Result<OwnedFd> {
    let set = set_of(signals);
    // SAFETY: the set was initialised above and outlives the call; -1 asks for a new descriptor.
    match unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: the call has just made it, and nothing else knows it.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

pub(super) fn set_of(signals: &[Signal]) -> libc::sigset_t {
    let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: sigemptyset(3) initialises the set that it is given, and sigaddset(3) changes one that is initialised.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), signal.as_raw());
        }
        set.assume_init()
    }
}

pub(super) fn mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: the set is initialised and outlives the call; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(how, set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
