//! The one gate: a request and its facts go in, a grant or a refusal comes out.

use std::net::{IpAddr, SocketAddr};

use super::{
    Policy,
    host::HostName,
    path::LenderPath,
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
    /// The lender's own folders, with its keys and state: outside every root, whatever the rules say.
    pub own_folders: &'a [LenderPath],
    /// What the lender answered when this session looked up names. An address in it counts as each of its names, so that
    /// a program that resolves for itself is judged by the rules for the name; no name opens a special range, and an alias
    /// opens nothing.
    pub answered: &'a [Answered],
}

/// One address that the lender gave for a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Answered {
    /// The name.
    pub name: HostName,
    /// One of its addresses.
    pub address: IpAddr,
    /// Whether the session did not ask for `name`, but the answer led through it (CNAME). Whoever answers may choose such
    /// a name: it can be denied, and allows nothing.
    pub alias: bool,
}

/// Proof that a rule allowed `request`, and what of it; only [`decide`] makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct Granted<R> {
    request: R,
    rule: RuleRef,
}

/// What [`decide`] decides: one type for each kind, and [`AnyRequest`](super::AnyRequest) for what a person wrote.
pub trait Request: Judged {}

impl<R: Judged> Request for R {}

/// Seals [`Request`]: no module of the policy re-exports it, so that no other can decide for itself.
pub trait Judged: Clone {
    fn judge(self, policy: &Policy, principal: &Principal, facts: &Facts<'_>) -> Result<(Self, RuleRef), Refusal>;

    /// Judges what was granted before; all of it must still be allowed.
    fn judge_again(&self, policy: &Policy, principal: &Principal, facts: &Facts<'_>) -> Result<RuleRef, Refusal> {
        self.clone().judge(policy, principal, facts).map(|(_, rule)| rule)
    }
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
/// let request = Connect::new(Host::parse("db.internal")?, 5432, vec!["10.0.0.7".parse()?]);
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

    /// Judges what was granted by another policy, for a handle that lives: all of it must be allowed there.
    /// Names of [`Facts::answered`] that the grant rests on are kept in it and need not be given again.
    ///
    /// # Errors
    /// The [`Refusal`]; then the handle must go.
    ///
    /// ```
    /// use capuchin::{policy::*, proto::DeviceId};
    /// let old = Policy::parse("[[allow]]\nwho = \"ana\"\nread = [\"/srv\"]", "policy.toml")?;
    /// let new = Policy::parse("[[allow]]\nwho = \"ana\"\nread = [\"/srv/data\"]", "policy.toml")?;
    /// let ana = Principal { user: "ana".parse()?, device: DeviceId::from_digest(&[0; 32]) };
    /// let data = ReadPath { path: LenderPath::parse("/srv/data/x")? };
    /// let keys = ReadPath { path: LenderPath::parse("/srv/keys")? };
    ///
    /// assert!(decide(&old, &ana, data, &Facts::default())?.again(&new, &ana, &Facts::default()).is_ok());
    /// assert!(decide(&old, &ana, keys, &Facts::default())?.again(&new, &ana, &Facts::default()).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn again(&self, policy: &Policy, principal: &Principal, facts: &Facts<'_>) -> Result<RuleRef, Refusal>
    where
        R: Request,
    {
        self.request.judge_again(policy, principal, facts)
    }

    /// The grant for a part of what was granted, for a handle that has come to rest on that part: a connection on one of
    /// its addresses, a listener on one of its ports. Only `policy` can say what is a part.
    pub(super) fn map(self, part: impl FnOnce(R) -> Option<R>) -> Option<Self> {
        let Self { request, rule } = self;
        part(request).map(|request| Self { request, rule })
    }

    /// Takes the grant apart: what was granted, and the rule.
    pub fn into_parts(self) -> (R, RuleRef) {
        (self.request, self.rule)
    }
}

#[cfg(test)]
mod tests;
