//! The TUN device of a borrowed network, and the routes and rules that lead everything to it but what is marked.
//!
//! ```text
//!   rule  mark OWN     ─▶ table local: the addresses and prefixes of `network`, on loopback
//!   rule  to ::1       ─▶ table local
//!   rule  (the rest)   ─▶ table main:  the same prefixes, with the same source addresses, by the TUN device
//! ```
//! The rule by which every look-up begins in the table local is taken away, so that what is local there is sent to the device
//! like everything else.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice::name_to_index, socket_with};

use crate::borrow::run::{
    netlink::{ACK, Body, CREATE, EXCLUSIVE, Messages, REQUEST},
    network::{
        AF_INET, AF_INET6, LINK_MTU, NEW_LINK, NEW_ROUTE, Network, SCOPE_NOWHERE, SCOPE_UNIVERSE, STATIC, TABLE_LOCAL,
        THROW, UP, parts, send,
    },
    rules::MARK_OWN,
};

/// The device's name, as the program sees it.
pub const DEVICE: &str = "capuchin";
/// Longest packet, in bytes: as long as its own header can say, so that few have to cross.
pub const PACKET_BYTES_MAX: usize = 65_535;
/// Packets that wait to be read; of more, TCP sends again, and datagrams are lost as on any network. It bounds what a program
/// makes the kernel keep to 128 MiB.
pub const WAITING_MAX: u32 = 2048;

// linux/if_link.h, ip.h, rtnetlink.h, fib_rules.h.
const LINK_QUEUE: u16 = 13;
const LINK_OF_FAMILY: u16 = 26;
const OF_INET: u16 = 2;
const OF_INET6: u16 = 10;
const INET_CONF: u16 = 1;
const CONF_ROUTE_LOCALNET: u16 = 26;
const INET6_ADDRESSES: u16 = 8;
/// No link-local address is made up: nobody is on this link.
const NO_ADDRESSES: u8 = 1;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const TABLE_MAIN: u8 = 254;
const UNICAST: u8 = 1;
const TO_TABLE: u8 = 1;
const RULE_TO: u16 = 1;
const RULE_PRIORITY: u16 = 6;
const RULE_MARK: u16 = 10;
const ROUTE_TO: u16 = 1;
const ROUTE_DEVICE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const ROUTE_METRIC: u16 = 6;
const ROUTE_SOURCE: u16 = 7;
/// Before those that the kernel makes for the addresses of a device.
const FIRST: u32 = 1;
/// The first rule that there is.
const RULE_OF_KERNEL: u32 = 0;
const RULE_OF_OURS: u32 = 1;
/// Nobody: all addresses of IPv6 behind one, or the kernel would keep a neighbour for each.
const GATEWAY: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Makes the device ready, in the network namespace of this process; it has no routes yet.
///
/// # Errors
/// What the kernel says.
pub fn prepare(has_ipv6: bool) -> io::Result<()> {
    let mut messages = Messages::default();
    let device = index()?;
    let link = |body: &mut Body<'_>, flags: u32| {
        body.raw(&[0; 4]).raw(&device.to_ne_bytes()).raw(&flags.to_ne_bytes()).raw(&flags.to_ne_bytes());
    };
    messages.push(NEW_LINK, REQUEST | ACK, |body| {
        link(body, 0);
        body.attribute(LINK_MTU, &(PACKET_BYTES_MAX as u32).to_ne_bytes());
        body.attribute(LINK_QUEUE, &WAITING_MAX.to_ne_bytes());
        body.nested(LINK_OF_FAMILY, |families| {
            // What is sent to 127.0.0.0/8 leaves by it, too.
            families.nested(OF_INET, |inet| {
                inet.nested(INET_CONF, |conf| {
                    conf.attribute(CONF_ROUTE_LOCALNET, &1_u32.to_ne_bytes());
                });
            });
            if has_ipv6 {
                families.nested(OF_INET6, |inet6| {
                    inet6.attribute(INET6_ADDRESSES, &[NO_ADDRESSES]);
                });
            }
        });
    });
    messages.push(NEW_LINK, REQUEST | ACK, |body| link(body, UP));
    send(&messages)
}

