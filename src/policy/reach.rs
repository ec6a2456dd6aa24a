//! What TCP connections and datagrams have in common: a host, a port, and the addresses that the host has.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{
    Policy,
    address::{self, Special},
    decide::{Facts, Principal},
    host::{Host, HostName},
    kind::Kind,
    pattern::{HostPattern, Target},
    reader::Entry,
    refusal::{Reason, Refusal, RuleRef},
    search::{Miss, Search, Select, Wanted},
};
use crate::proto::UserName;

/// Most addresses of one name that are judged, and so tried: a hostile DNS answer holds thousands.
pub const ADDRESSES_MAX: usize = 64;

/// What carries the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A connection.
    Tcp,
    /// Datagrams.
    Udp,
}

/// Asks before resolving `host`: could any answer be allowed? A rule for addresses on that port says yes to every name.
/// A literal address needs no resolving, and is not asked about here.
///
/// # Errors
/// The [`Refusal`], when [`decide`](super::decide) would refuse whatever the name resolves to; then do not resolve it.
///
/// ```
/// use capuchin::{policy::*, proto::DeviceId};
/// let policy = Policy::parse("[[allow]]\nwho = \"ana\"\nconnect = \"*.internal:443\"", "policy.toml")?;
/// let ana = Principal { user: "ana".parse()?, device: DeviceId::from_digest(&[0; 32]) };
/// assert!(may_match(&policy, &ana, Transport::Tcp, &Host::parse("db.internal")?, 443).is_ok());
/// assert!(may_match(&policy, &ana, Transport::Tcp, &Host::parse("secret.ana.example")?, 443).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn may_match(
    policy: &Policy,
    principal: &Principal,
    transport: Transport,
    host: &Host,
    port: u16,
) -> Result<(), Refusal> {
    match host {
        Host::Address(_) => Ok(()),
        Host::Name(_) => {
            Reach { transport, host, port, names: &[], aliases: &[], own: &[] }.may_match(policy, &principal.user)
        }
    }
}

/// Whether a deny could cover this connection by a name that `host` is an alias of: only then need the lender find out
/// through which names its resolution goes.
pub fn may_be_denied_by_alias(
    policy: &Policy,
    principal: &Principal,
    transport: Transport,
    host: &Host,
    port: u16,
) -> bool {
    let names_hosts = |pattern: &HostPattern| matches!(pattern, HostPattern::Name(_) | HostPattern::Below(_));
    let search = Reach { transport, host, port, names: &[], aliases: &[], own: &[] }.search(policy, &principal.user);
    let by_name = |rule: &Entry<Target>| names_hosts(&rule.value.host) && rule.value.ports.contains(&port);
    matches!(host, Host::Name(_)) && search.denies().any(by_name)
}

/// A host and port that are asked for, before it is known which address they take.
#[derive(Clone, Copy)]
pub(super) struct Reach<'a> {
    pub transport: Transport,
    pub host: &'a Host,
    pub port: u16,
    /// Other names of it; see [`Connect::names`](super::Connect::names).
    pub names: &'a [HostName],
    /// Names that its resolution went through; see [`Connect::aliases`](super::Connect::aliases).
    pub aliases: &'a [HostName],
    pub own: &'a [SocketAddr],
}

/// What is left of the addresses, and why the others are not.
pub(super) struct Judgement<'a> {
    pub kept: Vec<IpAddr>,
    decided_by: Option<&'a Entry<Target>>,
    missed: Option<(Option<IpAddr>, Miss<'a, Target>)>,
}

impl Reach<'_> {
    /// Judges every address: those that may be reached, and the rule for the first of them.
    pub fn judge(
        &self,
        policy: &Policy,
        user: &UserName,
        addresses: &[IpAddr],
    ) -> Result<(Vec<IpAddr>, RuleRef), Refusal> {
        if matches!(self.host, Host::Name(_)) {
            self.may_match(policy, user)?;
        }
        let search = self.search(policy, user);
        let Judgement { kept, decided_by, missed } = self.sift(&search, addresses);
        match decided_by {
            Some(rule) => Ok((kept, search.rule(rule))),
            None => {
                let (address, miss) = missed.unwrap_or((None, Miss::NothingResolved));
                Err(search.refusal(&At { reach: *self, address }, miss))
            }
        }
    }

    /// As [`Self::judge`], and every address must be allowed.
    pub fn judge_all(&self, policy: &Policy, user: &UserName, addresses: &[IpAddr]) -> Result<RuleRef, Refusal> {
        let (_, rule) = self.judge(policy, user, addresses)?;
        let search = self.search(policy, user);
        match self.sift(&search, addresses).missed {
            Some((address, miss)) => Err(search.refusal(&At { reach: *self, address }, miss)),
            None => Ok(rule),
        }
    }

    /// Whether no deny covers `address`; nothing need allow it.
    pub fn judge_denies(&self, policy: &Policy, user: &UserName, address: IpAddr) -> Result<(), Refusal> {
        let search = self.search(policy, user);
        let asked = At { reach: *self, address: Some(address) };
        let denied = search.denies().find(|entry| asked.is_denied_by(&entry.value));
        denied.map_or(Ok(()), |entry| Err(search.refusal(&asked, Miss::Denied(entry))))
    }

    /// Judges a name by the rules that name it, without addresses: what a `[[test]]` that resolves nothing can say.
    pub fn judge_unresolved(&self, policy: &Policy, user: &UserName) -> Result<RuleRef, Refusal> {
        self.search(policy, user).judge(&At { reach: *self, address: None })
    }

    fn may_match(&self, policy: &Policy, user: &UserName) -> Result<(), Refusal> {
        let search = self.search(policy, user);
        let asked = At { reach: *self, address: None };
        let by_address = |rule: &Entry<Target>| matches!(rule.value.host, HostPattern::Net(_));
        match search.find(&asked) {
            Ok(_) => Ok(()),
            Err(Miss::NoRule) if search.allows().any(|rule| by_address(rule) && asked.has_port(&rule.value)) => Ok(()),
            Err(miss) => Err(search.refusal(&asked, miss)),
        }
    }

    fn sift<'p>(&self, search: &Search<'p, Target>, addresses: &[IpAddr]) -> Judgement<'p> {
        let mut judgement = Judgement { kept: Vec::new(), decided_by: None, missed: None };
        let addresses = match self.host {
            Host::Address(address) => std::slice::from_ref(address),
            Host::Name(_) => addresses,
        };
        for address in addresses.iter().take(ADDRESSES_MAX).map(IpAddr::to_canonical) {
            match search.find(&At { reach: *self, address: Some(address) }) {
                Ok(rule) => {
                    judgement.decided_by.get_or_insert(rule);
                    if !judgement.kept.contains(&address) {
                        judgement.kept.push(address);
                    }
                }
                Err(miss) => {
                    judgement.missed.get_or_insert((Some(address), miss));
                }
            }
        }
        judgement
    }

    fn search<'p>(&self, policy: &'p Policy, user: &'p UserName) -> Search<'p, Target> {
        let (kind, select): (_, Select<Target>) = match self.transport {
            Transport::Tcp => (Kind::Connect, |patterns| &patterns.connect),
            Transport::Udp => (Kind::Udp, |patterns| &patterns.udp),
        };
        Search { policy, user, kind, select }
    }
}

