//! A host as one asks for it: an address, or a name in the one spelling that rules are compared with.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

/// Longest host name, in bytes and without the trailing dot (RFC 1035 §2.3.4).
pub const HOST_NAME_MAX: usize = 253;
/// Longest label of a host name, in bytes (RFC 1035 §2.3.4).
const LABEL_MAX: usize = 63;

/// Where a connection goes, before anything is resolved.
///
/// ```
/// use capuchin::policy::Host;
/// assert_eq!(Host::parse("DB.Internal.")?, Host::parse("db.internal")?);
/// assert_eq!(Host::parse("[::ffff:10.0.0.1]")?, Host::parse("10.0.0.1")?);
/// assert!(Host::parse("2130706433").is_err(), "resolvers read this as 127.0.0.1");
/// # Ok::<(), capuchin::policy::HostError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address; a v4-mapped IPv6 address is the IPv4 address.
    Address(IpAddr),
    /// A name for the lender to resolve.
    Name(HostName),
}

/// A host name in lower-case ASCII (IDNA applied), without the trailing dot, that no resolver reads as an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostName(String);

/// Why a text is not a host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// Longer than [`HOST_NAME_MAX`].
    #[error("a host name of {bytes} bytes is too long: the limit is {HOST_NAME_MAX}")]
    TooLong {
        /// Length of what was given, in bytes.
        bytes: usize,
    },
    /// A number that some resolvers read as an address, such as `0x7f.1`.
    #[error("{0:?} is neither a name nor an address in its plain form: write an IPv4 address as four decimal numbers")]
    Numeric(String),
    /// A byte or a shape that no host name has.
    #[error("{0:?} is not a host: write a name, an IPv4 address, or an IPv6 address such as [fd00::1]")]
    NotAHost(String),
}

impl Host {
    /// Reads what a borrower, a command line or a rule wrote, into the one form that rules are compared with.
    ///
    /// # Errors
    /// [`HostError`] if it is no host, or one that resolvers disagree about.
    pub fn parse(text: &str) -> Result<Self, HostError> {
        let bytes = text.len();
        if bytes > HOST_NAME_MAX + ".".len() {
            return Err(HostError::TooLong { bytes });
        }
        let address = match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            None => text.parse().ok(),
        };
        match address {
            Some(address) => Ok(Self::Address(address.to_canonical())),
            None => HostName::parse(text).map(Self::Name),
        }
    }

    /// `host:port`, with brackets around an IPv6 address: how a rule names it.
    pub(super) fn with_port(&self, port: u16) -> String {
        match self {
            Self::Address(IpAddr::V6(address)) => format!("[{address}]:{port}"),
            host => format!("{host}:{port}"),
        }
    }
}

impl HostName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The root of all names, which is that of no host: who checks signatures looks up its keys, and dig(1) its servers.
    pub fn root() -> Self {
        Self(String::new())
    }

    pub(super) fn parse(text: &str) -> Result<Self, HostError> {
        let not_a_host = || HostError::NotAHost(text.to_owned());
        // IDNA first: it maps full-width digits and dots to ASCII, and what is checked below is what will be resolved.
        let ascii = idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::EMPTY).map_err(|_| not_a_host())?;
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        if name.len() > HOST_NAME_MAX {
            return Err(HostError::TooLong { bytes: name.len() });
        }
        if !name.split('.').all(is_label) {
            return Err(not_a_host());
        }
        if name.rsplit('.').next().is_some_and(is_number) {
            return Err(HostError::Numeric(text.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }
}

impl TryFrom<Host> for HostName {
    type Error = IpAddr;

    /// The name, or the address that the host is.
    fn try_from(host: Host) -> Result<Self, IpAddr> {
        match host {
            Host::Name(name) => Ok(name),
            Host::Address(address) => Err(address),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "." } else { &self.0 })
    }
}

/// The underscore is no letter of a host name, but DNS holds names with it and programs connect to them.
fn is_label(label: &str) -> bool {
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_';
    (1..=LABEL_MAX).contains(&label.len()) && label.bytes().all(fits)
}

/// The WHATWG rule "ends in a number": no top-level domain is one, and `inet_aton` reads every such text as an address.
fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|c| c.is_ascii_hexdigit()),
        None => label.bytes().all(|c| c.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> String {
        match Host::parse(text) {
            Ok(Host::Name(name)) => name.as_str().to_owned(),
            other => panic!("{text:?} is not a name: {other:?}"),
        }
    }

    #[test]
    fn case_one_trailing_dot_and_idn_are_one_spelling() {
        for same in ["db.internal", "DB.INTERNAL", "db.internal.", "ｄｂ。internal"] {
            assert_eq!(name(same), "db.internal");
        }
        assert_eq!(name("Bücher.example"), "xn--bcher-kva.example");
        assert_eq!(name("XN--BCHER-KVA.example"), "xn--bcher-kva.example");
        assert_eq!(name("_sip._tcp.example"), "_sip._tcp.example");
    }

    #[test]
    fn addresses_are_read_with_and_without_brackets_and_mapped_ones_are_v4() {
        for (text, address) in [
            ("10.0.0.1", "10.0.0.1"),
            ("::1", "::1"),
            ("[::1]", "::1"),
            ("[::FFFF:7f00:1]", "127.0.0.1"),
            ("[fd00:0:0::1]", "fd00::1"),
        ] {
            assert_eq!(Host::parse(text), Ok(Host::Address(address.parse().unwrap())), "{text}");
        }
    }

    /// Attack 46.
    #[test]
    fn numbers_that_resolvers_read_as_addresses_are_refused() {
        for text in [
            "2130706433",
            "0x7f000001",
            "0X7F000001",
            "0177.0.0.1",
            "127.1",
            "0",
            "0x7f.1",
            "0177.1",
            "1.2.3.4.5",
            "127.0.0.1.",
            "0x",
            "a.0x7f",
            "１２７.0.0.1",
            "127。0。0。1",
            "256.0.0.1",
        ] {
            assert!(matches!(Host::parse(text), Err(HostError::Numeric(_))), "{text}: {:?}", Host::parse(text));
        }
    }

    #[test]
    fn bytes_and_shapes_that_no_host_name_has_are_refused() {
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a..",
            "a b",
            "a\0b",
            "a\n",
            "a/b",
            "a:1",
            "*",
            "*.a",
            "a@b",
            "a%b",
            "[::1",
            "::1]",
            "[10.0.0.1]",
            "[a]",
            "fe80::1%eth0",
            "xn--a",
            "\u{202e}a",
            &"a".repeat(64),
        ] {
            assert!(matches!(Host::parse(text), Err(HostError::NotAHost(_))), "{text:?}: {:?}", Host::parse(text));
        }
    }

    #[test]
    fn a_name_has_at_most_253_bytes() {
        let longest = format!("{}{}", "abcdefghi.".repeat(25), "abc");
        assert_eq!(longest.len(), HOST_NAME_MAX);
        assert_eq!(name(&format!("{longest}.")), longest);
        for text in [format!("{longest}d"), "a.".repeat(1 << 20)] {
            assert!(matches!(Host::parse(&text), Err(HostError::TooLong { .. })), "{}", text.len());
        }
    }
}
