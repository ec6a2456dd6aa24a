//! System calls of the program that somebody else does: the kernel asks (seccomp_unotify(2)), and the caller waits.
//!
//! ```text
//!   program ── bind, listen ──▶ kernel ── notification ──▶ this thread: who calls, which socket, what arguments ──▶ Call
//!      ▲                                                                                                             │
//!      └───────────────── 0, or an error number ◀──────────────────────────────────────────────── Call::finish ◀─────┘
//! ```
//! A call is done on a duplicate of the caller's own socket, which is the same open socket, so that whatever the program
//! has set on it holds. What it is about is read once, and done by what was read.
//!
//! # Security
//! The program is not trusted here. Reading its memory, and closing a file of its that is none of a socket, can take as
//! long as a file system of its own making wants: this thread does nothing else, so that what waits then is the next such
//! call of the same program. What was read counts only if the call still waits afterwards, so that no other process can
//! have got the caller's number meanwhile. The kernel goes on by itself (`Continue`) only where there is nothing to judge:
//! on sockets that reach no network.

use std::{
    fs, io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{AddressFamily, sockopt::socket_domain},
};

use crate::{
    proto::Errno,
    sys::{self, Notification, Verdict},
};

/// Longest socket address, in bytes (`sockaddr_storage`).
pub const ADDRESS_BYTES_MAX: u64 = 128;
/// Files that are closed at once on threads of their own; of more, what a program has put in the way stays open.
const CLOSING_MAX: usize = 16;
/// A thread's name, in /proc and in debuggers.
const THREAD: &str = "capuchin-calls";

/// A call of the program that waits for its answer.
pub struct Call {
    /// What is to be done.
    pub asked: Asked,
    /// With this, which is the program's own.
    pub socket: OwnedFd,
    /// The caller.
    pub caller: Caller,
}

/// What a program asks for.
pub enum Asked {
    /// bind(2), with the bytes of its address.
    Bind(Vec<u8>),
    /// listen(2), with its backlog.
    Listen(i32),
}

/// Who waits. If nobody answers, the call fails as on a network that is down.
pub struct Caller(Option<(Arc<OwnedFd>, u64)>);

impl Caller {
    /// Answers. Whatever is a duplicate of the program's must be closed before: the program may rely on having the last.
    pub fn hear(mut self, answer: Result<(), Errno>) {
        self.answer(match answer {
            Ok(()) => Verdict::Done,
            Err(errno) => Verdict::Failed(errno.0.into()),
        });
    }

    /// Answers with a number: of bytes, say. As for [`Self::hear`].
    pub fn give(mut self, number: i64) {
        self.answer(Verdict::Gives(number));
    }

    /// Lets the kernel do the call, with what its arguments lead to by then: never where that was judged.
    pub fn pass(mut self) {
        self.answer(Verdict::Continue);
    }

    /// Whether it waits still: what was read of it until now was its own.
    pub fn is_waiting(&self) -> bool {
        self.0.as_ref().is_some_and(|(listener, id)| sys::is_waiting(&**listener, *id))
    }

    fn answer(&mut self, verdict: Verdict) {
        if let Some((listener, id)) = self.0.take() {
            // A caller that is gone needs none.
            let _ = sys::answer_notification(&*listener, id, verdict);
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.answer(Verdict::Failed(libc::ENETDOWN));
    }
}

/// Hands each call that comes on `listener` to `take`, on a thread that ends with the last process under the filter.
///
/// # Errors
/// There can be no more threads.
pub fn supervise(listener: OwnedFd, mut take: impl FnMut(Call) + Send + 'static) -> io::Result<()> {
    hear(listener, move |notification, caller| {
        let seen = look(notification).unwrap_or_else(Seen::Failed);
        if !caller.is_waiting() {
            // Who was looked at may have been somebody else.
            return;
        }
        match seen {
            Seen::Passed => caller.pass(),
            Seen::Failed(errno) => caller.hear(Err(errno)),
            Seen::Call(asked, socket) => take(Call { asked, socket, caller }),
        }
    })
}

/// As [`supervise`], for calls of any kind: whoever takes them finds out what each is about.
///
/// # Errors
/// As [`supervise`].
pub fn hear(listener: OwnedFd, take: impl FnMut(&Notification, Caller) + Send + 'static) -> io::Result<()> {
    sys::wake_callers_at_once(&listener);
    let supervisor = Supervisor { listener: Arc::new(listener), take };
    std::thread::Builder::new().name(THREAD.to_owned()).spawn(|| supervisor.serve()).map(drop)
}

struct Supervisor<T> {
    listener: Arc<OwnedFd>,
    take: T,
}

/// What was found out about a call.
enum Seen {
    /// It is of no interest.
    Passed,
    /// It fails as it stands.
    Failed(Errno),
    Call(Asked, OwnedFd),
}

impl<T: FnMut(&Notification, Caller)> Supervisor<T> {
    fn serve(mut self) {
        while let Some(notification) = self.next() {
            let caller = Caller(Some((self.listener.clone(), notification.id)));
            (self.take)(&notification, caller);
        }
    }

