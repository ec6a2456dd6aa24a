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
        let now = UnixTime::now();
        let mut standing = self.standing();
        let again = standing.now_known(read, now);
        let rule = |grant: &TimedGrant| {
            let kind = grant.kind.parse().ok()?;
            let rule = Grant::parse(grant.user.clone(), kind, &grant.target, &format!("grant {}", grant.number));
            rule.inspect_err(|error| tracing::error!(%error, number = grant.number, "a grant cannot be read")).ok()
        };
        (standing.grants.iter().filter_map(rule).collect(), again)
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
            let changed = timeout(left.min(CLOCK_STEP), look_again.changed()).await.is_ok();
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

    fn leave_out_removed(&self, grants: &mut Vec<TimedGrant>) {
        grants.retain(|grant| !self.removed.contains(&grant.number));
    }

    fn first_ends(&self) -> Option<UnixTime> {
        self.grants.iter().map(|grant| grant.expires).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lend::test_lender::lender;

    fn grant(number: u64, expires: u64) -> TimedGrant {
        TimedGrant {
            number,
            user: "ana".parse().unwrap(),
            kind: "connect".to_owned(),
            target: "db:1".to_owned(),
            created: UnixTime(0),
            expires: UnixTime(expires),
        }
    }

    #[test]
    fn what_cannot_be_read_stands_as_it_was_and_is_asked_for_at_a_bounded_pace() {
        let mut standing = Standing::default();
        let broken = || Err(StoreError::Broken { table: "grants" });
        assert_eq!(standing.now_known(Ok(vec![grant(1, 10), grant(2, 20)]), UnixTime(1)), LookAgain::At(UnixTime(10)));
        let after = |pause, ends: u64| LookAgain::After { pause, first_ends: Some(UnixTime(ends)) };
        assert_eq!(standing.now_known(broken(), UnixTime(2)), after(ASK_AGAIN, 10));
        assert_eq!(standing.grants.len(), 2);
        let pauses: Vec<_> = (0..8).map(|_| standing.now_known(broken(), UnixTime(11))).collect();
        assert_eq!(standing.grants, [grant(2, 20)], "its time was over, and needs no store to say so");
        assert_eq!(pauses[0], after(2 * ASK_AGAIN, 20));
        assert_eq!(pauses[7], after(ASK_AGAIN_MAX, 20));
        let left = |now| pauses[7].left(UnixTime(now)).unwrap();
        assert_eq!(left(11), Duration::from_secs(9), "it ends in the pause, and is looked at then");
        assert_eq!((left(20), left(21)), (Duration::ZERO, Duration::ZERO));
        assert_eq!(after(ASK_AGAIN, 20).left(UnixTime(11)), Some(ASK_AGAIN), "before it ends");
        assert_eq!(standing.now_known(Ok(Vec::new()), UnixTime(12)), LookAgain::Never);
        let none = LookAgain::After { pause: ASK_AGAIN, first_ends: None };
        assert_eq!(standing.now_known(broken(), UnixTime(13)), none, "a first failure again");
        assert_eq!(none.left(UnixTime(13)), Some(ASK_AGAIN));
    }

    #[tokio::test]
    async fn a_store_that_fails_takes_no_grant_away_and_gives_none_back_that_was_removed() {
        let (_folder, dir, lender) = lender();
        let ana: UserName = "ana".parse().unwrap();
        lender.shared.store.add_user(&ana, UnixTime::now()).unwrap();
        let allow = |target: &str| {
            lender.allow(ana.clone(), "connect".to_owned(), target.to_owned(), Duration::from_secs(3600))
        };
        allow("127.0.0.1:1").await.unwrap();
        allow("127.0.0.1:2").await.unwrap();
        let may = async |target: &str| {
            let ask = crate::proto::Ask { kind: "connect".to_owned(), target: target.to_owned() };
            lender
                .check(ana.clone(), &ask)
                .await
                .is_ok_and(|reply| matches!(reply, AdminReply::Check(verdict) if verdict.allowed))
        };
        assert!(may("127.0.0.1:1").await && may("127.0.0.1:2").await);

        let fail = || {
            let whole = std::fs::read(dir.store()).unwrap();
            std::fs::write(dir.store(), "").unwrap();
            lender.shared.store.fail();
            whole
        };
        let mend = async |whole: Vec<u8>| {
            std::fs::write(dir.store(), whole).unwrap();
            let mut look_again = lender.shared.grants_end.subscribe();
            tokio::select! {
                () = lender.follow_grants() => {}
                read = look_again.wait_for(|again| matches!(again, LookAgain::At(_))) => drop(read.unwrap()),
            }
        };
        let whole = fail();
        lender.renew_policy().await;
        assert!(may("127.0.0.1:1").await && may("127.0.0.1:2").await, "the store cannot be read");
        assert!(matches!(*lender.shared.grants_end.borrow(), LookAgain::After { .. }));
        mend(whole).await;
        assert!(may("127.0.0.1:1").await && may("127.0.0.1:2").await, "it is asked again, and says what it holds");

        // It fails between the removal and the question what is left.
        lender.shared.store.remove_grant(2).unwrap();
        let whole = fail();
        lender.forget_grants(|grant| grant.number == 2).await;
        assert!(may("127.0.0.1:1").await && !may("127.0.0.1:2").await);
        mend(whole).await;
        assert!(may("127.0.0.1:1").await && !may("127.0.0.1:2").await);

        // It fails at the removal itself, and has the grant afterwards.
        allow("127.0.0.1:3").await.unwrap();
        let whole = fail();
        let removed = lender.remove_grant(3).await;
        assert!(matches!(removed, Err(LendError::GrantStands { number: 3, .. })), "{removed:?}");
        assert!(may("127.0.0.1:1").await && !may("127.0.0.1:3").await);
        mend(whole).await;
        assert!(may("127.0.0.1:1").await && !may("127.0.0.1:3").await);
        lender.remove_grant(3).await.unwrap();
        assert!(lender.standing().removed.is_empty() && !may("127.0.0.1:3").await);
    }

    #[tokio::test(start_paused = true)]
    async fn while_the_store_hangs_a_policy_comes_into_force_and_grants_end() {
        let (_folder, _dir, lender) = lender();
        lender.shared.store.add_user(&"ana".parse().unwrap(), UnixTime::now()).unwrap();
        let hour = Duration::from_secs(3600);
        lender.allow("ana".parse().unwrap(), "connect".to_owned(), "127.0.0.1:1".to_owned(), hour).await.unwrap();
        // One whose time is over, whatever the store says.
        lender.shared.standing.lock().unwrap().grants.push(grant(7, 1));
        let (hangs_tx, hangs_rx) = std::sync::mpsc::channel();
        let (works_tx, works_rx) = std::sync::mpsc::channel::<()>();
        let other = lender.clone();
        let holder = std::thread::spawn(move || {
            let _held = other.shared.store.hang();
            hangs_tx.send(()).unwrap();
            let _ = works_rx.recv();
        });
        hangs_rx.recv().unwrap();
        for _ in 0..2 {
            let before = lender.policy();
            let policy = crate::policy::Policy::parse("", "policy.toml").unwrap();
            tokio::join!(lender.put_in_force(policy), tokio::time::advance(reader::READ_MAX));
            assert!(!std::sync::Arc::ptr_eq(&before, &lender.policy()), "it is in force");
        }
        let standing: Vec<_> = lender.shared.standing.lock().unwrap().grants.iter().map(|grant| grant.number).collect();
        assert_eq!(standing, [1]);
        assert!(matches!(*lender.shared.grants_end.borrow(), LookAgain::After { .. }), "it is asked again");
        drop(works_tx);
        holder.join().unwrap();
        lender.renew_policy().await;
        assert!(matches!(*lender.shared.grants_end.borrow(), LookAgain::At(_)));
    }
}