/// Adds to the names of a literal address those that the lender answered with it in this session.
pub(super) fn add_answered(host: &Host, names: &mut Vec<HostName>, aliases: &mut Vec<HostName>, facts: &Facts<'_>) {
    let Host::Address(address) = host else { return };
    for answer in facts.answered.iter().filter(|answer| answer.address.to_canonical() == *address) {
        let known = if answer.alias { &mut *aliases } else { &mut *names };
        if !known.contains(&answer.name) {
            known.push(answer.name.clone());
        }
    }
}

/// One address of what is asked for; none while the name is all that is known.
struct At<'a> {
    reach: Reach<'a>,
    address: Option<IpAddr>,
}

fn covers_one(pattern: &Target, names: &[HostName]) -> bool {
    names.iter().any(|name| pattern.host.covers_name(name))
}

/// Why an address is open only to rules that name it.
enum Guard {
    Special(IpAddr, Special),
    Own(IpAddr),
}

impl At<'_> {
    fn has_port(&self, pattern: &Target) -> bool {
        pattern.ports.contains(&self.reach.port)
    }

    /// What a rule has to name: the address, where nothing less opens it.
    fn host_to_name(&self) -> Host {
        match (self.address, self.guard_of_address()) {
            (Some(address), Some(_)) => Host::Address(address),
            _ => self.reach.host.clone(),
        }
    }

    fn guard_of_address(&self) -> Option<Guard> {
        let address = self.address?;
        // Only a listener of TCP can be met by TCP.
        if self.reach.transport == Transport::Tcp && address::is_own(address, self.reach.port, self.reach.own) {
            return Some(Guard::Own(address));
        }
        address::special(address).map(|special| Guard::Special(address, special))
    }
}

impl Wanted<Target> for At<'_> {
    fn target(&self) -> String {
        self.reach.host.with_port(self.reach.port)
    }

    fn pattern(&self) -> Option<String> {
        (self.reach.port > 0).then(|| self.host_to_name().with_port(self.reach.port))
    }

    fn is_denied_by(&self, pattern: &Target) -> bool {
        let forms = || self.address.map(address::forms).unwrap_or_default();
        self.has_port(pattern)
            && (pattern.host.covers_host(self.reach.host)
                || covers_one(pattern, self.reach.names)
                || covers_one(pattern, self.reach.aliases)
                || forms().into_iter().any(|form| pattern.host.covers_address(form)))
    }

    /// Aliases allow nothing: whoever answers for a name may choose them.
    fn is_covered_by(&self, pattern: &Target) -> bool {
        let by_host = match (&pattern.host, self.address) {
            (HostPattern::Net(_), Some(address)) => pattern.host.covers_address(address),
            _ => pattern.host.covers_host(self.reach.host),
        };
        let by_answer = || matches!(self.reach.host, Host::Address(_)) && covers_one(pattern, self.reach.names);
        self.has_port(pattern) && (by_host || by_answer())
    }

    fn guard(&self) -> Option<Reason> {
        Some(match self.guard_of_address()? {
            Guard::Special(address, special) => Reason::SpecialRange { address, what: special.what },
            Guard::Own(address) => Reason::OwnListener { address: SocketAddr::new(address, self.reach.port) },
        })
    }

    /// A special range is opened by a rule for addresses inside it, so that 0.0.0.0/0 opens none; the lender's own
    /// listener by its very address and port.
    fn is_opened_by(&self, pattern: &Target) -> bool {
        let HostPattern::Net(net) = &pattern.host else { return false };
        match self.guard_of_address() {
            None => true,
            Some(Guard::Special(_, special)) => special.range.contains(net),
            Some(Guard::Own(address)) => *net == IpNet::from(address) && pattern.ports.start() == pattern.ports.end(),
        }
    }

    /// The same host on another port, else another host on the same port.
    fn closeness(&self, pattern: &Target) -> usize {
        if pattern.host.covers_host(self.reach.host) { 2 } else { usize::from(self.has_port(pattern)) }
    }
}
