//! Names to look up, and the lender's network profile.
//!
//! Who may connect needs names: an `[[allow]]` with `connect` or `udp` brings every name along, unless its own `resolve`
//! narrows that. It narrows its own block only, so that one block more never takes anything away.
//!
//! Who may only listen, or use services, sends nothing else of his own accord, and so has no use for where it could go: routes, resolvers and
//! hosts tell of machines beside the lender's, which no rule gives him anything of. The one address that he is met at comes with each visitor.

use super::{
    Policy,
    decide::{Facts, Judged, Principal},
    host::HostName,
    kind::Kind,
    pattern::HostPattern,
    refusal::{Refusal, RuleRef},
    search::{Miss, Search, Wanted},
};

/// A name to look up at the lender; the answer is one more fact about addresses ([`Facts::answered`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolve {
    /// The name.
    pub name: HostName,
}

/// What the lender tells of its machine: addresses, routes, resolvers and hosts to who may connect, send or look up anything;
/// nothing of that to who may only listen or use services, whose programs need a network all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    shows_network: bool,
}

impl Profile {
    /// Whether the network may be told, of a profile that was granted.
    pub fn shows_network(&self) -> bool {
        self.shows_network
    }
}

impl Judged for Resolve {
    fn judge(self, policy: &Policy, principal: &Principal, _: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        let search =
            Search { policy, user: &principal.user, kind: Kind::Resolve, select: |patterns| &patterns.resolve };
        let wanted = Asked(&self.name);
        let rule = match search.find(&wanted) {
            Ok(entry) => search.rule(entry),
            Err(Miss::NoRule) => {
                brings_along(policy, principal, true).ok_or_else(|| search.refusal(&wanted, Miss::NoRule))?
            }
            Err(miss) => return Err(search.refusal(&wanted, miss)),
        };
        Ok((self, rule))
    }
}

impl Judged for Profile {
    fn judge(self, policy: &Policy, principal: &Principal, _: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        let by_name = || {
            policy
                .allows(&principal.user)
                .find_map(|patterns| patterns.resolve.first())
                .map(|entry| RuleRef::new(Kind::Resolve, entry))
        };
        if let Some(rule) = brings_along(policy, principal, false).or_else(by_name) {
            return Ok((Self { shows_network: true }, rule));
        }
        let without_network = policy.allows(&principal.user).find_map(|patterns| {
            let listen = patterns.listen.first().map(|entry| RuleRef::new(Kind::Listen, entry));
            listen.or_else(|| patterns.service_use.first().map(|entry| RuleRef::new(Kind::ServiceUse, entry)))
        });
        without_network.map(|rule| (Self::default(), rule)).ok_or_else(|| Refusal::no_profile(policy, &principal.user))
    }

    fn judge_again(&self, policy: &Policy, principal: &Principal, facts: &Facts<'_>) -> Result<RuleRef, Refusal> {
        match self.judge(policy, principal, facts)? {
            (again, _) if self.shows_network && !again.shows_network => {
                Err(Refusal::no_profile(policy, &principal.user))
            }
            (_, rule) => Ok(rule),
        }
    }
}

/// The first `connect` or `udp` of a block; with `all_names`, of one whose own `resolve` does not narrow it.
fn brings_along(policy: &Policy, principal: &Principal, all_names: bool) -> Option<RuleRef> {
    let mut blocks = policy.allows(&principal.user).filter(|patterns| !all_names || !patterns.names_narrowed);
    blocks.find_map(|patterns| {
        let connect = patterns.connect.first().map(|entry| RuleRef::new(Kind::Connect, entry));
        connect.or_else(|| patterns.udp.first().map(|entry| RuleRef::new(Kind::Udp, entry)))
    })
}

struct Asked<'a>(&'a HostName);

impl Wanted<HostPattern> for Asked<'_> {
    fn target(&self) -> String {
        self.0.to_string()
    }

    fn is_covered_by(&self, pattern: &HostPattern) -> bool {
        pattern.covers_name(self.0)
    }

    /// The more of their ends both have in common.
    fn closeness(&self, pattern: &HostPattern) -> usize {
        let labels = match pattern {
            HostPattern::Name(name) => name.as_str(),
            HostPattern::Below(suffix) => suffix.trim_start_matches('.'),
            HostPattern::Any | HostPattern::Net(_) => return 0,
        };
        self.0.as_str().rsplit('.').zip(labels.rsplit('.')).take_while(|(left, right)| left == right).count()
    }
}
