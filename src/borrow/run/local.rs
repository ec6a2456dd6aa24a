//! `--local`: what a borrowed program reaches on this machine and not on the lender's.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

/// An address, all of its ports or one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    address: IpAddr,
    port: Option<u16>,
}

impl Local {
    /// Whether the port of `target` was named, and not only its address.
    pub fn names_port(&self, target: SocketAddr) -> bool {
        self.port.is_some() && self.holds(target)
    }

    /// The address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether a connection to `target` stays on this machine.
    pub fn holds(&self, target: SocketAddr) -> bool {
        self.address == target.ip() && self.port.is_none_or(|port| port == target.port())
    }
}

/// `ADDR` or `ADDR:PORT`; an IPv6 address with a port stands in brackets.
impl FromStr for Local {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self { address: address.to_canonical(), port: None });
        }
        match text.parse::<SocketAddr>() {
            Ok(target) if target.port() > 0 => {
                Ok(Self { address: target.ip().to_canonical(), port: Some(target.port()) })
            }
            _ => Err("write ADDR or ADDR:PORT, as in 127.0.0.1:5432 or [::1]:5432".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_holds_all_of_its_ports_or_one() {
        let target = |text: &str| text.parse::<SocketAddr>().unwrap();
        let local = |text: &str| text.parse::<Local>().unwrap();
        assert!(local("127.0.0.1").holds(target("127.0.0.1:1")) && local("::1").holds(target("[::1]:9")));
        assert!(local("[::1]").holds(target("[::1]:9")) && local("[::1]:9").holds(target("[::1]:9")));
        assert!(local("127.0.0.1:5432").holds(target("127.0.0.1:5432")));
        assert!(!local("127.0.0.1:5432").holds(target("127.0.0.1:5433")));
        assert!(local("127.0.0.1:53").names_port(target("127.0.0.1:53")));
        assert!(!local("127.0.0.1").names_port(target("127.0.0.1:53")));
        assert!(!local("127.0.0.1:54").names_port(target("127.0.0.1:53")));
        assert!(!local("127.0.0.1").holds(target("127.0.0.2:5432")));
        for text in ["localhost", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:x", ""] {
            assert!(text.parse::<Local>().is_err(), "{text}");
        }
    }
}
