//! Which ports the program itself has, for connections and for datagrams: the kernel is asked (sock_diag(7)), since it alone knows of every way in which
//! a program can come to listen.
//!
//! This is on the way of each connection to an address of the machine's own: so the kernel is asked for the one socket that a packet would
//! find, which it looks up as it would for the packet, and not for a list of all that there are.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    netlink::{self, DONE, DUMP, Heard, Messages, REQUEST},
    packet::{TCP, UDP},
};
use crate::{
    proto::{Errno, wildcard_like},
    sys,
};

/// linux/netlink.h: who tells of sockets.
pub const NETLINK_SOCK_DIAG: u32 = 4;
// linux/sock_diag.h, inet_diag.h, net/tcp_states.h.
const BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const LISTENING: u8 = 10;
/// Every state but TIME_WAIT and that of a connection which nobody has accepted yet: those are no sockets.
const ALIVE: u32 = !(1 << 6 | 1 << 12);
/// Where an address is loopback's: a socket that is bound to that device is found by it alone, and any other as well.
const LOOPBACK: u32 = 1;
/// Whichever number a socket has (INET_DIAG_NOCOOKIE).
const ANY_NUMBER: [u8; 8] = [0xff; 8];
/// Where an `inet_diag_msg` has the state of its socket.
const STATE_AT: usize = 1;
/// And its number.
const COOKIE_AT: usize = 44;

/// A socket to ask by, one question at a time: the kernel takes no second one before the first is answered.
pub struct Listeners(Mutex<Asking>);

struct Asking {
    socket: OwnedFd,
    /// Of the last question: what answers an earlier one is passed over.
    sequence: u32,
    /// Room for an answer.
    answer: Vec<u8>,
    /// The protocols of which the kernel is known to list sockets: one that lists none says of each that it is not there.
    listed: Vec<u8>,
}

impl Listeners {
    /// Asks by this socket, which was made in the network that is asked about.
    pub fn new(socket: OwnedFd) -> Self {
        let answer = vec![0; sys::NETLINK_ANSWER_BYTES_MAX];
        Self(Mutex::new(Asking { socket, sequence: 0, answer, listed: Vec::new() }))
    }

