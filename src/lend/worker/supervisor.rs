//! One program and everything that descends from it, from its job to the last of them.
//!
//! ```text
//!   Job ──▶ starts ──▶ Started ──▶ runs ──▶ it ended ──▶ nothing left: exit
//!              │                     ├── socket closed ──▶ HUP, CONT … 5 s … KILL, until nothing is left
//!              │                     ├── Kill ───────────▶ HUP, CONT … 0.2 s … KILL, until nothing is left
//!              │                     └── Detach ─────────▶ the socket may close, and it goes on
//!              └── socket closed ──▶ KILL, until nothing is left: nobody knows of it
//! ```
//! The socket stays open here until the exit, whoever closed the other end, so that the daemon sees when nothing is left.

use std::{
    ffi::OsStr,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Gid, Pid, Signal, Uid, WaitOptions, getpid, kill_process_group, set_child_subreaper, wait},
};

use super::{
    child::drain,
    job::{JOB_BYTES_MAX, Job, NOTE_BYTES, Order, Outcome, Report, Task},
    terminal, unix_socket,
};
use crate::{
    proto::message,
    session::widen_pipe,
    sys::{self, Launch, Launched, NotLaunched, Step},
};

/// From HUP to KILL.
const HANGUP_MAX: Duration = Duration::from_secs(5);
/// The same for what was taken back: all of it is to be gone within a second of the order's cause.
const TAKEN_BACK_MAX: Duration = Duration::from_millis(200);
/// Between two rounds of KILL: who forked in one is met in the next.
const ROUND: Duration = Duration::from_millis(20);

/// Supervises one program; `Ok` when nothing of it is left.
pub(super) fn run(socket: OwnedFd, signals: &OwnedFd) -> io::Result<()> {
    set_child_subreaper(Some(getpid()))?;
    let job = match read_task(&socket) {
        Ok(Task::Program(job)) => job,
        Ok(Task::Socket(job)) => return unix_socket::run(&socket, &job),
        // The daemon has thought better of it.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
        Err(error) => return Err(error),
    };
    match start(job) {
        Ok(starting) => Supervisor::of(socket, starting).serve(signals),
        Err(why) => say(&socket, &Outcome::failed(why), &[]),
    }
}

/// A program that is not one yet.
struct Starting {
    launched: Launched,
    /// The lender's ends of its streams.
    kept: Vec<OwnedFd>,
}

struct Supervisor {
    socket: OwnedFd,
    /// Nobody gives orders any more.
    closed: bool,
    starting: Option<Starting>,
    /// `None` once it has ended.
    program: Option<Pid>,
    detached: bool,
    /// Part of an order.
    heard: Vec<u8>,
    /// When KILL comes.
    ending: Option<Instant>,
}

impl Supervisor {
    fn of(socket: OwnedFd, starting: Starting) -> Self {
        let program = Some(starting.launched.pid);
        let starting = Some(starting);
        Self { socket, closed: false, starting, program, detached: false, heard: Vec::new(), ending: None }
    }

    fn serve(mut self, signals: &OwnedFd) -> io::Result<()> {
        loop {
            let (mut changed, mut told, mut heard) = (false, false, false);
            {
                let mut ready = vec![PollFd::new(signals, PollFlags::IN)];
                ready.extend(self.starting.as_ref().map(|starting| PollFd::new(&starting.launched, PollFlags::IN)));
                // Closed, it would be ready for ever.
                ready.extend((!self.closed).then(|| PollFd::new(&self.socket, PollFlags::IN)));
                match poll(&mut ready, self.patience().as_ref()) {
                    Err(rustix::io::Errno::INTR) => continue,
                    other => other?,
                };
                let mut ready = ready.iter().map(|fd| !fd.revents().is_empty());
                changed |= ready.next().unwrap_or(false);
                told |= self.starting.is_some() && ready.next().unwrap_or(false);
                heard |= ready.next().unwrap_or(false);
            }
            if told {
                self.tell_start();
            }
            if heard {
                self.hear()?;
            }
            if changed {
                drain(signals);
            }
            // Before it was said that it runs it cannot be said how it ended.
            if self.starting.is_none() && self.reap() {
                return Ok(());
            }
            if self.ending.is_some_and(|end| end <= Instant::now()) {
                sys::signal_descendants(getpid(), &[], Signal::KILL);
            }
        }
    }

    /// Says that the program runs, or why it does not.
    fn tell_start(&mut self) {
        let Some(Starting { launched, kept }) = self.starting.take() else { return };
        let said = match launched.outcome() {
            None => {
                self.starting = Some(Starting { launched, kept });
                return;
            }
            Some(Ok(())) => {
                let kept: Vec<BorrowedFd<'_>> = kept.iter().map(AsFd::as_fd).collect();
                say(&self.socket, &Outcome::started(launched.pid.as_raw_nonzero().get().unsigned_abs()), &kept)
            }
            Some(Err(why)) => {
                self.program = None;
                say(&self.socket, &Outcome::failed(why), &[])
            }
        };
        if said.is_err() {
            self.close(Duration::ZERO);
        }
    }

    /// How long to wait for anything.
    fn patience(&self) -> Option<Timespec> {
        let left = self.ending?.saturating_duration_since(Instant::now()).max(ROUND);
        Some(Timespec { tv_sec: i64::try_from(left.as_secs()).ok()?, tv_nsec: left.subsec_nanos().into() })
    }

