//! Calls that wait, and are done in the place of who makes them: what listening depends on, and all of `--no-netns`.
//!
//! They are the same two whatever the filter says: bind(2), whose address is read of the caller's memory, and getsockname(2),
//! whose answer is written there.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    net::{AddressFamily, SocketType, bind, getsockname, socket},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::{
    borrow::run::supervisor::ADDRESS_BYTES_MAX,
    sys::{self, Notification, Verdict},
};

/// Of loopback: a port that nobody is told of, for as long as this takes.
const ANY_PORT: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 0);

/// Under a filter: makes them, and looks whether they were done.
///
/// # Errors
/// What they were answered with, and `ENODATA` if it was nothing.
pub fn make() -> io::Result<()> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &SocketAddr::from(ANY_PORT))?;
    let has_port = SocketAddr::try_from(getsockname(&socket)?)?.port() != 0;
    has_port.then_some(()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENODATA))
}

/// Does those of `child` that come on `calls`, until it has ended.
///
/// # Errors
/// What this machine does not give; the caller has heard it, too.
pub fn take(calls: &OwnedFd, child: Pid) -> io::Result<()> {
    let watch = pidfd_open(child, PidfdFlags::empty())?;
    loop {
        let mut ready = [PollFd::new(calls, PollFlags::IN), PollFd::new(&watch, PollFlags::IN)];
        match poll(&mut ready, None) {
            Ok(_) if ready[0].revents().contains(PollFlags::IN) => {}
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let notification = sys::receive_notification(calls)?;
        let done = in_its_place(&notification);
        let verdict = match &done {
            Ok(()) => Verdict::Done,
            Err(error) => Verdict::Failed(error.raw_os_error().unwrap_or(libc::EIO)),
        };
        sys::answer_notification(calls, notification.id, verdict)?;
        done?;
    }
}

fn in_its_place(Notification { thread, number, arguments, .. }: &Notification) -> io::Result<()> {
    let [fd, place, length, ..] = *arguments;
    let socket = sys::duplicate_of_thread(*thread, fd as i32)?;
    if *number == libc::SYS_bind {
        let mut address = vec![0; length.min(ADDRESS_BYTES_MAX) as usize];
        sys::read_memory_of_thread(*thread, place, &mut address)?;
        return sys::bind_as_given(&socket, &address);
    }
    let name = sys::name_of_socket(&socket, false)?;
    sys::write_memory_of_thread(*thread, place, &name)?;
    sys::write_memory_of_thread(*thread, length, &(name.len() as u32).to_ne_bytes())
}
