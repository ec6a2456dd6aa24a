//! Files to read and to write, each by its path.

use super::{
    Policy,
    decide::{Facts, Judged, Principal},
    kind::Kind,
    path::{self, LenderPath},
    refusal::{Refusal, RuleRef},
};

/// A file or folder to read or list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadPath {
    /// Where it really is: no link is followed after this.
    pub path: LenderPath,
}

/// A file or folder to make, change, move or remove. It does not bring reading along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WritePath {
    /// Where it really is: no link is followed after this.
    pub path: LenderPath,
}

impl Judged for ReadPath {
    fn judge(self, policy: &Policy, principal: &Principal, facts: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        let rule = path::judge(policy, principal, facts, (Kind::Read, |patterns| &patterns.read), &self.path)?;
        Ok((self, rule))
    }
}

impl Judged for WritePath {
    fn judge(self, policy: &Policy, principal: &Principal, facts: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        let rule = path::judge(policy, principal, facts, (Kind::Write, |patterns| &patterns.write), &self.path)?;
        Ok((self, rule))
    }
}
