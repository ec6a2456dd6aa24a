//! System calls of another process that wait for our answer: seccomp_unotify(2).

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// The kernel runs the caller on at once on this processor, which is what a call that waits for nothing else wants
/// (`SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`, Linux 6.6).
const SYNC_WAKE_UP: u64 = 1;

/// A call that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Which call it is, among those that wait.
    pub id: u64,
    /// The thread that makes it, as this process numbers it. The number is its own while the call waits.
    pub thread: i32,
    /// Which system call.
    pub number: i64,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is over, and gives 0.
    Done,
    /// It is over, and gives this number, as of bytes.
    Gives(i64),
    /// It fails with this error number.
    Failed(i32),
    /// The kernel does it, with what its arguments lead to by then: never for a call that was judged by those.
    Continue,
}

/// Wakes callers without a detour, where the kernel can.
pub fn wake_callers_at_once(listener: impl AsFd) {
    let flags = std::ptr::without_provenance_mut(SYNC_WAKE_UP as usize);
    // An older kernel is slower, and that is all.
    let _ = control(listener, libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, flags);
}

/// The next call; waits for one unless poll(2) has said that there is one.
///
/// # Errors
/// `ENOENT` where its caller is gone again.
pub fn receive_notification(listener: impl AsFd) -> io::Result<Notification> {
    // SAFETY: a seccomp_notif is integers only, so that zeroes are a value, and the kernel wants them.
    let mut notification: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    control(listener, libc::SECCOMP_IOCTL_NOTIF_RECV, (&raw mut notification).cast())?;
    Ok(Notification {
        id: notification.id,
        thread: notification.pid as i32,
        number: notification.data.nr.into(),
        arguments: notification.data.args,
    })
}

/// Whether the call still waits: until then its thread has its number, and what was read of it was its own.
pub fn is_waiting(listener: impl AsFd, id: u64) -> bool {
    let mut id = id;
    control(listener, libc::SECCOMP_IOCTL_NOTIF_ID_VALID, (&raw mut id).cast()).is_ok()
}

/// Answers a call.
///
/// # Errors
/// `ENOENT` where its caller is gone.
pub fn answer_notification(listener: impl AsFd, id: u64, verdict: Verdict) -> io::Result<()> {
    let (val, error, flags) = match verdict {
        Verdict::Done => (0, 0, 0),
        Verdict::Gives(number) => (number, 0, 0),
        Verdict::Failed(errno) => (0, -errno, 0),
        Verdict::Continue => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
    };
    let mut answer = libc::seccomp_notif_resp { id, val, error, flags };
    control(listener, libc::SECCOMP_IOCTL_NOTIF_SEND, (&raw mut answer).cast())
}

fn control(listener: impl AsFd, operation: libc::Ioctl, argument: *mut libc::c_void) -> io::Result<()> {
    // SAFETY: each caller gives the structure of its operation, which outlives the call, or a number for the one that
    // takes a number.
    match unsafe { libc::ioctl(listener.as_fd().as_raw_fd(), operation, argument) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
