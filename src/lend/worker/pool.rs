//! The daemon's end: one worker, started when it is first needed, and a socket to each supervisor.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, shutdown, socketpair};
use tokio::{io::Interest, net::UnixStream};

use super::{
    child,
    job::{Job, NOTE_BYTES, Order, Outcome, Report, SocketJob, Task, Use},
};
use crate::{
    lend::{os_user::Account, shown_path::shown_path},
    policy::LenderPath,
    proto::{Errno, FromProgram, message},
    sys::{Step, WHAT_BYTES_MAX, receive_with_fds, send_with_fds},
};

/// Longest answer to a job, in bytes: a few small numbers and a path.
const OUTCOME_BYTES_MAX: usize = 64 + WHAT_BYTES_MAX;

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
    #[error(
        "programs, and acting as another user, are not offered: the program that this lender is part of does not call serve_as_worker"
    )]
    NotOffered,
    /// There is no worker.
    #[error("the lender cannot start its worker: {0}")]
    Worker(io::Error),
    /// A step of its start.
    #[error("{}: {source}", describe(*.step, .what))]
    Start {
        /// Which.
        step: Step,
        /// The folder or interpreter that the system said it of, as it is shown; empty if it has no name.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A running program; dropped, it and everything that descends from it is ended, with 5 s to end in good order.
pub(in crate::lend) struct Running {
    pub(in crate::lend) pid: u32,
    /// The lender's ends of its streams, in their order; of a terminal the one for all.
    pub(in crate::lend) ends: Vec<OwnedFd>,
    supervised: Supervised,
}

/// A supervisor with whatever is below it, begun or not. Dropped, it ends all of it, and the place that it takes goes back
/// when nothing is left: of what was detached, when that ends by itself.
struct Supervised {
    socket: Arc<UnixStream>,
    place: Option<Box<dyn Send + Sync>>,
}

impl Drop for Supervised {
    fn drop(&mut self) {
        // Its reading end stays: the supervisor closes the other when it exits.
        let _ = shutdown(&*self.socket, Shutdown::Write);
        let (socket, place) = (self.socket.clone(), self.place.take());
        // Without a runtime the daemon is ending, and its places with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let mut unheard = [0; NOTE_BYTES];
                while socket.readable().await.is_ok() {
                    match socket.try_read(&mut unheard) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Ok(length) if length > 0 => {}
                        _ => break,
                    }
                }
                drop(place);
            });
        }
    }
}

impl Worker {
    /// Runs a program, which takes a `place` until nothing of it is left.
    ///
    /// # Cancellation
    /// What was begun is killed, wherever its start had come to.
    pub(in crate::lend) async fn run(&self, job: Job, place: impl Send + Sync + 'static) -> Result<Running, Failed> {
        let (pid, ends, supervised) = self.begin(Task::Program(job), place).await?;
        Ok(Running { pid, ends, supervised })
    }

    /// Connects or binds a Unix socket as the user of `account`; a process of that takes a `place` until it has ended.
    ///
    /// # Cancellation
    /// The attempt ends.
    pub(in crate::lend) async fn unix_socket(
        &self,
        (account, path): (&Account, &LenderPath),
        to: Use,
        place: impl Send + Sync + 'static,
    ) -> Result<(OwnedFd, Keeper), Failed> {
        let who = (account.uid, account.gid, account.name.clone());
        let job = SocketJob { path: path.as_bytes().to_vec(), who, to };
        let (_, ends, supervised) = self.begin(Task::Socket(job), place).await?;
        let socket = ends.into_iter().next();
        let socket = socket.ok_or_else(|| Failed::Worker(io::ErrorKind::InvalidData.into()))?;
        Ok((socket, Keeper { supervised }))
    }

    async fn begin(
        &self,
        task: Task,
        place: impl Send + Sync + 'static,
    ) -> Result<(u32, Vec<OwnedFd>, Supervised), Failed> {
        if !child::is_ready() {
            return Err(Failed::NotOffered);
        }
        let socket = Arc::new(self.supervisor().map_err(Failed::Worker)?);
        let supervised = Supervised { socket, place: Some(Box::new(place)) };
        let asked = write_all(&supervised.socket, &message::encode_prefixed(&task)).await;
        // Where there is no supervisor the answer may be there before the question.
        let answered = hear(&supervised.socket).await;
        let (outcome, ends) = answered.map_err(|error| Failed::Worker(asked.err().unwrap_or(error)))?;
        match outcome.pid {
            Some(pid) => Ok((pid, ends, supervised)),
            None => {
                let step = Step::ALL.into_iter().find(|step| *step as u8 == outcome.step).unwrap_or(Step::Program);
                let what = shown_path(&outcome.what);
                Err(Failed::Start { step, what, source: io::Error::from_raw_os_error(outcome.errno) })
            }
        }
    }