    /// Takes leave of who has ended; `true` when nobody is left.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if self.program == Some(pid) => {
                    self.program = None;
                    let byte = |number: i32| u8::try_from(number & 0xff).unwrap_or(u8::MAX);
                    let report = match status.terminating_signal() {
                        Some(number) => Report::Signalled(byte(number)),
                        None => Report::Exited(status.exit_status().map_or(u8::MAX, byte)),
                    };
                    // Two bytes have room; a daemon that is gone needs no report.
                    let _ = sys::send_with_fds(&self.socket, &report.encode(), &[]);
                }
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return true,
            }
        }
    }

    /// Hears orders, or that nobody gives any more.
    fn hear(&mut self) -> io::Result<()> {
        let mut bytes = [0; 64];
        let length = match rustix::io::read(&self.socket, &mut bytes) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(()),
            // A daemon that was killed may reset it.
            Err(_) | Ok(0) => {
                // Of a program that has not begun nobody knows, and it has nothing to bring to an end in good order.
                self.close(if self.starting.is_some() { Duration::ZERO } else { HANGUP_MAX });
                return Ok(());
            }
            Ok(length) => length,
        };
        self.heard.extend(bytes.iter().take(length));
        while let Some((order, rest)) = self.heard.split_first_chunk::<NOTE_BYTES>() {
            let (order, rest) = (Order::decode(*order), rest.to_vec());
            self.heard = rest;
            match order.ok_or(io::ErrorKind::InvalidData)? {
                // The number of a program that has ended may be another's.
                Order::Signal(number) => {
                    if let (Some(program), Some(signal)) = (self.program, sys::signal(number)) {
                        let _ = kill_process_group(program, signal);
                    }
                }
                Order::Detach => self.detached = true,
                // There is nothing that could.
                Order::Listen(_) => return Err(io::ErrorKind::InvalidData.into()),
                Order::Kill => {
                    self.detached = false;
                    // One that has not begun has nothing to bring to an end in good order.
                    self.end(if self.starting.is_some() { Duration::ZERO } else { TAKEN_BACK_MAX });
                }
            }
        }
        Ok(())
    }

    /// Nobody holds it any more.
    fn close(&mut self, grace: Duration) {
        self.closed = true;
        if !self.detached {
            self.end(grace);
        }
    }

    /// Begins the end; KILL comes after `grace`.
    fn end(&mut self, grace: Duration) {
        let kill_at = Instant::now() + grace;
        if grace > Duration::ZERO && self.ending.is_none() {
            sys::signal_descendants(getpid(), &[], Signal::HUP);
            // Who was stopped hears it only when it goes on.
            sys::signal_descendants(getpid(), &[], Signal::CONT);
        }
        self.ending = Some(self.ending.map_or(kill_at, |earlier| earlier.min(kill_at)));
    }
}

/// Starts the program, and does not wait for it: what it needs may lie on a file system that hangs, and the user's groups
/// with a server that does not answer (initgroups(3)).
fn start(job: Job) -> Result<Starting, NotLaunched> {
    let mut command = Command::new(OsStr::from_bytes(&job.file));
    let mut arguments = job.arguments.iter().map(|word| OsStr::from_bytes(word));
    command.arg0(arguments.next().unwrap_or_default()).args(arguments).env_clear();
    for variable in &job.variables {
        let mut parts = variable.splitn(2, |byte| *byte == b'=').map(OsStr::from_bytes);
        if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            command.env(name, value);
        }
    }
    let kept = match &job.terminal {
        Some(terminal) => terminal::attach(&mut command, terminal, job.who.as_ref()).map(|master| vec![master]),
        None => pipes(&mut command, &job.piped, job.who.as_ref()),
    };
    let kept = kept.map_err(NotLaunched::at(Step::Session))?;
    let launch = Launch {
        terminal: job.terminal.is_some(),
        who: job.becomes().map_err(NotLaunched::at(Step::User))?,
        setuid: job.setuid,
        folders: job.folders.iter().map(|folder| OsStr::from_bytes(folder).into()).collect(),
    };
    let launched = sys::launch(command, launch).map_err(NotLaunched::at(Step::Process))?;
    Ok(Starting { launched, kept })
}

/// Gives the program pipes where it is to have some, and nothing otherwise.
fn pipes(command: &mut Command, piped: &[bool], who: Option<&(u32, u32, String)>) -> io::Result<Vec<OwnedFd>> {
    let mut kept = Vec::new();
    for (number, piped) in piped.iter().enumerate() {
        let theirs = if *piped {
            let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            widen_pipe(&writer);
            let (ours, theirs) = if number == 0 { (writer, reader) } else { (reader, writer) };
            if let Some((uid, gid, _)) = who {
                // Or the user could not open /dev/stdout.
                rustix::fs::fchown(&theirs, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))?;
            }
            kept.push(ours);
            Stdio::from(theirs)
        } else {
            Stdio::null()
        };
        match number {
            0 => command.stdin(theirs),
            1 => command.stdout(theirs),
            _ => command.stderr(theirs),
        };
    }
    Ok(kept)
}

fn read_task(socket: &OwnedFd) -> io::Result<Task> {
    let mut reader = std::fs::File::from(socket.try_clone()?);
    let mut length = [0; message::LENGTH_BYTES];
    reader.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).ok().filter(|length| *length <= JOB_BYTES_MAX);
    let mut body = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
    reader.read_exact(&mut body)?;
    message::decode("job", &body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

pub(super) fn say(socket: &OwnedFd, outcome: &Outcome, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = message::encode_prefixed(outcome);
    // A few bytes on a fresh socket: they leave together.
    sys::send_with_fds(socket, &bytes, descriptors).map(drop)
}
