//! How something is lent, and not what: bounds, the user of the machine, privileges.
//!
//! Terms belong to a user, whichever of the rules that name the user they stand in. Rules add up, so the most generous
//! counts: a rule for one user may give more than that of the group, and never takes anything from it. Only `run_as`
//! cannot add up: two for one user are an error.

use super::{
    Policy,
    problem::{PolicyError, Problem},
    reader::{Entry, Key, Reader, Value},
    rule::Rule,
};
use crate::proto::UserName;

/// Bounds of one user. `None`: no rule says any, and the lender's own default holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Streams open at once in a session.
    pub streams: Option<u32>,
    /// Sessions at once, of all devices; 256 by default.
    pub sessions: Option<u32>,
    /// Megabit per second, of all sessions.
    pub mbit: Option<u32>,
    /// Hours from a login to the next.
    pub hours: Option<u32>,
}

/// How things are lent to one user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Terms {
    /// Bounds.
    pub limits: Limits,
    /// The user of the lender's machine that files and programs belong to; `None`: the daemon's own, if that is not root.
    pub run_as: Option<UserName>,
    /// Whether that may be root.
    pub allow_root: bool,
    /// Whether programs may gain privileges.
    pub setuid: bool,
    /// Whether programs may outlive their session.
    pub detach: bool,
    /// Whether the certificate alone logs the user in (`password = false`): for programs that nobody types for.
    pub certificate_only: bool,
}

/// What one rule says.
#[derive(Clone, Debug, Default)]
pub(super) struct RuleTerms {
    limits: Limits,
    run_as: Option<Entry<UserName>>,
    allow_root: bool,
    setuid: bool,
    detach: bool,
    certificate_only: bool,
}

impl RuleTerms {
    pub const KEYS: [&'static str; 6] = ["limits", "run_as", "allow_root", "setuid", "detach", "password"];

    /// Reads one key; `false` when it is none of a term.
    pub fn read(&mut self, reader: &mut Reader<'_>, key: &Key<'_>, value: &Value<'_>) -> Result<bool, PolicyError> {
        match key.get_ref().as_ref() {
            "limits" => {
                for (key, value) in reader.table(value, "limits")? {
                    match key.get_ref().as_ref() {
                        "streams" => self.limits.streams = Some(reader.count(value, "streams")?),
                        "sessions" => self.limits.sessions = Some(reader.count(value, "sessions")?),
                        "mbit" => self.limits.mbit = Some(reader.count(value, "mbit")?),
                        "hours" => self.limits.hours = Some(reader.count(value, "hours")?),
                        _ => return Err(reader.unknown_key(key, "limits", LIMITS.into_iter())),
                    }
                }
            }
            "run_as" => self.run_as = Some(reader.string(value, "run_as", str::parse)?),
            "allow_root" => self.allow_root = reader.flag(value, "allow_root")?,
            "setuid" => self.setuid = reader.flag(value, "setuid")?,
            "detach" => self.detach = reader.flag(value, "detach")?,
            "password" => self.certificate_only = !reader.flag(value, "password")?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl Policy {
    /// How things are lent to `user`, by all rules that name the user.
    ///
    /// Terms are no permissions: a rule that names some binds the user in what others allow, too. Of limits the largest that
    /// is named counts.
    ///
    /// ```
    /// use capuchin::policy::Policy;
    /// let policy = Policy::parse(
    ///     "groups.dev = [\"ana\", \"bob\"]
    ///     [[allow]]
    ///     who = \"group:dev\"
    ///     limits = { streams = 64, hours = 8 }
    ///     [[allow]]
    ///     who = \"ana\"
    ///     limits = { streams = 256 }",
    ///     "policy.toml",
    /// )?;
    /// let limits = |user: &str| policy.terms(&user.parse().unwrap()).limits;
    /// assert_eq!((limits("ana").streams, limits("ana").hours), (Some(256), Some(8)));
    /// assert_eq!((limits("bob").streams, limits("eve").streams), (Some(64), None));
    /// # Ok::<(), capuchin::policy::PolicyError>(())
    /// ```
    pub fn terms(&self, user: &UserName) -> Terms {
        let mut terms = Terms::default();
        for rule in self.allow_rules(user).map(|rule| &rule.terms) {
            let limits = &mut terms.limits;
            limits.streams = limits.streams.max(rule.limits.streams);
            limits.sessions = limits.sessions.max(rule.limits.sessions);
            limits.mbit = limits.mbit.max(rule.limits.mbit);
            limits.hours = limits.hours.max(rule.limits.hours);
            terms.run_as = terms.run_as.or_else(|| rule.run_as.as_ref().map(|entry| entry.value.clone()));
            terms.allow_root |= rule.allow_root;
            terms.setuid |= rule.setuid;
            terms.detach |= rule.detach;
            terms.certificate_only |= rule.certificate_only;
        }
        terms
    }

    /// The bounds of `user`: those of [`Self::terms`].
    pub fn limits(&self, user: &UserName) -> Limits {
        self.terms(user).limits
    }
}

/// Nobody can be two users of the machine at once.
pub(super) fn check_run_as(file: &str, rules: &[Rule]) -> Result<(), PolicyError> {
    let mut known = std::collections::BTreeMap::new();
    for rule in rules {
        let Some(entry) = &rule.terms.run_as else { continue };
        for user in rule.who.all() {
            let first: &mut &Entry<UserName> = known.entry(user).or_insert(entry);
            if first.value != entry.value {
                let [first, second] = [&first.value, &entry.value].map(ToString::to_string);
                let problem = Problem::TwoRunAs { user: user.to_string(), first, second };
                return Err(PolicyError { file: file.to_owned(), line: entry.origin.line(), problem });
            }
        }
    }
    Ok(())
}

const LIMITS: [&str; 4] = ["streams", "sessions", "mbit", "hours"];