    /// Asks about the network of this process.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of_this_network() -> io::Result<Self> {
        Ok(Self::new(sys::netlink_socket(NETLINK_SOCK_DIAG)?))
    }

    /// Whether a connection to `target`, from wherever, would find a TCP socket in the network that listens. The kernel answers at once.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn has(&self, target: SocketAddr) -> io::Result<bool> {
        Ok(self.who_has(false, target)?.is_some())
    }

    /// Whether a datagram from `from` to `to` would find a UDP socket in the network.
    ///
    /// # Errors
    /// As [`Self::has`].
    pub fn has_datagrams(&self, from: SocketAddr, to: SocketAddr) -> io::Result<bool> {
        Ok(self.find(UDP, to, from)?.is_some())
    }

    /// The kernel's number of the socket that a packet to `target` would find which comes from nobody in particular: of UDP, or one of
    /// TCP that listens.
    ///
    /// # Errors
    /// As [`Self::has`].
    pub fn who_has(&self, datagrams: bool, target: SocketAddr) -> io::Result<Option<u64>> {
        // From an address that no connection has, so that none is found that stands, or lingers.
        let found = self.find(if datagrams { UDP } else { TCP }, target, wildcard_like(target.ip()))?;
        let found = found.filter(|message| datagrams || message.get(STATE_AT) == Some(&LISTENING));
        Ok(found.as_deref().and_then(cookie))
    }

    /// The kernel's numbers of the sockets, of UDP or of TCP, that have `port`, in whatever state but for what lingers; those
    /// that are bound and no more may be of other ports, and are left out before Linux 6.8.
    ///
    /// # Errors
    /// As [`Self::has`].
    pub fn cookies(&self, datagrams: bool, port: u16) -> io::Result<Vec<u64>> {
        let mut cookies = Vec::new();
        self.each((if datagrams { UDP } else { TCP }, ALIVE), port, |message| cookies.extend(cookie(message)))?;
        Ok(cookies)
    }

    /// The kernel's number of the TCP socket that is connected, or being connected, from `local` to `peer`, both of loopback and of one
    /// family.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn between(&self, local: SocketAddr, peer: SocketAddr) -> io::Result<Option<u64>> {
        Ok(self.find(TCP, local, peer)?.as_deref().and_then(cookie))
    }

    /// The `inet_diag_msg` of the socket that a packet from `peer` to `local` finds which comes in by the loopback device.
    fn find(&self, protocol: u8, local: SocketAddr, peer: SocketAddr) -> io::Result<Option<Vec<u8>>> {
        let found = self.asking().find(protocol, local, peer)?;
        if found.is_none() && !self.asking().listed.contains(&protocol) {
            self.each((protocol, ALIVE), local.port(), |_| {})?;
            self.asking().listed.push(protocol);
        }
        Ok(found)
    }

    /// Hands each `inet_diag_msg` of a socket that has `port` to `hear`.
    fn each(&self, (protocol, states): (u8, u32), port: u16, mut hear: impl FnMut(&[u8])) -> io::Result<()> {
        let mut asking = self.asking();
        for family in [AF_INET, AF_INET6] {
            let mut messages = Messages::after(asking.sequence);
            messages.push(BY_FAMILY, REQUEST | DUMP, |body| {
                body.raw(&[family, protocol, 0, 0]).raw(&states.to_ne_bytes());
                let [high, low] = port.to_be_bytes();
                body.raw(&[high, low, 0, 0]).raw(&[0; 44]);
            });
            asking.ask(&messages, |kind, body| match kind {
                // With the number of an error, if it could not list them.
                DONE => match body.first_chunk().map_or(0, |number| i32::from_ne_bytes(*number)) {
                    number if number < 0 => Err(io::Error::from_raw_os_error(number.saturating_neg())),
                    _ => Ok(true),
                },
                ERROR => Err(Errno::EACCES.into()),
                _ => {
                    hear(body);
                    Ok(false)
                }
            })?;
        }
        Ok(())
    }

    fn asking(&self) -> MutexGuard<'_, Asking> {
        // An answer that was not heard to its end is passed over by the next question.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asking {
    /// See [`Listeners::find`].
    fn find(&mut self, protocol: u8, local: SocketAddr, peer: SocketAddr) -> io::Result<Option<Vec<u8>>> {
        // Of UDP the kernel takes the two for each other, as it always has (`udp_dump_one`).
        let (source, destination) = if protocol == UDP { (peer, local) } else { (local, peer) };
        let mut messages = Messages::after(self.sequence);
        messages.push(BY_FAMILY, REQUEST, |body| {
            body.raw(&[if local.is_ipv4() { AF_INET } else { AF_INET6 }, protocol, 0, 0]).raw(&ALIVE.to_ne_bytes());
            body.raw(&source.port().to_be_bytes()).raw(&destination.port().to_be_bytes());
            body.raw(&padded(source.ip())).raw(&padded(destination.ip()));
            body.raw(&LOOPBACK.to_ne_bytes()).raw(&ANY_NUMBER);
        });
        let mut found = None;
        self.ask(&messages, |kind, body| match kind {
            ERROR if body.first_chunk() == Some(&(-libc::ENOENT).to_ne_bytes()) => Ok(true),
            ERROR => Err(Errno::EACCES.into()),
            _ => {
                found = Some(body.to_vec());
                Ok(true)
            }
        })?;
        Ok(found)
    }

    /// Asks one question, and hands the kind and the body of each message that answers it to `hear` until that has heard enough.
    fn ask(&mut self, question: &Messages, mut hear: impl FnMut(u16, &[u8]) -> io::Result<bool>) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let asked = self.sequence;
        sys::netlink_exchange_in(&self.socket, question.bytes(), &mut self.answer, |datagram| {
            for Heard { kind, body, sequence } in netlink::heard(datagram) {
                if sequence == asked && hear(kind, body)? {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }
}

/// An address in the room of the longest.
fn padded(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        }
        IpAddr::V6(address) => address.octets(),
    }
}

/// The number of the socket that an `inet_diag_msg` is about (SO_COOKIE).
pub fn cookie(message: &[u8]) -> Option<u64> {
    let [l0, l1, l2, l3, h0, h1, h2, h3] = *message.get(COOKIE_AT..)?.first_chunk()?;
    let (low, high) = (u32::from_ne_bytes([l0, l1, l2, l3]), u32::from_ne_bytes([h0, h1, h2, h3]));
    Some(u64::from(high) << 32 | u64::from(low))
}

