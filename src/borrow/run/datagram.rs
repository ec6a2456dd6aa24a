//! A datagram as a whole packet, so that it comes from whatever address the program sent to.

use std::net::{IpAddr, SocketAddr};

use super::{
    network::LOOPBACK_PACKET_BYTES_MAX,
    packet::{
        ICMP, ICMPV6, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, UDP, UDP_HEADER_BYTES, Unreachable, checksum, octets,
    },
};

/// How many machines it may pass; it passes none.
const HOPS: u8 = 64;
/// Longest content of IPv4, in bytes: what the length of its packet can say.
const IPV4_CONTENT_BYTES_MAX: usize = u16::MAX as usize - IPV4_HEADER_BYTES - UDP_HEADER_BYTES;
/// Longest content of IPv6, in bytes: what its length can say, and the loopback device takes in one piece.
const IPV6_CONTENT_BYTES_MAX: usize = u16::MAX as usize - UDP_HEADER_BYTES;
const _: () = assert!(IPV6_HEADER_BYTES + UDP_HEADER_BYTES + IPV6_CONTENT_BYTES_MAX <= LOOPBACK_PACKET_BYTES_MAX);

/// The packet; `None` where the addresses are of two families, or the content is longer than 65,507 bytes (IPv4) or 65,527
/// (IPv6).
pub fn packet(from: SocketAddr, to: SocketAddr, content: &[u8]) -> Option<Vec<u8>> {
    let content_bytes_max = if to.is_ipv4() { IPV4_CONTENT_BYTES_MAX } else { IPV6_CONTENT_BYTES_MAX };
    if content.len() > content_bytes_max {
        return None;
    }
    // Not longer than 16 bits, by the lines above.
    let length = ((UDP_HEADER_BYTES + content.len()) as u16).to_be_bytes();
    let mut packet = Vec::with_capacity(IPV6_HEADER_BYTES + UDP_HEADER_BYTES + content.len());
    // Both addresses, which the sum covers as well.
    let addresses = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // The kernel writes the length and the sum.
            packet.extend_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, HOPS, UDP, 0, 0]);
            packet.extend_from_slice(&from.octets());
            packet.extend_from_slice(&to.octets());
            packet.len() - 2 * 4
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.extend_from_slice(&[0x60, 0, 0, 0, length[0], length[1], UDP, HOPS]);
            packet.extend_from_slice(&from.octets());
            packet.extend_from_slice(&to.octets());
            packet.len() - 2 * 16
        }
        _ => return None,
    };
    let udp = packet.len();
    for field in [from.port().to_be_bytes(), to.port().to_be_bytes(), length, [0; 2]] {
        packet.extend_from_slice(&field);
    }
    packet.extend_from_slice(content);
    let sum = match checksum([0, UDP, length[0], length[1]], packet.get(addresses..).unwrap_or_default()) {
        // 0 would say that there is none (RFC 768).
        [0, 0] => [0xff; 2],
        sum => sum,
    };
    packet[udp + 6..udp + 8].copy_from_slice(&sum);
    Some(packet)
}

/// The same packet, with what its sender has set: how many machines it may pass, and its type of service or traffic class.
pub fn with_header(mut packet: Vec<u8>, hops: Option<u8>, class: Option<u8>) -> Vec<u8> {
    let is_ipv4 = packet.first().is_some_and(|first| first >> 4 == 4);
    if let (Some(hops), Some(place)) = (hops, packet.get_mut(if is_ipv4 { 8 } else { 7 })) {
        *place = hops;
    }
    if let (Some(class), [first, second, ..]) = (class, packet.as_mut_slice()) {
        match is_ipv4 {
            true => *second = class,
            // It lies across two bytes, between the version and the flow label.
            false => (*first, *second) = (0x60 | class >> 4, class << 4),
        }
    }
    packet
}

