//! What a program has sent, as it comes out of the TUN device: read, and its ports written anew.
//!
//! Pure: bytes in, bytes out. Nothing of a packet is believed before it is measured.

use std::net::{IpAddr, SocketAddr};

use crate::borrow::run::packet::{
    ECHO_REQUEST, ECHO_REQUEST_V6, ICMP, ICMPV6, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, Syn, TCP, TCP_HEADER_BYTES, UDP,
    UDP_HEADER_BYTES, half, ipv4, ipv6,
};

/// Where a TCP header has its sum, behind the ports.
const TCP_SUM_AT: usize = 16;
/// A header of IPv4 says so much of fragments: that more follow, and where in the whole this one begins.
const FRAGMENT: u16 = 0x3fff;
/// What IPv6 has in the place of a header, where a packet is one of several.
const FRAGMENT_HEADER: u8 = 44;

/// A packet, as far as it is of interest.
#[derive(Debug, PartialEq, Eq)]
pub enum Outbound<'a> {
    /// The first packet of a connection.
    Syn(Syn),
    /// Any other packet of a connection.
    Segment(Segment),
    /// A datagram.
    Datagram {
        /// The program's end.
        from: SocketAddr,
        /// Where it is sent to.
        to: SocketAddr,
        /// What it holds.
        content: &'a [u8],
        /// How many machines it may pass.
        hops: u8,
        /// Its type of service or traffic class.
        class: u8,
    },
    /// Anything else: the program's own kernel may know what to do with it.
    Other(IpAddr),
    /// Nobody gets it: it is broken, in pieces, for a group, or it asks whether somebody is there, whom to answer for would be
    /// a lie.
    Lost,
}

/// A packet of a connection, and where it has what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Who sends it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// FIN, SYN, RST, PSH and ACK, from the lowest bit on.
    pub flags: u8,
    tcp_start: usize,
}

/// Reads a packet of either family.
pub fn read(packet: &[u8]) -> Outbound<'_> {
    Header::read(packet).and_then(|header| header.whole(packet)).unwrap_or(Outbound::Lost)
}

/// What an IP header says.
struct Header {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    /// Where the next header begins.
    start: usize,
    /// Where the packet ends.
    end: usize,
    hops: u8,
    class: u8,
}

impl Header {
    fn read(packet: &[u8]) -> Option<Self> {
        let first = *packet.first()?;
        let header = if first >> 4 == 4 {
            if half(packet, 6)? & FRAGMENT != 0 {
                return None;
            }
            Self {
                from: ipv4(packet, 12)?.into(),
                to: ipv4(packet, 16)?.into(),
                protocol: *packet.get(9)?,
                start: usize::from(first & 15) * 4,
                end: half(packet, 2)?.into(),
                hops: *packet.get(8)?,
                class: *packet.get(1)?,
            }
        } else if first >> 4 == 6 {
            Self {
                from: ipv6(packet, 8)?.into(),
                to: ipv6(packet, 24)?.into(),
                protocol: *packet.get(6)?,
                start: IPV6_HEADER_BYTES,
                end: IPV6_HEADER_BYTES + usize::from(half(packet, 4)?),
                hops: *packet.get(7)?,
                class: first << 4 | packet.get(1)? >> 4,
            }
        } else {
            return None;
        };
        let is_for_one = !header.to.is_multicast() && header.to != IpAddr::from([255; 4]);
        (header.start >= IPV4_HEADER_BYTES && is_for_one && header.protocol != FRAGMENT_HEADER).then_some(header)
    }