    /// A fresh supervisor that waits for its job.
    fn supervisor(&self) -> io::Result<UnixStream> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let mut process = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hand_over = |process: &Process| send_with_fds(&process.channel, &[0], &[theirs.as_fd()]);
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

/// The process that keeps a listening socket, and removes its file when this is dropped.
pub(in crate::lend) struct Keeper {
    supervised: Supervised,
}

impl Keeper {
    /// Listens, as the user; or changes the backlog.
    pub(in crate::lend) async fn listen(&self, backlog: u32) -> io::Result<()> {
        let socket = &self.supervised.socket;
        write_all(socket, &Order::Listen(backlog).encode()).await?;
        let mut note = [0; NOTE_BYTES];
        fill(socket, &mut note, &mut Vec::new()).await?;
        match Report::decode(note) {
            Some(Report::Done(0)) => Ok(()),
            Some(Report::Done(errno)) => Err(io::Error::from_raw_os_error(errno.cast_signed())),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Waits until the file is removed.
    pub(in crate::lend) async fn close(self) {
        let _ = shutdown(&*self.supervised.socket, Shutdown::Write);
        let _ = fill(&self.supervised.socket, &mut [0], &mut Vec::new()).await;
    }
}

impl Process {
    fn start() -> io::Result<Self> {
        // Whole messages, and an end that is seen.
        let (channel, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let mut command = Command::new("/proc/self/exe");
        // Programs get what the daemon was started with, and not what it has taken for its sockets since.
        command.arg0(child::NAME).args(child::descriptors_at_start().map(|most| most.to_string()));
        command.env_clear().current_dir("/").stdin(Stdio::from(theirs)).stdout(Stdio::null());
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
        let _ = self.supervised.socket.try_write(&Order::Kill.encode());
    }

    async fn order(&self, order: Order) {
        // A supervisor that is gone has ended everything.
        let _ = write_all(&self.supervised.socket, &order.encode()).await;
    }

    /// Waits for the program's end. Cancelling loses nothing: a report comes whole.
    pub(in crate::lend) async fn ended(&self) -> FromProgram {
        let mut note = [0; NOTE_BYTES];
        let socket = &self.supervised.socket;
        while socket.readable().await.is_ok() {
            match socket.try_read(&mut note) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Ok(NOTE_BYTES) => {}
                _ => break,
            }
            match Report::decode(note) {
                Some(Report::Exited(status)) => return FromProgram::Exited(status),
                Some(Report::Signalled(number)) => return FromProgram::Signalled(number),
                Some(Report::Done(_)) | None => break,
            }
        }
        // The supervisor was killed, and so is what it supervised.
        FromProgram::Signalled(KILL)
    }
}

/// SIGKILL.
const KILL: u8 = 9;

impl Failed {
    /// Whether nothing is said of the program itself, because a step before failed.
    pub(in crate::lend) fn is_before_program(&self) -> bool {
        match self {
            Self::NotOffered | Self::Worker(_) => true,
            Self::Start { step, .. } => !matches!(step, Step::Program | Step::Interpreter),
        }
    }

    /// What a system call would have said.
    pub(in crate::lend) fn errno(&self) -> Option<Errno> {
        match self {
            Self::NotOffered => None,
            Self::Worker(source) | Self::Start { source, .. } => Errno::of(source),
        }
    }
}

fn describe(step: Step, what: &str) -> String {
    match step {
        Step::Process => "the lender's machine gives no process for it".to_owned(),
        Step::Session => "a session and a terminal cannot be made".to_owned(),
        Step::User => "the user cannot be taken on".to_owned(),
        Step::Privileges => "privileges cannot be given up".to_owned(),
        Step::Folder => format!("the working directory {what} cannot be entered"),
        Step::Program => "it cannot be executed".to_owned(),
        Step::Interpreter if what.is_empty() => "the interpreter or loader that it needs cannot be executed".to_owned(),
        Step::Interpreter => format!("its interpreter {what} cannot be executed"),
    }
}

async fn write_all(socket: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        socket.writable().await?;
        match socket.try_write(bytes) {
            Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The answer to a job, and the descriptors that come with its first byte.
async fn hear(socket: &UnixStream) -> io::Result<(Outcome, Vec<OwnedFd>)> {
    let mut ends = Vec::new();
    let mut length = [0; message::LENGTH_BYTES];
    fill(socket, &mut length, &mut ends).await?;
    let length = usize::try_from(u32::from_be_bytes(length)).ok().filter(|length| *length <= OUTCOME_BYTES_MAX);
    let mut body = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
    fill(socket, &mut body, &mut ends).await?;
    let outcome =
        message::decode("outcome", &body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((outcome, ends))
}

async fn fill(socket: &UnixStream, bytes: &mut [u8], ends: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        filled += match socket.async_io(Interest::READABLE, || receive_with_fds(socket, rest, ends)).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => more,
        };
    }
    Ok(())
}
