//! The signals that end a command in good order: what it began is undone, and what it holds is closed.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::report::{Failure, SIGNALLED};
use crate::proto::ErrorKind;

const SIGINT: u8 = 2;
const SIGTERM: u8 = 15;

/// Each SIGHUP, which no longer ends the program.
pub fn hangups() -> Result<Signal, Failure> {
    listen(SignalKind::hangup())
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(ErrorKind::Local, format!("cannot listen for signals: {error}")))
}

/// Ready with the signal's number at SIGINT or SIGTERM.
pub fn stopped() -> Result<impl Future<Output = u8>, Failure> {
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => SIGINT,
            _ = terminate.recv() => SIGTERM,
        }
    })
}

/// Does `work`, unless SIGINT or SIGTERM comes first.
pub async fn interruptible<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let stopped = stopped()?;
    tokio::select! {
        result = work => result,
        signal = stopped => Err(Failure::silent(SIGNALLED + signal)),
    }
}
