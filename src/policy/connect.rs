//! Decides TCP connections: by name before the lender resolves, by address afterwards.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{
    Policy,
    address::{self, Special},
    decide::{Facts, Judged, Principal},
    host::Host,
    pattern::{HostPattern, Target},
    reader::Entry,
    refusal::{Reason, Refusal, RuleRef},
};
use crate::proto::UserName;

/// Most addresses of one name that are judged, and so tried: a hostile DNS answer holds thousands.
pub const ADDRESSES_MAX: usize = 64;

/// A connection to `host`, with what the lender's one resolution of it gave. Granted, `addresses` holds those that may
/// be dialled, in their canonical form and in the same order, and nothing else may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// What the borrower asked for.
    pub host: Host,
    /// The port, from 1.
    pub port: u16,
    /// What `host` resolved to; a literal address is itself. Those after the first [`ADDRESSES_MAX`] are dropped.
    pub addresses: Vec<IpAddr>,
}

/// Asks before resolving `host`: could any answer be allowed? A rule for addresses on that port says yes to every name.
///
/// # Errors
/// The [`Refusal`], when [`decide`](super::decide) would refuse whatever the name resolves to; then do not resolve it.
///
/// ```
/// use capuchin::{policy::*, proto::DeviceId};
/// let policy = Policy::parse("[[allow]]\nwho = \"ana\"\nconnect = \"*.internal:443\"", "policy.toml")?;
/// let ana = Principal { user: "ana".parse()?, device: DeviceId::from_digest(&[0; 32]) };
/// assert!(may_match(&policy, &ana, &Host::parse("db.internal")?, 443).is_ok());
/// assert!(may_match(&policy, &ana, &Host::parse("secret.ana.example")?, 443).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn may_match(policy: &Policy, principal: &Principal, host: &Host, port: u16) -> Result<(), Refusal> {
    let asked = Asked { policy, user: &principal.user, host, port, own: &[] };
    let address = match host {
        Host::Address(address) => Some(address.to_canonical()),
        Host::Name(_) => None,
    };
    match asked.find(address) {
        Ok(_) => Ok(()),
        Err(Refused::NoRule) if address.is_none() && asked.has_address_rule() => Ok(()),
        Err(refused) => Err(asked.refusal(&refused)),
    }
}

/// Judges a name by the rules that name it, without addresses: what a `[[test]]` that resolves nothing can say.
pub(super) fn judge_unresolved(policy: &Policy, user: &UserName, host: &Host, port: u16) -> Result<RuleRef, Refusal> {
    let asked = Asked { policy, user, host, port, own: &[] };
    match asked.find(None) {
        Ok(rule) => Ok(rule_ref(policy, rule)),
        Err(refused) => Err(asked.refusal(&refused)),
    }
}

impl Judged for Connect {
    fn judge(mut self, policy: &Policy, principal: &Principal, facts: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        may_match(policy, principal, &self.host, self.port)?;
        let asked = Asked { policy, user: &principal.user, host: &self.host, port: self.port, own: facts.own };
        let mut kept: Vec<IpAddr> = Vec::new();
        let mut decided_by = None;
        let mut first_refused = None;
        for address in self.addresses.iter().take(ADDRESSES_MAX).map(IpAddr::to_canonical) {
            match asked.find(Some(address)) {
                Ok(rule) => {
                    decided_by.get_or_insert(rule);
                    if !kept.contains(&address) {
                        kept.push(address);
                    }
                }
                Err(refused) => {
                    first_refused.get_or_insert(refused);
                }
            }
        }
        if let Some(rule) = decided_by {
            let rule = rule_ref(policy, rule);
            self.addresses = kept;
            Ok((self, rule))
        } else {
            Err(asked.refusal(&first_refused.unwrap_or(Refused::NoAddress)))
        }
    }
}

/// One connection that is asked for, before it is known which address it takes.
struct Asked<'a> {
    policy: &'a Policy,
    user: &'a UserName,
    host: &'a Host,
    port: u16,
    own: &'a [SocketAddr],
}

