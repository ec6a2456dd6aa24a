//! The addresses and routes of a borrowed network, all on its loopback device.
//!
//! Where the lender can send to is *local* here: the kernel answers for every such address itself, so that nothing needs a
//! device, and a program finds the source address that it would have on the lender's machine.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use rustix::process::getgid;

use super::{
    netlink::{self, ACK, CREATE, EXCLUSIVE, Messages, REQUEST},
    packet::IPV6_HEADER_BYTES,
};
use crate::{proto::Machine, sys};

/// The loopback device is the first of every network.
pub(super) const LOOPBACK: u32 = 1;
// linux/rtnetlink.h, if_link.h, if_addr.h.
const NETLINK_ROUTE: u32 = 0;
pub(super) const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
pub(super) const NEW_ROUTE: u16 = 24;
pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
pub(super) const UP: u32 = 1;
pub(super) const LINK_MTU: u16 = 4;
/// No duplicate address detection: there is nobody to ask.
const NO_DETECTION: u8 = 2;
pub(super) const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_HOST: u8 = 254;
pub(super) const SCOPE_NOWHERE: u8 = 255;
pub(super) const TABLE_LOCAL: u8 = 255;
pub(super) const STATIC: u8 = 4;
const LOCAL: u8 = 2;
pub(super) const THROW: u8 = 9;

/// Longest packet of the loopback device, in bytes: a header of IPv6, and as much behind it as its length can say. Linux's own
/// 65,536 are less, and raw sockets of IPv6 send nothing in pieces.
pub(super) const LOOPBACK_PACKET_BYTES_MAX: usize = IPV6_HEADER_BYTES + u16::MAX as usize;

/// Messages that are sent together: the answers of as many have room until they are read, beside any other.
const TOGETHER_MAX: usize = 64;

/// The end of a private range that nobody uses: of a machine that has no address of its own.
pub const NO_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 255, 255, 1);
/// The same of IPv6. Beside one of IPv4 it comes second (RFC 6724), so that nobody prefers it.
const NO_ADDRESS_V6: Ipv6Addr = Ipv6Addr::new(0xfdff, 0xffff, 0xffff, 0xffff, 0, 0, 0, 1);

/// The first receive buffer of a TCP socket, in bytes (`net.ipv4.tcp_rmem`, tcp(7)).
const FIRST_BUFFER_BYTES: u64 = 128 * 1024;

/// Multicast and broadcast: nothing of them reaches the lender's network, so that there is no way to them (ENETUNREACH, and
/// ENODEV for who would join a group), as on a machine without a default route.
const NOBODY: [(IpAddr, u8); 3] = [
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4),
    (IpAddr::V4(Ipv4Addr::BROADCAST), 32),
    (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
];

const LINK_LOCAL: IpNet = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10));

/// What a network has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The machine's addresses.
    pub addresses: Vec<IpAddr>,
    /// Where it can send to, and from which of its addresses.
    pub routes: Vec<(IpNet, IpAddr)>,
    /// Whether this machine has IPv6, without which nothing above is of it.
    pub has_ipv6: bool,
}

