//! Names to look up, and the lender's network profile.
//!
//! Who may connect needs names: an `[[allow]]` with `connect` or `udp` brings every name along, unless its own `resolve`
//! narrows that. It narrows its own block only, so that one block more never takes anything away.

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

/// Addresses, routes, resolver and hosts of the lender: allowed to who may connect, send or look up anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Profile;

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
        let rule = brings_along(policy, principal, false).or_else(by_name);
        rule.map(|rule| (self, rule)).ok_or_else(|| Refusal::no_profile(policy, &principal.user))
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

    fn is_allowed_by(&self, pattern: &HostPattern) -> bool {
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
