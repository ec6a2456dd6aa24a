//! The sockets of a borrowed network that are served from outside of it. A socket stays in the network that it was made
//! in, whoever holds it: inner makes them, while it still may, and the outer half works with them.

use std::{
    io,
    net::{TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::{
    control::Step,
    netlink,
    rules::{self, MARK_HELD, MARK_OWN},
};
use crate::sys;

// linux/netlink.h.
const NETLINK_SOCK_DIAG: u32 = 4;
const NETLINK_NETFILTER: u32 = 12;
/// linux/sock_diag.h: sockets of TCP and of UDP that are gone, of either family.
const SOCKETS_GONE: u32 = 0b1111;

/// The sockets, in the order in which they are passed.
pub struct Doors {
    /// Gets every connection whose SYN was sent again with [`MARK_HELD`].
    pub connections: TcpListener,
    /// Gets the datagrams that the rules hand over.
    pub datagrams: UdpSocket,
    /// See each SYN once, by family.
    pub taps: PerFamily,
    /// Send SYNs again, and answers to them.
    pub held: PerFamily,
    /// Send to the program's own sockets.
    pub own: PerFamily,
    /// Asks which ports the program listens on.
    pub listeners: OwnedFd,
    /// Hears which sockets are gone.
    pub destroyed: OwnedFd,
}

/// One socket for each family.
pub struct PerFamily {
    /// IPv4.
    pub v4: OwnedFd,
    /// IPv6.
    pub v6: OwnedFd,
}

impl Doors {
    /// Makes them all in the network namespace of this process, and the rules that lead to them.
    ///
    /// # Errors
    /// Which step the kernel does not take, and why.
    pub fn build() -> Result<Self, (Step, io::Error)> {
        let doors = Self::open().map_err(|error| (Step::Sockets, error))?;
        doors.load_rules().map_err(|error| (Step::Rules, error))?;
        Ok(doors)
    }

    fn open() -> io::Result<Self> {
        let raw = |mark| {
            Ok::<_, io::Error>(PerFamily { v4: sys::raw_socket(false, mark)?, v6: sys::raw_socket(true, mark)? })
        };
        Ok(Self {
            connections: sys::transparent_listener()?,
            datagrams: sys::transparent_udp()?,
            taps: PerFamily { v4: sys::syn_tap(false)?, v6: sys::syn_tap(true)? },
            held: raw(MARK_HELD)?,
            own: raw(MARK_OWN)?,
            listeners: sys::netlink_socket(NETLINK_SOCK_DIAG)?,
            destroyed: sys::netlink_listener(NETLINK_SOCK_DIAG, SOCKETS_GONE)?,
        })
    }

    fn load_rules(&self) -> io::Result<()> {
        let ports = (self.connections.local_addr()?.port(), self.datagrams.local_addr()?.port());
        let (messages, last) = rules::batch(ports.0, ports.1);
        let socket = sys::netlink_socket(NETLINK_NETFILTER)?;
        sys::netlink_exchange(&socket, messages.bytes(), |datagram| netlink::acknowledged(datagram, last))
    }

    /// Their descriptors, to be passed.
    pub fn fds(&self) -> [BorrowedFd<'_>; 10] {
        [
            self.connections.as_fd(),
            self.datagrams.as_fd(),
            self.taps.v4.as_fd(),
            self.taps.v6.as_fd(),
            self.held.v4.as_fd(),
            self.held.v6.as_fd(),
            self.own.v4.as_fd(),
            self.own.v6.as_fd(),
            self.listeners.as_fd(),
            self.destroyed.as_fd(),
        ]
    }

    /// The sockets that were passed; `None` if they are not so many.
    pub fn from_fds(fds: Vec<OwnedFd>) -> Option<Self> {
        let [connections, datagrams, tap4, tap6, held4, held6, own4, own6, listeners, destroyed] =
            fds.try_into().ok()?;
        Some(Self {
            connections: connections.into(),
            datagrams: datagrams.into(),
            taps: PerFamily { v4: tap4, v6: tap6 },
            held: PerFamily { v4: held4, v6: held6 },
            own: PerFamily { v4: own4, v6: own6 },
            listeners,
            destroyed,
        })
    }
}
