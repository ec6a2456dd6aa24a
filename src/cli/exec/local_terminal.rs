//! This side's terminal: every key as it is typed while a program there reads them, and as it was before whatever happens.

use std::os::fd::BorrowedFd;

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};

use crate::{
    proto::{Terminal, TerminalSize},
    session::terminal,
};

/// What a program is told of a terminal that is none.
const DUMB: &str = "dumb";

/// The terminal that stdin is.
pub struct LocalTerminal {
    before: Termios,
}

/// Every key is passed on until this is dropped.
pub struct Raw<'a>(&'a LocalTerminal);

impl LocalTerminal {
    /// `None` if stdin is no terminal.
    pub fn find() -> Option<Self> {
        let before = isatty(stdin()).then(|| tcgetattr(stdin()).ok())??;
        Some(Self { before })
    }

    /// Passes every key on.
    pub fn raw(&self) -> Raw<'_> {
        self.set_raw();
        Raw(self)
    }

    /// As [`Self::raw`], until [`Self::restore`].
    pub fn set_raw(&self) {
        let mut raw = self.before.clone();
        raw.make_raw();
        // Of a terminal that has gone, reading says so.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &raw);
    }

    /// As it was before.
    pub fn restore(&self) {
        // At once: output that waits, as behind Ctrl-S, must not hold this up.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &self.before);
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        self.0.restore();
    }
}

/// What a program there is to have as its terminal: as ours is, and 80x24 where there is none.
pub fn wanted(local: Option<&LocalTerminal>) -> Terminal {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    let term = std::env::var("TERM")
        .ok()
        .filter(|term| (1..=crate::proto::TERM_BYTES_MAX).contains(&term.len()) && term.chars().all(plain));
    Terminal {
        term: term.unwrap_or_else(|| DUMB.to_owned()),
        size: size().unwrap_or_default(),
        modes: local.map(|local| terminal::modes(&local.before)).unwrap_or_default(),
    }
}

/// How large our terminal is; some say that they have no lines at all.
pub fn size() -> Option<TerminalSize> {
    terminal::size(stdin()).ok().filter(|size| size.columns > 0 && size.rows > 0)
}

fn stdin() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}
