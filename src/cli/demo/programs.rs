//! The programs that the demo has started. A signal ends them, and the demo ends after them: none may write into its folder
//! when that has been removed.

use std::{
    io,
    os::fd::OwnedFd,
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// All of them, also those that have ended: their number is small.
#[derive(Default)]
pub(super) struct Programs {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The signal's number, once one has come.
    stopped: Option<u8>,
    /// A number would be another process's some day.
    started: Vec<OwnedFd>,
}

impl Programs {
    /// Starts a program, unless a signal has come.
    ///
    /// # Errors
    /// It cannot be started; `Interrupted` after a signal.
    pub fn start(&self, command: &mut Command) -> io::Result<Child> {
        let mut state = self.state();
        if state.stopped.is_some() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let child = command.spawn()?;
        state.started.push(pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?);
        Ok(child)
    }

    /// Runs a program to its end and gives what it said.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn output(&self, command: &mut Command) -> io::Result<Output> {
        self.start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))?.wait_with_output()
    }

    /// Ends them, the second time by force, and starts no more.
    pub fn stop(&self, number: u8) {
        let mut state = self.state();
        let signal = if state.stopped.replace(number).is_none() { Signal::TERM } else { Signal::KILL };
        for program in &state.started {
            // Most have ended by themselves.
            let _ = pidfd_send_signal(program, signal);
        }
    }

    /// The number of the signal that has come.
    pub fn stopped(&self) -> Option<u8> {
        self.state().stopped
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
