//! The sockets of a borrowed network that are served from outside of it. A socket stays in the network that it was made
//! in, whoever holds it: inner makes them, while it still may, and the outer half works with them.

use std::{
    io,
    net::{TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use minicbor::{Decode, Encode};

use super::{
    control::Step,
    netlink,
    rules::{self, MARK_HELD, MARK_OWN},
    tun,
};
use crate::sys;

// linux/netlink.h.
const NETLINK_SOCK_DIAG: u32 = 4;
const NETLINK_NETFILTER: u32 = 12;
/// linux/sock_diag.h: sockets of TCP and of UDP that are gone, of either family.
const SOCKETS_GONE: u32 = 0b1111;

/// How what a program sends is caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Way {
    /// By nf_tables with transparent proxying.
    #[n(0)]
    Nftables,
    /// By a TUN device.
    #[n(1)]
    Tun,
}

/// The sockets, in the order in which they are passed.
pub struct Doors {
    /// Accepts the program's connections.
    pub connections: TcpListener,
    /// Send to the program's own sockets.
    pub own: PerFamily,
    /// Asks which ports the program listens on.
    pub listeners: OwnedFd,
    /// Hears which sockets are gone.
    pub destroyed: OwnedFd,
    /// Catch what it sends.
    pub catch: Catch,
}

/// What catches what a program sends, so that `connections` gets its connections and we its datagrams.
pub enum Catch {
    /// The packet filter.
    Nftables {
        /// Gets the datagrams that the rules hand over.
        datagrams: UdpSocket,
        /// See each SYN once, by family.
        taps: PerFamily,
        /// Send SYNs again, to `connections`.
        held: PerFamily,
    },
    /// A TUN device.
    Tun(OwnedFd),
}

/// One socket for each family.
pub struct PerFamily {
    /// IPv4.
    pub v4: OwnedFd,
    /// IPv6.
    pub v6: OwnedFd,
}

impl Doors {
    /// Makes them all in the network namespace of this process, and the rules that lead to them: in the way that is `wanted`,
    /// or else in the first that this kernel has.
    ///
    /// # Errors
    /// Which step the kernel does not take, and why.
    pub fn build(wanted: Option<Way>) -> Result<Self, (Step, io::Error)> {
        match wanted {
            Some(Way::Tun) => Self::open(|_| Catch::by_tun()),
            Some(Way::Nftables) => Self::open(Catch::by_rules),
            None => match Self::open(Catch::by_rules) {
                Err((step, error)) if is_missing(step, &error) => Self::open(|_| Catch::by_tun()),
                built => built,
            },
        }
    }

    fn open(catch: impl FnOnce(&TcpListener) -> Result<Catch, (Step, io::Error)>) -> Result<Self, (Step, io::Error)> {
        let failed = |error| (Step::Sockets, error);
        let connections = sys::transparent_listener().map_err(failed)?;
        Ok(Self {
            catch: catch(&connections)?,
            connections,
            own: raw(MARK_OWN).map_err(failed)?,
            listeners: sys::netlink_socket(NETLINK_SOCK_DIAG).map_err(failed)?,
            destroyed: sys::netlink_listener(NETLINK_SOCK_DIAG, SOCKETS_GONE).map_err(failed)?,
        })
    }

    /// In which way they catch what is sent.
    pub fn way(&self) -> Way {
        match self.catch {
            Catch::Nftables { .. } => Way::Nftables,
            Catch::Tun(_) => Way::Tun,
        }
    }

    /// Their descriptors, to be passed.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let Self { connections, own, listeners, destroyed, catch } = self;
        let mut fds = vec![connections.as_fd(), own.v4.as_fd(), own.v6.as_fd(), listeners.as_fd(), destroyed.as_fd()];
        match catch {
            Catch::Nftables { datagrams, taps, held } => {
                fds.extend([datagrams.as_fd(), taps.v4.as_fd(), taps.v6.as_fd(), held.v4.as_fd(), held.v6.as_fd()])
            }
            Catch::Tun(device) => fds.push(device.as_fd()),
        }
        fds
    }

    /// The sockets that were passed; `None` if they are not so many.
    pub fn from_fds(way: Way, fds: Vec<OwnedFd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        let mut next = || fds.next();
        let (connections, own) = (next()?.into(), PerFamily { v4: next()?, v6: next()? });
        let (listeners, destroyed) = (next()?, next()?);
        let catch = match way {
            Way::Nftables => Catch::Nftables {
                datagrams: next()?.into(),
                taps: PerFamily { v4: next()?, v6: next()? },
                held: PerFamily { v4: next()?, v6: next()? },
            },
            Way::Tun => Catch::Tun(next()?),
        };
        Some(Self { connections, own, listeners, destroyed, catch })
    }
}

impl Catch {
    fn by_rules(connections: &TcpListener) -> Result<Self, (Step, io::Error)> {
        let failed = |error| (Step::Sockets, error);
        let datagrams = sys::transparent_udp().map_err(failed)?;
        let tap = |is_ipv6| sys::syn_tap(is_ipv6).map_err(failed);
        let (taps, held) = (PerFamily { v4: tap(false)?, v6: tap(true)? }, raw(MARK_HELD).map_err(failed)?);
        load_rules(connections, &datagrams).map_err(|error| (Step::Rules, error))?;
        Ok(Self::Nftables { datagrams, taps, held })
    }

    fn by_tun() -> Result<Self, (Step, io::Error)> {
        let failed = |error| (Step::Tun, error);
        let device = sys::tun_device(tun::DEVICE).map_err(failed)?;
        tun::prepare().map_err(failed)?;
        Ok(Self::Tun(device))
    }
}

fn load_rules(connections: &TcpListener, datagrams: &UdpSocket) -> io::Result<()> {
    let ports = (connections.local_addr()?.port(), datagrams.local_addr()?.port());
    let (messages, last) = rules::batch(ports.0, ports.1);
    let socket = sys::netlink_socket(NETLINK_NETFILTER)?;
    sys::netlink_exchange(&socket, messages.bytes(), |datagram| netlink::acknowledged(datagram, last))
}

fn raw(mark: u32) -> io::Result<PerFamily> {
    Ok(PerFamily { v4: sys::raw_socket(false, mark)?, v6: sys::raw_socket(true, mark)? })
}

/// Whether the kernel was built without nf_tables or transparent proxying, or does not find a module of theirs.
pub fn is_missing(step: Step, error: &io::Error) -> bool {
    let missing = [libc::ENOENT, libc::EOPNOTSUPP, libc::EPROTONOSUPPORT, libc::EAFNOSUPPORT];
    [Step::Sockets, Step::Rules].contains(&step) && error.raw_os_error().is_some_and(|errno| missing.contains(&errno))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_kernel_has_not_is_done_without() {
        let missing = |step, errno| is_missing(step, &io::Error::from_raw_os_error(errno));
        // No nfnetlink, no nf_tables, no nft_tproxy; no AF_PACKET.
        for (step, errno) in [
            (Step::Rules, libc::EPROTONOSUPPORT),
            (Step::Rules, libc::EOPNOTSUPP),
            (Step::Rules, libc::ENOENT),
            (Step::Sockets, libc::EAFNOSUPPORT),
        ] {
            assert!(missing(step, errno), "{step:?} {errno}");
        }
        assert!(!missing(Step::Rules, libc::EPERM) && !missing(Step::Sockets, libc::EMFILE));
        assert!(!missing(Step::Namespaces, libc::ENOENT));
    }
}
