//! Timed grants: rules that an admin adds for a while, in force beside policy.toml and gone by themselves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{AdminReply, LendError, Lender, Refused};
use crate::{
    policy::{Grant, Kind},
    proto::UserName,
    trust::{UnixTime, store::TimedGrant},
};

/// How often the wall clock is looked at while a grant stands; it may be set, and the machine may sleep.
const CLOCK_STEP: Duration = Duration::from_secs(30);

/// One grant, as the admin sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantEntry {
    /// Its number.
    pub grant: u64,
    /// To whom.
    pub user: String,
    /// What the policy calls it.
    pub kind: String,
    /// The pattern; empty where a kind needs none.
    pub target: String,
    /// Since when, in seconds since 1970.
    pub created: u64,
    /// Until when, in seconds since 1970.
    pub expires: u64,
}

impl Lender {
    /// Allows something for a while. It is in force when this returns.
    pub(super) async fn allow(
        &self,
        user: UserName,
        kind: String,
        target: String,
        lasting: Duration,
    ) -> Result<AdminReply, LendError> {
        let usage = |text: String| LendError::Admin(Refused { kind: "usage".to_owned(), text });
        let known: Kind = kind.parse().map_err(|error: crate::policy::UnknownKind| usage(error.to_string()))?;
        // Read once before it is kept: what no policy could say must not lie in the store.
        Grant::parse(user.clone(), known, &target, "grant").map_err(|error| usage(error.to_string()))?;
        let now = UnixTime::now();
        let expires = now.plus(lasting);
        let grant = self.store(move |store| store.add_grant(&user, &kind, &target, expires, now)).await?;
        self.renew_policy().await;
        Ok(AdminReply::Granted { grant, expires: expires.0 })
    }

    /// Lists those that stand.
    pub(super) fn grants(&self) -> Result<AdminReply, LendError> {
        let entry = |grant: TimedGrant| GrantEntry {
            grant: grant.number,
            user: grant.user.to_string(),
            kind: grant.kind,
            target: grant.target,
            created: grant.created.0,
            expires: grant.expires.0,
        };
        let grants = self.shared.store.list_grants(UnixTime::now())?;
        Ok(AdminReply::Grants { grants: grants.into_iter().map(entry).collect() })
    }

    /// Ends one before its time, and what only it allowed.
    pub(super) async fn remove_grant(&self, number: u64) -> Result<AdminReply, LendError> {
        self.store(move |store| store.remove_grant(number)).await?;
        self.renew_policy().await;
        Ok(AdminReply::Done)
    }

    /// The grants that stand, as rules, and when the first of them ends. One that cannot be read any more allows nothing.
    pub(super) fn standing_grants(&self) -> (Vec<Grant>, Option<UnixTime>) {
        let stored = self.shared.store.list_grants(UnixTime::now()).unwrap_or_else(|error| {
            tracing::error!(%error, "grants cannot be read; none is in force");
            Vec::new()
        });
        let first_end = stored.iter().map(|grant| grant.expires).min();
        let rule = |grant: TimedGrant| {
            let kind = grant.kind.parse().ok()?;
            let rule = Grant::parse(grant.user, kind, &grant.target, &format!("grant {}", grant.number));
            rule.inspect_err(|error| tracing::error!(%error, number = grant.number, "a grant cannot be read")).ok()
        };
        (stored.into_iter().filter_map(rule).collect(), first_end)
    }

    /// Lets grants end in time, for as long as the lender serves. What it waits for is what is in force, so that none is
    /// forgotten that ended while nobody looked.
    pub(super) async fn follow_grants(&self) {
        let mut first_end = self.shared.grants_end.subscribe();
        loop {
            let Some(ends) = *first_end.borrow_and_update() else {
                // The sender lives in `self`.
                let _ = first_end.changed().await;
                continue;
            };
            let left = Duration::from_secs(ends.0.saturating_sub(UnixTime::now().0));
            if left.is_zero() {
                self.renew_policy().await;
            } else {
                let _ = tokio::time::timeout(left.min(CLOCK_STEP), first_end.changed()).await;
            }
        }
    }
}