impl Network {
    /// That of the lender's machine. What it says beyond its own addresses and where they lead is left out, so that the kernel
    /// takes every part: a route from an address that it has not is one from the first that it has. `own_resolvers` are
    /// those of this machine, which a program finds when somebody replaces resolv.conf under it.
    pub fn of(machine: &Machine, own_resolvers: &[IpAddr], has_ipv6: bool) -> Self {
        let is_plain =
            |address: &IpAddr| !address.is_loopback() && !address.is_multicast() && !address.is_unspecified();
        let mut addresses: Vec<IpAddr> = machine.addresses.iter().copied().filter(is_plain).collect();
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() {
            // Without an address beyond loopback, programs look up nothing (AI_ADDRCONFIG).
            addresses.push(NO_ADDRESS.into());
        }
        let mut routes = BTreeMap::new();
        if machine.addresses.is_empty() && machine.routes.is_empty() {
            // Nothing is told to who may only listen, and each visitor must be answered; what else is sent, the lender judges.
            addresses.push(NO_ADDRESS_V6.into());
            routes.insert(Ipv4Net::default().into(), NO_ADDRESS.into());
            routes.insert(Ipv6Net::default().into(), NO_ADDRESS_V6.into());
        }
        for route in &machine.routes {
            let from_same_family = |address: &&IpAddr| address.is_ipv4() == route.prefix.addr().is_ipv4();
            let Some(source) = route.source else { continue };
            let first = || addresses.iter().find(from_same_family).copied();
            let Some(source) = Some(source).filter(|source| addresses.contains(source)).or_else(first) else {
                continue;
            };
            routes.insert(route.prefix, source);
        }
        for resolver in machine.resolvers.iter().chain(own_resolvers).filter(|address| is_plain(address)) {
            // Answered here, wherever it is; what else is there is reached from where the machine reaches it.
            let is_of_family = |address: &IpAddr| address.is_ipv4() == resolver.is_ipv4();
            let ways = routes.iter().filter(|(prefix, source)| prefix.contains(resolver) && is_of_family(source));
            let source = ways.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, source)| *source);
            let first = || addresses.iter().copied().find(is_of_family);
            let source = source.or_else(first).unwrap_or(NO_ADDRESS.into());
            routes.entry(IpNet::from(*resolver)).or_insert(source);
        }
        // The kernel makes those of the addresses themselves, and of loopback.
        let is_own = |prefix: &IpNet| {
            prefix.addr().is_loopback() || addresses.iter().any(|address| IpNet::from(*address) == *prefix)
        };
        let same_family = |(prefix, source): &(IpNet, IpAddr)| prefix.addr().is_ipv4() == source.is_ipv4();
        let has = |address: IpAddr| address.is_ipv4() || has_ipv6;
        let routes = routes.into_iter().filter(|(prefix, _)| !is_own(prefix)).filter(same_family);
        let routes = routes.filter(|(_, source)| has(*source)).collect();
        addresses.retain(|address| has(*address));
        Self { addresses, routes, has_ipv6 }
    }

    /// Gives it to the network namespace of this process.
    ///
    /// # Errors
    /// What the kernel says of the first step that it does not take.
    pub fn set_up(&self) -> io::Result<()> {
        let mut messages = Messages::default();
        for address in &self.addresses {
            push_address(&mut messages, *address);
            if address.is_ipv6() {
                // The kernel makes the way to it a while later, from a work queue: a connection that was begun before ends with
                // ENETUNREACH when it does.
                push_route(&mut messages, IpNet::from(*address), *address);
            }
        }
        for (prefix, source) in &self.routes {
            push_route(&mut messages, *prefix, *source);
        }
        for (address, bits) in self.nobody() {
            push_no_route(&mut messages, address, bits);
        }
        if self.has_ipv6 {
            // For who visits by a link of the lender's.
            push_route(&mut messages, LINK_LOCAL, Ipv6Addr::LOCALHOST.into());
        }
        send(&messages)
    }

    /// Where nobody is, in the families that it has.
    pub(super) fn nobody(&self) -> impl Iterator<Item = (IpAddr, u8)> {
        NOBODY.into_iter().filter(|(address, _)| address.is_ipv4() || self.has_ipv6)
    }
}

/// Brings the loopback device up, with the addresses that it has by itself and room for the longest packet.
///
/// # Errors
/// What the kernel says.
pub fn set_loopback_up() -> io::Result<()> {
    let mut messages = Messages::default();
    messages.push(NEW_LINK, REQUEST | ACK, |body| {
        body.raw(&[0; 4]).raw(&LOOPBACK.to_ne_bytes()).raw(&UP.to_ne_bytes()).raw(&UP.to_ne_bytes());
        body.attribute(LINK_MTU, &(LOOPBACK_PACKET_BYTES_MAX as u32).to_ne_bytes());
    });
    send(&messages)
}

