//! While a program runs there: keys and bytes in, bytes out, signals and sizes across, and its exit status at the end.

use std::{
    io,
    os::{fd::BorrowedFd, unix::process::ExitStatusExt},
    process::ExitStatus,
};

use rustix::stdio::{stderr, stdout};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{
    Wanted,
    keys::Keys,
    local_terminal::{self, LocalTerminal},
    signals::{Event, Signals, stop_job, stop_self},
    streams::{Input, Output, write_out},
};
use crate::{
    BorrowError, Borrower, Child, ChildControl, ChildStdin, Stdio,
    borrow::ProgramStream,
    cli::{
        report::{CLOSED_STDOUT, FAILURE, Failure, SIGNALLED, escape, of_stdin, warn},
        runtime::no_threads,
    },
    proto::{ErrorKind, Reset},
    session::{Crew, Session, let_driver_send},
};

/// Runs what is `wanted` to its end, and that of its session.
pub(super) async fn run(mut wanted: Wanted<'_>, on_terminal: bool, escape: Option<u8>) -> Result<(), Failure> {
    let ended = run_to_end(&mut wanted, on_terminal, escape).await;
    wanted.borrower.leave().await;
    ended
}

async fn run_to_end(wanted: &mut Wanted<'_>, on_terminal: bool, escape: Option<u8>) -> Result<(), Failure> {
    let terminal = super::local_terminal(on_terminal);
    if on_terminal {
        wanted.command.terminal(local_terminal::wanted(terminal.as_ref()));
    }
    wanted.command.stdout(Stdio::Piped).stderr(Stdio::Piped);
    let mut signals = Signals::listen()?;
    let mut child = tokio::select! {
        child = wanted.start() => child?,
        number = signals.end() => return Err(Failure::silent(SIGNALLED + number)),
    };
    let (borrower, _presence) = (&wanted.borrower, wanted.announce());
    if terminal.is_some() {
        signals.listen_for_stops()?;
    }
    let raw = terminal.as_ref().map(LocalTerminal::raw);
    let ended = converse(borrower, &mut child, &mut signals, on_terminal, terminal.as_ref(), escape).await;
    // Before anything is said on it.
    drop(raw);
    match ended {
        Ok(status) => exit(status),
        Err(End::Asked) => {
            warn(&format!("Connection to {} closed.", escape_host(borrower)));
            Err(Failure::silent(FAILURE))
        }
        Err(End::Signal(number)) => Err(Failure::silent(SIGNALLED + number)),
        Err(End::Stdin(error)) => Err(no_threads(&error.to_string())),
        Err(End::Unread(error)) => Err(of_stdin(&error)),
        Err(End::Stdout(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::silent(CLOSED_STDOUT)),
        Err(End::Stdout(error)) => Err(Failure::new(ErrorKind::Local, format!("cannot write its output: {error}"))),
        Err(End::Lost(error)) => Err(error.into()),
    }
}

/// Why it ended before the program did.
enum End {
    /// `~.`
    Asked,
    Signal(u8),
    /// There is no thread to read it.
    Stdin(io::Error),
    /// It failed before its end.
    Unread(io::Error),
    Stdout(io::Error),
    Lost(BorrowError),
}

async fn converse(
    borrower: &Borrower,
    child: &mut Child,
    signals: &mut Signals,
    on_terminal: bool,
    terminal: Option<&LocalTerminal>,
    escape: Option<u8>,
) -> Result<ExitStatus, End> {
    let control = child.control();
    let session = borrower.session();
    let (suspend_tx, mut suspend_rx) = mpsc::channel::<oneshot::Sender<()>>(1);
    let mut copies = Copies::default();
    if let Some(stdin) = child.stdin.take() {
        let keys = terminal.map(|_| Keys::new(escape, suspend_tx, held(borrower)));
        copies.feed(&session, stdin, keys).map_err(End::Stdin)?;
    }
    let mut speaking = 0;
    if let Some(out) = child.stdout.take() {
        copies.write_out(&session, out, stdout());
        speaking += 1;
    }
    if let Some(err) = child.stderr.take() {
        copies.write_out(&session, err, stderr());
        speaking += 1;
    }
    let (mut status, mut broke_off) = (None, None);
    let mut passed_on = Vec::new();
    loop {
        if let (Some(status), 0) = (status, speaking) {
            // Its end may have come before all of its output, and the connection have gone in between.
            return broke_off.map_or(Ok(status), |why| Err(End::Lost(child.output_broke_off(why))));
        }
        tokio::select! {
            ended = child.ended(), if status.is_none() => status = Some(ended.map_err(End::Lost)?),
            Some(copied) = copies.next() => match copied {
                Copied::Input(read) => read.map_err(End::Unread)?,
                Copied::Asked => return Err(End::Asked),
                Copied::Output(written) => {
                    // Why, the program's own end says better, if that has not come.
                    broke_off = broke_off.or(written.map_err(End::Stdout)?.err());
                    speaking -= 1;
                }
            },
            // Here, on the first thread: it stops before it goes on, and another might not.
            Some(done_tx) = suspend_rx.recv() => {
                if let Some(terminal) = terminal {
                    suspend(terminal, &control, stop_job).await;
                }
                let _ = done_tx.send(());
            }
            event = signals.event() => match (event, terminal) {
                (Event::Resized, _) => {
                    if let Some(size) = local_terminal::size() {
                        control.resize(size).await.map_err(End::Lost)?;
                    }
                }
                (Event::Stop, Some(terminal)) => suspend(terminal, &control, stop_self).await,
                // Behind SIGSTOP too, which nobody hears: whoever had the terminal meanwhile has set it to its own modes.
                (Event::GoOn, Some(terminal)) => resume(terminal, &control).await,
                (Event::Stop | Event::GoOn, None) => {}
                // On a terminal keys are the program's, so that a signal means this command.
                (Event::Signal(number), _) if on_terminal || passed_on.contains(&number) => {
                    return Err(End::Signal(number));
                }
                (Event::Signal(number), _) => {
                    passed_on.push(number);
                    control.signal(number).await.map_err(End::Lost)?;
                }
            },
        }
    }
}

/// What copies between our streams and the program's: in the task of the session, where it cannot block.
#[derive(Default)]
struct Copies {
    beside: Crew<Copied>,
    apart: JoinSet<Copied>,
}

/// Which copy is over.
enum Copied {
    /// The program's input.
    Input(io::Result<()>),
    /// The keys say that this is the end.
    Asked,
    Output(io::Result<io::Result<()>>),
}

impl Copies {
    /// Feeds the program what our stdin gives.
    fn feed(&mut self, session: &Session, stdin: ChildStdin, keys: Option<Keys>) -> io::Result<()> {
        let input = Input::open()?;
        self.spawn(session, input.may_block(), async move {
            let asked = match keys {
                Some(keys) => keys.pass_on(stdin, input).await,
                None => return Copied::Input(feed(stdin, input).await),
            };
            if asked { Copied::Asked } else { Copied::Input(Ok(())) }
        });
        Ok(())
    }

    /// Writes what the program says.
    fn write_out(&mut self, session: &Session, from: impl ProgramStream, to: BorrowedFd<'static>) {
        let output = Output::open(to);
        self.spawn(session, output.may_block(), async move { Copied::Output(write_out(from, output).await) });
    }

    fn spawn(&mut self, session: &Session, may_block: bool, copy: impl Future<Output = Copied> + Send + 'static) {
        if may_block {
            self.apart.spawn(copy);
        } else {
            self.beside.spawn(session, copy);
        }
    }

    /// The next that is over; `None` when all are.
    async fn next(&mut self) -> Option<Copied> {
        let broken = |why: String| Copied::Output(Err(io::Error::other(why)));
        tokio::select! {
            Some(copied) = self.beside.join_next() => Some(copied.unwrap_or_else(|panicked| broken(panicked.to_string()))),
            Some(copied) = self.apart.join_next() => Some(copied.unwrap_or_else(|failed| broken(failed.to_string()))),
            else => None,
        }
    }
}

/// Feeds the program what stdin gives.
///
/// # Errors
/// It cannot be read to its end, which the program is not told as one.
async fn feed(stdin: ChildStdin, mut input: Input) -> io::Result<()> {
    while let Some(bytes) = input.read().await {
        let bytes = bytes.inspect_err(|_| stdin.stream().reset(Reset::Cancelled))?;
        // It reads no more; what it says still comes.
        if stdin.stream().write_all_bytes(bytes).await.is_err() {
            break;
        }
        let_driver_send().await;
    }
    Ok(())
}

/// Stops this process until it is told to go on, with the terminal as it was.
async fn suspend(terminal: &LocalTerminal, control: &ChildControl, stop: fn()) {
    terminal.restore();
    stop();
    resume(terminal, control).await;
}

/// Every key is the program's again, and its terminal as large as ours is by now.
async fn resume(terminal: &LocalTerminal, control: &ChildControl) {
    terminal.set_raw();
    if let Some(size) = local_terminal::size() {
        let _ = control.resize(size).await;
    }
}

fn held(borrower: &Borrower) -> String {
    format!("One program in session {} at {} as {}.\r\n", borrower.session_id(), escape_host(borrower), borrower.user())
}

fn escape_host(borrower: &Borrower) -> String {
    escape(borrower.host())
}

fn exit(status: ExitStatus) -> Result<(), Failure> {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
        (None, Some(number)) => SIGNALLED.saturating_add(u8::try_from(number).unwrap_or(0)),
        (None, None) => FAILURE,
    };
    if code == 0 { Ok(()) } else { Err(Failure::silent(code)) }
}
