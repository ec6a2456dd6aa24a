//! The address of a socket that leaves its address and port to the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The wildcard of the family of `address`, with port 0 (ip(7), ipv6(7)).
///
/// ```
/// use capuchin::proto::wildcard_like;
/// assert_eq!(wildcard_like("192.0.2.1".parse().unwrap()).to_string(), "0.0.0.0:0");
/// assert_eq!(wildcard_like("2001:db8::1".parse().unwrap()).to_string(), "[::]:0");
/// ```
pub fn wildcard_like(address: IpAddr) -> SocketAddr {
    let wildcard: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(wildcard, 0)
}