/// The answer of the network to a datagram of `program` that did not reach `peer`; without `why`, nobody listens there.
/// `None` where the addresses are of two families.
pub fn undelivered(program: SocketAddr, peer: SocketAddr, why: Option<Unreachable>) -> Option<Vec<u8>> {
    let sent = packet(program, peer, &[])?;
    let (kind, code) = match (program.is_ipv4(), why) {
        (true, None) => (3, 3),
        (true, Some(Unreachable::Network)) => (3, 0),
        (true, Some(Unreachable::Host)) => (3, 1),
        (true, Some(Unreachable::Prohibited)) => (3, 13),
        (false, None) => (1, 4),
        (false, Some(Unreachable::Network)) => (1, 0),
        (false, Some(Unreachable::Host)) => (1, 3),
        (false, Some(Unreachable::Prohibited)) => (1, 1),
    };
    let mut icmp = vec![kind, code, 0, 0, 0, 0, 0, 0];
    icmp.extend_from_slice(&sent);
    // Two headers and eight bytes.
    let [high, low] = (icmp.len() as u16).to_be_bytes();
    let (source, destination) = (octets(peer.ip()), octets(program.ip()));
    let (mut answer, pseudo_header) = if program.is_ipv4() {
        (vec![0x45, 0, 0, 0, 0, 0, 0, 0, HOPS, ICMP, 0, 0], Vec::new())
    } else {
        let pseudo_header = [&source[..], &destination, &[0, ICMPV6, high, low]].concat();
        (vec![0x60, 0, 0, 0, high, low, ICMPV6, HOPS], pseudo_header)
    };
    let [first, second] = checksum(pseudo_header, &icmp);
    (icmp[2], icmp[3]) = (first, second);
    answer.extend([&source[..], &destination, &icmp].concat());
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_that_stays_inside_keeps_its_header() {
        let between = |from: &str, to: &str| packet(from.parse().unwrap(), to.parse().unwrap(), b"x").unwrap();
        let v4 = with_header(between("127.0.0.1:1", "127.0.0.1:2"), Some(2), Some(0xb8));
        assert_eq!((v4[0], v4[1], v4[8]), (0x45, 0xb8, 2));
        let plain = between("[::1]:1", "[::1]:2");
        let v6 = with_header(plain.clone(), Some(2), Some(0xb8));
        assert_eq!((v6[0], v6[1], v6[7], &v6[8..]), (0x6b, 0x80, 2, &plain[8..]));
        assert_eq!(with_header(plain.clone(), None, None), plain);
    }

    #[test]
    fn a_datagram_has_the_sum_that_every_receiver_checks() {
        for (from, to) in [("127.0.0.53:53", "127.0.0.1:4000"), ("[::1]:53", "[fd00::1]:4000")] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            for content in [&b""[..], b"x", b"an answer"] {
                let packet = packet(from, to, content).unwrap();
                let udp = &packet[if from.is_ipv4() { 20 } else { 40 }..];
                let length = (udp.len() as u16).to_be_bytes();
                assert_eq!((&udp[..2], &udp[4..6], &udp[8..]), (&[0, 53][..], &length[..], content));
                let before = [octets(from.ip()), octets(to.ip()), vec![0, UDP, length[0], length[1]]].concat();
                assert_eq!(checksum(before, udp), [0, 0]);
            }
        }
        for (program, peer, port, policy) in
            [("10.0.0.1:4000", "10.9.9.9:53", [3, 3], [3, 13]), ("[fd00::1]:4000", "[fd01::1]:53", [1, 4], [1, 1])]
        {
            let (program, peer): (SocketAddr, SocketAddr) = (program.parse().unwrap(), peer.parse().unwrap());
            let start = if program.is_ipv4() { 20 } else { 40 };
            for (why, code) in [(None, port), (Some(Unreachable::Prohibited), policy)] {
                let answer = undelivered(program, peer, why).unwrap();
                let icmp = &answer[start..];
                assert_eq!(icmp[..2], code);
                assert!(icmp[8..].ends_with(&packet(program, peer, &[]).unwrap()));
                let before = match program.is_ipv4() {
                    true => Vec::new(),
                    false => [octets(peer.ip()), octets(program.ip()), vec![0, ICMPV6, 0, icmp.len() as u8]].concat(),
                };
                assert_eq!(checksum(before, icmp), [0, 0]);
            }
        }
        let (v4, v6) = ("127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap());
        assert_eq!(packet(v4, v6, b""), None);
        assert_eq!(packet(v4, v4, &[0; IPV4_CONTENT_BYTES_MAX + 1]), None);
        assert_eq!(packet(v6, v6, &[0; IPV6_CONTENT_BYTES_MAX + 1]), None);
    }
}
