//! The addresses and routes of a borrowed network, all on its loopback device.
//!
//! Where the lender can send to is *local* here: the kernel answers for every such address itself, so that nothing needs a
//! device, and a program finds the source address that it would have on the lender's machine.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use super::netlink::{self, ACK, CREATE, EXCLUSIVE, Messages, REQUEST};
use crate::sys;

/// The loopback device is the first of every network.
const LOOPBACK: u32 = 1;
// linux/rtnetlink.h, if_link.h, if_addr.h.
const NETLINK_ROUTE: u32 = 0;
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const NEW_ROUTE: u16 = 24;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const UP: u32 = 1;
/// No duplicate address detection: there is nobody to ask.
const NO_DETECTION: u8 = 2;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_HOST: u8 = 254;
const TABLE_LOCAL: u8 = 255;
const STATIC: u8 = 4;
const LOCAL: u8 = 2;

/// What a network has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The machine's addresses.
    pub addresses: Vec<IpAddr>,
    /// Where it can send to, and from which of its addresses.
    pub routes: Vec<(IpNet, IpAddr)>,
}

impl Network {
    /// Everything can be reached, from private addresses: what is said while a lender tells nothing of its machine.
    pub fn everything() -> Self {
        // The end of a range that nobody uses, and a unique local address: programs then prefer IPv4 (RFC 6724 §2.1).
        let (v4, v6) = (Ipv4Addr::new(10, 255, 255, 1), Ipv6Addr::new(0xfd00, 0xca90, 0, 0, 0, 0, 0, 1));
        Self {
            addresses: vec![v4.into(), v6.into()],
            routes: vec![(ipnet::Ipv4Net::default().into(), v4.into()), (ipnet::Ipv6Net::default().into(), v6.into())],
        }
    }

    /// Gives it to the network namespace of this process.
    ///
    /// # Errors
    /// What the kernel says of the first step that it does not take.
    pub fn set_up(&self) -> io::Result<()> {
        let mut messages = Messages::default();
        for address in &self.addresses {
            push_address(&mut messages, *address);
        }
        for (prefix, source) in &self.routes {
            push_route(&mut messages, *prefix, *source);
        }
        send(&messages)
    }
}

/// Brings the loopback device up, with the addresses that it has by itself.
///
/// # Errors
/// What the kernel says.
pub fn set_loopback_up() -> io::Result<()> {
    let mut messages = Messages::default();
    messages.push(NEW_LINK, REQUEST | ACK, |body| {
        body.raw(&[0; 4]).raw(&LOOPBACK.to_ne_bytes()).raw(&UP.to_ne_bytes()).raw(&UP.to_ne_bytes());
    });
    send(&messages)
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

fn parts(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AF_INET6, address.octets().to_vec()),
    }
}

/// Each message is answered by itself, so that it is clear which one failed.
fn send(messages: &Messages) -> io::Result<()> {
    let last = netlink::heard(messages.bytes()).count() as u32;
    let socket = sys::netlink_socket(NETLINK_ROUTE)?;
    sys::netlink_exchange(&socket, messages.bytes(), |datagram| netlink::acknowledged(datagram, last))
}
