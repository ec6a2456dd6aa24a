//! Timed grants: rules that an admin adds for a while, in force beside policy.toml and gone by themselves.

mod reader;

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

pub(super) use self::reader::Reader;
use super::{
    AdminReply, LendError, Lender, blocking::blocking, control::STORED_MAX, os_user::OsUser, real_path::real_pattern,
};
use crate::{
    policy::{Grant, Kind},
    proto::UserName,
    trust::{
        UnixTime,
        store::{StoreError, TimedGrant},
    },
};

/// How often the wall clock is looked at while a grant stands; it may be set, and the machine may sleep.
const CLOCK_STEP: Duration = Duration::from_secs(30);
/// Pause before a store that could not be read is asked for its grants again; doubles up to [`ASK_AGAIN_MAX`].
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Longest such pause: a disk that works again is noticed within it, and one that does not fills no log.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(30);

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
    /// Allows something for a while: of a path, where its links lead now. It is in force when this returns.
    pub(super) async fn allow(
        &self,
        user: UserName,
        kind: String,
        target: String,
        lasting: Duration,
    ) -> Result<AdminReply, LendError> {
        let known: Kind = kind.parse().map_err(|error: crate::policy::UnknownKind| LendError::usage(error))?;
        // Read once before it is kept: what no policy could say must not lie in the store.
        Grant::parse(user.clone(), known, &target, "grant").map_err(LendError::usage)?;
        // A slip of the finger would allow nobody anything, and say that it stands. Users of this machine need no entry.
        self.known(&user).await?;
        let target = match known {
            Kind::Unix | Kind::UnixListen => blocking(move || real_pattern(known, &target)).await,
            _ => target,
        };
        let now = UnixTime::now();
        let expires = now.plus(lasting);
        let grant = self.store(move |store| store.add_grant(&user, &kind, &target, expires, now)).await?;
        self.renew_policy().await;
        Ok(AdminReply::Granted { grant, expires: expires.0 })
    }

    /// Whether anybody can log in by this name.
    ///
    /// # Errors
    /// Nobody can, or the store cannot be read.
    pub(super) async fn known(&self, user: &UserName) -> Result<(), StoreError> {
        let named = user.clone();
        // On a thread that may wait: the users of the machine are read as well.
        self.store(move |store| match store.password_of(&named) {
            Err(StoreError::NoUser(_)) if OsUser::is_called(&named) => Ok(()),
            known => known.map(drop),
        })
        .await
    }

    /// Lists those that stand.
    pub(super) async fn grants(&self) -> Result<AdminReply, LendError> {
        let entry = |grant: TimedGrant| GrantEntry {
            grant: grant.number,
            user: grant.user.to_string(),
            kind: grant.kind,
            target: grant.target,
            created: grant.created.0,
            expires: grant.expires.0,
        };
        let mut grants = self.look(|store| store.list_grants(UnixTime::now())).await?;
        self.standing().leave_out_removed(&mut grants);
        Ok(AdminReply::Grants { grants: grants.into_iter().map(entry).collect() })
    }

    /// Ends one before its time, and what only it allowed. A disk that hangs keeps only the answer waiting. Where it does not take
    /// it, the grant is out of force all the same, and the answer is [`LendError::GrantStands`].
    pub(super) async fn remove_grant(&self, number: u64) -> Result<AdminReply, LendError> {
        let mut stored = pin!(self.store(move |store| store.remove_grant(number)));
        let in_time = timeout(STORED_MAX, &mut stored).await;
        let stored: Result<(), StoreError> = match in_time {
            Ok(stored) => stored,
            Err(_) => {
                self.overrule_grant(number).await;
                stored.await
            }
        };
        match stored {
            Err(source) if source.is_of_disk() => {
                self.overrule_grant(number).await;
                return Err(LendError::GrantStands { number, source });
            }
            Err(_) => {}
            Ok(()) => self.forget_grants(|grant| grant.number == number).await,
        }
        // What the store says of it now holds: it has none of this number.
        self.standing().removed.remove(&number);
        stored?;
        Ok(AdminReply::Done)
    }

    /// Takes a grant out of force that the store still has.
    async fn overrule_grant(&self, number: u64) {
        self.standing().removed.insert(number);
        let mut turn = self.turn_to_renew().await;
        let read = timeout(STORED_MAX, turn.read(self)).await.unwrap_or(Err(StoreError::Hangs));
        self.renew_by(turn, None, read).await;
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.shared.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The grants that stand, as rules, and when to look again. One whose words cannot be understood any more allows nothing.
    pub(super) fn standing_grants(&self, read: Result<Vec<TimedGrant>, StoreError>) -> (Vec<Grant>, LookAgain) {
        let mut standing = self.standing();
        let again = standing.now_known(read, UnixTime::now());
        (standing.rules(), again)
    }

    /// As [`Self::standing_grants`], of those that were read last and have not ended since, whatever the store can be asked.
    pub(super) fn grants_left(&self, now: UnixTime) -> (Vec<Grant>, Option<UnixTime>) {
        let mut standing = self.standing();
        standing.grants.retain(|grant| grant.expires > now);
        (standing.rules(), standing.first_ends())
    }

    /// Takes grants out of force that were taken back, whatever the store can be asked.
    pub(super) async fn forget_grants(&self, gone: impl Fn(&TimedGrant) -> bool) {
        // Nobody else has read them before and puts them in force afterwards.
        let turn = self.turn_to_renew().await;
        self.standing().grants.retain(|grant| !gone(grant));
        self.renew_with(turn, None).await;
    }

    /// Lets grants end in time, and asks again for those that could not be read, for as long as the lender serves. What it
    /// waits for is what is in force, so that none is forgotten that ended while nobody looked.
    pub(super) async fn follow_grants(&self) {
        let mut look_again = self.shared.grants_end.subscribe();
        loop {
            let again = *look_again.borrow_and_update();
            let Some(left) = again.left(UnixTime::now()) else {
                // The sender lives in `self`.
                let _ = look_again.changed().await;
                continue;
            };
            // Whoever puts another policy in force meanwhile has asked the store, too.
            let changed = !left.is_zero() && timeout(left.min(CLOCK_STEP), look_again.changed()).await.is_ok();
            let is_unread = matches!(again, LookAgain::After { .. });
            if !changed && (is_unread || again.left(UnixTime::now()).is_some_and(|left| left.is_zero())) {
                self.renew_policy().await;
            }
        }
    }
}

