//! The worker itself: one thread that forks a supervisor for each socket that it is handed.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    process::ExitCode,
    sync::OnceLock,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{
        DumpableBehavior, Pid, Resource, Rlimit, Signal, WaitOptions, getpid, getrlimit, set_child_subreaper,
        set_dumpable_behavior, setrlimit, setsid, wait,
    },
};

use super::{
    job::Outcome,
    supervisor::{self, say},
};
use crate::sys::{
    Forked, NotLaunched, Step, block_signals, close_inherited, fork, heed_file_size_limit, receive_with_fds,
    signal_descendants, signal_fd,
};

/// What a worker is called; nothing else starts one.
pub(super) const NAME: &str = "capuchin-worker";

/// What a terminal, an admin or a timer sends to end or steer a program, and what says that a child has changed.
const HELD_BACK: [Signal; 9] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::PIPE,
    Signal::CHILD,
];

/// Set where this program, started again, would be a worker: how many descriptors it might have open when it began.
/// `None`: as many as it likes.
static AT_START: OnceLock<Option<u64>> = OnceLock::new();

pub(super) fn is_ready() -> bool {
    AT_START.get().is_some()
}

/// The soft limit of descriptors that this process began with, if it had one.
pub(super) fn descriptors_at_start() -> Option<u64> {
    AT_START.get().copied().flatten()
}

/// Serves as a worker if that is what this process was started as, and gives the exit status then.
///
/// A [`Lender`](super::super::Lender) that runs programs starts its own binary again for that. A binary that calls this as
/// the first thing in `main`, before it starts a thread, can; in any other, programs are refused as not offered.
///
/// ```
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     if let Some(status) = capuchin::lend::serve_as_worker() {
///         return status;
///     }
///     // From here on the program as it is.
///     ExitCode::SUCCESS
/// }
/// ```
pub fn serve_as_worker() -> Option<ExitCode> {
    if std::env::args_os().next().as_deref().map(Path::new) != Some(Path::new(NAME)) {
        // What is called twice says the same.
        let _ = AT_START.set(getrlimit(Resource::Nofile).current);
        return None;
    }
    Some(match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{NAME}: {error}");
            ExitCode::FAILURE
        }
    })
}

/// Serves until the daemon closes the channel.
fn serve() -> io::Result<()> {
    close_inherited()?;
    // As it stands in a list of processes, where its file would be called `exe`.
    rustix::thread::set_name(c"capuchin-worker")?;
    let channel = rustix::stdio::stdin().try_clone_to_owned()?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    drop(null);
    // The daemon's way with it is not for programs.
    heed_file_size_limit();
    block_signals(&HELD_BACK)?;
    let signals = signal_fd(&[Signal::CHILD])?;
    // What a terminal sends to the daemon's group must not end this first: it has to clean up behind the daemon.
    setsid()?;
    set_child_subreaper(Some(getpid()))?;
    // A core or a debugger would show what borrowers gave their programs; the limit holds for those, too.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    if let Some(most) = std::env::args().nth(1).and_then(|most| most.parse().ok()) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..getrlimit(Resource::Nofile) })?;
    }
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::umask(rustix::fs::Mode::WGRP | rustix::fs::Mode::WOTH);
    let mut supervisors = Vec::new();
    loop {
        let mut ready = [PollFd::new(&channel, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let (called, changed) = (!ready[0].revents().is_empty(), !ready[1].revents().is_empty());
        if changed {
            reap(&signals, &mut supervisors);
        }
        if called {
            let (mut byte, mut came) = ([0; 1], Vec::new());
            if receive_with_fds(&channel, &mut byte, &mut came)? == 0 {
                return Ok(());
            }
            for socket in came {
                match fork() {
                    Ok(Forked::Parent(pid)) => supervisors.push(pid),
                    Ok(Forked::Child) => {
                        drop(channel);
                        return supervisor::run(socket, &signals);
                    }
                    Err(error) => {
                        eprintln!("{NAME}: cannot fork: {error}");
                        // A daemon that hung up needs no answer.
                        let _ = say(&socket, &Outcome::failed(NotLaunched::at(Step::Process)(error)), &[]);
                    }
                }
            }
        }
    }
}

/// Takes leave of who has ended, and ends what a supervisor left that was killed itself.
fn reap(signals: &OwnedFd, supervisors: &mut Vec<Pid>) {
    drain(signals);
    while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
        supervisors.retain(|known| *known != pid);
    }
    // Each that ends raises the signal again, until none is left.
    signal_descendants(getpid(), supervisors, Signal::KILL);
}

/// Forgets which signals came: whoever is told looks at everything.
pub(super) fn drain(signals: impl AsFd) {
    let mut record = [0; 512];
    while rustix::io::read(&signals, &mut record).is_ok_and(|length| length > 0) {}
}
