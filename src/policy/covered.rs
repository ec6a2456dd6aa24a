//! Allows that allow nothing, because a deny covers all that they could: found when a policy is read.
//!
//! Told only where it is certain: one pattern of a deny covers the whole pattern of the allow, for each of its users. What
//! several denies leave nothing of together is not told.

use super::{kind::Kind, refusal::RuleRef, rule::Rule, search::Select};
use crate::proto::UserName;

/// Of one kind.
pub(super) trait Covers {
    /// Whether a deny of this pattern refuses whatever an allow of `allow` would grant.
    fn covers_all_of(&self, allow: &Self) -> bool;
}

impl Covers for () {
    fn covers_all_of(&self, (): &()) -> bool {
        true
    }
}

/// A pattern that allows nothing.
#[derive(Clone, Debug)]
pub(super) struct Covered {
    kind: Kind,
    allow: RuleRef,
    /// Its place among the allows.
    block: usize,
    /// What denies all of it, with its place among the denies; each of the allow's users is named by one of them.
    denies: Vec<(usize, RuleRef)>,
}

/// Patterns that are compared, and users that are looked for, before nothing more is: a moment, of however large a file.
const STEPS_MAX: usize = 2_000_000;
/// Most that are told of one policy.
const COVERED_MAX: usize = 100;

/// Finds them.
pub(super) fn find(allow: &[Rule], deny: &[Rule]) -> Vec<Covered> {
    let mut search = Search { allow, deny, steps: STEPS_MAX, found: Vec::new() };
    search.of_kind(Kind::Connect, |patterns| &patterns.connect);
    search.of_kind(Kind::Udp, |patterns| &patterns.udp);
    search.of_kind(Kind::Listen, |patterns| &patterns.listen);
    search.of_kind(Kind::Unix, |patterns| &patterns.unix);
    search.of_kind(Kind::UnixListen, |patterns| &patterns.unix_listen);
    search.of_kind(Kind::Resolve, |patterns| &patterns.resolve);
    search.of_kind(Kind::Read, |patterns| &patterns.read);
    search.of_kind(Kind::Write, |patterns| &patterns.write);
    search.of_kind(Kind::Exec, |patterns| &patterns.exec);
    search.of_kind(Kind::Shell, |patterns| &patterns.shell);
    search.of_kind(Kind::Python, |patterns| &patterns.python);
    search.of_kind(Kind::EnvSend, |patterns| &patterns.env_send);
    search.of_kind(Kind::EnvRead, |patterns| &patterns.env_read);
    search.of_kind(Kind::ServiceOffer, |patterns| &patterns.service_offer);
    search.of_kind(Kind::ServiceUse, |patterns| &patterns.service_use);
    search.found
}

impl Covered {
    /// A line about it, without a full stop.
    pub fn warning(&self) -> String {
        self.by(self.denies.iter().map(|(_, rule)| rule.to_string()).collect())
    }

    /// The same for one of its users; `None`: it is no allow of his.
    pub fn warning_for(&self, user: &UserName, allow: &[Rule], deny: &[Rule]) -> Option<String> {
        allow.get(self.block).filter(|rule| rule.who.names(user))?;
        let of_his = |(block, _): &&(usize, RuleRef)| deny.get(*block).is_some_and(|rule| rule.who.names(user));
        self.denies.iter().find(of_his).map(|(_, rule)| self.by(vec![rule.to_string()]))
    }

    fn by(&self, denies: Vec<String>) -> String {
        let (verb, denies) = (if denies.len() == 1 { "denies" } else { "deny" }, denies.join(" and "));
        format!("{} allows no {}: {denies} {verb} all of it", self.allow, self.kind)
    }
}

struct Search<'a> {
    allow: &'a [Rule],
    deny: &'a [Rule],
    /// What may still be compared.
    steps: usize,
    found: Vec<Covered>,
}

