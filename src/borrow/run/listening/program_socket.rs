//! A socket of the program, as its bind and listen see it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
};

use rustix::net::{
    AddressFamily, SocketType, getpeername, getsockname, ipproto, listen,
    sockopt::{
        ip_freebind, ipv6_freebind, ipv6_v6only, set_ipv6_freebind, socket_cookie, socket_domain, socket_protocol,
        socket_reuseaddr, socket_type,
    },
};

use crate::sys;

/// Where the port stands in a `sockaddr_in` and a `sockaddr_in6`.
const PORT_AT: std::ops::Range<usize> = 2..4;
const IPV4_ADDRESS_BYTES: usize = 16;
/// Without the scope, which old programs leave out.
const IPV6_ADDRESS_BYTES: usize = 24;

/// Which protocol a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
    /// Something that the lender has no word for, ping for one: it stays inside.
    Other,
}

/// A duplicate of a socket of the program, of one of the internet's families.
pub struct ProgramSocket {
    /// The duplicate.
    pub fd: OwnedFd,
    /// As the kernel numbers it, for as long as it exists.
    pub cookie: u64,
    /// What it speaks.
    pub transport: Transport,
    /// Of which family it is.
    pub is_ipv6: bool,
}

impl ProgramSocket {
    /// Looks at it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        let cookie = socket_cookie(&fd)?;
        let protocol = socket_protocol(&fd)?;
        let transport = match socket_type(&fd)? {
            SocketType::STREAM if protocol == Some(ipproto::TCP) => Transport::Tcp,
            SocketType::DGRAM if protocol == Some(ipproto::UDP) => Transport::Udp,
            _ => Transport::Other,
        };
        let is_ipv6 = socket_domain(&fd)? == AddressFamily::INET6;
        Ok(Self { fd, cookie, transport, is_ipv6 })
    }

    /// Whether it belongs to the network with this number; a program can make networks of its own.
    pub fn is_in(&self, network: Option<u64>) -> bool {
        network.is_none() || sys::network_of(&self.fd).ok() == network
    }

    /// Its address, once it has a port.
    pub fn bound(&self) -> Option<SocketAddr> {
        let address = SocketAddr::try_from(getsockname(&self.fd).ok()?).ok()?;
        (address.port() > 0).then(|| canonical(address))
    }

    /// Whether it is a connection.
    pub fn is_connected(&self) -> bool {
        getpeername(&self.fd).is_ok()
    }

    /// Whether, bound to the wildcard of IPv6, it leaves IPv4 alone.
    pub fn v6_only(&self) -> bool {
        self.is_ipv6 && ipv6_v6only(&self.fd).unwrap_or(false)
    }

    /// SO_REUSEADDR.
    pub fn reuse_address(&self) -> bool {
        socket_reuseaddr(&self.fd).unwrap_or(false)
    }

    /// Whether it may be bound where its machine has no such address (IP_FREEBIND).
    pub fn takes_every_address(&self) -> bool {
        let asked = if self.is_ipv6 { ipv6_freebind(&self.fd) } else { ip_freebind(&self.fd) };
        asked.unwrap_or(false)
    }

    /// What it would be bound to by these bytes; `None` where the kernel does not take them, or they are of another family.
    pub fn reads(&self, address: &[u8]) -> Option<SocketAddr> {
        let family = i32::from(u16::from_ne_bytes(*address.first_chunk()?));
        let port = u16::from_be_bytes(address.get(PORT_AT)?.try_into().ok()?);
        if self.is_ipv6 {
            let octets: [u8; 16] = address.get(8..IPV6_ADDRESS_BYTES)?.try_into().ok()?;
            return (family == libc::AF_INET6).then(|| canonical(SocketAddr::new(Ipv6Addr::from(octets).into(), port)));
        }
        let octets: [u8; 4] = address.get(4..8)?.try_into().ok()?;
        // As old programs write the wildcard.
        let is_old = family == libc::AF_UNSPEC && octets == [0; 4];
        (address.len() >= IPV4_ADDRESS_BYTES && (family == libc::AF_INET || is_old))
            .then(|| SocketAddr::new(Ipv4Addr::from(octets).into(), port))
    }

    /// What it would connect to by these bytes; `None` also for those of no family, which end what it is connected to (connect(2)).
    pub fn reads_target(&self, address: &[u8]) -> Option<SocketAddr> {
        let family = i32::from(u16::from_ne_bytes(*address.first_chunk()?));
        self.reads(address).filter(|_| family != libc::AF_UNSPEC)
    }

    /// bind(2) as the program asked for it. Addresses of IPv6 are local in its network without being the network's own.
    ///
    /// # Errors
    /// What the program hears.
    pub fn bind(&self, address: &[u8]) -> io::Result<()> {
        if !self.is_ipv6 || ipv6_freebind(&self.fd).unwrap_or(true) {
            return sys::bind_as_given(&self.fd, address);
        }
        set_ipv6_freebind(&self.fd, true)?;
        let bound = sys::bind_as_given(&self.fd, address);
        // It was off, so that the kernel knows the option.
        let _ = set_ipv6_freebind(&self.fd, false);
        bound
    }

    /// As [`Self::bind`], at this port instead.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn bind_at(&self, address: &[u8], port: u16) -> io::Result<()> {
        let mut address = address.to_vec();
        if let Some(place) = address.get_mut(PORT_AT) {
            place.copy_from_slice(&port.to_be_bytes());
        }
        self.bind(&address)
    }

    /// The wildcard of its family, as bytes for [`Self::bind`].
    pub fn wildcard(&self) -> Vec<u8> {
        let (family, length) = match self.is_ipv6 {
            true => (libc::AF_INET6, size_of::<libc::sockaddr_in6>()),
            false => (libc::AF_INET, size_of::<libc::sockaddr_in>()),
        };
        let mut address = vec![0; length];
        address[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        address
    }

    /// listen(2).
    ///
    /// # Errors
    /// What the program hears.
    pub fn listen(&self, backlog: i32) -> io::Result<()> {
        Ok(listen(&self.fd, backlog)?)
    }
}