/// Lets programs have ICMP sockets (icmp(7)), with which ping needs no privilege. Nobody answers them: an address that is local
/// here would, wherever it really is.
pub fn let_ping(is_root: bool) {
    // A group that the namespace does not have is none that can be named.
    let groups = if is_root { "0 2147483647".to_owned() } else { format!("{0} {0}", getgid().as_raw()) };
    // In a container with a read-only /proc/sys ping goes without, as it does there outside.
    let _ = fs::write("/proc/sys/net/ipv4/ping_group_range", groups);
}

/// Lets sockets of TCP begin with no more of a receive buffer than Linux gives them by itself, where the machine was tuned to give
/// more: the longest ICMP message must not fit into it (see [`Length::Long`](super::packet::Length)). It grows as ever.
pub fn limit_first_buffers() {
    let path = "/proc/sys/net/ipv4/tcp_rmem";
    if let Some(limited) = fs::read_to_string(path).ok().and_then(|sizes| limited(&sizes)) {
        // In a container with a read-only /proc/sys they stay as they are.
        let _ = fs::write(path, limited);
    }
}

/// The least, first and largest size, of which the first is too large.
fn limited(sizes: &str) -> Option<String> {
    let [least, first, largest] = *sizes.split_whitespace().collect::<Vec<_>>() else { return None };
    (first.parse::<u64>().ok()? > FIRST_BUFFER_BYTES).then(|| format!("{least} {FIRST_BUFFER_BYTES} {largest}"))
}

fn push_address(messages: &mut Messages, address: IpAddr) {
    let (family, octets) = parts(address);
    let bits = (octets.len() * 8) as u8;
    messages.push(NEW_ADDRESS, REQUEST | ACK | CREATE | EXCLUSIVE, |body| {
        body.raw(&[family, bits, NO_DETECTION, SCOPE_UNIVERSE]).raw(&LOOPBACK.to_ne_bytes());
        body.attribute(2, &octets).attribute(1, &octets);
    });
}

fn push_route(messages: &mut Messages, prefix: IpNet, source: IpAddr) {
    let (family, octets) = parts(prefix.network());
    messages.push(NEW_ROUTE, REQUEST | ACK | CREATE | EXCLUSIVE, |body| {
        body.raw(&[family, prefix.prefix_len(), 0, 0, TABLE_LOCAL, STATIC, SCOPE_HOST, LOCAL]).raw(&[0; 4]);
        if prefix.prefix_len() > 0 {
            body.attribute(1, &octets);
        }
        body.attribute(4, &LOOPBACK.to_ne_bytes()).attribute(7, &parts(source).1);
    });
}

/// The look-up goes on in the next table, where there is nothing.
fn push_no_route(messages: &mut Messages, address: IpAddr, bits: u8) {
    let (family, octets) = parts(address);
    messages.push(NEW_ROUTE, REQUEST | ACK | CREATE | EXCLUSIVE, |body| {
        body.raw(&[family, bits, 0, 0, TABLE_LOCAL, STATIC, SCOPE_NOWHERE, THROW]).raw(&[0; 4]);
        body.attribute(1, &octets);
    });
}

pub(super) fn parts(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    }
}

