//! `host:port` patterns: what a rule may name, and what it covers.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{
    covered::Covers,
    host::{Host, HostError, HostName},
};

/// A host pattern and the ports it holds for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    pub host: HostPattern,
    pub ports: RangeInclusive<u16>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum HostPattern {
    /// `*`: every name, and every address outside the special ranges.
    Any,
    /// `*.internal`, kept as `.internal`: every name below, and not `internal` itself.
    Below(String),
    Name(HostName),
    /// An address or a CIDR block. One of v4-mapped addresses is kept as the IPv4 block that it means.
    Net(IpNet),
}

/// Why a text is not a pattern.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum PatternError {
    #[error("{0:?} has no port: write db.internal:5432, 10.0.0.0/8:443 or *.internal:*")]
    NoPort(String),
    #[error("{0:?} is not a port: write 443, 8000-8999 (the lower one first) or * (ports are 1 to 65535)")]
    Port(String),
    #[error("put the IPv6 address in brackets: [fd00::/8]:443")]
    Brackets,
    #[error("{0:?}: a `*` stands alone or in front of a dot, as in *.internal")]
    Star(String),
    #[error("{0:?} is not a CIDR block: write 10.0.0.0/8 or [fd00::/8]")]
    Net(String),
    #[error("{text} sets bits behind its prefix: write {block}")]
    HostBits { text: String, block: IpNet },
    #[error("{0:?} is a name: write an address, a CIDR block or *")]
    NotAnAddress(String),
    #[error(transparent)]
    Host(#[from] HostError),
}

impl Target {
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (host, ports) = split_port(text)?;
        Ok(Self { host: HostPattern::parse(host)?, ports: parse_ports(ports)? })
    }

    /// Whether it is `*:*`.
    pub fn is_everything(&self) -> bool {
        self.host == HostPattern::Any && self.ports == (1..=u16::MAX)
    }
}

impl HostPattern {
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Some(suffix) = text.strip_prefix("*.") {
            return match Host::parse(suffix)? {
                Host::Name(name) => Ok(Self::Below(format!(".{name}"))),
                Host::Address(_) => Err(PatternError::Star(text.to_owned())),
            };
        }
        if text.contains('*') {
            return Err(PatternError::Star(text.to_owned()));
        }
        let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Some((address, prefix)) = inner.unwrap_or(text).split_once('/') {
            let net = parse_net(address, prefix).ok_or_else(|| PatternError::Net(text.to_owned()))?;
            return if net == net.trunc() {
                Ok(Self::Net(canonical(net)))
            } else {
                Err(PatternError::HostBits { text: text.to_owned(), block: net.trunc() })
            };
        }
        Ok(match Host::parse(text)? {
            Host::Address(address) => Self::Net(address.into()),
            Host::Name(name) => Self::Name(name),
        })
    }

    /// A name of a host without its port.
    pub fn parse_name(text: &str) -> Result<Self, PatternError> {
        match Self::parse(text)? {
            Self::Net(_) => Err(HostError::NotAHost(text.to_owned()).into()),
            pattern => Ok(pattern),
        }
    }

    /// Whether this pattern names `host` as it was asked for, whatever it resolves to.
    pub fn covers_host(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Any, _) => true,
            (_, Host::Name(name)) => self.covers_name(name),
            (_, Host::Address(address)) => self.covers_address(*address),
        }
    }

    pub fn covers_name(&self, name: &HostName) -> bool {
        match self {
            Self::Any => true,
            Self::Below(suffix) => name.as_str().ends_with(suffix.as_str()),
            Self::Name(pattern) => pattern == name,
            Self::Net(_) => false,
        }
    }

    pub fn covers_address(&self, address: IpAddr) -> bool {
        matches!(self, Self::Net(net) if net.contains(&address))
    }
}

impl Covers for Target {
    fn covers_all_of(&self, allow: &Self) -> bool {
        self.ports.start() <= allow.ports.start()
            && allow.ports.end() <= self.ports.end()
            && self.host.covers_all_of(&allow.host)
    }
}

impl Covers for HostPattern {
    /// A deny of addresses covers no name, whatever that resolves to today.
    fn covers_all_of(&self, allow: &Self) -> bool {
        match (self, allow) {
            (Self::Any, _) => true,
            (Self::Below(denied), Self::Below(allowed)) => allowed.ends_with(denied.as_str()),
            (_, Self::Name(name)) => self.covers_name(name),
            (Self::Net(denied), Self::Net(allowed)) => denied.contains(allowed),
            _ => false,
        }
    }
}

