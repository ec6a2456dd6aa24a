//! Tries what holding a program by its filter alone takes: the filter, its calls, and their caller within reach.

use std::{io, os::fd::OwnedFd};

use rustix::process::{Pid, Signal, WaitOptions, geteuid, kill_process, set_parent_process_death_signal, waitpid};

use super::calls;
use crate::{
    borrow::run::{
        RunError,
        control::Step,
        without_namespaces::{self, Handing},
    },
    sys::{self, Forked},
};

/// Tries it in a process that ends with it. To be called before any thread exists.
///
/// # Errors
/// What this machine does not give.
pub fn probe_filter() -> Result<(), RunError> {
    try_filter().map_err(|(step, error)| RunError::of_step(step, error.raw_os_error().unwrap_or(libc::EIO), ""))
}

fn try_filter() -> Result<(), (Step, io::Error)> {
    let handing = Handing::new().map_err(|error| (Step::Fork, error))?;
    match sys::fork().map_err(|error| (Step::Fork, error))? {
        Forked::Child => {
            let done = confine().and_then(|(calls, can_wait)| {
                handing.give(&calls, can_wait)?;
                // Else it would wait for itself.
                drop(calls);
                calls::make()
            });
            // Error numbers have room in an exit status.
            std::process::exit(done.err().map_or(0, |error| error.raw_os_error().unwrap_or(libc::EIO)))
        }
        Forked::Parent(child) => {
            let reached = reach(&handing, child);
            if reached.is_err() {
                // It waits for an answer, perhaps.
                let _ = kill_process(child, Signal::KILL);
            }
            let status = waitpid(Some(child), WaitOptions::empty()).ok().flatten();
            reached.map_err(|error| (Step::Reach, error))?;
            match status.and_then(|(_, status)| status.exit_status()) {
                Some(0) => Ok(()),
                errno => Err((Step::Confine, io::Error::from_raw_os_error(errno.unwrap_or(libc::ECHILD)))),
            }
        }
    }
}

/// As a program is confined that is to have no network of its own.
fn confine() -> io::Result<(OwnedFd, bool)> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    sys::give_up_privileges(geteuid().is_root())?;
    sys::keep_to_itself()?;
    sys::install_filter(&mut without_namespaces::filter())
}

/// Does the child's calls, if it is confined.
fn reach(handing: &Handing, child: Pid) -> io::Result<()> {
    let Some((calls, _)) = handing.take(child)? else { return Ok(()) };
    handing.taken();
    calls::take(&calls, child)
}
