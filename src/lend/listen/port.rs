//! One bound socket of the lender, before and while it listens.

use std::{fmt, io, net::SocketAddr, os::fd::OwnedFd};

use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::{
    lend::service::{Offered, Visit},
    session::{Socket, socket_options},
};

/// A bound socket. tokio sees it only once it listens: before, the kernel reports a hang-up for ever.
pub(super) enum Port {
    /// It does not listen yet.
    Bound(OwnedFd, Family),
    Tcp(TcpListener),
    Unix(UnixListener),
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
            Self::Tcp(listener) => rustix::net::listen(listener, backlog)?,
            Self::Unix(listener) => rustix::net::listen(listener, backlog)?,
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
            *self = match family {
                Family::Tcp => Self::Tcp(TcpListener::from_std(socket.into())?),
                Family::Unix => {
                    let socket = std::os::unix::net::UnixListener::from(socket);
                    socket.set_nonblocking(true)?;
                    Self::Unix(UnixListener::from_std(socket)?)
                }
            };
        }
        Ok(())
    }

    /// Whether what comes to it has a descriptor of its own. Nothing comes before it listens, and nothing need be kept for it.
    pub(super) fn takes_descriptors(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => true,
            // Both ends are streams of sessions that are there.
            Self::Service(_) | Self::Bound(..) => false,
        }
    }

    /// The next connection; none comes before it listens. Dropping the future loses none.
    pub(super) async fn accept(&self) -> io::Result<Came> {
        match self {
            Self::Bound(..) => std::future::pending().await,
            Self::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                let local = socket.local_addr()?;
                socket_options(&socket);
                Ok(Came::Tcp { socket, peer, local })
            }
            Self::Unix(listener) => Ok(Came::Unix(listener.accept().await?.0)),
            Self::Service(offered) => match offered.accept().await {
                Some(visit) => Ok(Came::Service(visit)),
                // Never: the other end is kept as long as the name.
                None => std::future::pending().await,
            },
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
