//! Which ports the program itself has, for connections and for datagrams: the kernel is asked (sock_diag(7)), since it alone knows of every way in which
//! a program can come to listen.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Mutex, PoisonError},
};

use super::{
    netlink::{self, DONE, DUMP, Heard, Messages, REQUEST},
    packet::{TCP, UDP},
};
use crate::{proto::Errno, sys};

// linux/sock_diag.h, inet_diag.h, net/tcp_states.h.
const BY_FAMILY: u16 = 20;
const ERROR: u16 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const LISTENING: u32 = 1 << 10;
/// A UDP socket is in the state of a closed connection, or, when connected, of an established one.
const BOUND: u32 = 1 << 7 | 1 << 1;
/// Every state but TIME_WAIT and that of a connection which nobody has accepted yet: those are no sockets.
const ALIVE: u32 = !(1 << 6 | 1 << 12);
/// Whichever number a socket has (INET_DIAG_NOCOOKIE).
const ANY_NUMBER: [u8; 8] = [0xff; 8];
/// Where an `inet_diag_msg` has the number of its socket.
const COOKIE_AT: usize = 44;

/// A socket to ask by, one question at a time: the kernel takes no second one before the first is answered.
pub struct Listeners(Mutex<Asking>);

struct Asking {
    socket: OwnedFd,
    /// Of the last question: what answers an earlier one is passed over.
    sequence: u32,
}

impl Listeners {
    /// Asks by this socket, which was made in the network that is asked about.
    pub fn new(socket: OwnedFd) -> Self {
        Self(Mutex::new(Asking { socket, sequence: 0 }))
    }

    /// Whether a TCP socket in the network listens on `port` of `address`, or of every address. The kernel answers at once.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn has(&self, address: IpAddr, port: u16) -> io::Result<bool> {
        self.any((TCP, LISTENING), address, port)
    }

    /// As [`Self::has`], for a UDP socket.
    ///
    /// # Errors
    /// As [`Self::has`].
    pub fn has_datagrams(&self, address: IpAddr, port: u16) -> io::Result<bool> {
        self.any((UDP, BOUND), address, port)
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

    /// The kernel's number of the TCP socket that is connected, or being connected, from `local` to `peer`; both of one family.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn between(&self, local: SocketAddr, peer: SocketAddr) -> io::Result<Option<u64>> {
        let mut asking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut messages = Messages::after(asking.sequence);
        let asked = messages.push(BY_FAMILY, REQUEST, |body| {
            body.raw(&[if local.is_ipv4() { AF_INET } else { AF_INET6 }, TCP, 0, 0]).raw(&ALIVE.to_ne_bytes());
            body.raw(&local.port().to_be_bytes()).raw(&peer.port().to_be_bytes());
            body.raw(&padded(local.ip())).raw(&padded(peer.ip())).raw(&[0; 4]).raw(&ANY_NUMBER);
        });
        asking.sequence = asked;
        let mut found = None;
        sys::netlink_exchange(&asking.socket, messages.bytes(), |datagram| {
            for Heard { kind, body, sequence } in netlink::heard(datagram) {
                match kind {
                    _ if sequence != asked => {}
                    ERROR if body.first_chunk() == Some(&(-libc::ENOENT).to_ne_bytes()) => return Ok(true),
                    ERROR => return Err(Errno::EACCES.into()),
                    _ => {
                        found = cookie(body);
                        return Ok(true);
                    }
                }
            }
            Ok(false)
        })?;
        Ok(found)
    }

    fn any(&self, kind: (u8, u32), address: IpAddr, port: u16) -> io::Result<bool> {
        let mut found = false;
        self.each(kind, port, |message| {
            found |= bound_to(message).is_some_and(|bound| bound.is_unspecified() || bound == address);
        })?;
        Ok(found)
    }

    /// Hands each `inet_diag_msg` of a socket that has `port` to `hear`.
    fn each(&self, (protocol, states): (u8, u32), port: u16, mut hear: impl FnMut(&[u8])) -> io::Result<()> {
        let mut asking = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for family in [AF_INET, AF_INET6] {
            let mut messages = Messages::after(asking.sequence);
            let asked = messages.push(BY_FAMILY, REQUEST | DUMP, |body| {
                body.raw(&[family, protocol, 0, 0]).raw(&states.to_ne_bytes());
                let [high, low] = port.to_be_bytes();
                body.raw(&[high, low, 0, 0]).raw(&[0; 44]);
            });
            asking.sequence = asked;
            sys::netlink_exchange(&asking.socket, messages.bytes(), |datagram| {
                for Heard { kind, body, sequence } in netlink::heard(datagram) {
                    match kind {
                        _ if sequence != asked => {}
                        DONE => return Ok(true),
                        ERROR => return Err(Errno::EACCES.into()),
                        _ => hear(body),
                    }
                }
                Ok(false)
            })?;
        }
        Ok(())
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

/// The address in an `inet_diag_msg`: family, three bytes, two ports, and then it.
fn bound_to(message: &[u8]) -> Option<IpAddr> {
    let address = message.get(8..24)?;
    match *message.first()? {
        AF_INET => Some(Ipv4Addr::from(*address.first_chunk::<4>()?).into()),
        AF_INET6 => Some(Ipv6Addr::from(*address.first_chunk::<16>()?).to_canonical()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_is_listened_on_as_long_as_somebody_does() {
        let listeners = Listeners::new(sys::netlink_socket(4).unwrap());
        let local = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = local.local_addr().unwrap().port();
        let localhost: IpAddr = Ipv4Addr::LOCALHOST.into();
        assert!(listeners.has(localhost, port).unwrap());
        let own = rustix::net::sockopt::socket_cookie(&local).unwrap();
        assert!(listeners.cookies(false, port).unwrap().contains(&own));
        assert!(!listeners.has(Ipv4Addr::new(127, 0, 0, 9).into(), port).unwrap());
        let connected = std::net::TcpStream::connect((localhost, port)).unwrap();
        let ends = (connected.local_addr().unwrap(), connected.peer_addr().unwrap());
        let number = rustix::net::sockopt::socket_cookie(&connected).unwrap();
        assert_eq!(listeners.between(ends.0, ends.1).unwrap(), Some(number));
        assert_eq!(listeners.between(ends.0, SocketAddr::new(localhost, 9)).unwrap(), None);
        drop((local, connected));
        assert!(!listeners.has(localhost, port).unwrap());
        assert!(!listeners.cookies(false, port).unwrap().contains(&own));
        let every = TcpListener::bind("[::]:0").unwrap();
        let port = every.local_addr().unwrap().port();
        assert!(listeners.has(localhost, port).unwrap() && listeners.has(Ipv6Addr::LOCALHOST.into(), port).unwrap());
    }
}