/// Whether a kernel of this release lists what is bound and no more, as well: from Linux 6.8 on.
pub fn lists_bound(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 8)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use rustix::net::{
        AddressFamily, SocketType, bind, listen, socket,
        sockopt::{set_ipv6_v6only, socket_cookie},
    };
    use tokio::net::TcpSocket;

    use super::*;

    fn listeners() -> Listeners {
        Listeners::new(sys::netlink_socket(4).unwrap())
    }

    fn at(ip: &str, port: u16) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), port)
    }

    /// A port that is bound and does not listen: the kernel gives its number to nobody else, and who asks for it may listen there.
    fn kept() -> TcpSocket {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(at("127.0.0.1", 0)).unwrap();
        socket
    }

    #[test]
    fn a_port_is_listened_on_as_long_as_somebody_does() {
        let listeners = listeners();
        let kept = kept();
        let port = kept.local_addr().unwrap().port();
        assert!(!listeners.has(at("127.0.0.1", port)).unwrap(), "what is bound does not listen");
        let local = TcpListener::bind(("127.0.0.1", port)).unwrap();
        assert!(listeners.has(at("127.0.0.1", port)).unwrap());
        let own = socket_cookie(&local).unwrap();
        assert!(listeners.cookies(false, port).unwrap().contains(&own));
        assert!(!listeners.has(at("127.0.0.9", port)).unwrap() && !listeners.has(at("::1", port)).unwrap());
        let connected = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let ends = (connected.local_addr().unwrap(), connected.peer_addr().unwrap());
        let number = socket_cookie(&connected).unwrap();
        assert_eq!(listeners.between(ends.0, ends.1).unwrap(), Some(number));
        assert_eq!(listeners.between(ends.0, at("127.0.0.1", 9)).unwrap(), None);
        // A port with nothing but a connection is nobody's.
        assert!(!listeners.has(ends.0).unwrap());
        drop((local, connected));
        assert!(!listeners.has(at("127.0.0.1", port)).unwrap());
        assert!(!listeners.cookies(false, port).unwrap().contains(&own));
    }

    #[test]
    fn who_listens_at_every_address_is_met_at_each_unless_he_keeps_to_ipv6() {
        let listeners = listeners();
        for v6_only in [false, true] {
            let every = socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
            set_ipv6_v6only(&every, v6_only).unwrap();
            bind(&every, &at("::", 0)).unwrap();
            listen(&every, 1).unwrap();
            let port = TcpListener::from(every.try_clone().unwrap()).local_addr().unwrap().port();
            assert!(listeners.has(at("::1", port)).unwrap());
            for v4 in ["127.0.0.1", "127.0.0.9"] {
                assert_eq!(listeners.has(at(v4, port)).unwrap(), !v6_only, "{v4}");
            }
            let datagrams = socket(AddressFamily::INET6, SocketType::DGRAM, None).unwrap();
            set_ipv6_v6only(&datagrams, v6_only).unwrap();
            bind(&datagrams, &at("::", 0)).unwrap();
            let port = UdpSocket::from(datagrams.try_clone().unwrap()).local_addr().unwrap().port();
            assert!(listeners.has_datagrams(at("::1", 9), at("::1", port)).unwrap());
            let from = at("127.0.0.1", 9);
            assert_eq!(listeners.has_datagrams(from, at("127.0.0.9", port)).unwrap(), !v6_only);
        }
        let every = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = every.local_addr().unwrap().port();
        assert!(listeners.has(at("127.0.0.9", port)).unwrap() && !listeners.has(at("::1", port)).unwrap());
    }

    /// As a server has it that was started anew.
    #[test]
    fn a_connection_that_lingers_hides_nobody_who_listens() {
        let listeners = listeners();
        let kept = kept();
        let target = kept.local_addr().unwrap();
        let first = TcpListener::bind(target).unwrap();
        let client = TcpStream::connect(target).unwrap();
        // Who closes first lingers.
        drop(first.accept().unwrap());
        drop((client, first));
        assert!(!listeners.has(target).unwrap());
        let _again = TcpListener::bind(target).unwrap();
        assert!(listeners.has(target).unwrap());
    }

    #[test]
    fn a_datagram_finds_who_is_bound_and_of_connected_ones_his_peers_alone() {
        let listeners = listeners();
        let (server, client) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let (server_at, client_at) = (server.local_addr().unwrap(), client.local_addr().unwrap());
        let other = at("127.0.0.1", 9);
        assert!(listeners.has_datagrams(other, server_at).unwrap());
        assert!(!listeners.has_datagrams(other, at("127.0.0.9", server_at.port())).unwrap());
        assert!(listeners.cookies(true, server_at.port()).unwrap().contains(&socket_cookie(&server).unwrap()));
        client.connect(server_at).unwrap();
        assert!(listeners.has_datagrams(server_at, client_at).unwrap());
        assert!(!listeners.has_datagrams(other, client_at).unwrap());
        drop(server);
        assert!(!listeners.has_datagrams(other, server_at).unwrap());
    }

    #[test]
    fn a_kernel_lists_what_is_bound_and_no_more_from_its_release_on() {
        for release in ["6.8", "6.8.0-45-generic", "6.18.44", "7.0-rc1", "10.1"] {
            assert!(lists_bound(release), "{release}");
        }
        for release in ["6.7.12", "6.1.0-26-amd64", "5.19", "5.15.0", "", "linux"] {
            assert!(!lists_bound(release), "{release}");
        }
    }
}
