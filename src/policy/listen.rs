//! Ports to listen on at the lender.
//!
//! A pattern is a set of addresses and ports: an allow must hold all that is asked for, a deny only touch it. Whoever
//! listens on the wildcard is met at every address, so the wildcard is allowed only by a pattern that says `*` or
//! `0.0.0.0`, and denied by a deny of any address.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::RangeInclusive,
};

use ipnet::IpNet;

use super::{
    Policy,
    covered::Covers,
    decide::{Facts, Granted, Judged, Principal},
    host::Host,
    kind::Kind,
    pattern::{HostPattern, PatternError, parse_ports, split_port},
    reach::Transport,
    reader::Entry,
    refusal::{Reason, Refusal, RuleRef},
    search::{Miss, Search, Wanted},
};
use crate::proto::UserName;

/// A port to listen on. Granted, `ports` holds those that may be bound, and nothing else may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Connections or datagrams.
    pub transport: Transport,
    /// The lender's address; an unspecified one of either family is the wildcard.
    pub address: IpAddr,
    /// The ports that will do. One, or, where the borrower asked for port 0, all; granted, those that are allowed.
    pub ports: Vec<RangeInclusive<u16>>,
    /// Whether the borrower asked for port 0: then some of the ports are enough.
    pub any_port: bool,
}

/// What the rules leave of the ports, and the first rule that gives some.
type Sifted<'p> = Result<(Vec<RangeInclusive<u16>>, &'p Entry<ListenPattern>), Miss<'p, ListenPattern>>;

/// `address:port` of a rule, and `/udp` where it narrows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ListenPattern {
    addresses: Addresses,
    ports: Ports,
    /// None: both.
    transport: Option<Transport>,
}

#[derive(Clone, Debug, PartialEq)]
enum Addresses {
    /// `*` or an unspecified address: the wildcard of either family, and so every address.
    All,
    Net(IpNet),
}

#[derive(Clone, Debug, PartialEq)]
enum Ports {
    /// `*`: to allow, those from [`UNPRIVILEGED_PORT`]; to deny, all.
    All,
    Written(RangeInclusive<u16>),
}

impl Listen {
    /// Asks for `port` of `address`; 0 asks for any port.
    pub fn new(transport: Transport, address: IpAddr, port: u16) -> Self {
        let ports = if port == 0 { ALL_PORTS } else { port..=port };
        Self { transport, address: address.to_canonical(), ports: vec![ports], any_port: port == 0 }
    }

    /// Reads `address:port` or `address:port/udp`; `*` is the wildcard.
    pub(super) fn parse(text: &str) -> Result<Self, PatternError> {
        let (text, transport) = split_transport(text);
        let (host, port) = split_port(text)?;
        let address = match Host::parse(if host == "*" { "0.0.0.0" } else { host })? {
            Host::Address(address) => address,
            Host::Name(_) => return Err(PatternError::NotAnAddress(text.to_owned())),
        };
        let port = if port == "0" { 0 } else { super::pattern::parse_port(port)? };
        Ok(Self::new(transport.unwrap_or(Transport::Tcp), address, port))
    }

    fn search<'p>(policy: &'p Policy, user: &'p UserName) -> Search<'p, ListenPattern> {
        Search { policy, user, kind: Kind::Listen, select: |patterns| &patterns.listen }
    }

    fn sift<'p>(&self, search: &Search<'p, ListenPattern>, own: &[SocketAddr]) -> Sifted<'p> {
        let mut left: Vec<RangeInclusive<u16>> = Vec::new();
        let mut decided_by = None;
        let mut denied_by = None;
        for entry in search.allows().filter(|entry| entry.value.holds(self)) {
            let mut ports: Vec<_> =
                self.ports.iter().filter_map(|asked| overlap(asked, &entry.value.ports.to_allow())).collect();
            for deny in search.denies().filter(|deny| deny.value.touches(self)) {
                let cut = deny.value.ports.to_deny();
                if ports.iter().any(|range| overlap(range, &cut).is_some()) {
                    denied_by.get_or_insert(deny);
                    ports = without(&ports, &cut);
                }
            }
            for listener in own.iter().filter(|listener| self.meets(listener)) {
                ports = without(&ports, &(listener.port()..=listener.port()));
            }
            for given in &left {
                ports = without(&ports, given);
            }
            if !ports.is_empty() {
                decided_by.get_or_insert(entry);
                left.extend(ports);
            }
        }
        match (decided_by, denied_by) {
            (Some(entry), _) => Ok((left, entry)),
            (None, Some(deny)) => Err(Miss::Denied(deny)),
            (None, None) => Err(Miss::NoRule),
        }
    }

    /// Whether `listener` of the lender is where this would listen, or stands in its way.
    fn meets(&self, listener: &SocketAddr) -> bool {
        let ip = listener.ip().to_canonical();
        self.transport == Transport::Tcp && (ip == self.address || ip.is_unspecified() || self.address.is_unspecified())
    }
}