/// Why the rules do not allow one address, or the name alone.
enum Refused<'a> {
    Denied(&'a Entry<Target>),
    /// The rule covers the address, and is not specific enough to open it.
    Guarded(Guard, &'a Entry<Target>),
    NoRule,
    NoAddress,
}

/// Why an address is open only to rules that name it.
enum Guard {
    Special(IpAddr, Special),
    Own(IpAddr),
}

impl<'a> Asked<'a> {
    fn find(&self, address: Option<IpAddr>) -> Result<&'a Entry<Target>, Refused<'a>> {
        let forms = address.map(address::forms).unwrap_or_default();
        let denied = self.denies().find(|rule| {
            rule.value.host.covers_host(self.host) || forms.iter().any(|form| rule.value.host.covers_address(*form))
        });
        if let Some(rule) = denied {
            return Err(Refused::Denied(rule));
        }
        let covers = |rule: &&Entry<Target>| {
            let host = &rule.value.host;
            // What the borrower wrote counts for names and `*`; an address rule must cover the address that is dialled.
            match (host, address) {
                (HostPattern::Net(_), Some(address)) => host.covers_address(address),
                _ => host.covers_host(self.host),
            }
        };
        let mut allowed = self.allows().filter(covers);
        let Some(first) = allowed.next() else { return Err(Refused::NoRule) };
        let Some(guard) = address.and_then(|address| Guard::of(address, self.port, self.own)) else { return Ok(first) };
        let mut covering = std::iter::once(first).chain(allowed);
        covering.find(|rule| guard.is_opened_by(&rule.value)).ok_or(Refused::Guarded(guard, first))
    }

    fn has_address_rule(&self) -> bool {
        self.allows().any(|rule| matches!(rule.value.host, HostPattern::Net(_)))
    }

    /// The rule that comes closest to allowing it: the same host on another port, else another host on the same port.
    fn nearest(&self) -> Option<&'a Entry<Target>> {
        let mut allows = self.policy.allows(self.user);
        let same_host = allows.find(|rule| rule.value.host.covers_host(self.host));
        same_host.or_else(|| self.allows().next())
    }

    /// The allows and denies of this user, on this port.
    fn allows(&self) -> impl Iterator<Item = &'a Entry<Target>> {
        self.policy.allows(self.user).filter(|rule| rule.value.ports.contains(&self.port))
    }

    fn denies(&self) -> impl Iterator<Item = &'a Entry<Target>> {
        self.policy.denies(self.user).filter(|rule| rule.value.ports.contains(&self.port))
    }

    fn refusal(&self, refused: &Refused<'_>) -> Refusal {
        let file = &self.policy.file;
        let line = |host: &Host| {
            let target = host.with_port(self.port);
            format!("ask the lender's admin to add `connect = [\"{target}\"]` to an [[allow]] of {file}")
        };
        let (reason, rule, help) = match refused {
            Refused::NoRule => (Reason::NoRule, None, line(self.host)),
            Refused::Denied(rule) => {
                let help = format!("a deny beats every allow: ask the lender's admin to narrow it in {file}");
                (Reason::Denied, Some(*rule), help)
            }
            Refused::Guarded(Guard::Special(address, special), rule) => {
                let reason = Reason::SpecialRange { address: *address, what: special.what };
                (reason, Some(*rule), line(&Host::Address(*address)))
            }
            Refused::Guarded(Guard::Own(address), rule) => {
                let reason = Reason::OwnListener { address: SocketAddr::new(*address, self.port) };
                (reason, Some(*rule), line(&Host::Address(*address)))
            }
            Refused::NoAddress => {
                (Reason::NothingResolved, None, "check the name: it is resolved at the lender".to_owned())
            }
        };
        let nearest = if matches!(refused, Refused::NoRule) { self.nearest() } else { None };
        let shown = |rule| Box::new(rule_ref(self.policy, rule));
        let request = format!("connect {}", self.host.with_port(self.port));
        Refusal { request, reason, rule: rule.map(shown), nearest: nearest.map(shown), help }
    }
}

impl Guard {
    fn of(address: IpAddr, port: u16, own: &[SocketAddr]) -> Option<Self> {
        if address::is_own(address, port, own) {
            return Some(Self::Own(address));
        }
        address::special(address).map(|special| Self::Special(address, special))
    }

    /// A special range is opened by a rule for addresses inside it, so that 0.0.0.0/0 opens none; the lender's own
    /// listener by its very address and port.
    fn is_opened_by(&self, rule: &Target) -> bool {
        let HostPattern::Net(net) = &rule.host else { return false };
        match self {
            Self::Special(_, special) => special.range.contains(net),
            Self::Own(address) => *net == IpNet::from(*address) && rule.ports.start() == rule.ports.end(),
        }
    }
}

fn rule_ref(policy: &Policy, rule: &Entry<Target>) -> RuleRef {
    RuleRef::new(policy, "connect", rule)
}
