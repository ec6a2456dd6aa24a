//! Named services: listeners at the lender that other borrowers reach by name.

use super::{
    Policy,
    decide::{Facts, Judged, Principal},
    kind::Kind,
    refusal::{Refusal, RuleRef},
    word::{self, WordError},
};

/// A service that the borrower listens as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferService(String);

/// A service that the borrower connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UseService(String);

impl OfferService {
    /// Checks a name.
    ///
    /// # Errors
    /// [`WordError`] if no service is called so.
    pub fn parse(name: &str) -> Result<Self, WordError> {
        word::service(name).map(Self)
    }

    /// The service's name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl UseService {
    /// Checks a name.
    ///
    /// # Errors
    /// [`WordError`] if no service is called so.
    pub fn parse(name: &str) -> Result<Self, WordError> {
        word::service(name).map(Self)
    }

    /// The service's name.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl Judged for OfferService {
    fn judge(self, policy: &Policy, principal: &Principal, _: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        let rule = word::judge(policy, principal, (Kind::ServiceOffer, |patterns| &patterns.service_offer), &self.0)?;
        Ok((self, rule))
    }
}

impl Judged for UseService {
    fn judge(self, policy: &Policy, principal: &Principal, _: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        let rule = word::judge(policy, principal, (Kind::ServiceUse, |patterns| &patterns.service_use), &self.0)?;
        Ok((self, rule))
    }
}
