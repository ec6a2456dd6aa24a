//! Signals as something to read, with who sent them.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use rustix::process::Signal;

/// `si_code` of a signal that the kernel sent by itself, as the terminal's are (sigaction(2)).
const SI_KERNEL: i32 = 0x80;

/// A signal that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedSignal {
    /// Its number.
    pub number: i32,
    /// The kernel sent it to the whole process group, as the terminal's keys do; else one process sent it to this one.
    pub from_terminal: bool,
}

/// Keeps signals from this thread, and from threads and processes that it starts.
///
/// # Errors
/// What sigprocmask(2) says.
pub fn block_signals(signals: &[Signal]) -> io::Result<()> {
    mask(libc::SIG_BLOCK, &set_of(signals))
}

/// Lets signals through to this thread again, and to a program that it becomes.
///
/// # Errors
/// What sigprocmask(2) says.
pub fn unblock_signals(signals: &[Signal]) -> io::Result<()> {
    mask(libc::SIG_UNBLOCK, &set_of(signals))
}

/// Runs `work` on this thread with `signals` let through.
///
/// # Errors
/// What sigprocmask(2) says.
pub fn with_signals_open<T>(signals: &[Signal], work: impl FnOnce() -> T) -> io::Result<T> {
    let set = set_of(signals);
    mask(libc::SIG_UNBLOCK, &set)?;
    let done = work();
    mask(libc::SIG_BLOCK, &set)?;
    Ok(done)
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

/// The next signal that has come.
///
/// # Errors
/// `WouldBlock` when none has.
pub fn read_signal(fd: &OwnedFd) -> io::Result<ReceivedSignal> {
    let mut heard = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
    let size = size_of::<libc::signalfd_siginfo>();
    // SAFETY: the buffer has `size` bytes, and the kernel writes at most so many.
    let length = unsafe { libc::read(fd.as_raw_fd(), heard.as_mut_ptr().cast(), size) };
    match usize::try_from(length) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(length) if length < size => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => {
            // SAFETY: it is a structure of integers, zeroed above and then written as a whole.
            let heard = unsafe { heard.assume_init() };
            Ok(ReceivedSignal { number: heard.ssi_signo as i32, from_terminal: heard.ssi_code == SI_KERNEL })
        }
    }
}

fn set_of(signals: &[Signal]) -> libc::sigset_t {
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

fn mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: the set is initialised and outlives the call; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(how, set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}
