//! The names under which addresses are asked for (RFC 1035 §3.5, RFC 3596 §2.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const NIBBLES: usize = 32;

/// The address that `name`, in lower case, asks for the names of; `None` if it is no whole address.
pub fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        // Only what is written as an address has one spelling.
        let written: Vec<&str> = octets.split('.').rev().collect();
        return written.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let nibbles: Vec<&str> = name.strip_suffix(".ip6.arpa")?.split('.').rev().collect();
    if nibbles.len() != NIBBLES {
        return None;
    }
    let mut bits: u128 = 0;
    for nibble in nibbles {
        let [digit] = nibble.as_bytes() else { return None };
        bits = bits << 4 | u128::from(char::from(*digit).to_digit(16)?);
    }
    Some(Ipv6Addr::from(bits).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_addresses_are_read_and_nothing_else() {
        let v6 = "7.".to_owned() + &"0.".repeat(29) + "d.f.ip6.arpa";
        for (name, address) in [("9.0.50.10.in-addr.arpa", "10.50.0.9"), (&v6, "fd00::7")] {
            assert_eq!(reversed(name), Some(address.parse().unwrap()), "{name}");
        }
        let long = format!("0.{v6}");
        for name in [
            "",
            "in-addr.arpa",
            "50.10.in-addr.arpa",
            "09.0.50.10.in-addr.arpa",
            "1.9.0.50.10.in-addr.arpa",
            "d.f.ip6.arpa",
        ]
        .into_iter()
        .chain(["256.0.50.10.in-addr.arpa", &long, &long[2..].replacen('7', "g", 1), "db.internal"])
        {
            assert_eq!(reversed(name), None, "{name}");
        }
    }
}