    /// The next call; `None` when none can come any more.
    fn next(&self) -> Option<Notification> {
        loop {
            let mut ready = [PollFd::new(&*self.listener, PollFlags::IN)];
            match poll(&mut ready, None) {
                Ok(_) if ready.iter().any(|ready| ready.revents().contains(PollFlags::IN)) => {}
                Ok(_) => return None,
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return None,
            }
            match sys::receive_notification(&*self.listener) {
                Ok(notification) => return Some(notification),
                Err(error) if [Some(libc::ENOENT), Some(libc::EINTR)].contains(&error.raw_os_error()) => {}
                Err(error) => {
                    tracing::warn!(%error, "the program's calls cannot be heard any more");
                    return None;
                }
            }
        }
    }
}

/// Finds out what is asked for, and gets the socket that it is asked for.
fn look(Notification { thread, number, arguments, .. }: &Notification) -> Result<Seen, Errno> {
    let [fd, second, third, ..] = *arguments;
    let (socket, family) = socket_of(*thread, fd)?;
    if !matches!(family, AddressFamily::INET | AddressFamily::INET6) {
        return Ok(Seen::Passed);
    }
    if *number == libc::SYS_listen {
        return Ok(Seen::Call(Asked::Listen(second as i32), socket));
    }
    Ok(Seen::Call(Asked::Bind(address_of(*thread, second, third)?), socket))
}

/// A duplicate of the socket that a thread has as `fd`, and its family.
///
/// # Errors
/// What the thread is told: it has none, or it is out of our reach.
pub fn socket_of(thread: i32, fd: u64) -> Result<(OwnedFd, AddressFamily), Errno> {
    // Descriptors, backlogs and lengths are ints: the upper half of an argument says nothing.
    let fd = fd as i32;
    let link = fs::read_link(format!("/proc/{thread}/fd/{fd}"));
    if link.is_ok_and(|link| !link.as_os_str().as_encoded_bytes().starts_with(b"socket:")) {
        return Err(ENOTSOCK);
    }
    let socket = sys::duplicate_of_thread(thread, fd).map_err(|error| out_of_reach(&error))?;
    match socket_domain(&socket) {
        Ok(family) => Ok((socket, family)),
        Err(_) => {
            close_aside(socket);
            Err(ENOTSOCK)
        }
    }
}

/// The socket address at `place` in a thread's memory.
///
/// # Errors
/// As [`socket_of`], of memory.
pub fn address_of(thread: i32, place: u64, length: u64) -> Result<Vec<u8>, Errno> {
    let length = u64::from(length as u32);
    if length > ADDRESS_BYTES_MAX {
        return Err(Errno::EINVAL);
    }
    memory_of(thread, place, length as usize)
}

/// So many bytes at `place` in a thread's memory.
///
/// # Errors
/// As [`address_of`].
pub fn memory_of(thread: i32, place: u64, length: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; length];
    if !bytes.is_empty() {
        sys::read_memory_of_thread(thread, place, &mut bytes).map_err(|error| out_of_reach(&error))?;
    }
    Ok(bytes)
}

/// What a thread is told where it cannot be looked at.
pub fn out_of_reach(error: &io::Error) -> Errno {
    match Errno::of(error) {
        Some(errno) if [libc::EBADF, libc::EFAULT, libc::ESRCH].contains(&errno.0.into()) => errno,
        _ => {
            tracing::warn!(%error, "a program whose call waits is out of reach");
            Errno::EACCES
        }
    }
}

/// Closes what came in the place of a socket: its file system decides how long that takes.
fn close_aside(file: OwnedFd) {
    static CLOSING: AtomicUsize = AtomicUsize::new(0);
    if CLOSING.fetch_add(1, Ordering::Relaxed) < CLOSING_MAX {
        let closed = std::thread::Builder::new().name(THREAD.to_owned()).spawn(move || {
            drop(file);
            CLOSING.fetch_sub(1, Ordering::Relaxed);
        });
        if closed.is_ok() {
            return;
        }
    } else {
        std::mem::forget(file);
    }
    CLOSING.fetch_sub(1, Ordering::Relaxed);
}

const ENOTSOCK: Errno = Errno(libc::ENOTSOCK as u16);
