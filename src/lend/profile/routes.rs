//! Where this machine can send to, and from which address: rtnetlink(7) says which routes there are, and the kernel
//! itself, asked with an unsent datagram, which address it would choose.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use ipnet::IpNet;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use crate::proto::{MACHINE_ADDRESSES_MAX, MachineRoute, ROUTES_MAX, wildcard_like};

/// Routes that are looked at; who knows more speaks BGP, and has a default route.
const READ_MAX: usize = 4096;
/// What the kernel puts into one message at most (NLMSG_GOODSIZE is less), in bytes.
const BUFFER_BYTES: usize = 32 * 1024;
/// The discard port: nothing is sent to it.
const PROBE_PORT: u16 = 9;

// linux/netlink.h, linux/rtnetlink.h
const HEADER_BYTES: usize = 16;
const ROUTE_BYTES: usize = 12;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const RTA_DST: u16 = 1;
const RTA_PREFSRC: u16 = 7;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
/// BLACKHOLE, UNREACHABLE, PROHIBIT.
const RTN_NOWHERE: std::ops::RangeInclusive<u8> = 6..=8;

/// What the machine knows of its network.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Routes {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) routes: Vec<MachineRoute>,
}

/// A route as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Told {
    prefix: IpNet,
    kind: u8,
    source: Option<IpAddr>,
}

/// Reads them all.
///
/// # Errors
/// What the kernel says.
pub(super) fn read() -> io::Result<Routes> {
    let mut told = dump(AddressFamily::INET)?;
    // A kernel without IPv6 refuses the question.
    told.extend(dump(AddressFamily::INET6).unwrap_or_default());
    told.retain(|route| is_of_use(&route.prefix));
    let local = told
        .iter()
        .filter(|route| route.kind == RTN_LOCAL && route.prefix.prefix_len() == route.prefix.max_prefix_len());
    let addresses = local.map(|route| route.prefix.addr()).take(MACHINE_ADDRESSES_MAX).collect();
    // Of one prefix the kernel's first counts; the broad ones first, since what is cut off then still has a default route.
    told.sort_by_key(|route| (route.prefix.prefix_len(), route.prefix));
    told.dedup_by_key(|route| route.prefix);
    let routes =
        told.into_iter().take(ROUTES_MAX).map(|route| MachineRoute { prefix: route.prefix, source: route.source() });
    Ok(Routes { addresses, routes: routes.collect() })
}

/// Loopback is no route of a profile, and a link-local IPv6 address says nothing without its interface.
fn is_of_use(prefix: &IpNet) -> bool {
    match prefix {
        IpNet::V4(net) => !net.addr().is_loopback() && !net.addr().is_multicast() && !net.addr().is_broadcast(),
        IpNet::V6(net) => {
            !net.addr().is_loopback() && !net.addr().is_multicast() && !net.addr().is_unicast_link_local()
        }
    }
}

impl Told {
    fn source(&self) -> Option<IpAddr> {
        match self.kind {
            kind if RTN_NOWHERE.contains(&kind) => None,
            RTN_LOCAL => self.source.or(Some(self.prefix.addr())),
            _ => self.source.or_else(|| chosen_for(inside(&self.prefix))),
        }
    }
}

/// An address behind a route, to ask about; of a default route one of those for documentation, which no narrower
/// route should hold.
fn inside(prefix: &IpNet) -> IpAddr {
    match prefix {
        IpNet::V4(net) if net.prefix_len() == 0 => Ipv4Addr::new(198, 51, 100, 1).into(),
        IpNet::V6(net) if net.prefix_len() == 0 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        IpNet::V4(net) => net.hosts().next().unwrap_or(net.addr()).into(),
        IpNet::V6(net) => net.hosts().next().unwrap_or(net.addr()).into(),
    }
}

