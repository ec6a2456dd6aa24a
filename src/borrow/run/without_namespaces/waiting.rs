//! Sockets that wait, those that do not, and for whom one waits.

use std::{io, os::fd::OwnedFd, time::Duration};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    net::sockopt,
};

use crate::{borrow::run::listening::program_socket::ProgramSocket, sys};

/// When it is looked for the first time whether a program still waits: nothing else tells. The time doubles, as that between two
/// SYNs does, up to the other.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_MAX: Duration = Duration::from_secs(16);

/// Ready once `is_gone` says so.
pub async fn gone(is_gone: impl Fn() -> bool) {
    let mut look = LOOK;
    loop {
        tokio::time::sleep(look).await;
        if is_gone() {
            return;
        }
        look = (look * 2).min(LOOK_MAX);
    }
}

/// Ready once a socket that is connecting is connected, or has failed.
///
/// # Errors
/// Why it has failed.
pub async fn connected(ProgramSocket { fd, .. }: ProgramSocket) -> io::Result<()> {
    let socket = sys::await_socket(fd)?;
    drop(socket.writable().await?);
    match sockopt::socket_error(socket.get_ref())? {
        Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether calls on it wait.
pub fn is_waiting(socket: &OwnedFd) -> bool {
    fcntl_getfl(socket).is_ok_and(|flags| !flags.contains(OFlags::NONBLOCK))
}

/// Does something on a socket that is not to wait; the flag belongs to the open socket, and nobody uses one that is not connected.
pub fn without_waiting(socket: &OwnedFd, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let flags = fcntl_getfl(socket)?;
    if flags.contains(OFlags::NONBLOCK) {
        return act();
    }
    fcntl_setfl(socket, flags | OFlags::NONBLOCK)?;
    let done = act();
    fcntl_setfl(socket, flags)?;
    done
}
