//! Rules that do not stand in a file: what an admin allowed for a while, by the same words and the same matching.

use super::{
    Policy,
    any::{TargetError, Why},
    kind::Kind,
    listen::ListenPattern,
    path::PathPattern,
    pattern::{HostPattern, Target},
    program::Exec,
    reader::Entry,
    refusal::Origin,
    rule::{Patterns, Rule, Who},
    terms::RuleTerms,
    word::WordPattern,
};
use crate::proto::UserName;

/// One pattern that is allowed to one user; the policy knows no clock, so whoever holds it lets it end.
#[derive(Clone, Debug)]
pub struct Grant {
    rule: Rule,
}

impl Grant {
    /// Reads a pattern of `kind`, as the policy writes it; for `exec` a command line, which is then all that may be run.
    /// `label` is how decisions call it, e.g. `grant 7`.
    ///
    /// # Errors
    /// [`TargetError`] if `target` is no such pattern, or `kind` is one that no rule can name.
    pub fn parse(user: UserName, kind: Kind, target: &str, label: &str) -> Result<Self, TargetError> {
        let patterns = read(kind, target, label).map_err(|why| TargetError::new(kind, target, why))?;
        Ok(Self { rule: Rule { who: Who::user(user), patterns, terms: RuleTerms::default() } })
    }
}

impl Policy {
    /// This policy with `grants` behind its own rules. A deny of the file beats them as it beats every allow.
    ///
    /// ```
    /// use capuchin::{policy::*, proto::DeviceId};
    /// let grant = Grant::parse("ana".parse()?, Kind::Connect, "db.internal:5432", "grant 7")?;
    /// let policy = Policy::default().with_grants([grant]);
    ///
    /// let ana = Principal { user: "ana".parse()?, device: DeviceId::from_digest(&[0; 32]) };
    /// let request = Connect::new(Host::parse("db.internal")?, 5432, vec!["10.0.0.7".parse()?]);
    /// let granted = decide(&policy, &ana, request, &Facts::default())?;
    /// assert_eq!(granted.rule().to_string(), "grant 7 connect = \"db.internal:5432\"");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_grants(&self, grants: impl IntoIterator<Item = Grant>) -> Self {
        let mut policy = self.clone();
        policy.allow.extend(grants.into_iter().map(|grant| grant.rule));
        policy
    }
}

fn read(kind: Kind, target: &str, label: &str) -> Result<Patterns, Why> {
    if kind.takes_target() == target.is_empty() {
        return Err(Why::of_presence(kind));
    }
    let (text, mut patterns) = (format!("{target:?}"), Patterns { names_narrowed: true, ..Patterns::default() });
    match kind {
        Kind::Connect | Kind::Udp => {
            let pattern = Target::parse(target)?;
            // Who may connect to a name may ask for it, and for no other.
            if !matches!(pattern.host, HostPattern::Net(_)) {
                patterns.resolve = one(pattern.host.clone(), &text, label);
            }
            let list = if kind == Kind::Connect { &mut patterns.connect } else { &mut patterns.udp };
            *list = one(pattern, &text, label);
        }
        Kind::Listen => patterns.listen = one(ListenPattern::parse(target)?, &text, label),
        Kind::Unix => patterns.unix = one(PathPattern::parse_socket(target)?, &text, label),
        Kind::UnixListen => patterns.unix_listen = one(PathPattern::parse_socket(target)?, &text, label),
        Kind::Resolve => patterns.resolve = one(HostPattern::parse_name(target)?, &text, label),
        Kind::Read => patterns.read = one(PathPattern::parse_tree(target)?, &text, label),
        Kind::Write => patterns.write = one(PathPattern::parse_tree(target)?, &text, label),
        Kind::Exec => {
            let pattern = Exec::parse(target)?.into_pattern();
            let text = pattern.written();
            patterns.exec = one(pattern, &text, label);
        }
        Kind::Shell => patterns.shell = one((), "true", label),
        Kind::Python => patterns.python = one((), "true", label),
        Kind::EnvSend => patterns.env_send = one(WordPattern::parse_variable(target)?, &text, label),
        Kind::EnvRead => patterns.env_read = one(WordPattern::parse_variable(target)?, &text, label),
        Kind::ServiceOffer => patterns.service_offer = one(WordPattern::parse_service(target)?, &text, label),
        Kind::ServiceUse => patterns.service_use = one(WordPattern::parse_service(target)?, &text, label),
        Kind::Profile => {
            return Err(Why::Shape(
                "connect, udp, resolve, listen and services.use bring it along: allow one of them".to_owned(),
            ));
        }
    }
    Ok(patterns)
}

fn one<T>(value: T, text: &str, label: &str) -> Vec<Entry<T>> {
    vec![Entry { value, origin: Origin::Grant(label.to_owned()), text: text.to_owned() }]
}

#[cfg(test)]
mod tests;
