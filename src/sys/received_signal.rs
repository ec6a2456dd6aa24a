//! Signals as something to read, with who sent them, and let through again.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::process::Signal;

use super::signals::{mask, set_of};

/// `si_code` of a signal that the kernel sent by itself, as the terminal's are (sigaction(2)).
const SI_KERNEL: i32 = 0x80;

/// A signal that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedSignal {
    /// Its number.
    pub number: i32,
    /// The kernel sent it to the whole process group, as the terminal's keys do; else a process sent it. Nothing tells
    /// whether that one meant this process or all of its group, as timeout(1) does after it has signalled its child.
    pub from_terminal: bool,
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