impl Search<'_> {
    fn of_kind<P: Covers>(&mut self, kind: Kind, select: Select<P>) {
        for (block, rule) in self.allow.iter().enumerate() {
            for entry in select(&rule.patterns) {
                if self.found.len() == COVERED_MAX {
                    return;
                }
                let covering = self.covering(kind, select, &entry.value);
                let denies = self.enough_for_all(rule, covering);
                self.found.extend(denies.map(|denies| Covered {
                    kind,
                    allow: RuleRef::new(kind, entry),
                    block,
                    denies,
                }));
            }
        }
    }

    /// The first pattern of each deny that covers all of `allow`.
    fn covering<P: Covers>(&mut self, kind: Kind, select: Select<P>, allow: &P) -> Vec<(usize, RuleRef)> {
        let mut covering = Vec::new();
        for (block, rule) in self.deny.iter().enumerate() {
            let patterns = select(&rule.patterns);
            let Some(left) = self.steps.checked_sub(1 + patterns.len()) else { break };
            self.steps = left;
            let found = patterns.iter().find(|deny| deny.value.covers_all_of(allow));
            covering.extend(found.map(|entry| (block, RuleRef::new(kind, entry))));
        }
        covering
    }

    /// Those by which every user of `rule` is denied; `None` if one of them is not.
    fn enough_for_all(&mut self, rule: &Rule, mut covering: Vec<(usize, RuleRef)>) -> Option<Vec<(usize, RuleRef)>> {
        let mut needed = Vec::new();
        for user in rule.who.all() {
            self.steps = self.steps.checked_sub(1 + covering.len())?;
            let names = |(block, _): &(usize, RuleRef)| self.deny.get(*block).is_some_and(|rule| rule.who.names(user));
            if needed.iter().any(names) {
                continue;
            }
            let place = covering.iter().position(names)?;
            needed.push(covering.remove(place));
        }
        (!needed.is_empty()).then_some(needed)
    }
}

#[cfg(test)]
mod tests {
    use crate::policy::Policy;

    fn warned(rules: &str) -> Vec<String> {
        Policy::parse(rules, "policy.toml").unwrap().covered().collect()
    }

    #[test]
    fn an_allow_that_a_deny_covers_whole_is_told_with_both_lines() {
        let rules = "[[allow]]\nwho = \"ana\"\nconnect = [\"db.internal:5432\",\n\"10.0.0.1:1\"]\n\
                     [[deny]]\nwho = \"ana\"\nconnect = \"*.internal:*\"\n";
        let line = "policy.toml:3 connect = \"db.internal:5432\" allows no connect: \
                    policy.toml:7 connect = \"*.internal:*\" denies all of it";
        assert_eq!(warned(rules), [line]);
        let policy = Policy::parse(rules, "policy.toml").unwrap();
        assert_eq!(policy.warnings(&"ana".parse().unwrap()), [line]);
        assert!(policy.warnings(&"bob".parse().unwrap()).is_empty());
    }

    #[test]
    fn an_allow_that_is_left_to_one_of_its_users_is_none() {
        let allow = "[groups]\nstaff = [\"ana\", \"bob\"]\n[[allow]]\nwho = \"group:staff\"\nshell = true\n";
        let deny = |who: &str| format!("[[deny]]\nwho = {who:?}\nshell = true\n");
        assert!(warned(&format!("{allow}{}", deny("ana"))).is_empty());
        let both = warned(&format!("{allow}{}{}", deny("ana"), deny("bob")));
        let line = "policy.toml:5 shell = true allows no shell: \
                    policy.toml:8 shell = true and policy.toml:11 shell = true deny all of it";
        assert_eq!(both, [line]);
        assert_eq!(warned(&format!("{allow}{}", deny("group:staff"))).len(), 1);
    }

    #[test]
    fn of_a_file_as_large_as_can_be_it_is_told_in_a_moment() {
        let list = |host: &str| (1..5000).map(|port| format!("\"{host}:{port}\"")).collect::<Vec<_>>().join(",");
        let rules = format!(
            "[[allow]]\nwho = \"ana\"\nconnect = [{}]\n[[deny]]\nwho = \"ana\"\nconnect = [{}]\n",
            list("10.0.0.1"),
            list("10.0.0.1")
        );
        assert!(warned(&rules).len() <= super::COVERED_MAX);
    }
}
