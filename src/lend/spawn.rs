//! Lends programs: runs what the grant allows, joins its streams with the borrower's, and ends all of it with its handle.

mod account;
mod choose;
mod environment;
mod find;
mod places;
mod request;
mod stdio;

use std::{os::fd::OwnedFd, time::Duration};

use tokio::{sync::SemaphorePermit, time::timeout};

use self::{
    places::{Place, ProgramPlace},
    stdio::Ends,
};
use super::{
    borrower::{Borrower, Held},
    dispatch::refuse,
    shown_path::shown_path,
    worker::{Failed, Running},
};
use crate::{
    proto::{Answer, ErrorKind, FromProgram, Refusal, Reset, Spawn, SpawnStdio, Spawned, ToProgram},
    session::{self, Stream},
};

pub(super) use account::account;
pub(super) use choose::followed;
pub(super) use places::places;
pub(super) use request::{SpawnGrant, judge, runs_as};
pub(super) use stdio::Programs;

/// From the request to its last word, and to its last stream.
const REQUEST_MAX: Duration = Duration::from_secs(20);
/// What a program left running may still say after it has ended, as long as it pauses no longer.
const AFTERWORDS_PAUSE: Duration = Duration::from_secs(1);
/// On a terminal the program was all that there was.
const TERMINAL_PAUSE: Duration = Duration::from_millis(100);

/// Why a program ended that nobody waits for.
const GIVEN_UP: &str = "the borrower gave it up";

/// Serves one program to its end.
///
/// # Cancellation
/// The program and what descends from it are ended, with 5 s to end in good order.
pub(super) async fn lend(borrower: &Borrower, wanted: Spawn, stream: Stream) {
    let _streams = borrower.programs.expect(stream.id());
    let (room, words) = match timeout(REQUEST_MAX, read_words(borrower, &stream, &wanted)).await {
        Ok(Ok(read)) => read,
        Ok(Err(_)) | Err(_) => return stream.reset(Reset::Refused),
    };
    let (arguments, variables) = match wanted.split_words(&words) {
        Ok(words) => words,
        Err(error) => {
            return borrower.session.end(ErrorKind::Protocol, format!("the peer broke the protocol: {error}"));
        }
    };
    drop(words);
    let grant = match Box::pin(super::gate::spawn(borrower, &wanted, arguments, variables)).await {
        Ok(grant) => grant,
        Err(refusal) => return refuse(&stream, refusal).await,
    };
    let place = match Place::take(borrower) {
        Ok(place) => place,
        Err(full) => return refuse(&stream, full).await,
    };
    // From here on the places bound them.
    drop(room);
    Box::pin(run(borrower, wanted, grant, place, stream)).await;
}

async fn run(borrower: &Borrower, wanted: Spawn, grant: SpawnGrant, place: Place, stream: Stream) {
    let Place { program, streams: _streams } = place;
    let target = grant.target();
    let judged = grant.clone();
    let still = move |borrower: &Borrower| request::still(borrower, &judged);
    let held = match borrower.hold(&stream, "spawn", target.clone(), Box::new(still)) {
        Ok(held) => held,
        Err(refusal) => return refuse(&stream, refusal).await,
    };
    let started = held.serve(&stream, Box::pin(start(borrower, &wanted, grant, program, &stream))).await;
    let (running, ends) = match started {
        None => return held.log("spawn-failed", target, held.why_taken()).await,
        Some(Ok(started)) => started,
        Some(Err(None)) => return held.log("spawn-failed", target, Some(GIVEN_UP.to_owned())).await,
        Some(Err(Some(refusal))) => {
            let why = refusal.text().to_owned();
            refuse(&stream, refusal).await;
            return held.log("spawn-failed", target, Some(why)).await;
        }
    };
    let ended = held.serve(&stream, Box::pin(serve(&running, ends, &stream, &held, wanted.detach))).await;
    let why = match ended {
        // Taken back: at once, and not after the time that a hang-up gives. Cut, the session may have ended first.
        _ if held.why_taken().is_some() => {
            running.kill();
            held.why_taken()
        }
        None => None,
        Some(Some(FromProgram::Exited(status))) => Some(format!("it exited with status {status}")),
        Some(Some(FromProgram::Signalled(number))) => Some(format!("signal {number} ended it")),
        Some(None) => Some(GIVEN_UP.to_owned()),
    };
    // Before the log is waited for, whose disk may hang: nobody has it any more.
    drop(running);
    held.log("spawn-ended", target, why).await;
}

