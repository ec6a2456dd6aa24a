//! Rules that say less than they seem to, because a broader one of the same user makes them moot, or a deny leaves nothing.

use super::{
    Policy,
    address::special_range,
    kind::Kind,
    pattern::{HostPattern, Target},
    reader::Entry,
    refusal::RuleRef,
    rule::Patterns,
    search::Select,
};
use crate::proto::UserName;

impl Policy {
    /// Warns of rules for `user` that bind nothing: whoever has a shell or Python does what it can do, and `*:*` allows
    /// every host that a finer rule of the same kind names; and an allow that a deny covers whole allows nothing. One line
    /// each, without a full stop.
    ///
    /// ```
    /// use capuchin::policy::Policy;
    /// let policy = Policy::parse("[[allow]]\nwho = \"ana\"\nread = [\"/srv\"]\nshell = true", "policy.toml")?;
    /// let warnings = policy.warnings(&"ana".parse().unwrap());
    /// assert_eq!(warnings, ["policy.toml:4 shell = true makes finer rules for ana moot: policy.toml:3 read = \"/srv\""]);
    /// # Ok::<(), capuchin::policy::PolicyError>(())
    /// ```
    pub fn warnings(&self, user: &UserName) -> Vec<String> {
        let mut warnings = Vec::new();
        let mut warn = |broad: RuleRef, finer: Vec<RuleRef>| {
            let Some(first) = finer.first() else { return };
            let more = match finer.len() {
                1 => String::new(),
                count => format!(" and {} more", count - 1),
            };
            warnings.push(format!("{broad} makes finer rules for {user} moot: {first}{more}"));
        };
        for (kind, select) in WHOLE {
            let denied = self.denies(user).any(|patterns| !select(patterns).is_empty());
            let allowed = self.allows(user).find_map(|patterns| select(patterns).first());
            if let (Some(entry), false) = (allowed, denied) {
                let of_a_program =
                    |patterns: &Patterns| FINER.into_iter().flat_map(|kind| patterns.refs(kind)).collect::<Vec<_>>();
                let finer = self.allows(user).chain(self.denies(user)).flat_map(of_a_program).collect();
                warn(RuleRef::new(kind, entry), finer);
            }
        }
        for (kind, select) in REACHING {
            let all = self.allows(user).flat_map(select).find(|entry| entry.value.is_everything());
            if let Some(entry) = all {
                let covered = |entry: &&Entry<Target>| !entry.value.is_everything() && !opens_special(&entry.value);
                let finer = self.allows(user).flat_map(select).filter(covered);
                warn(RuleRef::new(kind, entry), finer.map(|entry| RuleRef::new(kind, entry)).collect());
            }
        }
        warnings.extend(self.covered_of(user));
        warnings
    }
}

fn opens_special(pattern: &Target) -> bool {
    matches!(pattern.host, HostPattern::Net(net) if special_range(net))
}

/// Kinds that are allowed as a whole.
const WHOLE: [(Kind, Select<()>); 2] =
    [(Kind::Shell, |patterns| &patterns.shell), (Kind::Python, |patterns| &patterns.python)];
/// Kinds that reach hosts.
const REACHING: [(Kind, Select<Target>); 2] =
    [(Kind::Connect, |patterns| &patterns.connect), (Kind::Udp, |patterns| &patterns.udp)];
/// What a program that does anything does without asking.
const FINER: [Kind; 9] = [
    Kind::Exec,
    Kind::Read,
    Kind::Write,
    Kind::EnvRead,
    Kind::Unix,
    Kind::UnixListen,
    Kind::Connect,
    Kind::Udp,
    Kind::Listen,
];
