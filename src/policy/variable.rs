//! Environment variables, by name. Their values are nobody's business here.

use super::{
    Policy,
    decide::{Facts, Judged, Principal},
    kind::Kind,
    refusal::{Refusal, RuleRef},
    word::{self, WordError},
};

/// A variable that the borrower sets for programs at the lender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendVariable(String);

/// A variable of the lender that the borrower reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadVariable(String);

impl SendVariable {
    /// Checks a name.
    ///
    /// # Errors
    /// [`WordError`] if no variable is called so.
    pub fn parse(name: &str) -> Result<Self, WordError> {
        word::variable(name).map(Self)
    }

    /// The variable's name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl ReadVariable {
    /// Checks a name.
    ///
    /// # Errors
    /// [`WordError`] if no variable is called so.
    pub fn parse(name: &str) -> Result<Self, WordError> {
        word::variable(name).map(Self)
    }

    /// The variable's name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Judged for SendVariable {
    fn judge(self, policy: &Policy, principal: &Principal, _: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        let rule = word::judge(policy, principal, (Kind::EnvSend, |patterns| &patterns.env_send), &self.0)?;
        Ok((self, rule))
    }
}

impl Judged for ReadVariable {
    fn judge(self, policy: &Policy, principal: &Principal, _: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        let rule = word::judge(policy, principal, (Kind::EnvRead, |patterns| &patterns.env_read), &self.0)?;
        Ok((self, rule))
    }
}
