//! While a program runs there: keys and bytes in, bytes out, signals and sizes across, and its exit status at the end.

use std::{io, os::unix::process::ExitStatusExt, process::ExitStatus, task::Poll};

use bytes::Bytes;
use rustix::{
    process::{Signal, kill_current_process_group},
    stdio::{stderr, stdout},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{
    escape_keys::{EscapeKeys, HELP, Typed},
    failed,
    local_terminal::{self, LocalTerminal},
    streams,
};
use crate::{
    BorrowError, Borrower, Child, ChildControl, ChildStdin, Command, Stdio,
    cli::report::{Failure, escape, warn},
    proto::ErrorKind,
};

/// What a shell adds to a signal's number for the exit status of a program that it ended.
const SIGNALLED: u8 = 128;
/// What a shell says of a program that SIGPIPE ended.
const BROKEN_PIPE: u8 = SIGNALLED + 13;
/// What goes to the program, by Linux's number; SIGHUP last.
const PASSED_ON: [u8; 4] = [2, 3, 15, 1];

/// Runs `command` to its end, with a terminal if one is `wanted`.
pub async fn run(borrower: &Borrower, mut command: Command, wanted: bool, escape: Option<u8>) -> Result<(), Failure> {
    let terminal = super::local_terminal(wanted);
    if wanted {
        command.terminal(local_terminal::wanted(terminal.as_ref()));
    }
    command.stdout(Stdio::Piped).stderr(Stdio::Piped);
    let mut signals = Signals::listen()?;
    let mut child = tokio::select! {
        child = command.spawn() => child.map_err(failed)?,
        number = signals.end() => return Err(Failure::silent(SIGNALLED + number)),
    };
    let raw = terminal.as_ref().map(LocalTerminal::raw);
    let ended = converse(borrower, &mut child, &mut signals, terminal.as_ref(), escape).await;
    // Before anything is said on it.
    drop(raw);
    match ended {
        Ok(status) => exit(status),
        Err(End::Asked) => {
            warn(&format!("Connection to {} closed.", escape_host(borrower)));
            Err(Failure::silent(super::super::report::FAILURE))
        }
        Err(End::Signal(number)) => Err(Failure::silent(SIGNALLED + number)),
        Err(End::Stdout(error)) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::silent(BROKEN_PIPE)),
        Err(End::Stdout(error)) => Err(Failure::new(ErrorKind::Local, format!("cannot write its output: {error}"))),
        Err(End::Lost(error)) => Err(error.into()),
    }
}

/// Why it ended before the program did.
enum End {
    /// `~.`
    Asked,
    Signal(u8),
    Stdout(io::Error),
    Lost(BorrowError),
}

async fn converse(
    borrower: &Borrower,
    child: &mut Child,
    signals: &mut Signals,
    terminal: Option<&LocalTerminal>,
    escape: Option<u8>,
) -> Result<ExitStatus, End> {
    let control = child.control();
    let input = feed(borrower, child.stdin.take(), terminal, escape, &control);
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let output = async {
        let out = async {
            match &out {
                Some(out) => streams::write_out(out, stdout()).await,
                None => Ok(()),
            }
        };
        let err = async {
            match &err {
                Some(err) => streams::write_out(err, stderr()).await,
                None => Ok(()),
            }
        };
        tokio::try_join!(out, err).map(drop)
    };
    tokio::pin!(input, output);
    let (mut feeding, mut speaking, mut status) = (true, true, None);
    let mut passed_on = Vec::new();
    loop {
        if let (Some(status), false) = (status, speaking) {
            return Ok(status);
        }
        tokio::select! {
            ended = child.ended(), if status.is_none() => status = Some(ended.map_err(End::Lost)?),
            written = &mut output, if speaking => {
                written.map_err(End::Stdout)?;
                speaking = false;
            }
            asked = &mut input, if feeding => {
                feeding = false;
                if asked {
                    return Err(End::Asked);
                }
            }
            event = signals.event() => match event {
                Event::Resized => {
                    if let Some(size) = local_terminal::size() {
                        control.resize(size).await.map_err(End::Lost)?;
                    }
                }
                // On a terminal keys are the program's, so that a signal means this command.
                Event::Signal(number) if terminal.is_some() || passed_on.contains(&number) => {
                    return Err(End::Signal(number));
                }
                Event::Signal(number) => {
                    passed_on.push(number);
                    control.signal(number).await.map_err(End::Lost)?;
                }
            },
        }
    }
}

