//! What an address really reaches: the forms it can be written in, and the ranges that no name rule opens.
//!
//! An IPv6 address can carry an IPv4 address that a gateway or a tunnel unpacks. Such an address is judged twice, as it
//! stands and as what it carries: a deny or a special range that covers either covers it. It is dialled as it stands,
//! and an allow covers it only as it stands, since what the gateway does with it is not the lender's to know. So is the
//! unspecified address, by which a machine reaches its loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Ranges that reach the lender itself, its neighbours or its cloud's metadata, with the words for a refusal.
const SPECIAL_V4: [(Ipv4Net, &str); 8] = [
    (Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8), "loopback"),
    (Ipv4Net::new_assert(Ipv4Addr::new(0, 0, 0, 0), 8), "unspecified"),
    (Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16), "link-local and cloud metadata"),
    // Alibaba's, Oracle's, and Azure's (which hands out certificates and settings at WireServer).
    (Ipv4Net::new_assert(Ipv4Addr::new(100, 100, 100, 200), 32), "cloud metadata"),
    (Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 0, 192), 32), "cloud metadata"),
    (Ipv4Net::new_assert(Ipv4Addr::new(168, 63, 129, 16), 32), "cloud metadata"),
    (Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4), "multicast"),
    (Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32), "broadcast"),
];
const SPECIAL_V6: [(Ipv6Net, &str); 9] = [
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), "loopback"),
    (Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 128), "unspecified"),
    (Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10), "link-local"),
    (Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8), "multicast"),
    // Amazon's instances, its containers, and the instances of Google, Oracle and Scaleway.
    (Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 128), "cloud metadata"),
    (Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23), 128), "cloud metadata"),
    (Ipv6Net::new_assert(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254), 128), "cloud metadata"),
    (Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe), 128), "cloud metadata"),
    (Ipv6Net::new_assert(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42), 128), "cloud metadata"),
];
/// RFC 6052 §2.1: a NAT64 gateway unpacks the last 32 bits.
const NAT64: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
/// RFC 8215: for NAT64 within one network, which may place the IPv4 address at any of four offsets (RFC 6052 §2.2).
const NAT64_LOCAL: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, 0, 0), 48);
/// RFC 3056: the 32 bits after the prefix are the tunnel's end.
const SIX_TO_FOUR: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16);
/// RFC 4380 §4: behind the prefix the server's address, and last that of the client, each bit of it turned over.
const TEREDO: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32);
/// RFC 2765 §2.1: what a stateless translator makes IPv4 of.
const TRANSLATED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, 0, 0), 96);
/// RFC 5214 §6.1: in any network, the interface that ends an ISATAP tunnel, but for its bit of a universal address.
const ISATAP: u32 = 0x0000_5efe;
const UNIVERSAL_BIT: u32 = 0x0200_0000;
/// RFC 4291 §2.5.5.1, deprecated and still tunnelled by some.
const V4_COMPATIBLE: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 96);

/// A range that only an address rule inside it opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Special {
    pub range: IpNet,
    /// What the range is, e.g. `loopback`.
    pub what: &'static str,
}

/// The special range that `address` lies in. One that only *carries* a special address is a range of its own, so that
/// nothing but its full spelling opens it.
pub(super) fn special(address: IpAddr) -> Option<Special> {
    let plain = |address: IpAddr| match address {
        IpAddr::V4(v4) => SPECIAL_V4
            .iter()
            .find(|(range, _)| range.contains(&v4))
            .map(|(range, what)| Special { range: IpNet::V4(*range), what }),
        IpAddr::V6(v6) => SPECIAL_V6
            .iter()
            .find(|(range, _)| range.contains(&v6))
            .map(|(range, what)| Special { range: IpNet::V6(*range), what }),
    };
    plain(address).or_else(|| {
        let carried = forms(address).into_iter().find_map(plain)?;
        Some(Special { range: IpNet::from(address), what: carried.what })
    })
}

/// Whether `net` lies inside one special range, so that a rule for it opens what no name and no `*` does.
pub(super) fn special_range(net: IpNet) -> bool {
    special(net.addr()).is_some_and(|special| special.range.contains(&net))
}

/// `address`, every IPv4 address that it carries, and the loopback address that is met at an unspecified one.
pub(super) fn forms(address: IpAddr) -> Vec<IpAddr> {
    let mut forms = vec![address];
    if let IpAddr::V6(v6) = address {
        forms.extend(carried(v6).into_iter().map(IpAddr::V4));
    }
    let met = |form: &IpAddr| match form {
        IpAddr::V4(v4) => v4.is_unspecified().then_some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        IpAddr::V6(v6) => v6.is_unspecified().then_some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    };
    let loopback: Vec<_> = forms.iter().filter_map(met).collect();
    forms.extend(loopback);
    forms
}

/// Whether `address` on this port is a listener of the lender itself. One on a wildcard or on loopback is met at every
/// loopback and unspecified address, because connecting to 0.0.0.0 reaches loopback.
pub(super) fn is_own(address: IpAddr, port: u16, own: &[SocketAddr]) -> bool {
    let here = |address| match address {
        IpAddr::V4(v4) => matches!(v4.octets(), [0 | 127, ..]),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified(),
    };
    let forms = forms(address);
    own.iter().filter(|listener| listener.port() == port).any(|listener| {
        let ip = listener.ip().to_canonical();
        forms.iter().any(|form| *form == ip || (here(ip) && here(*form)))
    })
}

