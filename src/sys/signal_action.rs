//! What signals do in this process: asked, and set back for a moment.

use std::{io, mem::MaybeUninit, ptr};

use rustix::process::Signal;

/// Whether nothing happens at `signal`, as nohup(1) and shells have it for what they start.
pub fn is_ignored(signal: Signal) -> bool {
    let mut now = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is set, and the structure to be filled in outlives the call.
    let asked = unsafe { libc::sigaction(signal.as_raw(), ptr::null(), now.as_mut_ptr()) };
    // SAFETY: the call has filled it in; zeroes, which it was before, are one as well.
    asked == 0 && unsafe { now.assume_init() }.sa_sigaction == libc::SIG_IGN
}

/// Has `signal` do what it does by default, where it is ignored.
pub(super) fn heed(signal: Signal) {
    if is_ignored(signal) {
        // A signal that can be ignored can be heeded.
        let _ = set(signal, &default_action());
    }
}

/// Has nothing happen at `signal`.
#[cfg(feature = "run")]
pub(super) fn ignore(signal: Signal) {
    let _ = set(signal, &libc::sigaction { sa_sigaction: libc::SIG_IGN, ..default_action() });
}

/// Has a write beyond the limit of a file's size (RLIMIT_FSIZE) fail with EFBIG, as one to a full disk does: by default a signal
/// ends the process.
#[cfg(feature = "cli")]
pub fn outlive_file_size_limit() {
    ignore(Signal::XFSZ);
}

/// Has a write beyond the limit of a file's size do what it does by default.
#[cfg(feature = "lend")]
pub fn heed_file_size_limit() {
    heed(Signal::XFSZ);
}

/// Does `work` while `signal` does what it does by default, whoever else handles it otherwise.
///
/// # Errors
/// EINVAL, for a signal that cannot be handled.
#[cfg(feature = "cli")]
pub fn with_default_action<T>(signal: Signal, work: impl FnOnce() -> T) -> io::Result<T> {
    let before = set(signal, &default_action())?;
    let done = work();
    set(signal, &before)?;
    Ok(done)
}

pub(super) fn default_action() -> libc::sigaction {
    // SAFETY: zeroes are a value of each field: no flags, no signals held back, and SIG_DFL.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// Sets an action, and gives the one before.
pub(super) fn set(signal: Signal, action: &libc::sigaction) -> io::Result<libc::sigaction> {
    let mut before = MaybeUninit::zeroed();
    // SAFETY: both structures outlive the call; the action is the default, one that was in force in this process
    // before, or one whose handler does what a handler may.
    match unsafe { libc::sigaction(signal.as_raw(), action, before.as_mut_ptr()) } {
        // SAFETY: the call has filled it in.
        0 => Ok(unsafe { before.assume_init() }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use rustix::process::{getpid, kill_process};

    use super::*;

    #[test]
    fn a_signal_does_by_default_what_it_does_and_then_again_what_was_set() {
        // By default nothing happens at SIGURG, and nothing here sends one.
        ignore(Signal::URG);
        let inside = with_default_action(Signal::URG, || {
            kill_process(getpid(), Signal::URG).unwrap();
            is_ignored(Signal::URG)
        });
        assert!(!inside.unwrap() && is_ignored(Signal::URG));
        heed(Signal::URG);
        assert!(!is_ignored(Signal::URG));
        assert!(with_default_action(Signal::KILL, || ()).is_err());
    }
}