/// The address that a datagram there would come from.
fn chosen_for(destination: IpAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(wildcard_like(destination)).ok()?;
    socket.connect((destination, PROBE_PORT)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

fn dump(family: AddressFamily) -> io::Result<Vec<Told>> {
    // Without a protocol it is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let mut question = Vec::with_capacity(HEADER_BYTES + ROUTE_BYTES);
    question.extend_from_slice(&((HEADER_BYTES + ROUTE_BYTES) as u32).to_ne_bytes());
    question.extend_from_slice(&RTM_GETROUTE.to_ne_bytes());
    question.extend_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    question.resize(HEADER_BYTES, 0);
    question.push(family.as_raw() as u8);
    question.resize(HEADER_BYTES + ROUTE_BYTES, 0);
    send(&socket, &question, SendFlags::empty())?;
    let (mut told, mut buffer) = (Vec::new(), vec![0; BUFFER_BYTES]);
    while told.len() < READ_MAX {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        if !read_messages(buffer.get(..length).unwrap_or_default(), &mut told)? {
            break;
        }
    }
    Ok(told)
}

/// Reads what one datagram holds; `false` when it was the last.
fn read_messages(mut bytes: &[u8], told: &mut Vec<Told>) -> io::Result<bool> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer cannot be read");
    while !bytes.is_empty() {
        let length =
            usize::try_from(u32::from_ne_bytes(*bytes.first_chunk().ok_or_else(broken)?)).unwrap_or(usize::MAX);
        let message = bytes.get(..length).filter(|message| message.len() >= HEADER_BYTES).ok_or_else(broken)?;
        let (header, body) = message.split_at(HEADER_BYTES);
        match u16::from_ne_bytes([header[4], header[5]]) {
            NLMSG_DONE => return Ok(false),
            NLMSG_ERROR => {
                let errno = i32::from_ne_bytes(*body.first_chunk().ok_or_else(broken)?);
                return Err(io::Error::from_raw_os_error(errno.saturating_neg()));
            }
            RTM_NEWROUTE => told.extend(read_route(body)),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

/// One route; `None` if it is of a kind that says nothing about where to send.
fn read_route(body: &[u8]) -> Option<Told> {
    let (header, mut attributes) = body.split_at_checked(ROUTE_BYTES)?;
    let (&family, &bits, &kind) = (header.first()?, header.get(1)?, header.get(7)?);
    if !(kind == RTN_UNICAST || kind == RTN_LOCAL || RTN_NOWHERE.contains(&kind)) {
        return None;
    }
    let (mut destination, mut source) = (None, None);
    while let Some(head) = attributes.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let value = attributes.get(4..length)?;
        match u16::from_ne_bytes([head[2], head[3]]) {
            RTA_DST => destination = address(value),
            RTA_PREFSRC => source = address(value),
            _ => {}
        }
        attributes = attributes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    let any = match AddressFamily::from_raw(family.into()) {
        AddressFamily::INET => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::INET6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let prefix = IpNet::new(destination.unwrap_or(any), bits).ok()?.trunc();
    Some(Told { prefix, kind, source })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
        (Ok(octets), _) => Some(octets.into()),
        (_, Ok(octets)) => Some(octets.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_routes_that_can_be_read() {
        let routes = read().unwrap();
        let machine =
            crate::proto::Machine { addresses: routes.addresses, routes: routes.routes, ..Default::default() };
        assert_eq!(machine.check(), Ok(()));
        assert!(machine.addresses.iter().all(|address| !address.is_loopback()), "{machine:?}");
        for address in &machine.addresses {
            assert!(UdpSocket::bind((*address, 0)).is_ok(), "{address} is this machine's");
        }
    }

    #[test]
    fn any_bytes_of_a_kernel_are_routes_or_an_error() {
        let mut route = vec![2, 8, 0, 0, 254, 3, 0, RTN_UNICAST, 0, 0, 0, 0];
        route.extend_from_slice(&[8, 0, 1, 0, 10, 0, 0, 0, 8, 0, 7, 0, 10, 0, 0, 7]);
        let told = read_route(&route).unwrap();
        assert_eq!((told.prefix, told.source()), ("10.0.0.0/8".parse().unwrap(), Some("10.0.0.7".parse().unwrap())));
        for cut in 0..route.len() {
            let _ = read_route(&route[..cut]);
        }
        route[13] = 1;
        assert_eq!(read_route(&route), None, "a length beyond its end");
        route[7] = 3;
        assert_eq!(read_route(&route), None, "a broadcast address is no route");
        for bytes in [&[1, 0, 0, 0][..], &[255; 40], &[16; 3]] {
            assert!(read_messages(bytes, &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn where_nothing_can_be_sent_is_told_too() {
        let told = Told { prefix: "10.9.0.0/16".parse().unwrap(), kind: 7, source: None };
        assert_eq!(told.source(), None);
        let own = Told { prefix: "fd00::1/128".parse().unwrap(), kind: RTN_LOCAL, source: None };
        assert_eq!(own.source(), Some("fd00::1".parse().unwrap()));
    }
}