impl Granted<Listen> {
    /// The grant for the one of its ports that was bound; `None` when it is none of them.
    pub fn at_port(self, port: u16) -> Option<Self> {
        self.map(|listen| {
            let granted = listen.ports.iter().any(|range| range.contains(&port));
            granted.then(|| Listen { ports: vec![port..=port], any_port: false, ..listen })
        })
    }
}

impl Judged for Listen {
    fn judge(mut self, policy: &Policy, principal: &Principal, facts: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        let search = Self::search(policy, &principal.user);
        if !self.any_port {
            let rule = search.judge(&Asked { listen: &self, own: facts.own })?;
            return Ok((self, rule));
        }
        match self.sift(&search, facts.own) {
            Ok((ports, entry)) => {
                self.ports = ports;
                Ok((self, search.rule(entry)))
            }
            Err(miss) => Err(search.refusal(&Asked { listen: &self, own: facts.own }, miss)),
        }
    }

    /// Every port that was granted must still be.
    fn judge_again(&self, policy: &Policy, principal: &Principal, facts: &Facts<'_>) -> Result<RuleRef, Refusal> {
        let search = Self::search(policy, &principal.user);
        let (granted, rule) = self.clone().judge(policy, principal, facts)?;
        let lost = granted.ports.iter().fold(self.ports.clone(), |lost, range| without(&lost, range));
        match lost.first() {
            None => Ok(rule),
            Some(range) => {
                let gone = Self { ports: vec![*range.start()..=*range.start()], any_port: false, ..self.clone() };
                search.judge(&Asked { listen: &gone, own: facts.own })
            }
        }
    }
}

/// One port, or port 0, that is asked for.
struct Asked<'a> {
    listen: &'a Listen,
    own: &'a [SocketAddr],
}

impl Asked<'_> {
    /// The one port; none when any would do.
    fn port(&self) -> Option<u16> {
        self.listen.ports.first().map(|range| *range.start()).filter(|_| !self.listen.any_port)
    }

    fn written(&self, port: &str) -> String {
        let suffix = if self.listen.transport == Transport::Udp { "/udp" } else { "" };
        match self.listen.address {
            address if address.is_unspecified() => format!("{}:{port}{suffix}", Ipv4Addr::UNSPECIFIED),
            IpAddr::V4(address) => format!("{address}:{port}{suffix}"),
            IpAddr::V6(address) => format!("[{address}]:{port}{suffix}"),
        }
    }
}

impl Wanted<ListenPattern> for Asked<'_> {
    fn target(&self) -> String {
        self.written(&self.port().unwrap_or(0).to_string())
    }

    fn pattern(&self) -> Option<String> {
        Some(self.port().map_or_else(|| self.written("*"), |port| self.written(&port.to_string())))
    }

    fn never(&self) -> Option<Reason> {
        let port = self.port()?;
        let met = self.own.iter().find(|listener| listener.port() == port && self.listen.meets(listener))?;
        Some(Reason::OwnPort { address: *met })
    }

    fn is_denied_by(&self, pattern: &ListenPattern) -> bool {
        pattern.touches(self.listen) && self.port().is_some_and(|port| pattern.ports.to_deny().contains(&port))
    }

    fn is_covered_by(&self, pattern: &ListenPattern) -> bool {
        pattern.holds(self.listen) && self.port().is_some_and(|port| pattern.ports.to_deny().contains(&port))
    }

    fn guard(&self) -> Option<Reason> {
        self.port().filter(|port| *port < UNPRIVILEGED_PORT).map(|_| Reason::PrivilegedPort)
    }

    fn is_opened_by(&self, pattern: &ListenPattern) -> bool {
        self.port().is_some_and(|port| pattern.ports.to_allow().contains(&port))
    }

    /// Another port of the same address, else the same port elsewhere.
    fn closeness(&self, pattern: &ListenPattern) -> usize {
        let same_port = || self.port().is_some_and(|port| pattern.ports.to_allow().contains(&port));
        if pattern.holds(self.listen) { 2 } else { usize::from(same_port()) }
    }
}