/// Starts the program and answers. `Err(None)`: the borrower has gone.
async fn start(
    borrower: &Borrower,
    wanted: &Spawn,
    mut grant: SpawnGrant,
    place: ProgramPlace,
    stream: &Stream,
) -> Result<(Running, Ends), Option<Refusal>> {
    let streams = tokio::select! {
        streams = timeout(REQUEST_MAX, borrower.programs.streams(stream.id(), wanted)) => streams.map_err(|_| None)?,
        _ = stream.write_closed() => return Err(None),
    };
    let name = grant.name();
    // Its streams may have taken their time to come.
    grant.judge_offered_again(borrower);
    let job = grant.into_job(wanted);
    let mut running = tokio::select! {
        running = borrower.lender.shared.worker.run(job, place) => running.map_err(|why| Some(down(&name, &why)))?,
        _ = stream.write_closed() => return Err(None),
    };
    let ends = Ends::join(streams, std::mem::take(&mut running.ends), wanted.terminal.is_some());
    let ends = ends.map_err(|source| Some(down(&name, &Failed::Worker(source))))?;
    stream.write_message(&Answer::Granted(Spawned { pid: running.pid })).await.map_err(|_| None)?;
    // Not before: a start that nobody hears of leaves nothing behind.
    if wanted.detach {
        running.detach().await;
    }
    Ok((running, ends))
}

/// Moves bytes and orders until the program has ended and said everything. `None`: the borrower gave it up. `may_detach`:
/// the request asked for it, so that the policy was.
async fn serve(
    running: &Running,
    ends: Ends,
    stream: &Stream,
    held: &Held<'_>,
    may_detach: bool,
) -> Option<FromProgram> {
    let Ends { input, outputs, terminal } = ends;
    let meter = held.meter();
    let pause = if terminal.is_some() { TERMINAL_PAUSE } else { AFTERWORDS_PAUSE };
    let stalls = stdio::stalls(&outputs);
    let input = async {
        if let Some(input) = input {
            input.copy(meter).await;
        }
    };
    let (output, orders) = (stdio::copy_all(outputs, meter), obey(running, terminal.as_ref(), stream, may_detach));
    tokio::pin!(input, output, orders);
    let (mut feeding, mut speaking) = (true, true);
    let ended = loop {
        tokio::select! {
            ended = running.ended() => break ended,
            () = &mut orders => return None,
            () = &mut input, if feeding => feeding = false,
            () = &mut output, if speaking => speaking = false,
        }
    };
    stream.write_message(&ended).await.ok()?;
    if speaking {
        tokio::select! {
            () = &mut output => {}
            () = stdio::fall_silent(&stalls, meter, pause) => {}
            () = &mut orders => return None,
        }
    }
    stream.finish();
    Some(ended)
}

/// Does what the borrower says, until it gives the program up.
async fn obey(running: &Running, terminal: Option<&OwnedFd>, stream: &Stream, may_detach: bool) {
    while let Ok(order) = stream.read_message::<ToProgram>("order to a program").await {
        match order {
            ToProgram::Signal(number) => running.signal(number).await,
            ToProgram::Resize(size) => {
                if let Some(terminal) = terminal {
                    // Of a terminal that has hung up the size is nobody's business.
                    let _ = session::terminal::resize(terminal, size);
                }
            }
            ToProgram::Detach if may_detach => running.detach().await,
            // The policy was not asked: nobody of ours says this.
            ToProgram::Detach => return,
        }
    }
}

/// The words, and the room that they take.
async fn read_words<'a>(
    borrower: &'a Borrower,
    stream: &Stream,
    wanted: &Spawn,
) -> std::io::Result<(Option<SemaphorePermit<'a>>, Vec<u8>)> {
    let room = borrower.programs.room_for_words(wanted).await;
    let mut words = vec![0; wanted.words_bytes as usize];
    stream.read_all(&mut words).await?;
    Ok((room, words))
}

/// Joins a stream with the program that it belongs to.
pub(super) async fn attach(borrower: &Borrower, stdio: SpawnStdio, stream: Stream) {
    borrower.programs.offer(stdio, stream).await;
}

fn down(name: &str, why: &Failed) -> Refusal {
    let kind = if matches!(why, Failed::Worker(_)) { ErrorKind::Local } else { ErrorKind::Target };
    let name = shown_path(name.as_bytes());
    Refusal::new(kind, format!("{name}: {why}")).with_errno(why.errno()).with_before_program(why.is_before_program())
}
