//! A datagram as a whole packet, so that it comes from whatever address the program sent to.

use std::net::{IpAddr, SocketAddr};

use super::packet::{checksum, octets};

const UDP: u8 = 17;
const UDP_HEADER_BYTES: usize = 8;
const IPV4_HEADER_BYTES: usize = 20;
/// How many machines it may pass; it passes none.
const HOPS: u8 = 64;
/// Longest content, in bytes: what the length of an IPv4 packet can say.
pub const CONTENT_BYTES_MAX: usize = u16::MAX as usize - IPV4_HEADER_BYTES - UDP_HEADER_BYTES;

/// The packet; `None` where the addresses are of two families, or the content is longer than [`CONTENT_BYTES_MAX`].
pub fn packet(from: SocketAddr, to: SocketAddr, content: &[u8]) -> Option<Vec<u8>> {
    if content.len() > CONTENT_BYTES_MAX {
        return None;
    }
    // Not longer than 16 bits, by the line above.
    let length = ((UDP_HEADER_BYTES + content.len()) as u16).to_be_bytes();
    let mut packet = match (from.ip(), to.ip()) {
        // The kernel writes the length and the sum.
        (IpAddr::V4(_), IpAddr::V4(_)) => vec![0x45, 0, 0, 0, 0, 0, 0, 0, HOPS, UDP, 0, 0],
        (IpAddr::V6(_), IpAddr::V6(_)) => vec![0x60, 0, 0, 0, length[0], length[1], UDP, HOPS],
        _ => return None,
    };
    let (source, destination) = (octets(from.ip()), octets(to.ip()));
    packet.extend([&source[..], &destination].concat());
    let mut udp = [from.port().to_be_bytes(), to.port().to_be_bytes(), length, [0; 2]].concat();
    udp.extend_from_slice(content);
    let pseudo_header = [&source[..], &destination, &[0, UDP], &length].concat();
    let sum = match checksum(pseudo_header, &udp) {
        // 0 would say that there is none (RFC 768).
        [0, 0] => [0xff; 2],
        sum => sum,
    };
    udp[6..8].copy_from_slice(&sum);
    packet.extend(udp);
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (v4, v6) = ("127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap());
        assert_eq!(packet(v4, v6, b""), None);
        assert_eq!(packet(v4, v4, &[0; CONTENT_BYTES_MAX + 1]), None);
    }
}