fn carried(v6: Ipv6Addr) -> Vec<Ipv4Addr> {
    let bits = u128::from(v6);
    // The lowest 32 bits of what is left after a shift; the cast drops the prefix.
    let at = |shift: u32| Ipv4Addr::from((bits >> shift) as u32);
    if let Some(mapped) = v6.to_ipv4_mapped() {
        vec![mapped]
    } else if NAT64.contains(&v6) || V4_COMPATIBLE.contains(&v6) || TRANSLATED.contains(&v6) {
        vec![at(0)]
    } else if TEREDO.contains(&v6) {
        vec![at(64), Ipv4Addr::from(!(bits as u32))]
    } else if SIX_TO_FOUR.contains(&v6) {
        vec![at(80)]
    } else if NAT64_LOCAL.contains(&v6) {
        // The eight bits 64 to 71 are never part of the address. Read at the wrong offset nearly every address begins
        // with zero, which no gateway forwards: those readings are noise.
        let (before, after) = ((bits >> 64) as u32, (bits >> 24) as u32);
        let spread = [before << 16 | after >> 16, before << 24 | after >> 8, after].map(Ipv4Addr::from);
        spread.into_iter().filter(|v4| !matches!(v4.octets(), [0, ..])).chain([at(0)]).collect()
    } else if (bits >> 32) as u32 & !UNIVERSAL_BIT == ISATAP {
        vec![at(0)]
    } else {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Attacks 42, 45 and 47, each form of one address.
    #[test]
    fn every_form_of_a_special_address_is_special() {
        for form in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::169.254.169.254",
            "64:ff9b:1:a9fe:a9:fe00::",   // offset 48
            "64:ff9b:1:a9:fe:a9fe::",     // offset 56
            "64:ff9b:1:0:a9:fea9:fe00:0", // offset 64
            "2002:a9fe:a9fe::1",
            "2001:0:102:304::5601:5601",   // the client of a Teredo tunnel
            "2001:0:a9fe:a9fe::fefd:fcfb", // its server
            "::ffff:0:169.254.169.254",
            "2001:db8::5efe:169.254.169.254",
            "2001:db8::200:5efe:169.254.169.254",
        ] {
            assert_eq!(special(ip(form)).map(|special| special.what), Some("link-local and cloud metadata"), "{form}");
        }
    }

    #[test]
    fn the_special_ranges_are_those_of_the_threat_model_and_their_neighbours_are_free() {
        for inside in [
            "127.0.0.1",
            "127.255.255.255",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.0.1",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "224.0.0.1",
            "239.255.255.255",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ] {
            assert!(special(ip(inside)).is_some(), "{inside}");
        }
        for outside in [
            "126.255.255.255",
            "128.0.0.1",
            "1.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "223.255.255.255",
            "255.255.255.254",
            "10.0.0.1",
            "fd00:ec2::253",
            "fec0::1",
            "2001:db8::1",
            "64:ff9b::a00:1",
            "64:ff9b:1::a00:1",
            "2002:a00:1::",
            "2001:0:102:304::f5ff:fffe",
            "2001:1::5601:5601",
            "2001:db8::5efe:10.0.0.1",
            "2001:db8::100:5efe:169.254.169.254",
            "::ffff:0:10.0.0.1",
        ] {
            assert_eq!(special(ip(outside)), None, "{outside}");
        }
    }

    #[test]
    fn an_address_that_carries_a_special_one_is_a_range_of_its_own() {
        assert_eq!(special(ip("127.0.0.1")).unwrap().range, "127.0.0.0/8".parse().unwrap());
        assert_eq!(special(ip("64:ff9b::7f00:1")).unwrap().range, "64:ff9b::7f00:1/128".parse().unwrap());
    }

    #[test]
    fn an_unspecified_address_is_also_the_loopback_address_that_is_met_there() {
        for (unspecified, loopback) in [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("64:ff9b::", "127.0.0.1")] {
            assert!(forms(ip(unspecified)).contains(&ip(loopback)), "{unspecified}");
        }
        assert_eq!(forms(ip("0.0.0.1")), [ip("0.0.0.1")]);
        assert_eq!(
            special(ip("0.0.0.0")).unwrap().range,
            "0.0.0.0/8".parse().unwrap(),
            "a range of its own all the same"
        );
    }

    #[test]
    fn a_wildcard_listener_is_met_at_every_loopback_address_and_at_no_other_host() {
        let own = ["[::]:7443".parse().unwrap(), "10.0.0.5:8443".parse().unwrap()];
        for (address, port) in [
            ("127.0.0.1", 7443),
            ("127.9.9.9", 7443),
            ("0.0.0.0", 7443),
            ("::1", 7443),
            ("10.0.0.5", 8443),
            ("64:ff9b::a00:5", 8443),
        ] {
            assert!(is_own(ip(address), port, &own), "{address}:{port}");
        }
        for (address, port) in [("127.0.0.1", 22), ("127.0.0.1", 8443), ("10.0.0.5", 7443), ("10.0.0.6", 8443)] {
            assert!(!is_own(ip(address), port, &own), "{address}:{port}");
        }
    }
}
