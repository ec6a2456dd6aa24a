//! The policy that decides now: policy.toml and the grants that stand, of which none outlives its end.

use std::sync::{Arc, PoisonError};

use super::{Lender, grants::LookAgain};
use crate::{policy::Policy, trust::UnixTime};

/// What is in force.
pub(super) struct InForce {
    policy: Arc<Policy>,
    /// When the first of its grants ends.
    first_ends: Option<UnixTime>,
}

impl InForce {
    pub(super) fn new(policy: Policy, first_ends: Option<UnixTime>) -> Self {
        Self { policy: Arc::new(policy), first_ends }
    }

    /// Unless one of its grants has ended.
    fn policy(&self, now: UnixTime) -> Option<Arc<Policy>> {
        self.first_ends.is_none_or(|ends| now < ends).then(|| self.policy.clone())
    }
}

impl Lender {
    /// The policy of now; whoever decides twice may meet two.
    pub(super) fn policy(&self) -> Arc<Policy> {
        let now = UnixTime::now();
        let policy = self.shared.policy.read().unwrap_or_else(PoisonError::into_inner).policy(now);
        policy.unwrap_or_else(|| self.without_ended_grants(now))
    }

    /// Who waits for the end of a grant ([`Lender::follow_grants`]) hears of a clock that was set, and of a machine that has slept, only
    /// some time later. He is told, and takes back what it had allowed.
    fn without_ended_grants(&self, now: UnixTime) -> Arc<Policy> {
        let file_policy = self.shared.file_policy.lock().unwrap_or_else(PoisonError::into_inner);
        // Another has been here meanwhile.
        if let Some(policy) = self.shared.policy.read().unwrap_or_else(PoisonError::into_inner).policy(now) {
            return policy;
        }
        let (grants, first_ends) = self.grants_left(now);
        let in_force = InForce::new(file_policy.with_grants(grants), first_ends);
        let policy = in_force.policy.clone();
        *self.shared.policy.write().unwrap_or_else(PoisonError::into_inner) = in_force;
        // It says when the first was to end, which is over: who reads it looks at once.
        self.shared.grants_end.send_modify(|_: &mut LookAgain| {});
        policy
    }
}
