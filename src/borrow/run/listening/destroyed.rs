//! Hears of each socket of the borrowed network that is gone: the kernel tells (sock_diag(7)), and says so where it could
//! not tell all.

use std::{io, os::fd::OwnedFd, sync::Arc};

use rustix::net::{RecvFlags, recv};
use tokio::io::unix::AsyncFd;

use super::Ports;
use crate::{
    borrow::run::{
        listeners::cookie,
        netlink::{self, Heard},
    },
    sys,
};

/// One message of the kernel's, with much room to spare.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;
/// What the kernel says of sockets (SOCK_DIAG_BY_FAMILY).
const ABOUT_SOCKET: u16 = 20;

impl Ports {
    /// Closes ports whose last socket is gone, for ever. `destroyed` hears of them.
    ///
    /// # Errors
    /// It fails.
    pub async fn watch(self: Arc<Self>, destroyed: OwnedFd) -> io::Result<()> {
        let destroyed = sys::await_readable(destroyed)?;
        let mut message = [0; MESSAGE_BYTES_MAX];
        loop {
            match receive(&destroyed, &mut message).await {
                Ok(length) => {
                    let told = message.get(..length).unwrap_or_default();
                    for Heard { kind, body, .. } in netlink::heard(told) {
                        if let Some(cookie) = (kind == ABOUT_SOCKET).then(|| cookie(body)).flatten() {
                            self.gone(cookie);
                        }
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    tracing::debug!("more sockets were closed at once than the kernel could tell");
                    self.settle(None);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

async fn receive(destroyed: &AsyncFd<OwnedFd>, message: &mut [u8]) -> io::Result<usize> {
    sys::read_when_ready(destroyed, |destroyed| Ok(recv(destroyed, &mut *message, RecvFlags::DONTWAIT)?.0)).await
}