impl ListenPattern {
    /// Reads what `listen` takes.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (text, transport) = split_transport(text);
        let (host, ports) = split_port(text)?;
        let addresses = match HostPattern::parse(host)? {
            HostPattern::Any => Addresses::All,
            HostPattern::Net(net) if net.addr().is_unspecified() && net.prefix_len() == net.max_prefix_len() => {
                Addresses::All
            }
            HostPattern::Net(net) => Addresses::Net(net),
            HostPattern::Below(_) | HostPattern::Name(_) => return Err(PatternError::NotAnAddress(text.to_owned())),
        };
        let ports = if ports == "*" { Ports::All } else { Ports::Written(parse_ports(ports)?) };
        Ok(Self { addresses, ports, transport })
    }

    /// Whether everything that `listen` would be met at is inside, its port aside.
    fn holds(&self, listen: &Listen) -> bool {
        self.is_for(listen)
            && match &self.addresses {
                Addresses::All => true,
                Addresses::Net(net) => !listen.address.is_unspecified() && net.contains(&listen.address),
            }
    }

    /// Whether something that `listen` would be met at is inside, its port aside.
    fn touches(&self, listen: &Listen) -> bool {
        self.is_for(listen)
            && match &self.addresses {
                Addresses::All => true,
                Addresses::Net(net) => listen.address.is_unspecified() || net.contains(&listen.address),
            }
    }

    fn is_for(&self, listen: &Listen) -> bool {
        self.transport.is_none_or(|transport| transport == listen.transport)
    }
}

impl Covers for ListenPattern {
    fn covers_all_of(&self, allow: &Self) -> bool {
        let addresses = match (&self.addresses, &allow.addresses) {
            (Addresses::All, _) => true,
            (Addresses::Net(denied), Addresses::Net(allowed)) => denied.contains(allowed),
            (Addresses::Net(_), Addresses::All) => false,
        };
        let (denied, allowed) = (self.ports.to_deny(), allow.ports.to_allow());
        let transports = self.transport.is_none() || self.transport == allow.transport;
        addresses && transports && denied.start() <= allowed.start() && allowed.end() <= denied.end()
    }
}

impl Ports {
    /// Those that it opens.
    fn to_allow(&self) -> RangeInclusive<u16> {
        match self {
            Self::All => UNPRIVILEGED_PORT..=u16::MAX,
            Self::Written(ports) => ports.clone(),
        }
    }

    /// Those that it covers.
    fn to_deny(&self) -> RangeInclusive<u16> {
        match self {
            Self::All => ALL_PORTS,
            Self::Written(ports) => ports.clone(),
        }
    }
}

fn split_transport(text: &str) -> (&str, Option<Transport>) {
    match (text.strip_suffix("/udp"), text.strip_suffix("/tcp")) {
        (Some(rest), _) => (rest, Some(Transport::Udp)),
        (_, Some(rest)) => (rest, Some(Transport::Tcp)),
        (None, None) => (text, None),
    }
}

fn overlap(left: &RangeInclusive<u16>, right: &RangeInclusive<u16>) -> Option<RangeInclusive<u16>> {
    let both = *left.start().max(right.start())..=*left.end().min(right.end());
    (!both.is_empty()).then_some(both)
}

/// `ranges` without `cut`.
fn without(ranges: &[RangeInclusive<u16>], cut: &RangeInclusive<u16>) -> Vec<RangeInclusive<u16>> {
    let pieces = ranges.iter().flat_map(|range| {
        let before = cut.start().checked_sub(1).and_then(|end| overlap(range, &(0..=end)));
        let after = cut.end().checked_add(1).and_then(|start| overlap(range, &(start..=u16::MAX)));
        [before, after]
    });
    pieces.flatten().collect()
}

/// Ports below it are a privileged program's on Unix; a rule gives them only where it writes them.
const UNPRIVILEGED_PORT: u16 = 1024;
const ALL_PORTS: RangeInclusive<u16> = 1..=u16::MAX;

#[cfg(test)]
mod tests;
