//! A user's own rules, for whoever asks what may be asked for.

use super::{Policy, kind::Kind, refusal::RuleRef, rule::Patterns};
use crate::proto::UserName;

impl Policy {
    /// What is allowed to a user, by kind in the order of [`Kind::ALL`], and what is denied: a deny beats every allow.
    /// Rules that do not name the user are not among them.
    ///
    /// ```
    /// use capuchin::policy::Policy;
    /// let text = "[[allow]]\nwho = [\"ana\", \"bob\"]\nconnect = [\"*.internal:443\"]\n[[deny]]\nwho = \"bob\"\nconnect = [\"db.internal:*\"]";
    /// let policy = Policy::parse(text, "policy.toml")?;
    /// let (allows, denies) = policy.own_rules(&"bob".parse().unwrap());
    /// assert_eq!(allows[0].to_string(), "policy.toml:3 connect = \"*.internal:443\"");
    /// assert_eq!(denies[0].to_string(), "policy.toml:6 connect = \"db.internal:*\"");
    /// assert!(policy.own_rules(&"ana".parse().unwrap()).1.is_empty());
    /// # Ok::<(), capuchin::policy::PolicyError>(())
    /// ```
    pub fn own_rules(&self, user: &UserName) -> (Vec<RuleRef>, Vec<RuleRef>) {
        (by_kind(|| self.allows(user)), by_kind(|| self.denies(user)))
    }

    /// Whether an allow names a user.
    pub fn names(&self, user: &UserName) -> bool {
        self.allow_rules(user).next().is_some()
    }

    /// Whether any rule allows a user something of this kind.
    ///
    /// ```
    /// use capuchin::policy::{Kind, Policy};
    /// let policy = Policy::parse("[[allow]]\nwho = \"ana\"\nunix = [\"/run/app.sock\"]", "policy.toml")?;
    /// assert!(policy.allows_some(&"ana".parse().unwrap(), Kind::Unix));
    /// assert!(!policy.allows_some(&"ana".parse().unwrap(), Kind::UnixListen));
    /// # Ok::<(), capuchin::policy::PolicyError>(())
    /// ```
    pub fn allows_some(&self, user: &UserName, kind: Kind) -> bool {
        self.allows(user).any(|patterns| !patterns.refs(kind).is_empty())
    }
}

fn by_kind<'p, P: Iterator<Item = &'p Patterns>>(patterns: impl Fn() -> P) -> Vec<RuleRef> {
    Kind::ALL.into_iter().flat_map(|kind| patterns().flat_map(move |patterns| patterns.refs(kind))).collect()
}
