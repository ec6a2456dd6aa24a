//! The first packet of a connection, read from the tap, and the packets that answer it.
//!
//! Pure: bytes in, bytes out. The kernel leaves the checksum of a packet that never meets a wire half done, so that a SYN
//! which is sent again needs a whole one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

// netinet/in.h, RFC 792, RFC 4443.
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;
pub const ECHO_REQUEST: u8 = 8;
pub const ECHO_REQUEST_V6: u8 = 128;
// Without options.
pub const IPV4_HEADER_BYTES: usize = 20;
pub const IPV6_HEADER_BYTES: usize = 40;
pub const TCP_HEADER_BYTES: usize = 20;
pub const UDP_HEADER_BYTES: usize = 8;
/// Every answer says how many machines it may still pass; it passes none.
const HOPS: u8 = 64;
/// As much as the length of an IPv4 packet can say, less 35 bytes.
const LONG_BYTES: usize = 65_500;
/// TCP flags, with a header of five words.
const RESET_AND_ACK: [u8; 2] = [0x50, 0x14];

/// A SYN: an IP header, and a TCP header with all of its options. Data that some programs send with it are left out; TCP
/// sends again what was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Syn {
    bytes: Vec<u8>,
    tcp_start: usize,
    /// The program's end.
    pub from: SocketAddr,
    /// Where it connects to.
    pub to: SocketAddr,
}

/// Why a target cannot be reached, as ICMP has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// There is no route: ENETUNREACH.
    Network,
    /// Nobody answers for the address: EHOSTUNREACH.
    Host,
    /// Administratively prohibited: EACCES over IPv6, EHOSTUNREACH over IPv4, whose kernel knows no better.
    Prohibited,
}

/// How long an answer of ICMP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// As long as a packet can be, with zeros behind what it says.
    ///
    /// Linux puts the ICMP message that ends a connection on the socket's error queue first and sets the socket's error
    /// afterwards. Whoever polls on another processor is woken between the two, finds SO_ERROR to be 0 and takes the connection
    /// for made: one of a thousand. The queue has room for as much as the receive buffer, 128 KiB
    /// ([`limit_first_buffers`](super::network::limit_first_buffers)) unless a program asks for more, and the kernel counts what it
    /// had to allocate: a message that takes more than 64 KiB takes 128 KiB, and its error is all that there is.
    Long,
    /// What it says, for a kernel that has not the memory for more.
    Short,
}

