//! At which of its addresses a machine is met by others, and answers them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::network::{NO_ADDRESS, Network};
use crate::proto::MACHINE_ADDRESSES_MAX;

/// The addresses of a borrowed network, and which of them is nearest to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnAddresses {
    addresses: Vec<IpAddr>,
    /// The longest prefixes first.
    routes: Vec<(IpNet, IpAddr)>,
}

impl OwnAddresses {
    /// Those of `network`.
    pub fn of(network: Network) -> Self {
        let Network { addresses, mut routes, .. } = network;
        routes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix_len()));
        Self { addresses, routes }
    }

    /// Whether what is sent there reaches the machine itself.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.contains(&address)
    }

    /// Whether no socket of the machine can be bound there, as far as its addresses were told: none of them, nor a group or a
    /// broadcast. Those of IPv6 that are link-local are not told, nor any behind as many as may be; a whole block that is local to
    /// the machine (`ip route add local`) is told as a route, and lacked.
    pub fn lacks(&self, address: IpAddr) -> bool {
        let is_told = !self.addresses.contains(&NO_ADDRESS.into()) && self.addresses.len() < MACHINE_ADDRESSES_MAX;
        let is_for_many = || match address {
            IpAddr::V4(address) => {
                address.is_multicast()
                    || address.is_broadcast()
                    || self.routes.iter().any(|(prefix, _)| prefix.broadcast() == IpAddr::V4(address))
            }
            IpAddr::V6(address) => address.is_multicast() || address.is_unicast_link_local(),
        };
        is_told && !address.is_unspecified() && !self.contains(address) && !is_for_many()
    }

    /// Where `peer` meets what is bound to `bound`: there, or, of the wildcard, at the address from which the kernel answers him.
    pub fn met_by(&self, peer: IpAddr, bound: SocketAddr) -> SocketAddr {
        let address = if bound.ip().is_unspecified() { self.towards(peer) } else { bound.ip() };
        SocketAddr::new(address, bound.port())
    }

    fn towards(&self, peer: IpAddr) -> IpAddr {
        let loopback: IpAddr = match peer {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        if peer.is_loopback() {
            return loopback;
        }
        if self.addresses.contains(&peer) {
            return peer;
        }
        let routed = self.routes.iter().find(|(prefix, _)| prefix.contains(&peer)).map(|(_, source)| *source);
        let first = || self.addresses.iter().find(|address| address.is_ipv4() == peer.is_ipv4()).copied();
        routed.or_else(first).unwrap_or(loopback)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_answered_from_where_the_route_to_him_says() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let routes = [("0.0.0.0/0", "10.0.0.7"), ("192.168.0.0/16", "192.168.1.7"), ("fd00::/8", "fd00::7")];
        let routes = routes.map(|(prefix, source)| (prefix.parse().unwrap(), ip(source))).into();
        let addresses = ["10.0.0.7", "192.168.1.7", "fd00::7"].map(ip).into();
        let own = OwnAddresses::of(Network { addresses, routes, has_ipv6: true });
        for (peer, met_at) in [
            ("198.51.100.1", "10.0.0.7:53"),
            ("192.168.9.9", "192.168.1.7:53"),
            ("192.168.1.7", "192.168.1.7:53"),
            ("127.0.0.9", "127.0.0.1:53"),
            ("fd01::1", "[fd00::7]:53"),
            ("2001:db8::1", "[fd00::7]:53"),
            ("::1", "[::1]:53"),
        ] {
            let every = if ip(peer).is_ipv4() { "0.0.0.0:53" } else { "[::]:53" };
            assert_eq!(own.met_by(ip(peer), every.parse().unwrap()), met_at.parse().unwrap(), "{peer}");
            assert_eq!(own.met_by(ip(peer), "10.0.0.9:1".parse().unwrap()), "10.0.0.9:1".parse().unwrap());
        }
        assert!(own.contains(ip("127.0.0.9")) && own.contains(ip("fd00::7")) && !own.contains(ip("10.0.0.8")));
    }

    #[test]
    fn a_machine_lacks_what_is_neither_its_own_nor_for_many_unless_not_all_was_told() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let routes: Vec<(IpNet, IpAddr)> = vec![("10.0.0.0/24".parse().unwrap(), ip("10.0.0.7"))];
        let of = |addresses: &[IpAddr]| {
            OwnAddresses::of(Network { addresses: addresses.to_vec(), routes: routes.clone(), has_ipv6: true })
        };
        let own = of(&[ip("10.0.0.7"), ip("fd00::7")]);
        let silent = of(&[NO_ADDRESS.into()]);
        let cut = of(&[ip("10.0.0.7"); MACHINE_ADDRESSES_MAX]);
        for lacked in ["10.0.0.8", "10.0.1.255", "192.0.2.1", "fd00::8", "2001:db8::1"] {
            assert!(own.lacks(ip(lacked)), "{lacked}");
            assert!(!silent.lacks(ip(lacked)) && !cut.lacks(ip(lacked)), "{lacked}");
        }
        let had = ["10.0.0.7", "fd00::7", "127.9.9.9", "::1", "0.0.0.0", "::"];
        for bound in had.into_iter().chain(["10.0.0.255", "255.255.255.255", "224.0.0.1", "ff02::1", "fe80::1"]) {
            assert!(!own.lacks(ip(bound)), "{bound}");
        }
    }
}
