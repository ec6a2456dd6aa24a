//! Finds the rule that decides one request: the same walk for every kind, so that deny beats allow in one place.

use super::{
    Policy,
    kind::Kind,
    reader::Entry,
    refusal::{Reason, Refusal, Remedy, RuleRef},
    rule::Patterns,
};
use crate::proto::UserName;

/// What is asked of the patterns `P` of one kind.
pub(super) trait Wanted<P> {
    /// What is asked for, as it is written behind its kind.
    fn target(&self) -> String;

    /// The pattern that would allow just this; none where no pattern can say it.
    fn pattern(&self) -> Option<String> {
        Some(self.target())
    }

    /// What whoever is refused can do, where a rule may allow it.
    fn remedy(&self) -> Remedy {
        self.pattern().map_or(Remedy::Ask, Remedy::Add)
    }

    /// Why no rule can ever allow it.
    fn never(&self) -> Option<Reason> {
        None
    }

    /// Whether a deny of `pattern` reaches any of it.
    fn is_denied_by(&self, pattern: &P) -> bool {
        self.is_covered_by(pattern)
    }

    /// Whether an allow of `pattern` covers all of it.
    fn is_covered_by(&self, pattern: &P) -> bool;

    /// Why a pattern that covers it may not be enough, e.g. because it is loopback.
    fn guard(&self) -> Option<Reason> {
        None
    }

    /// Whether `pattern`, which covers it, is specific enough for its guard.
    fn is_opened_by(&self, _pattern: &P) -> bool {
        true
    }

    /// How close `pattern` comes to allowing it; 0 is not worth showing.
    fn closeness(&self, pattern: &P) -> usize;
}

/// Where the patterns of one kind stand in a rule.
pub(super) type Select<P> = fn(&Patterns) -> &Vec<Entry<P>>;

/// The rules of one user about one kind.
pub(super) struct Search<'a, P> {
    pub policy: &'a Policy,
    pub user: &'a UserName,
    pub kind: Kind,
    pub select: Select<P>,
}

/// Why no rule allows it.
pub(super) enum Miss<'a, P> {
    Never(Reason),
    Denied(&'a Entry<P>),
    /// The rule covers it, and is not specific enough to open it.
    Guarded(Reason, &'a Entry<P>),
    NoRule,
    /// It is allowed, and there is nothing to be had.
    NothingResolved,
}

impl<'a, P: 'a> Search<'a, P> {
    pub fn allows(&self) -> impl Iterator<Item = &'a Entry<P>> + use<'a, P> {
        self.policy.allows(self.user).flat_map(self.select)
    }

    pub fn denies(&self) -> impl Iterator<Item = &'a Entry<P>> + use<'a, P> {
        self.policy.denies(self.user).flat_map(self.select)
    }

    pub fn find(&self, wanted: &impl Wanted<P>) -> Result<&'a Entry<P>, Miss<'a, P>> {
        if let Some(reason) = wanted.never() {
            return Err(Miss::Never(reason));
        }
        if let Some(denied) = self.denies().find(|entry| wanted.is_denied_by(&entry.value)) {
            return Err(Miss::Denied(denied));
        }
        let mut covering = self.allows().filter(|entry| wanted.is_covered_by(&entry.value));
        let Some(first) = covering.next() else { return Err(Miss::NoRule) };
        let Some(reason) = wanted.guard() else { return Ok(first) };
        let mut covering = std::iter::once(first).chain(covering);
        covering.find(|entry| wanted.is_opened_by(&entry.value)).ok_or(Miss::Guarded(reason, first))
    }

    /// Finds the rule, or explains why there is none.
    pub fn judge(&self, wanted: &impl Wanted<P>) -> Result<RuleRef, Refusal> {
        self.find(wanted).map(|entry| self.rule(entry)).map_err(|miss| self.refusal(wanted, miss))
    }

    pub fn rule(&self, entry: &Entry<P>) -> RuleRef {
        RuleRef::new(self.kind, entry)
    }

    pub fn refusal(&self, wanted: &impl Wanted<P>, miss: Miss<'a, P>) -> Refusal {
        let (mut rule, mut nearest) = (None, None);
        let (reason, remedy) = match miss {
            Miss::Never(reason) => (reason, Remedy::Ask),
            Miss::Denied(entry) => {
                rule = Some(entry);
                (Reason::Denied, Remedy::Narrow)
            }
            Miss::Guarded(reason, entry) => {
                rule = Some(entry);
                (reason, wanted.remedy())
            }
            Miss::NoRule => {
                nearest = self.nearest(wanted);
                (Reason::NoRule, wanted.remedy())
            }
            Miss::NothingResolved => (Reason::NothingResolved, Remedy::CheckName),
        };
        let shown = |entry| Box::new(self.rule(entry));
        let refusal = Refusal::new(self.policy, self.user, self.kind, &wanted.target(), reason, &remedy);
        Refusal { rule: rule.map(shown), nearest: nearest.map(shown), ..refusal }
    }

    /// The allow that comes closest, the first of them where several do.
    fn nearest(&self, wanted: &impl Wanted<P>) -> Option<&'a Entry<P>> {
        let mut best: Option<(usize, &Entry<P>)> = None;
        for entry in self.allows() {
            let closeness = wanted.closeness(&entry.value);
            if closeness > best.map_or(0, |(closest, _)| closest) {
                best = Some((closeness, entry));
            }
        }
        best.map(|(_, entry)| entry)
    }
}