impl Syn {
    /// Reads a packet of either family; `None` if it is no SYN or is cut off.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let (tcp_start, from, to): (usize, IpAddr, IpAddr) = match packet.first()? >> 4 {
            4 if packet.get(9) == Some(&TCP) => {
                let tcp_start = usize::from(packet.first()? & 15) * 4;
                (tcp_start, ipv4(packet, 12)?.into(), ipv4(packet, 16)?.into())
            }
            6 if packet.get(6) == Some(&TCP) => (IPV6_HEADER_BYTES, ipv6(packet, 8)?.into(), ipv6(packet, 24)?.into()),
            _ => return None,
        };
        let tcp = packet.get(tcp_start..)?;
        let tcp_bytes = usize::from(tcp.get(12)? >> 4) * 4;
        let is_syn = tcp.get(13)? & 0x12 == 0x02;
        if !is_syn || tcp_bytes < TCP_HEADER_BYTES || tcp_start < IPV4_HEADER_BYTES {
            return None;
        }
        let bytes = packet.get(..tcp_start + tcp_bytes)?.to_vec();
        let (from, to) = (SocketAddr::new(from, half(tcp, 0)?), SocketAddr::new(to, half(tcp, 2)?));
        Some(Self { bytes, tcp_start, from, to })
    }

    /// The SYN as it is sent again: without data, and with its checksum.
    pub fn again(&self) -> Vec<u8> {
        self.again_between(self.from.port(), self.to.port())
    }

    /// As [`Self::again`], with other ports.
    pub fn again_between(&self, source: u16, destination: u16) -> Vec<u8> {
        let (ip, tcp) = self.bytes.split_at(self.tcp_start);
        let mut tcp = tcp.to_vec();
        put(&mut tcp, 0, &source.to_be_bytes());
        put(&mut tcp, 2, &destination.to_be_bytes());
        put(&mut tcp, 16, &[0; 2]);
        let sum = checksum(self.pseudo_header(TCP, tcp.len(), self.from.ip(), self.to.ip()), &tcp);
        put(&mut tcp, 16, &sum);
        let mut packet = ip.to_vec();
        match self.to {
            // The kernel writes the sum of the header.
            SocketAddr::V4(_) => put(&mut packet, 2, &length(self.bytes.len())),
            SocketAddr::V6(_) => put(&mut packet, 4, &length(tcp.len())),
        }
        packet.extend_from_slice(&tcp);
        packet
    }

    /// The answer of a port that nobody listens on: ECONNREFUSED.
    pub fn refused(&self) -> Vec<u8> {
        let (_, syn) = self.bytes.split_at(self.tcp_start);
        let sequence = syn.get(4..8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
        let mut tcp = Vec::with_capacity(TCP_HEADER_BYTES);
        tcp.extend_from_slice(&self.to.port().to_be_bytes());
        tcp.extend_from_slice(&self.from.port().to_be_bytes());
        tcp.extend_from_slice(&[0; 4]);
        tcp.extend_from_slice(&sequence.wrapping_add(1).to_be_bytes());
        tcp.extend_from_slice(&RESET_AND_ACK);
        tcp.extend_from_slice(&[0; 6]);
        let sum = checksum(self.pseudo_header(TCP, tcp.len(), self.to.ip(), self.from.ip()), &tcp);
        put(&mut tcp, 16, &sum);
        self.answer(TCP, &tcp)
    }

    /// The answer of the network on the way to the target.
    pub fn unreachable(&self, why: Unreachable, length: Length) -> Vec<u8> {
        let (kind, code) = match (self.to, why) {
            (SocketAddr::V4(_), Unreachable::Network) => (3, 0),
            (SocketAddr::V4(_), Unreachable::Host) => (3, 1),
            (SocketAddr::V4(_), Unreachable::Prohibited) => (3, 13),
            (SocketAddr::V6(_), Unreachable::Network) => (1, 0),
            (SocketAddr::V6(_), Unreachable::Host) => (1, 3),
            (SocketAddr::V6(_), Unreachable::Prohibited) => (1, 1),
        };
        let mut icmp = vec![kind, code, 0, 0, 0, 0, 0, 0];
        icmp.extend_from_slice(&self.bytes);
        if length == Length::Long {
            icmp.resize(LONG_BYTES - IPV6_HEADER_BYTES, 0);
        }
        let pseudo_header = match self.to {
            SocketAddr::V4(_) => Vec::new(),
            SocketAddr::V6(_) => self.pseudo_header(ICMPV6, icmp.len(), self.to.ip(), self.from.ip()),
        };
        let sum = checksum(pseudo_header, &icmp);
        put(&mut icmp, 2, &sum);
        self.answer(if self.to.is_ipv4() { ICMP } else { ICMPV6 }, &icmp)
    }

    /// A packet from the target to the program.
    fn answer(&self, protocol: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = match self.to {
            // Length and sum are the kernel's to write.
            SocketAddr::V4(_) => vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, HOPS, protocol, 0, 0],
            SocketAddr::V6(_) => {
                let [high, low] = length(body.len());
                vec![0x60, 0, 0, 0, high, low, protocol, HOPS]
            }
        };
        packet.extend(octets(self.to.ip()));
        packet.extend(octets(self.from.ip()));
        packet.extend_from_slice(body);
        packet
    }

    /// What a checksum covers besides the packet itself (RFC 9293 §3.1, RFC 8200 §8.1).
    fn pseudo_header(&self, protocol: u8, bytes: usize, from: IpAddr, to: IpAddr) -> Vec<u8> {
        let [high, low] = length(bytes);
        [octets(from), octets(to), vec![0, protocol, high, low]].concat()
    }
}

