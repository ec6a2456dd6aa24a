//! The one gate: a request and its facts go in, a grant or a refusal comes out.

use std::net::SocketAddr;

use super::{
    Policy,
    refusal::{Refusal, RuleRef},
};
use crate::proto::{DeviceId, UserName};

/// Who asks. Rules name users; the device is for the audit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Principal {
    /// The user of the certificate and of the login.
    pub user: UserName,
    /// The device that the certificate was made for.
    pub device: DeviceId,
}

/// What the lender knows at the time of a request and a policy cannot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The lender's own listeners, each opened only by a rule that names its address and port. One on a wildcard or on
    /// loopback is met at every loopback and unspecified address; for a wildcard, list the machine's addresses as well.
    pub own: &'a [SocketAddr],
}

/// Proof that a rule allowed `request`, and what of it; only [`decide`] makes one.
#[derive(Debug, PartialEq)]
pub struct Granted<R> {
    request: R,
    rule: RuleRef,
}

/// What [`decide`] decides: [`Connect`](super::Connect), and [`Undecided`](super::Undecided), which it refuses.
pub trait Request: Judged {}

impl<R: Judged> Request for R {}

/// Seals [`Request`]: no module of the policy re-exports it, so that no other can decide for itself.
pub trait Judged: Sized {
    fn judge(self, policy: &Policy, principal: &Principal, facts: &Facts<'_>) -> Result<(Self, RuleRef), Refusal>;
}

/// Decides whether `principal` may have `request`. Pure: nothing is resolved and nothing is done.
///
/// # Errors
/// A [`Refusal`], which says why, by which rule, and what would allow it.
///
/// ```
/// use capuchin::{policy::*, proto::DeviceId};
/// let policy = Policy::parse("[[allow]]\nwho = \"ana\"\nconnect = \"db.internal:5432\"", "policy.toml")?;
/// let ana = Principal { user: "ana".parse()?, device: DeviceId::from_digest(&[0; 32]) };
/// let request = Connect { host: Host::parse("db.internal")?, port: 5432, addresses: vec!["10.0.0.7".parse()?] };
///
/// let granted = decide(&policy, &ana, request.clone(), &Facts::default())?;
/// assert_eq!(granted.rule().to_string(), "policy.toml:3 connect = \"db.internal:5432\"");
///
/// let refusal = decide(&policy, &ana, Connect { port: 22, ..request }, &Facts::default()).unwrap_err();
/// assert_eq!(refusal.to_string(), "connect db.internal:22 is refused: no rule allows it");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn decide<R: Request>(
    policy: &Policy,
    principal: &Principal,
    request: R,
    facts: &Facts<'_>,
) -> Result<Granted<R>, Refusal> {
    let (request, rule) = request.judge(policy, principal, facts)?;
    Ok(Granted { request, rule })
}

impl<R> Granted<R> {
    /// What was granted, which may be less than was asked.
    pub fn request(&self) -> &R {
        &self.request
    }

    /// The rule that allowed it.
    pub fn rule(&self) -> &RuleRef {
        &self.rule
    }

    /// Takes the grant apart: what was granted, and the rule.
    pub fn into_parts(self) -> (R, RuleRef) {
        (self.request, self.rule)
    }
}

#[cfg(test)]
mod tests;