/// Feeds the program what stdin gives; `true` if the keys say that this is the end.
async fn feed(
    borrower: &Borrower,
    stdin: Option<ChildStdin>,
    terminal: Option<&LocalTerminal>,
    escape: Option<u8>,
    control: &ChildControl,
) -> bool {
    let Some(stdin) = stdin else { return false };
    let mut bytes_rx: mpsc::Receiver<Bytes> = streams::read_stdin();
    let mut keys = terminal.map(|_| EscapeKeys::new(escape));
    while let Some(bytes) = bytes_rx.recv().await {
        let typed = match &mut keys {
            None => {
                // It reads no more; what it says still comes.
                if stdin.write_all_bytes(bytes).await.is_err() {
                    return false;
                }
                continue;
            }
            Some(keys) => keys.take(&bytes),
        };
        for typed in typed {
            match typed {
                Typed::Bytes(bytes) => {
                    if stdin.write_all_bytes(bytes.into()).await.is_err() {
                        return false;
                    }
                }
                Typed::End => return true,
                Typed::Help => tell(HELP),
                Typed::List => tell(&held(borrower)),
                Typed::Suspend => suspend(terminal, control).await,
            }
        }
    }
    false
}

/// Stops this process until it is told to go on, with the terminal as it was.
async fn suspend(terminal: Option<&LocalTerminal>, control: &ChildControl) {
    let Some(terminal) = terminal else { return };
    terminal.restore();
    // The whole job, as Ctrl-Z would; who started us waits for all of it.
    let _ = kill_current_process_group(Signal::TSTP);
    terminal.set_raw();
    if let Some(size) = local_terminal::size() {
        let _ = control.resize(size).await;
    }
}

fn held(borrower: &Borrower) -> String {
    format!(
        "\r\nOne program in session {} at {} as {}.\r\n",
        borrower.session_id(),
        escape_host(borrower),
        borrower.user()
    )
}

fn escape_host(borrower: &Borrower) -> String {
    escape(borrower.host())
}

/// For the person at the keys, and not in what the program wrote.
fn tell(text: &str) {
    let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
}

fn exit(status: ExitStatus) -> Result<(), Failure> {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
        (None, Some(number)) => SIGNALLED.saturating_add(u8::try_from(number).unwrap_or(0)),
        (None, None) => super::super::report::FAILURE,
    };
    if code == 0 { Ok(()) } else { Err(Failure::silent(code)) }
}

/// The signals that mean the program or us, and those that say that the terminal is of another size.
struct Signals {
    ends: Vec<(u8, tokio::signal::unix::Signal)>,
    size: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> Result<Self, Failure> {
        let failed = |error| Failure::new(ErrorKind::Local, format!("cannot listen for signals: {error}"));
        let listen = |kind| signal(kind).map_err(failed);
        let mut ends = Vec::new();
        for number in PASSED_ON {
            ends.push((number, listen(SignalKind::from_raw(number.into()))?));
        }
        Ok(Self { ends, size: listen(SignalKind::window_change())? })
    }

    /// The next that means the program or us.
    async fn end(&mut self) -> u8 {
        loop {
            if let Event::Signal(number) = self.event().await {
                return number;
            }
        }
    }

    async fn event(&mut self) -> Event {
        std::future::poll_fn(|cx| {
            for (number, signal) in &mut self.ends {
                if signal.poll_recv(cx).is_ready() {
                    return Poll::Ready(Event::Signal(*number));
                }
            }
            self.size.poll_recv(cx).map(|_| Event::Resized)
        })
        .await
    }
}

/// What a signal means.
enum Event {
    Signal(u8),
    Resized,
}
