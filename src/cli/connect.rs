//! `capuchin connect`: one session in the background that every other command then shares.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;

use super::{
    host::HostArgument,
    presence::Presence,
    report::{Failure, escape, print, warn},
    signals::Stop,
};
use crate::{
    Borrower, Share,
    borrow::{Beginning, while_others_begin},
    proto::ErrorKind,
    sys,
};

/// How the line begins that the one in the background says when it serves.
const CONNECTED: &str = "Connected to ";
/// Who waits for another command longer than this is told so.
const TELL_AFTER: Duration = Duration::from_secs(2);

/// Keep a session in the background, so that every other command begins at once and needs none of its own
#[derive(clap::Args)]
#[command(before_help = "\
Examples:
  capuchin connect lab          asks for the password if need be, and comes back
  capuchin exec lab -- uptime   over that session
  capuchin connect --stop lab   ends it

Over it go run, exec, shell, forward, offer, check and doctor. Its end is that of the programs and shells there; run \
and forward go on over sessions of their own.

Commands that name another user or another port (-l, -p) have a session of their own. Bulk crosses one more process \
of this machine than without it.")]
pub struct Arguments {
    #[command(flatten)]
    host: HostArgument,
    /// Stay in the foreground, until interrupted
    #[arg(short = 'F', long, conflicts_with = "stop")]
    foreground: bool,
    /// End the session in the background
    #[arg(long)]
    stop: bool,
}

pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { host, foreground, stop } = arguments;
    let text = host.text()?;
    if stop {
        return end(&text).await;
    }
    if foreground {
        return serve(&text).await;
    }
    if let Some(pid) = Borrower::sharing_process(&text).await? {
        return is_connected(&text, pid).await;
    }
    // Here, where a person can be asked for a password; it leaves a ticket for the other.
    // Ended in good order, as the policy may allow one session alone.
    let beginning = Beginning::announce(&text);
    let began = match host.connect().await {
        Ok(own) => {
            let line = connected(&own, "until");
            let _ = own.close().await;
            start(&text).map(|()| line)
        }
        Err(failure) => Err(failure),
    };
    drop(beginning);
    let failure = match began {
        Ok(line) => return print(&line),
        Err(failure) => failure,
    };
    // Another command may have been faster, and then there is what was wanted.
    let look = async || Borrower::sharing_process(&text).await.ok().flatten();
    match found_behind(&failure, &text, look).await {
        Some(pid) => is_connected(&text, pid).await,
        None => Err(failure),
    }
}

/// To whom, as whom, and how it is ended.
fn connected(borrower: &Borrower, until: &str) -> String {
    let (host, user) = (escape(borrower.host()), borrower.user());
    format!("{CONNECTED}{host} as {user}; every command shares this session {until}: capuchin connect --stop {host}")
}

/// The number of a process that the kernel has none for here, as it is outside of our PID namespace (unix(7)).
const OUTSIDE: i32 = 0;

/// Which process keeps a session, for a person.
pub fn process(pid: i32) -> String {
    match pid {
        OUTSIDE => "outside of this PID namespace".to_owned(),
        pid => format!("pid {pid}"),
    }
}

/// Another process keeps the session, which may be suspended.
async fn is_connected(host: &str, pid: i32) -> Result<(), Failure> {
    if Borrower::sharing_process_answers(host).await? {
        return print(&format!("{host} is connected already"));
    }
    let process = process(pid);
    let text =
        format!("the session in the background with {host} ({process}) does not answer: it is suspended, or hangs");
    let help = format!("help: to have another one: capuchin connect --stop {host}, and then this again");
    let notes = match pid {
        OUTSIDE => vec![help + ", where it runs"],
        pid => vec![format!("help: to let it go on: kill -CONT {pid}"), help],
    };
    Err(Failure { notes, ..Failure::new(ErrorKind::Local, text) })
}

/// What is found of another command's session behind a failure of our own, which that command may be the reason of: where the
/// policy allows few sessions, one that begins just now has its own for a moment, and shares it then.
pub async fn found_behind<T>(failure: &Failure, host: &str, look: impl AsyncFn() -> Option<T>) -> Option<T> {
    if !matches!(failure.kind, ErrorKind::Busy | ErrorKind::Local) {
        return look().await;
    }
    let looking = while_others_begin(host, look);
    tokio::pin!(looking);
    match timeout(TELL_AFTER, &mut looking).await {
        Ok(found) => found,
        Err(_) => {
            warn(&format!("capuchin: waiting for another command that connects to {host}"));
            looking.await
        }
    }
}

/// Serves until the session is over for good, or a signal ends it.
async fn serve(host: &str) -> Result<(), Failure> {
    let mut stop = Stop::listen()?;
    let beginning = Beginning::announce(host);
    let borrower = stop.interrupts(async { Ok(Borrower::connect(host).await?) }).await?;
    borrower.keep_connected();
    let share = Share::open(&borrower)?;
    drop(beginning);
    let _presence = Presence::announce(&borrower, "connect", vec!["shared with every other command".to_owned()]);
    print(&connected(&borrower, "until Ctrl-C, or"))?;
    let ended = stop.interrupts(async { Err(share.serve().await.into()) }).await;
    drop(share);
    borrower.leave().await;
    ended
}

/// Starts this command once more, apart from this terminal, and waits until it serves.
pub fn start(host: &str) -> Result<(), Failure> {
    let failed =
        |error: std::io::Error| Failure::new(ErrorKind::Local, format!("cannot go to the background: {error}"));
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new("setsid");
    command.arg(program).args(["connect", "--foreground", host]);
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // It outlives the shell that started us: what that waits on, as a lock or a pipe, must not wait for it.
    sys::give_stdio_alone(&mut command);
    let mut child = command.spawn().map_err(failed)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
    }
    if line.starts_with(CONNECTED) {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        let _ = stderr.take(4096).read_to_string(&mut said);
    }
    let _ = child.wait();
    // Its line has our form already; its notes follow.
    let mut lines = said.lines().map(|line| line.trim_start_matches("  = ").to_owned());
    let why = lines.next().unwrap_or_default();
    let why = why.strip_prefix("error[").and_then(|rest| rest.split_once("]: ")).map_or(why.as_str(), |(_, why)| why);
    let failure = Failure::new(ErrorKind::Local, format!("the session did not begin: {why}"));
    Err(Failure { notes: lines.collect(), ..failure })
}

async fn end(host: &str) -> Result<(), Failure> {
    let Some(number) = Borrower::sharing_process(host).await? else {
        return Err(Failure::new(ErrorKind::Usage, format!("{host} is not connected")));
    };
    // It has none outside of our PID namespace.
    let Some(pid) = Pid::from_raw(number) else {
        let text = format!("the process that shares the session with {host} is outside of this PID namespace");
        let notes = vec![format!("help: where it runs: capuchin connect --stop {host}")];
        return Err(Failure { notes, ..Failure::new(ErrorKind::Usage, text) });
    };
    kill_process(pid, Signal::TERM)
        .map_err(|errno| Failure::new(ErrorKind::Local, format!("cannot end the session: {errno}")))?;
    // One that is suspended hears it then.
    let _ = kill_process(pid, Signal::CONT);
    print(&format!("The session with {host} ends"))
}
