//! A Unix socket that a user of this machine connects or listens with, and not the daemon of root: what the system lets
//! whom do, and whom the other end sees, is then the user's.
//!
//! ```text
//!   SocketJob ──▶ becomes the user ──▶ connects: the socket, exit
//!                                └──▶ binds: the socket ──▶ Listen … ──▶ socket closed: the file is removed, exit
//! ```
//! A listener keeps its process, because listen(2) says whom those who connect see, and because its file is to be removed by
//! its owner.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, listen, socket_with},
};

use super::{
    job::{NOTE_BYTES, Order, Outcome, Report, SocketJob, Use},
    supervisor::say,
};
use crate::{
    lend::real_path::{bind_socket, open_socket},
    proto::Errno,
    session::SocketFile,
    sys::{self, NotLaunched, Step},
};

/// A server whose queue is full gives EAGAIN to who does not wait (unix(7)): asked again so often, for so long.
const QUEUE_STEP: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
const QUEUE_TRIES: usize = 1000;

/// Does the job, and stays as long as what came of it needs a process.
pub(super) fn run(socket: &OwnedFd, job: &SocketJob) -> io::Result<()> {
    let made = sys::become_user(&job.who()?).map_err(NotLaunched::at(Step::User)).and_then(|()| {
        let path = Path::new(OsStr::from_bytes(&job.path));
        let made = match job.to {
            Use::Connect => reach(path, socket).map(|connected| (connected, None)),
            Use::Listen => bind_socket(path).map(|(bound, file)| (bound, Some(file))),
        };
        made.map_err(NotLaunched::at(Step::Program))
    });
    match made {
        Err(why) => say(socket, &Outcome::failed(why), &[]),
        Ok((made, file)) => {
            say(socket, &Outcome::started(0), &[made.as_fd()])?;
            file.map_or(Ok(()), |file| keep(socket, &made, file))
        }
    }
}

/// Connects to the very socket that lies there, whatever its path leads to by then.
fn reach(path: &Path, daemon: &OwnedFd) -> io::Result<OwnedFd> {
    let (_place, address) = open_socket(path)?;
    let address = SocketAddrUnix::new(address)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    for _ in 0..QUEUE_TRIES {
        match connect(&socket, &address) {
            Err(rustix::io::Errno::AGAIN) => {}
            connected => return Ok(connected.map(|()| socket)?),
        }
        if poll(&mut [PollFd::new(daemon, PollFlags::IN)], Some(&QUEUE_STEP))? > 0 {
            // The daemon says nothing more but that it wants it no more.
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    }
    Err(Errno::ETIMEDOUT.into())
}

/// Listens when it is told to, until the daemon closes; the file goes then.
fn keep(daemon: &OwnedFd, bound: &OwnedFd, file: SocketFile) -> io::Result<()> {
    let mut heard = Vec::new();
    loop {
        let mut bytes = [0; 64];
        match rustix::io::read(daemon, &mut bytes) {
            Err(rustix::io::Errno::INTR) => continue,
            // A daemon that was killed may reset it.
            Err(_) | Ok(0) => break,
            Ok(length) => heard.extend(bytes.iter().take(length)),
        }
        while let Some((order, rest)) = heard.split_first_chunk::<NOTE_BYTES>() {
            let (order, rest) = (Order::decode(*order), rest.to_vec());
            heard = rest;
            if let Some(Order::Listen(backlog)) = order {
                let done = listen(bound, i32::try_from(backlog).unwrap_or(i32::MAX));
                let report = Report::Done(done.err().map_or(0, |errno| errno.raw_os_error().unsigned_abs()));
                sys::send_with_fds(daemon, &report.encode(), &[])?;
            }
        }
    }
    drop(file);
    Ok(())
}
