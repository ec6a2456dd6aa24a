//! The sockets of a borrowed network that are served from outside of it. A socket stays in the network that it was made
//! in, whoever holds it: inner makes them, while it still may, and the outer half works with them.

use std::{
    io, iter,
    net::{TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    vec,
};

use minicbor::{Decode, Encode};

use super::{
    control::Step,
    listeners::NETLINK_SOCK_DIAG,
    netlink,
    rules::{self, MARK_HELD, MARK_OWN},
    tun,
};
use crate::sys;

// linux/netlink.h.
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

/// One socket for each family that the network has.
pub struct PerFamily {
    /// IPv4.
    pub v4: OwnedFd,
    /// IPv6.
    pub v6: Option<OwnedFd>,
}

impl PerFamily {
    /// Of what `make` gives for a family, told whether it is IPv6.
    fn of<E>(has_ipv6: bool, mut make: impl FnMut(bool) -> Result<OwnedFd, E>) -> Result<Self, E> {
        Ok(Self { v4: make(false)?, v6: has_ipv6.then(|| make(true)).transpose()? })
    }

    fn raw(has_ipv6: bool, mark: u32) -> Result<Self, (Step, io::Error)> {
        Self::of(has_ipv6, |is_ipv6| sys::raw_socket(is_ipv6, mark)).map_err(|error| (Step::Sockets, error))
    }

    fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        iter::once(&self.v4).chain(&self.v6).map(AsFd::as_fd)
    }
}

impl Doors {
    /// Makes them all in the network namespace of this process, and the rules that lead to them: in the way that is `wanted`,
    /// or else in the first that this kernel has.
    ///
    /// # Errors
    /// Which step the kernel does not take, and why.
    pub fn build(wanted: Option<Way>, has_ipv6: bool) -> Result<Self, (Step, io::Error)> {
        match wanted {
            Some(way) => Self::open(way, has_ipv6),
            None => match Self::open(Way::Nftables, has_ipv6) {
                Err((step, error)) if is_missing(step, &error) => Self::open(Way::Tun, has_ipv6),
                built => built,
            },
        }
    }

    fn open(way: Way, has_ipv6: bool) -> Result<Self, (Step, io::Error)> {
        let failed = |error| (Step::Sockets, error);
        let connections = sys::transparent_listener(has_ipv6).map_err(failed)?;
        let catch = match way {
            Way::Nftables => Catch::by_rules(&connections, has_ipv6),
            Way::Tun => Catch::by_tun(has_ipv6),
        };
        Ok(Self {
            catch: catch?,
            connections,
            own: PerFamily::raw(has_ipv6, MARK_OWN)?,
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
        let mut fds = vec![connections.as_fd(), listeners.as_fd(), destroyed.as_fd()];
        fds.extend(own.fds());
        match catch {
            Catch::Nftables { datagrams, taps, held } => {
                fds.push(datagrams.as_fd());
                fds.extend(taps.fds().chain(held.fds()));
            }
            Catch::Tun(device) => fds.push(device.as_fd()),
        }
        fds
    }

    /// The sockets that were passed; `None` if they are not so many.
    pub fn from_fds(way: Way, has_ipv6: bool, fds: Vec<OwnedFd>) -> Option<Self> {
        let fds = &mut fds.into_iter();
        let per_family = |fds: &mut vec::IntoIter<_>| PerFamily::of(has_ipv6, |_| fds.next().ok_or(())).ok();
        let (connections, listeners, destroyed) = (fds.next()?.into(), fds.next()?, fds.next()?);
        let own = per_family(fds)?;
        let catch = match way {
            Way::Nftables => {
                let datagrams = fds.next()?.into();
                Catch::Nftables { datagrams, taps: per_family(fds)?, held: per_family(fds)? }
            }
            Way::Tun => Catch::Tun(fds.next()?),
        };
        Some(Self { connections, own, listeners, destroyed, catch })
    }
}

impl Catch {
    fn by_rules(connections: &TcpListener, has_ipv6: bool) -> Result<Self, (Step, io::Error)> {
        let failed = |error| (Step::Sockets, error);
        let datagrams = sys::transparent_udp(has_ipv6).map_err(failed)?;
        let taps = PerFamily::of(has_ipv6, sys::syn_tap).map_err(failed)?;
        let held = PerFamily::raw(has_ipv6, MARK_HELD)?;
        load_rules(connections, &datagrams, has_ipv6).map_err(|error| (Step::Rules, error))?;
        Ok(Self::Nftables { datagrams, taps, held })
    }

    fn by_tun(has_ipv6: bool) -> Result<Self, (Step, io::Error)> {
        let failed = |error| (Step::Tun, error);
        let device = sys::tun_device(tun::DEVICE).map_err(failed)?;
        tun::prepare(has_ipv6).map_err(failed)?;
        Ok(Self::Tun(device))
    }
}

fn load_rules(connections: &TcpListener, datagrams: &UdpSocket, has_ipv6: bool) -> io::Result<()> {
    let ports = (connections.local_addr()?.port(), datagrams.local_addr()?.port());
    let (messages, last) = rules::batch(ports.0, ports.1, has_ipv6);
    let socket = sys::netlink_socket(NETLINK_NETFILTER)?;
    sys::netlink_exchange(&socket, messages.bytes(), |datagram| netlink::acknowledged(datagram, last))
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
