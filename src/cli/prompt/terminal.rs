//! A question on the terminal whose answer is not shown, as readpassphrase(3) asks it.
//!
//! Whatever signal comes meanwhile, the terminal is as before when it does what it does.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::OFlags,
    io::Errno,
    process::{Signal, getpid, kill_process},
    termios::{InputModes, LocalModes, OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcsetattr},
};
use zeroize::Zeroizing;

use crate::{
    cli::report::SIGNALLED,
    sys::{self, CaughtSignals},
};

/// Longest line that a terminal gives, in bytes (termios(3)).
const LINE_MAX: usize = 4096;
/// What would leave the terminal behind as it is while a question is asked; SIGCONT last. Those that name a mistake of ours,
/// such as SIGSEGV, are not among them.
const CAUGHT: [Signal; 10] = [
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::HUP,
    Signal::ALARM,
    Signal::USR1,
    Signal::USR2,
    Signal::PIPE,
    Signal::TSTP,
    Signal::CONT,
];

/// Why there is no answer.
pub enum NoAnswer {
    /// There is no terminal, or it has gone.
    NoTerminal(io::Error),
    /// The input ended before anything was typed.
    Nothing,
    /// A signal was to end us, and did not; with the exit status that tells of it.
    Signal(u8),
}

/// Asks until there is an answer: again after each time that this process was stopped.
pub fn ask(prompt: &str) -> Result<Zeroizing<Vec<u8>>, NoAnswer> {
    // Not to wait in it: another process may have taken what was there, and a signal must not wait.
    let flags = (OFlags::NOCTTY | OFlags::NONBLOCK).bits().cast_signed();
    let tty = File::options().read(true).write(true).custom_flags(flags).open("/dev/tty");
    let tty = tty.map_err(NoAnswer::NoTerminal)?;
    let caught = CaughtSignals::catch(&CAUGHT).map_err(NoAnswer::NoTerminal)?;
    loop {
        match ask_once(&tty, &caught, prompt) {
            Ok(typed) if typed.is_empty() => return Err(NoAnswer::Nothing),
            Ok(typed) => return Ok(typed),
            Err(Broken::Failed(error)) => return Err(NoAnswer::NoTerminal(error)),
            Err(Broken::Signal(Signal::CONT)) => {}
            Err(Broken::Signal(signal)) => {
                let _ = sys::with_default_action(signal, || kill_process(getpid(), signal));
                if signal != Signal::TSTP {
                    // Nothing ends the first process of a namespace by default.
                    return Err(NoAnswer::Signal(SIGNALLED + u8::try_from(signal.as_raw()).unwrap_or(0)));
                }
            }
        }
    }
}

/// What broke a question off.
enum Broken {
    Signal(Signal),
    Failed(io::Error),
}

impl From<Errno> for Broken {
    fn from(error: Errno) -> Self {
        Self::Failed(error.into())
    }
}

fn ask_once(tty: &File, caught: &CaughtSignals, prompt: &str) -> Result<Zeroizing<Vec<u8>>, Broken> {
    let hidden = Hidden::set(tty, caught)?;
    let typed = say(tty, caught, prompt.as_bytes()).and_then(|()| read_line(tty, caught));
    if let Err(Broken::Signal(signal)) = &typed
        && *signal != Signal::CONT
        && sys::is_in_foreground(tty)
    {
        // Half a password is not for the shell.
        let _ = tcflush(tty, QueueSelector::IFlush);
    }
    // That of the answer was not shown. Behind Ctrl-S there is no room for it, and nobody waits.
    let _ = (&*tty).write(b"\n");
    drop(hidden);
    typed
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Hidden<'a> {
    tty: &'a File,
    before: Termios,
}

impl<'a> Hidden<'a> {
    /// In the background this stops us; what then ends us is heard before it could stop us again.
    fn set(tty: &'a File, caught: &CaughtSignals) -> Result<Self, Broken> {
        loop {
            if let Some(signal) = caught.take().filter(|signal| *signal != Signal::CONT) {
                return Err(Broken::Signal(signal));
            }
            // Each time: whoever had the terminal meanwhile may have changed it.
            let before = tcgetattr(tty)?;
            match tcsetattr(tty, OptionalActions::Now, &hidden(before.clone())) {
                Ok(()) => return Ok(Self { tty, before }),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        // At once: output that waits, as behind Ctrl-S, must not hold this up.
        while sys::is_in_foreground(self.tty)
            && tcsetattr(self.tty, OptionalActions::Now, &self.before) == Err(Errno::INTR)
        {}
    }
}

/// Whole lines, keys that send signals, and no echo: whatever a program before us left behind.
fn hidden(mut modes: Termios) -> Termios {
    modes.input_modes.insert(InputModes::ICRNL);
    modes.local_modes.insert(LocalModes::ICANON | LocalModes::ISIG);
    modes.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL);
    modes
}

fn say(tty: &File, caught: &CaughtSignals, mut text: &[u8]) -> Result<(), Broken> {
    while !text.is_empty() {
        wait(tty, caught, PollFlags::OUT)?;
        let written = unless_later((&*tty).write(text))?.unwrap_or(0);
        text = text.get(written..).unwrap_or_default();
    }
    Ok(())
}

/// One line, or what was typed of it before the input ended.
fn read_line(tty: &File, caught: &CaughtSignals) -> Result<Zeroizing<Vec<u8>>, Broken> {
    // Room at once, so that growing leaves no copy behind.
    let mut line = Zeroizing::new(vec![0; LINE_MAX]);
    let mut length = 0;
    while length < LINE_MAX {
        wait(tty, caught, PollFlags::IN)?;
        let room = line.get_mut(length..).unwrap_or_default();
        match unless_later((&*tty).read(room))? {
            Some(0) => break,
            Some(read) => length += read,
            None => {}
        }
        if line.get(..length).is_some_and(|line| line.ends_with(b"\n")) {
            break;
        }
    }
    line.truncate(length);
    Ok(line)
}

/// Waits until the terminal is ready, unless a signal comes first.
fn wait(tty: &File, caught: &CaughtSignals, what: PollFlags) -> Result<(), Broken> {
    loop {
        let mut both = [PollFd::new(tty, what), PollFd::from_borrowed_fd(caught.as_fd(), PollFlags::IN)];
        let ready = poll(&mut both, None);
        if let Some(signal) = caught.take() {
            return Err(Broken::Signal(signal));
        }
        match ready {
            Ok(_) if !both[0].revents().is_empty() => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// `None`: not now.
fn unless_later(done: io::Result<usize>) -> Result<Option<usize>, Broken> {
    match done {
        Ok(length) => Ok(Some(length)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(Broken::Failed(error)),
    }
}
