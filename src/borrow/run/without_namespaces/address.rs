//! Socket addresses as a program's memory has them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// `address` as a socket of this family writes it: one of IPv6 writes IPv4 as a part of IPv6.
pub fn of_family(address: SocketAddr, is_ipv6: bool) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if is_ipv6 => SocketAddrV6::new(ip.to_ipv6_mapped(), address.port(), 0, 0).into(),
        _ => address,
    }
}

/// The wildcard means loopback to connect(2).
pub fn somewhere(target: IpAddr) -> IpAddr {
    match target {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// Whether it is of a group, or of everybody.
pub fn is_for_many(target: IpAddr) -> bool {
    target.is_multicast() || target == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// A `sockaddr_in` or `sockaddr_in6`.
pub fn bytes(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address {
        SocketAddr::V4(v4) => [&family(libc::AF_INET)[..], &port, &v4.ip().octets(), &[0; 8]].concat(),
        SocketAddr::V6(v6) => {
            let (flow, scope) = (v6.flowinfo().to_be_bytes(), v6.scope_id().to_ne_bytes());
            [&family(libc::AF_INET6)[..], &port, &flow, &v6.ip().octets(), &scope].concat()
        }
    }
}

/// Which family an address names; `None` for what is too short to name one.
pub fn family_of(address: &[u8]) -> Option<i32> {
    Some(u16::from_ne_bytes(*address.first_chunk()?).into())
}

fn family(number: i32) -> [u8; 2] {
    (number as u16).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::net::{AddressFamily, SocketType};

    use super::*;
    use crate::borrow::run::listening::program_socket::ProgramSocket;

    #[test]
    fn an_address_is_written_as_the_kernel_writes_it() {
        let v4 = bytes("10.0.0.1:80".parse().unwrap());
        assert_eq!((v4.len(), &v4[2..8], family_of(&v4)), (16, &[0, 80, 10, 0, 0, 1][..], Some(libc::AF_INET)));
        let mapped = of_family("10.0.0.1:80".parse().unwrap(), true);
        assert_eq!(mapped, "[::ffff:10.0.0.1]:80".parse().unwrap());
        let v6 = bytes(mapped);
        assert_eq!(
            (v6.len(), &v6[2..4], &v6[18..24], family_of(&v6)),
            (28, &[0, 80][..], &[0xff, 0xff, 10, 0, 0, 1][..], Some(libc::AF_INET6))
        );
        assert_eq!(family_of(&[2]), None);
    }

    proptest! {
        #[test]
        fn an_address_is_read_as_it_was_written(ip: std::net::IpAddr, port: u16, is_ipv6: bool) {
            let family = if is_ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
            let socket = ProgramSocket::new(rustix::net::socket(family, SocketType::STREAM, None).unwrap()).unwrap();
            let address = SocketAddr::new(ip.to_canonical(), port);
            let written = bytes(of_family(address, is_ipv6));
            let read = socket.reads(&written);
            prop_assert_eq!(read, (is_ipv6 || address.is_ipv4()).then_some(address));
        }

        #[test]
        fn whatever_an_address_is_it_is_read_without_a_panic(given in proptest::collection::vec(any::<u8>(), 0..130), family in 0..12_u16) {
            for family_of_socket in [AddressFamily::INET, AddressFamily::INET6] {
                let socket = rustix::net::socket(family_of_socket, SocketType::DGRAM, None).unwrap();
                let socket = ProgramSocket::new(socket).unwrap();
                let named = [&family.to_ne_bytes()[..], &given].concat();
                for bytes in [&given, &named] {
                    let _ = (socket.reads(bytes), family_of(bytes));
                }
            }
        }
    }
}
