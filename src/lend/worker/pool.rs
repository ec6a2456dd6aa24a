//! The daemon's end: one worker, started when it is first needed, and a socket to each supervisor.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::UnixStream,
};

use super::{
    child,
    job::{Job, NOTE_BYTES, Order, Outcome, Report},
    passing::{DESCRIPTORS_MAX, receive, send},
};
use crate::{
    proto::{Errno, FromProgram, message},
    sys::Step,
};

/// Longest answer to a job, in bytes: a few small numbers.
const OUTCOME_BYTES_MAX: usize = 64;

/// The daemon's worker.
#[derive(Default)]
pub(in crate::lend) struct Worker(Mutex<Option<Process>>);

struct Process {
    child: Child,
    channel: OwnedFd,
}

/// Why a program does not run.
#[derive(Debug, thiserror::Error)]
pub(in crate::lend) enum Failed {
    /// The program that this lender runs in cannot be its own worker.
    #[error("programs are not offered: the program that this lender is part of does not call serve_as_worker")]
    NotOffered,
    /// There is no worker.
    #[error("the lender cannot start its worker: {0}")]
    Worker(io::Error),
    /// A step of its start.
    #[error("{}: {source}", what(*.step))]
    Start {
        /// Which.
        step: Step,
        /// What the system said.
        source: io::Error,
    },
}

/// A running program; dropped, it and everything that descends from it is ended, with 5 s to end in good order.
pub(in crate::lend) struct Running {
    pub(in crate::lend) pid: u32,
    /// The lender's ends of its streams, in their order; of a terminal the one for all.
    pub(in crate::lend) ends: Vec<OwnedFd>,
    socket: UnixStream,
}

impl Worker {
    /// Runs a program.
    pub(in crate::lend) async fn run(&self, job: &Job) -> Result<Running, Failed> {
        if !child::is_ready() {
            return Err(Failed::NotOffered);
        }
        let mut socket = self.supervisor().map_err(Failed::Worker)?;
        socket.write_all(&message::encode_prefixed(job)).await.map_err(Failed::Worker)?;
        let (outcome, ends) = hear(&mut socket).await.map_err(Failed::Worker)?;
        match outcome.pid {
            Some(pid) => Ok(Running { pid, ends, socket }),
            None => {
                let steps = [Step::Session, Step::User, Step::Privileges, Step::Folder];
                let step = steps.into_iter().find(|step| *step as u8 == outcome.step).unwrap_or(Step::Program);
                Err(Failed::Start { step, source: io::Error::from_raw_os_error(outcome.errno) })
            }
        }
    }

    /// A fresh supervisor that waits for its job.
    fn supervisor(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut process = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hand_over = |process: &Process| send(&process.channel, &[0], &[theirs.as_fd()]);
        let handed = process.as_ref().map(hand_over);
        if !matches!(handed, Some(Ok(_))) {
            // The first, or the last one was killed.
            if let Some(mut gone) = process.take() {
                let _ = gone.child.kill();
                let _ = gone.child.wait();
            }
            let started = Process::start()?;
            hand_over(&started)?;
            *process = Some(started);
        }
        UnixStream::from_std(ours)
    }
}

impl Process {
    fn start() -> io::Result<Self> {
        // Whole messages, and an end that is seen.
        let (channel, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg0(child::NAME).env_clear().current_dir("/").stdin(Stdio::from(theirs)).stdout(Stdio::null());
        Ok(Self { child: command.spawn()?, channel })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The channel closes with it, which ends it; its supervisors end by themselves.
        let _ = rustix::net::shutdown(&self.channel, rustix::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

impl Running {
    /// Sends a signal to its process group.
    pub(in crate::lend) async fn signal(&self, number: u8) {
        self.order(Order::Signal(number)).await;
    }

    /// Lets it outlive this handle.
    pub(in crate::lend) async fn detach(&self) {
        self.order(Order::Detach).await;
    }

    /// Ends it and what descends from it at once.
    pub(in crate::lend) fn kill(&self) {
        // A supervisor that hangs, so that the socket is full, is told by its end that comes next.
        let _ = self.socket.try_write(&Order::Kill.encode());
    }

    async fn order(&self, order: Order) {
        // A supervisor that is gone has ended everything.
        while self.socket.writable().await.is_ok() {
            match self.socket.try_write(&order.encode()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    }

    /// Waits for the program's end. Cancelling loses nothing: a report comes whole.
    pub(in crate::lend) async fn ended(&self) -> FromProgram {
        let mut note = [0; NOTE_BYTES];
        while self.socket.readable().await.is_ok() {
            match self.socket.try_read(&mut note) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Ok(NOTE_BYTES) => {}
                _ => break,
            }
            match Report::decode(note) {
                Some(Report::Exited(status)) => return FromProgram::Exited(status),
                Some(Report::Signalled(number)) => return FromProgram::Signalled(number),
                None => break,
            }
        }
        // The supervisor was killed, and so is what it supervised.
        FromProgram::Signalled(KILL)
    }
}

/// SIGKILL.
const KILL: u8 = 9;

impl Failed {
    /// What a system call would have said.
    pub(in crate::lend) fn errno(&self) -> Option<Errno> {
        match self {
            Self::NotOffered => None,
            Self::Worker(source) | Self::Start { source, .. } => Errno::of(source),
        }
    }
}

fn what(step: Step) -> &'static str {
    match step {
        Step::Session => "a session and a terminal cannot be made",
        Step::User => "the user cannot be taken on",
        Step::Privileges => "privileges cannot be given up",
        Step::Folder => "the working directory cannot be entered",
        Step::Program => "it cannot be executed",
    }
}

/// The answer to a job, and the descriptors that come with its first byte.
async fn hear(socket: &mut UnixStream) -> io::Result<(Outcome, Vec<OwnedFd>)> {
    let mut ends = Vec::with_capacity(DESCRIPTORS_MAX);
    let mut length = [0; message::LENGTH_BYTES];
    let mut filled = 0;
    while let Some(rest) = length.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += match socket.async_io(Interest::READABLE, || receive(&*socket, rest, &mut ends)).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => more,
        };
    }
    let length = usize::try_from(u32::from_be_bytes(length)).ok().filter(|length| *length <= OUTCOME_BYTES_MAX);
    let mut body = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
    socket.read_exact(&mut body).await?;
    let outcome =
        message::decode("outcome", &body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((outcome, ends))
}