/// Splits at the last colon outside brackets.
pub(super) fn split_port(text: &str) -> Result<(&str, &str), PatternError> {
    let no_port = || PatternError::NoPort(text.to_owned());
    let (host, port) = text.rsplit_once(':').ok_or_else(no_port)?;
    if host.starts_with('[') && !host.ends_with(']') {
        return Err(no_port());
    }
    if host.contains(':') && !host.starts_with('[') {
        return Err(PatternError::Brackets);
    }
    Ok((host, port))
}

pub(super) fn parse_port(text: &str) -> Result<u16, PatternError> {
    let port = digits(text).filter(|port| *port > 0);
    port.ok_or_else(|| PatternError::Port(text.to_owned()))
}

pub(super) fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, PatternError> {
    if text == "*" {
        return Ok(1..=u16::MAX);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let ports = parse_port(first)?..=parse_port(last)?;
    if ports.is_empty() { Err(PatternError::Port(text.to_owned())) } else { Ok(ports) }
}

fn parse_net(address: &str, prefix: &str) -> Option<IpNet> {
    IpNet::new(address.parse().ok()?, digits(prefix)?).ok()
}

/// A number in its plain form: `str::parse` alone would also take `+8` and `08`.
fn digits<T: std::str::FromStr + fmt::Display>(text: &str) -> Option<T> {
    text.parse().ok().filter(|number: &T| number.to_string() == text)
}

/// A block of v4-mapped addresses is the IPv4 block; addresses are compared in that form.
fn canonical(net: IpNet) -> IpNet {
    let mapped = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);
    let IpNet::V6(v6) = net else { return net };
    let v4 = v6.addr().to_ipv4_mapped().filter(|_| mapped.contains(&v6));
    v4.and_then(|v4| Ipv4Net::new(v4, v6.prefix_len() - mapped.prefix_len()).ok()).map_or(net, IpNet::V4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(pattern: &str, host: &str) -> bool {
        Target::parse(pattern).unwrap().host.covers_host(&Host::parse(host).unwrap())
    }

    #[test]
    fn a_star_covers_every_host_and_a_star_in_front_only_what_is_below() {
        assert!(covers("*:1", "a.b") && covers("*:1", "10.0.0.1"));
        assert!(covers("*.internal:1", "db.internal") && covers("*.internal:1", "a.db.INTERNAL."));
        for other in ["internal", "xinternal", "db.internal.example", "10.0.0.1"] {
            assert!(!covers("*.internal:1", other), "{other}");
        }
    }

    #[test]
    fn a_name_covers_itself_in_every_spelling_and_nothing_else() {
        assert!(covers("Db.Internal.:1", "db.internal") && covers("bücher.example:1", "xn--bcher-kva.example"));
        assert!(!covers("db.internal:1", "a.db.internal"));
    }

    #[test]
    fn addresses_and_blocks_cover_addresses_in_their_mapped_form_too() {
        assert!(covers("10.2.0.0/16:1", "10.2.255.255") && !covers("10.2.0.0/16:1", "10.3.0.0"));
        assert!(covers("[fd00::/8]:1", "fdff::1") && !covers("[fd00::/8]:1", "fe00::1"));
        assert!(covers("[::ffff:10.0.0.0/104]:1", "10.1.2.3") && covers("10.0.0.0/8:1", "::ffff:10.1.2.3"));
        assert!(!covers("[::/0]:1", "10.0.0.1") && !covers("0.0.0.0/0:1", "::1"));
    }

    #[test]
    fn ports_are_one_a_range_or_all() {
        for (text, ports) in [("443", 443..=443), ("8000-8999", 8000..=8999), ("*", 1..=65535)] {
            assert_eq!(parse_ports(text), Ok(ports));
        }
        for bad in ["", "0", "0-5", "9-8", "65536", "+80", "080", "80-", "-80", "http", "1-2-3", "**"] {
            assert!(parse_ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_that_do_not_parse_say_what_to_write() {
        for (text, message) in [
            ("db.internal", "has no port"),
            ("[fd00::1]", "has no port"),
            ("fd00::1:443", "in brackets"),
            ("a*.b:1", "a `*` stands alone"),
            ("*.*:1", "is not a host"),
            ("10.0.0.1/8:1", "write 10.0.0.0/8"),
            ("10.0.0.0/33:1", "is not a CIDR block"),
            ("10.0.0.0/+8:1", "is not a CIDR block"),
            ("127.1:1", "four decimal numbers"),
            ("a b:1", "is not a host"),
        ] {
            let error = Target::parse(text).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
