//! `--publish` and `--publish-loopback`: which ports of a program the lender's network sees, and under which number.

use std::{fmt, net::SocketAddr, str::FromStr};

/// A port of the program that has another number at the lender: `LENDERPORT:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// Its number at the lender.
    pub lender: u16,
    /// The number that the program binds.
    pub inside: u16,
}

/// Which ports are opened at the lender, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish {
    /// Those with another number; the first that fits counts (see [`named_twice`](Self::named_twice)).
    pub ports: Vec<PublishedPort>,
    /// What a program binds to loopback is opened on the lender's loopback, instead of being the program's alone.
    pub loopback: bool,
}

impl Publish {
    /// A port that stands in two of `ports`, at the lender or inside: one of both would be open nowhere.
    pub fn named_twice(&self) -> Option<PublishedPort> {
        let mut rest = self.ports.as_slice();
        while let [first, others @ ..] = rest {
            let same = |other: &&PublishedPort| other.lender == first.lender || other.inside == first.inside;
            if let Some(twice) = others.iter().find(same) {
                return Some(*twice);
            }
            rest = others;
        }
        None
    }

    /// Where at the lender what a program binds to `inside` is met; `None`: nowhere, it is the program's alone. A port that
    /// is named is met there also when it is bound to loopback.
    pub fn at_lender(&self, inside: SocketAddr) -> Option<SocketAddr> {
        let named = self.ports.iter().find(|port| port.inside == inside.port());
        if inside.ip().is_loopback() && !self.loopback && named.is_none() {
            return None;
        }
        Some(SocketAddr::new(inside.ip(), named.map_or(inside.port(), |port| port.lender)))
    }
}

impl fmt::Display for PublishedPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.lender, self.inside)
    }
}

impl FromStr for PublishedPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        let (lender, inside) = text.split_once(':').map(|(lender, inside)| (port(lender), port(inside))).unzip();
        match (lender.flatten(), inside.flatten()) {
            (Some(lender), Some(inside)) => Ok(Self { lender, inside }),
            _ => Err("write LENDERPORT:PORT, as in 8080:80; each is between 1 and 65535".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_stays_inside_unless_it_is_asked_for() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let plain = Publish::default();
        assert_eq!(plain.at_lender(at("0.0.0.0:80")), Some(at("0.0.0.0:80")));
        assert_eq!(plain.at_lender(at("[fd00::1]:0")), Some(at("[fd00::1]:0")));
        for loopback in ["127.0.0.1:80", "127.9.9.9:0", "[::1]:80"] {
            assert_eq!(plain.at_lender(at(loopback)), None);
            let asked = Publish { loopback: true, ..Publish::default() };
            assert_eq!(asked.at_lender(at(loopback)), Some(at(loopback)));
        }
    }

    #[test]
    fn a_port_that_is_named_has_its_other_number_wherever_it_is_bound() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let publish = Publish { ports: vec!["8080:80".parse().unwrap()], loopback: false };
        for (inside, lender) in [
            ("0.0.0.0:80", Some("0.0.0.0:8080")),
            ("127.0.0.1:80", Some("127.0.0.1:8080")),
            ("[::]:81", Some("[::]:81")),
            ("127.0.0.1:81", None),
        ] {
            assert_eq!(publish.at_lender(at(inside)), lender.map(at), "{inside}");
        }
        assert_eq!(publish.named_twice(), None);
        for again in ["8080:81", "8081:80", "8080:80"] {
            let ports = ["9000:90", "8080:80", again].map(|port| port.parse().unwrap()).to_vec();
            let twice = Publish { ports, loopback: false }.named_twice().unwrap();
            assert_eq!(twice.to_string(), again);
        }
        for text in ["80", "80:", ":80", "0:80", "80:0", "80:65536", "80:80:80", "a:80", ""] {
            assert!(text.parse::<PublishedPort>().is_err(), "{text}");
        }
    }
}
