//! `-f`: the command goes into the background once it has done what may fail, as ssh(1) does.
//!
//! The process is split before it has threads. The first waits, and ends with the status of the second if that fails
//! before it is ready; until then both are in the terminal's foreground, so that Ctrl-C ends both.

use std::{
    io::{Read, Write},
    os::fd::OwnedFd,
};

use rustix::process::{Pid, WaitOptions, setsid, waitpid};

use super::report::{FAILURE, Failure, SIGNALLED};
use crate::{
    proto::ErrorKind,
    sys::{self, Forked},
};

/// Held until the command is ready; without it, the first process ends with the second.
pub struct Background {
    ready: std::fs::File,
}

impl Background {
    /// Returns in the second process alone; in the first it is a failure without a word, with the exit status. Every descriptor
    /// above stderr is closed: nothing may have been opened before.
    pub fn split() -> Result<Self, Failure> {
        let failed =
            |error: std::io::Error| Failure::new(ErrorKind::Local, format!("cannot go into the background: {error}"));
        // What the shell that started us waits on, as a lock or a pipe, must not wait for the second process.
        sys::close_inherited().map_err(failed)?;
        let (told, ready) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        match sys::fork().map_err(failed)? {
            Forked::Child => Ok(Self { ready: ready.into() }),
            Forked::Parent(child) => {
                drop(ready);
                Err(Failure::silent(status(told, child)))
            }
        }
    }

    /// Leaves the terminal, and lets the first process end well. From here on nothing is printed.
    pub fn ready(mut self) -> Result<(), Failure> {
        let failed =
            |error: std::io::Error| Failure::new(ErrorKind::Local, format!("cannot go into the background: {error}"));
        // Not the leader of a group, having just been forked, so that it cannot fail.
        setsid().map_err(|error| failed(error.into()))?;
        sys::silence_stdio().map_err(failed)?;
        // Nobody to tell: the first was interrupted, and the second is not wanted any more.
        self.ready.write_all(&[1]).map_err(failed)
    }
}

/// Waits for the second process to be ready, or to end.
fn status(told: OwnedFd, child: Pid) -> u8 {
    if matches!(std::fs::File::from(told).read(&mut [0]), Ok(1)) {
        return 0;
    }
    let ended = waitpid(Some(child), WaitOptions::empty()).ok().flatten();
    let status = ended.and_then(|(_, status)| {
        status.exit_status().or(status.terminating_signal().map(|signal| i32::from(SIGNALLED) + signal))
    });
    status.and_then(|status| u8::try_from(status).ok()).unwrap_or(FAILURE)
}