    /// What follows it.
    fn whole<'a>(&self, packet: &'a [u8]) -> Option<Outbound<'a>> {
        let body = packet.get(self.start..self.end)?;
        let ends = || Some((SocketAddr::new(self.from, half(body, 0)?), SocketAddr::new(self.to, half(body, 2)?)));
        let is_ipv4 = self.to.is_ipv4();
        match self.protocol {
            TCP => {
                let ((from, to), flags) = (ends()?, *body.get(13)?);
                if flags & 0x12 == 0x02 {
                    return Some(Outbound::Syn(Syn::parse(packet)?));
                }
                let segment = Segment { from, to, flags, tcp_start: self.start };
                (body.len() >= TCP_HEADER_BYTES).then_some(Outbound::Segment(segment))
            }
            UDP => {
                let ((from, to), length) = (ends()?, usize::from(half(body, 4)?));
                let content = body.get(UDP_HEADER_BYTES..length)?;
                Some(Outbound::Datagram { from, to, content, hops: self.hops, class: self.class })
            }
            ICMP if is_ipv4 && *body.first()? == ECHO_REQUEST => None,
            ICMPV6 if !is_ipv4 && *body.first()? == ECHO_REQUEST_V6 => None,
            _ => Some(Outbound::Other(self.to)),
        }
    }
}

