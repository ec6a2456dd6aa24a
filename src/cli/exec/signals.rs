//! What signals mean to a command whose program is elsewhere.
//!
//! Those that are ignored when it starts stay so, as nohup(1) and a shell's `&` have it: ssh(1) does the same.

use std::task::{Context, Poll};

use rustix::process::{Signal as Kind, getpid, kill_process};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{cli::report::Failure, proto::ErrorKind, sys};

/// What ends a program or steers it; SIGHUP last.
const PASSED_ON: [Kind; 4] = [Kind::INT, Kind::QUIT, Kind::TERM, Kind::HUP];

/// What a signal means.
pub enum Event {
    /// The program or us is meant, by Linux's number.
    Signal(u8),
    /// The terminal is of another size.
    Resized,
    /// We are to stop.
    Stop,
    /// We were stopped, and go on.
    GoOn,
}

/// The signals that mean something.
pub struct Signals {
    ends: Vec<(u8, Signal)>,
    size: Signal,
    stops: Option<(Signal, Signal)>,
}

impl Signals {
    /// Listens for those that mean the program or us, and for other sizes of the terminal.
    pub fn listen() -> Result<Self, Failure> {
        let mut ends = Vec::new();
        for kind in PASSED_ON {
            if !sys::is_ignored(kind) {
                ends.push((kind.as_raw().unsigned_abs().try_into().unwrap_or(u8::MAX), listen(kind)?));
            }
        }
        Ok(Self { ends, size: listen(Kind::WINCH)?, stops: None })
    }

    /// Listens for SIGTSTP and SIGCONT, too: from here on [`Self::event`] has to be asked, or nothing stops us.
    pub fn listen_for_stops(&mut self) -> Result<(), Failure> {
        if !sys::is_ignored(Kind::TSTP) {
            self.stops = Some((listen(Kind::TSTP)?, listen(Kind::CONT)?));
        }
        Ok(())
    }

    /// The next that means the program or us.
    pub async fn end(&mut self) -> u8 {
        loop {
            if let Event::Signal(number) = self.event().await {
                return number;
            }
        }
    }

    /// The next.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn event(&mut self) -> Event {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        for (number, signal) in &mut self.ends {
            if signal.poll_recv(cx).is_ready() {
                return Poll::Ready(Event::Signal(*number));
            }
        }
        if let Some((stop, go_on)) = &mut self.stops {
            if stop.poll_recv(cx).is_ready() {
                return Poll::Ready(Event::Stop);
            }
            if go_on.poll_recv(cx).is_ready() {
                return Poll::Ready(Event::GoOn);
            }
        }
        self.size.poll_recv(cx).map(|_| Event::Resized)
    }
}

fn listen(kind: Kind) -> Result<Signal, Failure> {
    let listening = signal(SignalKind::from_raw(kind.as_raw()));
    listening.map_err(|error| Failure::new(ErrorKind::Local, format!("cannot listen for signals: {error}")))
}

/// Stops this process until it is told to go on, as SIGTSTP would if nobody handled it: not at all where nobody could tell
/// it to. On the first thread alone it has stopped before this returns.
pub fn stop_self() {
    let _ = sys::with_default_action(Kind::TSTP, || kill_process(getpid(), Kind::TSTP));
}

/// The same for the whole job, as Ctrl-Z does; who started us waits for all of it.
pub fn stop_job() {
    let _ = sys::with_default_action(Kind::TSTP, || rustix::process::kill_current_process_group(Kind::TSTP));
}