/// Leads to the device whatever `network` has a way for. To be called when `network` is set up.
///
/// # Errors
/// What the kernel says of the first step that it does not take.
pub fn divert(network: &Network) -> io::Result<()> {
    let (mut messages, device) = (Messages::default(), index()?);
    let own = network.addresses.iter().map(|address| (IpNet::from(*address), *address));
    let loopback: IpNet = ipnet::Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into();
    let routes = network.routes.iter().copied().chain(own).chain([(loopback, Ipv4Addr::LOCALHOST.into())]);
    for (prefix, source) in routes {
        push_route(&mut messages, device, prefix, source);
    }
    for (address, bits) in network.nobody() {
        push_no_route(&mut messages, address, bits);
    }
    let families = if network.has_ipv6 { &[AF_INET, AF_INET6][..] } else { &[AF_INET] };
    for family in families.iter().copied() {
        push_rule(&mut messages, NEW_RULE, family, RULE_OF_OURS, |rule| {
            rule.attribute(RULE_MARK, &MARK_OWN.to_ne_bytes());
        });
    }
    if network.has_ipv6 {
        push_rule_to(&mut messages, Ipv6Addr::LOCALHOST);
    }
    for family in families.iter().copied() {
        push_rule(&mut messages, DELETE_RULE, family, RULE_OF_KERNEL, |_| {});
    }
    send(&messages)
}

fn index() -> io::Result<u32> {
    let any = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    Ok(name_to_index(&any, DEVICE)?)
}

fn push_route(messages: &mut Messages, device: u32, prefix: IpNet, source: IpAddr) {
    let (family, octets) = parts(prefix.network());
    messages.push(NEW_ROUTE, REQUEST | ACK | CREATE | EXCLUSIVE, |body| {
        body.raw(&[family, prefix.prefix_len(), 0, 0, TABLE_MAIN, STATIC, SCOPE_UNIVERSE, UNICAST]).raw(&[0; 4]);
        if prefix.prefix_len() > 0 {
            body.attribute(ROUTE_TO, &octets);
        }
        body.attribute(ROUTE_DEVICE, &device.to_ne_bytes()).attribute(ROUTE_SOURCE, &parts(source).1);
        if family == AF_INET6 {
            body.attribute(ROUTE_METRIC, &FIRST.to_ne_bytes()).attribute(ROUTE_GATEWAY, &GATEWAY.octets());
        }
    });
}

/// The look-up goes on in the next table, where there is nothing.
fn push_no_route(messages: &mut Messages, address: IpAddr, bits: u8) {
    let (family, octets) = parts(address);
    messages.push(NEW_ROUTE, REQUEST | ACK | CREATE | EXCLUSIVE, |body| {
        body.raw(&[family, bits, 0, 0, TABLE_MAIN, STATIC, SCOPE_NOWHERE, THROW]).raw(&[0; 4]);
        body.attribute(ROUTE_TO, &octets);
        if family == AF_INET6 {
            body.attribute(ROUTE_METRIC, &FIRST.to_ne_bytes());
        }
    });
}

fn push_rule(messages: &mut Messages, kind: u16, family: u8, priority: u32, fill: impl FnOnce(&mut Body<'_>)) {
    let flags = if kind == NEW_RULE { REQUEST | ACK | CREATE | EXCLUSIVE } else { REQUEST | ACK };
    messages.push(kind, flags, |body| {
        body.raw(&[family, 0, 0, 0, TABLE_LOCAL, 0, 0, TO_TABLE]).raw(&[0; 4]);
        body.attribute(RULE_PRIORITY, &priority.to_ne_bytes());
        fill(body);
    });
}

fn push_rule_to(messages: &mut Messages, address: Ipv6Addr) {
    messages.push(NEW_RULE, REQUEST | ACK | CREATE | EXCLUSIVE, |body| {
        body.raw(&[AF_INET6, 128, 0, 0, TABLE_LOCAL, 0, 0, TO_TABLE]).raw(&[0; 4]);
        body.attribute(RULE_PRIORITY, &RULE_OF_OURS.to_ne_bytes()).attribute(RULE_TO, &address.octets());
    });
}