/// An address as it stands in a packet.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// No packet of ours is longer than [`LONG_BYTES`].
fn length(bytes: usize) -> [u8; 2] {
    (bytes as u16).to_be_bytes()
}

fn put(packet: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(place) = packet.get_mut(offset..offset + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

/// A number of two bytes, as it stands in a packet.
pub fn half(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(offset..offset + 2)?.try_into().ok()?))
}

/// An address of four bytes.
pub fn ipv4(bytes: &[u8], offset: usize) -> Option<Ipv4Addr> {
    Some(<[u8; 4]>::try_from(bytes.get(offset..offset + 4)?).ok()?.into())
}

/// An address of sixteen bytes.
pub fn ipv6(bytes: &[u8], offset: usize) -> Option<Ipv6Addr> {
    Some(<[u8; 16]>::try_from(bytes.get(offset..offset + 16)?).ok()?.into())
}

/// The sum of RFC 1071, over what comes before the packet and the packet, whose own sum is 0.
pub fn checksum(before: impl AsRef<[u8]>, packet: &[u8]) -> [u8; 2] {
    // Four bytes at a time are two words whose carries are not lost yet: of the longest packet the sum has 46 bits.
    let words = |bytes: &[u8]| -> u64 {
        let (words, rest) = bytes.as_chunks::<4>();
        let sum: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
        let mut last = [0; 4];
        last.iter_mut().zip(rest).for_each(|(place, byte)| *place = *byte);
        sum + u64::from(u32::from_be_bytes(last))
    };
    let mut sum = words(before.as_ref()) + words(packet);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn syn(from: &str, to: &str, data: &[u8]) -> Vec<u8> {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let mut tcp = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        tcp.extend_from_slice(&[0, 0, 0, 9, 0, 0, 0, 0, 0x60, 0x02, 0xff, 0xff, 0xab, 0xcd, 0, 0, 2, 4, 5, 0xb4]);
        tcp.extend_from_slice(data);
        let [high, low] = (tcp.len() as u16 + if to.is_ipv4() { 20 } else { 0 }).to_be_bytes();
        let mut packet = match to {
            SocketAddr::V4(_) => vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, 6, 0, 0],
            SocketAddr::V6(_) => vec![0x60, 0, 0, 0, high, low, 6, 64],
        };
        packet.extend(octets(from.ip()));
        packet.extend(octets(to.ip()));
        packet.extend(tcp);
        packet
    }

    fn both() -> [Syn; 2] {
        let v4 = syn("10.0.0.1:4000", "10.9.9.9:80", b"");
        let v6 = syn("[fd00::1]:4000", "[2001:db8::9]:80", b"");
        [v4, v6].map(|packet| Syn::parse(&packet).unwrap())
    }

    /// What every receiver checks: with its sum in it, a packet sums to nothing.
    fn sums_to_zero(packet: &[u8], protocol: u8, of: &Syn) -> bool {
        let body = &packet[if packet[0] >> 4 == 4 { 20 } else { 40 }..];
        let before = match protocol {
            ICMP => Vec::new(),
            _ => of.pseudo_header(protocol, body.len(), of.from.ip(), of.to.ip()),
        };
        checksum(before, body) == [0, 0]
    }

    #[test]
    fn a_syn_is_sent_again_whole_but_for_its_data() {
        for syn in both() {
            let again = syn.again();
            assert!(sums_to_zero(&again, TCP, &syn), "{again:02x?}");
            assert_eq!(Syn::parse(&again).unwrap().to, syn.to);
        }
        let with_data = syn("10.0.0.1:4000", "10.9.9.9:80", b"GET /");
        let again = Syn::parse(&with_data).unwrap().again();
        assert_eq!((again.len(), again[3]), (44, 44));
    }

    #[test]
    fn refusals_answer_the_program_in_the_name_of_the_target() {
        for syn in both() {
            let reset = syn.refused();
            assert!(sums_to_zero(&reset, TCP, &syn));
            let tcp = &reset[if syn.to.is_ipv4() { 20 } else { 40 }..];
            assert_eq!(
                (half(tcp, 0), half(tcp, 2), &tcp[8..14]),
                (Some(80), Some(4000), &[0, 0, 0, 10, 0x50, 0x14][..])
            );
            for (why, v4, v6) in [
                (Unreachable::Network, [3, 0], [1, 0]),
                (Unreachable::Host, [3, 1], [1, 3]),
                (Unreachable::Prohibited, [3, 13], [1, 1]),
            ] {
                let (start, kind, protocol) = if syn.to.is_ipv4() { (20, v4, ICMP) } else { (40, v6, ICMPV6) };
                for (length, bytes) in [(Length::Short, start + 8 + syn.bytes.len()), (Length::Long, start + 65_460)] {
                    let packet = syn.unreachable(why, length);
                    assert_eq!((packet.len(), &packet[start..start + 2]), (bytes, &kind[..]));
                    assert!(sums_to_zero(&packet, protocol, &syn) && packet[start + 8..].starts_with(&syn.bytes));
                }
            }
        }
    }

    #[test]
    fn what_is_no_whole_syn_is_nothing() {
        for packet in [syn("10.0.0.1:1", "10.0.0.2:2", b""), syn("[::1]:1", "[::2]:2", b"")] {
            for length in 0..packet.len() {
                assert_eq!(Syn::parse(&packet[..length]), None, "{length}");
            }
            for (offset, byte) in [(0, 0x75), (if packet[0] >> 4 == 4 { 9 } else { 6 }, 17), (packet.len() - 11, 0x12)]
            {
                let mut other = packet.clone();
                other[offset] = byte;
                assert_eq!(Syn::parse(&other), None, "{offset}");
            }
        }
        let mut short_header = syn("10.0.0.1:1", "10.0.0.2:2", b"");
        short_header[0] = 0x40;
        assert_eq!(Syn::parse(&short_header), None);
    }

    /// As RFC 1071 has it, word by word.
    fn sum_by_words(bytes: &[u8]) -> [u8; 2] {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_words(
            packet in proptest::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(255)], 0..200), before: [u8; 4], full in 0..3_usize,
        ) {
            prop_assert_eq!(checksum(before, &packet), sum_by_words(&[&before[..], &packet].concat()));
            // The longest, where every carry is met.
            let longest = vec![255; 65_535 - full];
            prop_assert_eq!(checksum([], &longest), sum_by_words(&longest));
        }

        #[test]
        fn whatever_comes_is_a_syn_that_is_sent_again_as_it_is_or_nothing(
            mut packet in proptest::collection::vec(any::<u8>(), 0..120), version in prop_oneof![0x45..=0x4f_u8, Just(0x60), any::<u8>()],
            is_tcp: bool, is_syn: bool, ports: (u16, u16),
        ) {
            let is_ipv4 = version >> 4 == 4;
            let tcp = if is_ipv4 { usize::from(version & 15) * 4 } else { IPV6_HEADER_BYTES };
            // What is random all over is no SYN.
            for (offset, value, is_set) in
                [(0, version, true), (if is_ipv4 { 9 } else { 6 }, TCP, is_tcp), (tcp + 12, 0x50, is_syn), (tcp + 13, 2, is_syn)]
            {
                if let Some(place) = packet.get_mut(offset).filter(|_| is_set) {
                    *place = value;
                }
            }
            if let Some(syn) = Syn::parse(&packet) {
                let again = Syn::parse(&syn.again_between(ports.0, ports.1));
                let again = again.map(|again| (again.from, again.to));
                let ends = (SocketAddr::new(syn.from.ip(), ports.0), SocketAddr::new(syn.to.ip(), ports.1));
                prop_assert_eq!(again, Some(ends));
                prop_assert!(sums_to_zero(&syn.refused(), TCP, &syn));
                syn.unreachable(Unreachable::Host, Length::Long);
            }
        }
    }
}
