//! The signals that end a command in good order: what it began is undone, and what it holds is closed.

use rustix::process::Signal as Kind;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::report::{Failure, SIGNALLED};
use crate::{proto::ErrorKind, sys};

const SIGHUP: u8 = 1;
const SIGINT: u8 = 2;
const SIGTERM: u8 = 15;

/// Each SIGHUP, which no longer ends the program.
pub fn hangups() -> Result<Signal, Failure> {
    listen(SignalKind::hangup())
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(ErrorKind::Local, format!("cannot listen for signals: {error}")))
}

/// SIGINT, SIGTERM and the end of the terminal, from one moment on.
///
/// One for the whole command: a signal that comes between two pieces of its work ends the second. Nobody hears one that comes
/// between two of these.
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Stop {
    /// Listens from here on. SIGHUP that is ignored stays so, as nohup(1) has it.
    pub fn listen() -> Result<Self, Failure> {
        let hangup = (!sys::is_ignored(Kind::HUP)).then(hangups).transpose()?;
        Ok(Self { hangup, ..Self::of_daemon()? })
    }

    /// The same for a daemon, to which SIGHUP means something else.
    pub fn of_daemon() -> Result<Self, Failure> {
        let (interrupt, terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, hangup: None })
    }

    /// The number of the next one.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn next(&mut self) -> u8 {
        let Self { interrupt, terminate, hangup } = self;
        let hung_up = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => SIGINT,
            _ = terminate.recv() => SIGTERM,
            _ = hung_up => SIGHUP,
        }
    }

    /// Does `work`, unless one of them comes first.
    pub async fn interrupts<T>(&mut self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            result = work => result,
            signal = self.next() => Err(Failure::silent(SIGNALLED + signal)),
        }
    }
}

/// As [`Stop::interrupts`], for a command that has one piece of work.
pub async fn interruptible<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    Stop::listen()?.interrupts(work).await
}
