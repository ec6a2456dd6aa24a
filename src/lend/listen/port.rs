//! One bound socket of the lender, before and while it listens.

use std::{
    fmt, io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::{
    io::unix::AsyncFd,
    net::{TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{
    lend::service::{Offered, Visit},
    session::{Socket, socket_options},
    sys::await_readable,
};

/// A bound socket. tokio sees it only once it listens: before, the kernel reports a hang-up for ever.
pub(super) enum Port {
    /// It does not listen yet.
    Bound(OwnedFd, Family),
    Listening(AsyncFd<OwnedFd>, Family),
    /// A name, which needs no socket and listens from the first.
    Service(Offered),
}

/// What a bound socket will be.
#[derive(Clone, Copy)]
pub(super) enum Family {
    Tcp,
    Unix,
}

impl Port {
    /// Listens, or gives what listens another backlog. What fails leaves it as it was.
    pub(super) fn listen(&mut self, backlog: u32) -> io::Result<()> {
        // The kernel takes an int, and cuts it to what it allows (listen(2)).
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        match self {
            Self::Listening(socket, _) => rustix::net::listen(socket.get_ref(), backlog)?,
            // The bound of what is announced is all that there is.
            Self::Service(_) => {}
            Self::Bound(socket, _) => {
                rustix::net::listen(&*socket, backlog)?;
                self.listens()?;
            }
        }
        Ok(())
    }

    /// It listens now, whoever has called listen(2).
    pub(super) fn listens(&mut self) -> io::Result<()> {
        if let Self::Bound(socket, family) = self {
            let socket = socket.try_clone()?;
            rustix::io::ioctl_fionbio(&socket, true)?;
            *self = Self::Listening(await_readable(socket)?, *family);
        }
        Ok(())
    }

    /// The next connection; none comes before it listens. One that takes a descriptor is accepted once there is a place for it
    /// among `sockets`: until then it waits in the kernel, and a listener that nobody comes to keeps no place.
    ///
    /// # Cancellation
    /// Dropping the future loses none.
    pub(super) async fn accept(&self, sockets: &Arc<Semaphore>) -> io::Result<(Came, Option<OwnedSemaphorePermit>)> {
        match self {
            Self::Bound(..) => std::future::pending().await,
            Self::Listening(socket, family) => loop {
                let mut somebody_waits = socket.readable().await?;
                // Never closed.
                let place = sockets.clone().acquire_owned().await.map_err(io::Error::other)?;
                // He may be gone meanwhile: then the place is for others.
                if let Ok(came) = somebody_waits.try_io(|socket| family.accept(socket)) {
                    return Ok((came?, Some(place)));
                }
            },
            // Both ends are streams of sessions that are there.
            Self::Service(offered) => match offered.accept().await {
                Some(visit) => Ok((Came::Service(visit), None)),
                // Never: the other end is kept as long as the name.
                None => std::future::pending().await,
            },
        }
    }
}

impl Family {
    /// Who waits, without waiting for anybody.
    fn accept(self, listener: impl AsFd) -> io::Result<Came> {
        let (socket, peer) = acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        match self {
            Self::Tcp => {
                let peer = peer.ok_or(rustix::io::Errno::INVAL)?.try_into()?;
                let socket = TcpStream::from_std(socket.into())?;
                let local = socket.local_addr()?;
                socket_options(&socket);
                Ok(Came::Tcp { socket, peer, local })
            }
            Self::Unix => Ok(Came::Unix(UnixStream::from_std(socket.into())?)),
        }
    }
}

/// A connection that has come.
pub(super) enum Came {
    Tcp { socket: TcpStream, peer: SocketAddr, local: SocketAddr },
    Unix(UnixStream),
    Service(Visit),
}

impl Came {
    /// The peer and our own address, where it has any.
    pub(super) fn ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self {
            Self::Tcp { peer, local, .. } => Some((*peer, *local)),
            Self::Unix(_) | Self::Service(_) => None,
        }
    }

    /// Ends it so that its peer sees a failure.
    pub(super) fn reset(self) {
        match self {
            Self::Tcp { socket, .. } => socket.abort_on_drop(),
            Self::Unix(socket) => socket.abort_on_drop(),
            Self::Service(visit) => drop(visit),
        }
    }
}

/// For the log and for `sessions`.
impl fmt::Display for Came {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { peer, local, .. } => write!(f, "{peer} at {local}"),
            // Who it is: the kernel's word, as at the door.
            Self::Unix(socket) => match socket.peer_cred() {
                Ok(peer) => write!(f, "uid {} pid {}", peer.uid(), peer.pid().unwrap_or(0)),
                Err(_) => f.write_str("a program of the lender"),
            },
            Self::Service(visit) => visit.fmt(f),
        }
    }
}
