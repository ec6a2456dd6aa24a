//! Signals that a thread waits for beside a descriptor, until they do again what they did before.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use rustix::{
    event::{EventfdFlags, eventfd},
    process::{Signal, getpid, kill_process},
};

use super::signal_action::{default_action, set};

/// Those that have come, one bit each by its number.
static CAME: AtomicU64 = AtomicU64::new(0);
/// Readable when one has come. Never closed: a handler on another thread may be about to write to it.
static WAKE: OnceLock<OwnedFd> = OnceLock::new();
/// There is one place for what has come.
static TURN: Mutex<()> = Mutex::new(());

/// The descriptor is readable when one of the signals has come, on whatever thread.
pub struct CaughtSignals {
    before: Vec<(Signal, libc::sigaction)>,
    wake: &'static OwnedFd,
    _turn: MutexGuard<'static, ()>,
}

impl CaughtSignals {
    /// Catches `signals`, but for those that are ignored. A system call that one interrupts is not begun again (EINTR).
    ///
    /// # Errors
    /// What eventfd(2) and sigaction(2) say.
    pub fn catch(signals: &[Signal]) -> io::Result<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let wake = match WAKE.get() {
            Some(wake) => wake,
            None => {
                let made = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
                WAKE.get_or_init(|| made)
            }
        };
        let mut caught = Self { before: Vec::new(), wake, _turn: turn };
        let note: extern "C" fn(libc::c_int) = note;
        let action = libc::sigaction { sa_sigaction: note as *const () as libc::sighandler_t, ..default_action() };
        for signal in signals.iter().copied().filter(|signal| !super::is_ignored(*signal)) {
            caught.before.push((signal, set(signal, &action)?));
        }
        Ok(caught)
    }

    /// The one that has come: of several the first in the list, and the others are forgotten.
    pub fn take(&self) -> Option<Signal> {
        // In this order: one that comes in between is noted again.
        let _ = rustix::io::read(self, &mut [0; 8]);
        let came = CAME.swap(0, Ordering::AcqRel);
        self.before.iter().map(|(signal, _)| *signal).find(|signal| came & bit(signal.as_raw()) != 0)
    }
}

impl AsFd for CaughtSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Drop for CaughtSignals {
    fn drop(&mut self) {
        for (signal, before) in &self.before {
            let _ = set(*signal, before);
        }
        // One that came behind the last look does what it does.
        if let Some(signal) = self.take().filter(|signal| *signal != Signal::CONT) {
            let _ = kill_process(getpid(), signal);
        }
    }
}

/// Does what a handler may (signal-safety(7)): no lock, no memory, and errno as it was.
extern "C" fn note(number: libc::c_int) {
    CAME.fetch_or(bit(number), Ordering::AcqRel);
    if let Some(wake) = WAKE.get() {
        // SAFETY: errno is this thread's own, and eight bytes are read of a value that outlives the call.
        unsafe {
            let errno = libc::__errno_location();
            let before = *errno;
            libc::write(wake.as_raw_fd(), (&raw const ONE).cast(), size_of_val(&ONE));
            *errno = before;
        }
    }
}

const fn bit(number: i32) -> u64 {
    1 << (number & 63)
}

/// What is added to the count of an eventfd(2).
static ONE: u64 = 1;

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    #[test]
    fn a_signal_is_told_and_does_afterwards_what_it_did() {
        // By default nothing happens at either, and nothing else here sends one.
        let caught = CaughtSignals::catch(&[Signal::WINCH, Signal::CONT]).unwrap();
        assert_eq!(caught.take(), None);
        kill_process(getpid(), Signal::CONT).unwrap();
        let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
        let came = loop {
            match poll(&mut [PollFd::new(&caught, PollFlags::IN)], Some(&patience)) {
                Err(rustix::io::Errno::INTR) => {}
                ready => break ready,
            }
        };
        assert_eq!(came, Ok(1));
        assert_eq!(caught.take(), Some(Signal::CONT));
        assert_eq!(caught.take(), None);
        drop(caught);
        let before = set(Signal::CONT, &default_action()).unwrap();
        assert_eq!(before.sa_sigaction, libc::SIG_DFL);
    }
}