/// Of IPv4 where it is written as IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use rustix::net::{SocketFlags, socket_with};

    use super::*;

    fn socket(family: AddressFamily, kind: SocketType) -> ProgramSocket {
        ProgramSocket::new(socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap()).unwrap()
    }

    fn bytes(family: i32, port: u16, rest: &[u8]) -> Vec<u8> {
        [&(family as u16).to_ne_bytes()[..], &port.to_be_bytes(), rest].concat()
    }

    #[test]
    fn an_address_is_read_as_the_kernel_reads_it() {
        let (v4, v6) =
            (socket(AddressFamily::INET, SocketType::STREAM), socket(AddressFamily::INET6, SocketType::DGRAM));
        assert_eq!((v4.transport, v6.transport), (Transport::Tcp, Transport::Udp));
        let plain = bytes(libc::AF_INET, 80, &[10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(v4.reads(&plain), Some("10.0.0.1:80".parse().unwrap()));
        let old = bytes(libc::AF_UNSPEC, 80, &[0; 12]);
        assert_eq!((v4.reads(&old), v4.reads_target(&old)), (Some("0.0.0.0:80".parse().unwrap()), None));
        assert_eq!(v4.reads_target(&plain), v4.reads(&plain));
        for wrong in
            [&plain[..15], &[], &[2], &bytes(libc::AF_UNSPEC, 80, &[1; 12]), &bytes(libc::AF_UNIX, 0, &[0; 12])]
        {
            assert_eq!(v4.reads(wrong), None, "{wrong:?}");
            assert!(v4.bind(wrong).is_err(), "{wrong:?}");
        }
        let mapped: Ipv6Addr = "::ffff:10.0.0.1".parse().unwrap();
        let mapped = bytes(libc::AF_INET6, 80, &[&[0; 4][..], &mapped.octets(), &[0; 4]].concat());
        assert_eq!(v6.reads(&mapped), Some("10.0.0.1:80".parse().unwrap()));
        assert_eq!((v6.reads(&plain), v6.reads(&mapped[..23])), (None, None));
    }

    #[test]
    fn a_bind_leaves_the_options_of_the_socket_as_they_were() {
        let v6 = socket(AddressFamily::INET6, SocketType::STREAM);
        assert_eq!(v6.bound(), None);
        v6.bind_at(&v6.wildcard(), 0).unwrap();
        assert!(v6.bound().is_some_and(|bound| bound.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED)));
        assert!(!ipv6_freebind(&v6.fd).unwrap());
        assert_eq!(v6.bind(&v6.wildcard()).unwrap_err().raw_os_error(), Some(libc::EINVAL), "it is bound");
    }
}
