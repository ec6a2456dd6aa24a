//! Hears of each socket of the program that listened and was shut down (shutdown(2)), so that nobody is let in any more. The
//! socket is there as before, and no other word of it comes.
//!
//! An epoll(7) is told of a socket by our duplicate, and knows the socket itself: it goes on to tell when the duplicate is
//! closed, keeps no socket open, and forgets one that the program has closed.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::{
    event::{Timespec, epoll},
    io::Errno,
};
use tokio::io::unix::AsyncFd;

use super::{Ports, ProgramSocket};
use crate::sys;

/// Told of at once; more follow.
const EVENTS_MAX: usize = 16;
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// Of all sockets that listened, those that do not any more.
pub struct ShutDowns(AsyncFd<OwnedFd>);

impl ShutDowns {
    /// None yet. To be called in a tokio runtime.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new() -> io::Result<Self> {
        Ok(Self(sys::await_readable(epoll::create(epoll::CreateFlags::CLOEXEC)?)?))
    }

    /// Tells of `socket`, which listens.
    pub fn watch(&self, socket: &ProgramSocket) {
        // That it hung up is told unasked, and each time once.
        let told = epoll::add(
            self.0.get_ref(),
            socket.fd.as_fd(),
            epoll::EventData::new_u64(socket.cookie),
            epoll::EventFlags::ET,
        );
        match told {
            // It listened before, by a duplicate of the same number.
            Ok(()) | Err(Errno::EXIST) => {}
            // As long as it is not known, each port is open until the next visitor finds nobody.
            Err(error) => tracing::debug!(%error, "it will not be heard of that a socket is shut down"),
        }
    }

    /// The numbers of some.
    async fn next(&self) -> io::Result<Vec<u64>> {
        sys::read_when_ready(&self.0, |epoll| {
            let mut events = Vec::with_capacity(EVENTS_MAX);
            epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), Some(&AT_ONCE))?;
            if events.is_empty() {
                Err(io::ErrorKind::WouldBlock.into())
            } else {
                Ok(events.iter().map(|event| event.data.u64()).collect())
            }
        })
        .await
    }
}

impl Ports {
    /// Closes ports where nobody listens any more, for ever.
    ///
    /// # Errors
    /// It fails.
    pub async fn watch_shut_downs(self: Arc<Self>) -> io::Result<()> {
        loop {
            for cookie in self.surroundings.shut_downs.next().await? {
                let mut holders = self.holders();
                let half = holders.ipv4_half(cookie);
                let port = holders.port(cookie).and_then(Result::ok);
                port.into_iter().chain(half).for_each(|port| port.was_shut_down());
            }
        }
    }
}
