//! What this process was started with for the signals that it, or Rust's own start, has otherwise: a program that it becomes has it
//! again.

use std::{
    os::unix::process::CommandExt,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::process::Signal;

use super::signal_action::{heed, ignore, is_ignored};

/// Whether it was started with the signal ignored.
struct Inherited {
    signal: Signal,
    is_ignored: AtomicBool,
}

/// Rust has SIGPIPE ignored before `main`; with SIGCHLD ignored nobody hears of the end of a child (wait(2)); SIGXFSZ is ignored by
/// the commands.
static INHERITED: [Inherited; 3] =
    [Inherited::of(Signal::PIPE), Inherited::of(Signal::CHILD), Inherited::of(Signal::XFSZ)];

/// Runs before Rust's own start, and before `main` of a C program that has this library.
#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = note;

impl Inherited {
    const fn of(signal: Signal) -> Self {
        Self { signal, is_ignored: AtomicBool::new(false) }
    }
}

extern "C" fn note() {
    for inherited in &INHERITED {
        inherited.is_ignored.store(is_ignored(inherited.signal), Ordering::Relaxed);
    }
}

/// Lets this process hear of its children, whoever started it with SIGCHLD ignored.
#[cfg(feature = "cli")]
pub fn hear_of_children() {
    heed(Signal::CHILD);
}

/// Gives a program that is started by `command` what this process was started with.
pub fn give_inherited_signals(command: &mut Command) {
    let give = || {
        for inherited in &INHERITED {
            let set = if inherited.is_ignored.load(Ordering::Relaxed) { ignore } else { heed };
            set(inherited.signal);
        }
        Ok(())
    };
    // SAFETY: between fork and exec it loads from memory and calls sigaction(2), both safe in a signal handler.
    unsafe { command.pre_exec(give) };
}