impl Segment {
    /// Writes other ports into the packet that this was read from, and what they change of its sum (RFC 1624).
    pub fn set_ports(&self, packet: &mut [u8], source: u16, destination: u16) {
        let Some(tcp) = packet.get_mut(self.tcp_start..).filter(|tcp| tcp.len() >= TCP_HEADER_BYTES) else { return };
        let sum = half(tcp, TCP_SUM_AT).unwrap_or_default();
        let sum = updated(updated(sum, self.from.port(), source), self.to.port(), destination);
        tcp[..2].copy_from_slice(&source.to_be_bytes());
        tcp[2..4].copy_from_slice(&destination.to_be_bytes());
        tcp[TCP_SUM_AT..TCP_SUM_AT + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The sum of a packet in which one word has become another: `~(~sum + ~before + after)`.
fn updated(sum: u16, before: u16, after: u16) -> u16 {
    let sum = u32::from(!sum) + u32::from(!before) + u32::from(after);
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::borrow::run::{
        datagram,
        packet::{checksum, octets},
    };

    fn tcp(from: SocketAddr, to: SocketAddr, flags: u8, data: &[u8]) -> Vec<u8> {
        let mut tcp = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        tcp.extend_from_slice(&[0, 0, 0, 9, 0, 0, 0, 7, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend_from_slice(data);
        let sum = checksum(before(from, to, tcp.len()), &tcp);
        tcp[16..18].copy_from_slice(&sum);
        let [high, low] = (tcp.len() as u16 + if to.is_ipv4() { 20 } else { 0 }).to_be_bytes();
        let mut packet = match to {
            SocketAddr::V4(_) => vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, 6, 0, 0],
            SocketAddr::V6(_) => vec![0x60, 0, 0, 0, high, low, 6, 64],
        };
        packet.extend([octets(from.ip()), octets(to.ip()), tcp].concat());
        packet
    }

    fn before(from: SocketAddr, to: SocketAddr, length: usize) -> Vec<u8> {
        let [high, low] = (length as u16).to_be_bytes();
        [octets(from.ip()), octets(to.ip()), vec![0, TCP, high, low]].concat()
    }

    fn ends(is_ipv4: bool) -> (SocketAddr, SocketAddr) {
        match is_ipv4 {
            true => ("10.0.0.1:4000".parse().unwrap(), "10.9.9.9:80".parse().unwrap()),
            false => ("[fd00::1]:4000".parse().unwrap(), "[2001:db8::9]:80".parse().unwrap()),
        }
    }

    #[test]
    fn packets_are_told_apart() {
        for (from, to) in [true, false].map(ends) {
            let syn = tcp(from, to, 0x02, b"");
            assert!(matches!(read(&syn), Outbound::Syn(syn) if (syn.from, syn.to) == (from, to)));
            for flags in [0x10, 0x12, 0x11, 0x04, 0x18] {
                let packet = tcp(from, to, flags, b"x");
                let Outbound::Segment(segment) = read(&packet) else { panic!("{flags}") };
                assert_eq!((segment.from, segment.to, segment.flags), (from, to, flags));
            }
            let mut packet = datagram::packet(from, to, b"hello").unwrap();
            if to.is_ipv4() {
                // Which a raw socket's kernel writes.
                packet[3] = 33;
            }
            let expected = Outbound::Datagram { from, to, content: b"hello", hops: 64, class: 0 };
            assert_eq!(read(&packet), expected);
            let place = if to.is_ipv4() { 9 } else { 6 };
            packet[place] = 132;
            assert_eq!(read(&packet), Outbound::Other(to.ip()));
            (packet[place], packet[if to.is_ipv4() { 20 } else { 40 }]) = if to.is_ipv4() { (1, 8) } else { (58, 128) };
            assert_eq!(read(&packet), Outbound::Lost, "an echo request");
            packet[if to.is_ipv4() { 20 } else { 40 }] = 3;
            assert_eq!(read(&packet), Outbound::Other(to.ip()));
        }
    }

    #[test]
    fn pieces_and_what_is_for_many_are_lost() {
        let (from, to) = ends(true);
        for (offset, value) in [(6, 0x20), (7, 1), (16, 224), (0, 0x44), (0, 0x75), (3, 255)] {
            let mut packet = tcp(from, to, 0x10, b"");
            packet[offset] = value;
            assert_eq!(read(&packet), Outbound::Lost, "{offset}");
        }
        let mut everybody = tcp(from, to, 0x10, b"");
        everybody[16..20].fill(255);
        assert_eq!(read(&everybody), Outbound::Lost);
        let (from, to) = ends(false);
        for (offset, value) in [(6, 44), (24, 0xff), (5, 255)] {
            let mut packet = tcp(from, to, 0x10, b"");
            packet[offset] = value;
            assert_eq!(read(&packet), Outbound::Lost, "{offset}");
        }
    }

    proptest! {
        #[test]
        fn a_packet_with_other_ports_has_the_sum_of_them(
            is_ipv4: bool, ports: (u16, u16), others: (u16, u16), flags in 0_u8..=255, data: Vec<u8>,
        ) {
            let (mut from, mut to) = ends(is_ipv4);
            from.set_port(ports.0);
            to.set_port(ports.1);
            let mut packet = tcp(from, to, flags | 0x10, &data);
            let Outbound::Segment(segment) = read(&packet) else { panic!("no segment") };
            segment.set_ports(&mut packet, others.0, others.1);
            from.set_port(others.0);
            to.set_port(others.1);
            let start = if is_ipv4 { 20 } else { 40 };
            prop_assert_eq!(checksum(before(from, to, packet.len() - start), &packet[start..]), [0, 0]);
            let Outbound::Segment(segment) = read(&packet) else { panic!("no segment") };
            prop_assert_eq!((segment.from, segment.to), (from, to));
            prop_assert!(packet.ends_with(&data));
        }

        #[test]
        fn whatever_comes_is_read_without_a_panic(
            mut packet in proptest::collection::vec(any::<u8>(), 0..200), version in prop_oneof![Just(0x45_u8), Just(0x4f), Just(0x60), any::<u8>()],
            protocol in prop_oneof![Just(6_u8), Just(17), Just(1), Just(58), any::<u8>()], fits: bool,
        ) {
            let length = packet.len() as u16;
            for (offset, value) in [(0, version), (if version >> 4 == 4 { 9 } else { 6 }, protocol)] {
                if let Some(place) = packet.get_mut(offset) {
                    *place = value;
                }
            }
            // Random lengths and pieces fail at once: what is whole goes further.
            if fits && packet.len() >= 40 {
                match version >> 4 {
                    4 => {
                        packet[2..4].copy_from_slice(&length.to_be_bytes());
                        packet[6..8].fill(0);
                    }
                    _ => packet[4..6].copy_from_slice(&(length - 40).to_be_bytes()),
                }
            }
            let copy = packet.clone();
            match read(&copy) {
                Outbound::Segment(segment) => segment.set_ports(&mut packet, 1, 2),
                Outbound::Syn(syn) => drop((syn.again_between(1, 2), syn.refused())),
                _ => {}
            }
            prop_assert_eq!(packet.len(), copy.len());
        }
    }
}
