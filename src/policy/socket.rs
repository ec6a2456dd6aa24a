//! Unix sockets to connect to and to create, each by its path.

use super::{
    Policy,
    decide::{Facts, Judged, Principal},
    kind::Kind,
    path::{self, LenderPath},
    refusal::{Refusal, RuleRef},
};

/// A connection to a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixConnect {
    /// Where the socket really is: no link is followed after this.
    pub path: LenderPath,
}

/// A Unix socket to create and listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixListen {
    /// Where it will be.
    pub path: LenderPath,
}

impl Judged for UnixConnect {
    fn judge(self, policy: &Policy, principal: &Principal, facts: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        let rule = path::judge(policy, principal, facts, (Kind::Unix, |patterns| &patterns.unix), &self.path)?;
        Ok((self, rule))
    }
}

impl Judged for UnixListen {
    fn judge(self, policy: &Policy, principal: &Principal, facts: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        let rule =
            path::judge(policy, principal, facts, (Kind::UnixListen, |patterns| &patterns.unix_listen), &self.path)?;
        Ok((self, rule))
    }
}