/// Each message is answered by itself, so that it is clear which one failed.
pub(super) fn send(messages: &Messages) -> io::Result<()> {
    let socket = sys::netlink_socket(NETLINK_ROUTE)?;
    messages.pieces(TOGETHER_MAX).try_for_each(|(piece, last)| {
        sys::netlink_exchange(&socket, piece, |datagram| netlink::acknowledged(datagram, last))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::MachineRoute;

    fn route(prefix: &str, source: Option<&str>) -> MachineRoute {
        MachineRoute { prefix: prefix.parse().unwrap(), source: source.map(|source| source.parse().unwrap()) }
    }

    #[test]
    fn a_network_has_the_routes_of_the_machine() {
        let machine = Machine {
            addresses: ["10.0.0.7", "fd00::7"].map(|text| text.parse().unwrap()).into(),
            routes: vec![
                route("0.0.0.0/0", Some("10.0.0.7")),
                route("10.0.0.7/32", Some("10.0.0.7")),
                route("10.9.0.0/16", None),
                route("fd00::/8", Some("fd00::7")),
            ],
            resolvers: ["127.0.0.53", "10.0.0.2"].map(|text| text.parse().unwrap()).into(),
            ..Machine::default()
        };
        let own_resolvers = ["127.0.0.1", "192.0.2.53"].map(|text| text.parse().unwrap());
        let network = Network::of(&machine, &own_resolvers, true);
        let pair = |prefix: &str, source: &str| (prefix.parse().unwrap(), source.parse().unwrap());
        assert_eq!(
            network.routes,
            [
                pair("0.0.0.0/0", "10.0.0.7"),
                pair("10.0.0.2/32", "10.0.0.7"),
                pair("192.0.2.53/32", "10.0.0.7"),
                pair("fd00::/8", "fd00::7")
            ]
        );
    }

    #[test]
    fn a_resolver_is_reached_from_where_the_machine_reaches_it() {
        let machine = Machine {
            addresses: ["10.0.0.7", "10.5.0.1"].map(|text| text.parse().unwrap()).into(),
            routes: vec![route("0.0.0.0/0", Some("10.0.0.7")), route("10.5.0.0/16", Some("10.5.0.1"))],
            resolvers: vec!["10.5.0.2".parse().unwrap()],
            ..Machine::default()
        };
        let network = Network::of(&machine, &[], true);
        assert!(network.routes.contains(&("10.5.0.2/32".parse().unwrap(), "10.5.0.1".parse().unwrap())));
    }

    #[test]
    fn a_machine_without_ipv6_gives_none_of_it() {
        let machine = Machine {
            addresses: ["10.0.0.7", "fd00::7"].map(|text| text.parse().unwrap()).into(),
            routes: vec![route("0.0.0.0/0", Some("10.0.0.7")), route("::/0", Some("fd00::7"))],
            resolvers: vec!["fd00::53".parse().unwrap()],
            ..Machine::default()
        };
        let network = Network::of(&machine, &[], false);
        assert_eq!(network.addresses, ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(network.routes, [("0.0.0.0/0".parse().unwrap(), "10.0.0.7".parse().unwrap())]);
        assert!(network.nobody().all(|(address, _)| address.is_ipv4()));
    }

    #[test]
    fn what_no_kernel_takes_is_left_out() {
        let machine = Machine {
            addresses: ["127.0.0.1", "224.0.0.1", "10.0.0.7", "10.0.0.7"].map(|text| text.parse().unwrap()).into(),
            routes: vec![
                route("127.0.0.0/8", Some("127.0.0.1")),
                route("10.0.0.0/8", Some("10.6.6.6")),
                route("10.0.0.0/8", Some("10.0.0.7")),
                route("fd00::/8", Some("fd00::7")),
            ],
            resolvers: vec!["fd00::53".parse().unwrap()],
            ..Machine::default()
        };
        let network = Network::of(&machine, &[], true);
        assert_eq!(network.addresses, ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(network.routes, [("10.0.0.0/8".parse().unwrap(), "10.0.0.7".parse().unwrap())]);
    }

    #[test]
    fn only_a_first_buffer_that_is_larger_than_usual_is_made_smaller() {
        assert_eq!(limited("4096\t131072\t6291456\n"), None);
        assert_eq!(limited("4096\t1048576\t33554432\n").unwrap(), "4096 131072 33554432");
        assert_eq!((limited("4096 x 1"), limited("")), (None, None));
    }

    #[test]
    fn a_machine_that_tells_nothing_has_a_way_to_everywhere() {
        let network = Network::of(&Machine::default(), &[], true);
        assert_eq!(network.addresses, [IpAddr::from(NO_ADDRESS), NO_ADDRESS_V6.into()]);
        let everywhere = [("0.0.0.0/0", "10.255.255.1"), ("::/0", "fdff:ffff:ffff:ffff::1")];
        assert_eq!(
            network.routes,
            everywhere.map(|(prefix, source)| (prefix.parse().unwrap(), source.parse().unwrap()))
        );
        let silent = Machine { addresses: vec!["10.0.0.7".parse().unwrap()], ..Machine::default() };
        assert_eq!(Network::of(&silent, &[], true).routes, []);
    }
}