/// When the grants must be looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LookAgain {
    /// None stands.
    Never,
    /// The first of them ends then.
    At(UnixTime),
    /// They could not be read, and are asked for again after this pause. Of those that stand the first may end sooner.
    After { pause: Duration, first_ends: Option<UnixTime> },
}

impl LookAgain {
    /// When the first grant that stands ends.
    pub(super) fn first_ends(self) -> Option<UnixTime> {
        match self {
            Self::Never => None,
            Self::At(ends) => Some(ends),
            Self::After { first_ends, .. } => first_ends,
        }
    }

    /// How long that is from now; `None`: for ever.
    fn left(self, now: UnixTime) -> Option<Duration> {
        let until = |ends: UnixTime| Duration::from_secs(ends.0.saturating_sub(now.0));
        match self {
            Self::Never => None,
            Self::At(ends) => Some(until(ends)),
            Self::After { pause, first_ends } => Some(first_ends.map_or(pause, |ends| until(ends).min(pause))),
        }
    }
}

/// The grants that were read last.
///
/// A store that cannot be read takes nothing from anybody: what it said before holds, each grant to its end.
#[derive(Default)]
pub(super) struct Standing {
    grants: Vec<TimedGrant>,
    /// The pause before the store is asked again, while it cannot be read.
    unread: Option<Duration>,
    /// Numbers of grants that an admin has removed and the store may still have.
    removed: BTreeSet<u64>,
}

impl Standing {
    fn now_known(&mut self, read: Result<Vec<TimedGrant>, StoreError>, now: UnixTime) -> LookAgain {
        match read {
            Ok(mut grants) => {
                if self.unread.take().is_some() {
                    tracing::info!(grants = grants.len(), "the grants can be read again");
                }
                self.leave_out_removed(&mut grants);
                self.grants = grants;
                self.first_ends().map_or(LookAgain::Never, LookAgain::At)
            }
            Err(error) => {
                self.grants.retain(|grant| grant.expires > now && !self.removed.contains(&grant.number));
                let pause = self.unread.map_or(ASK_AGAIN, |pause| (pause * 2).min(ASK_AGAIN_MAX));
                self.unread = Some(pause);
                let error = &error as &dyn std::error::Error;
                tracing::error!(
                    error,
                    kept = self.grants.len(),
                    ?pause,
                    "the grants cannot be read; those of before stand"
                );
                LookAgain::After { pause, first_ends: self.first_ends() }
            }
        }
    }

    fn rules(&self) -> Vec<Grant> {
        let rule = |grant: &TimedGrant| {
            let kind = grant.kind.parse().ok()?;
            let rule = Grant::parse(grant.user.clone(), kind, &grant.target, &format!("grant {}", grant.number));
            rule.inspect_err(|error| tracing::error!(%error, number = grant.number, "a grant cannot be read")).ok()
        };
        self.grants.iter().filter_map(rule).collect()
    }

    fn leave_out_removed(&self, grants: &mut Vec<TimedGrant>) {
        grants.retain(|grant| !self.removed.contains(&grant.number));
    }

    fn first_ends(&self) -> Option<UnixTime> {
        self.grants.iter().map(|grant| grant.expires).min()
    }
}

#[cfg(test)]
mod tests;
