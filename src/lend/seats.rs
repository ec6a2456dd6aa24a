//! What one user may have at once, over all sessions: how many, and how fast together (`limits` of the policy).

use std::{
    collections::HashMap,
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use crate::{policy::Limits, proto::UserName, session::Pace};

/// Sessions of a user whom no rule gives another number: each command may be one, and a script starts some hundred of them;
/// all of them together leave most of a lender's descriptors to the others.
const SESSIONS_OF_USER: u32 = 256;
/// How long the next session of a user waits for the place of one that has ended at the borrower's side: that takes a second to
/// see whether its streams end by themselves, and another one to take back what hangs.
const LEAVING_MAX: Duration = Duration::from_millis(2500);
/// Bytes a second in one megabit a second.
const MEGABIT_BYTES: u64 = 1_000_000 / 8;

/// Every user who has a session.
#[derive(Clone)]
pub(super) struct Seats {
    users: Arc<Mutex<HashMap<UserName, Taken>>>,
    /// Those of users of this machine whom no rule names: one who has many uids (subuid(5)) is as many users.
    unnamed: Arc<Semaphore>,
    /// A place is free again.
    freed: Arc<Notify>,
    /// Somebody has begun to wait for one.
    wanted: Arc<Notify>,
}

impl Default for Seats {
    fn default() -> Self {
        let unnamed = Arc::new(Semaphore::new(SESSIONS_OF_USER as usize));
        Self { users: Arc::default(), unnamed, freed: Arc::default(), wanted: Arc::default() }
    }
}

#[derive(Default)]
struct Taken {
    sessions: u32,
    somebody_waits: bool,
    /// Nobody has begun to give back a place for him who waits.
    wanted: bool,
    bounds: Arc<Bounds>,
}

impl Taken {
    /// Whether there is nothing to remember of the user.
    fn can_go(&self) -> bool {
        self.sessions == 0 && !self.somebody_waits && !self.bounds.pace.is_behind()
    }
}

/// What holds for all sessions of a user; another policy changes it for those who are here.
#[derive(Default)]
struct Bounds {
    /// Shared by all of them.
    pace: Arc<Pace>,
    /// Streams of each session.
    streams: AtomicU32,
}

impl Bounds {
    fn set(&self, limits: &Limits) {
        self.pace.set(limits.mbit.map(|mbit| u64::from(mbit) * MEGABIT_BYTES));
        self.streams.store(limits.streams.unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

/// The user has as many sessions as there may be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Full {
    #[error("{user} has {sessions} sessions already, which is all that the policy allows: end one of them")]
    Policy { user: UserName, sessions: u32 },
    #[error(
        "{user} has {SESSIONS_OF_USER} sessions already, as many as one has without `limits.sessions` in the policy: \
         end one of them"
    )]
    Default { user: UserName },
    #[error(
        "the users of this machine whom no rule of the policy names have {SESSIONS_OF_USER} sessions already, as many as they \
         have together"
    )]
    Unnamed,
}

impl Seats {
    /// As [`Self::take`]; where all are taken, one that is just about to be left is waited for: a script's next command comes before
    /// we have seen the last one go. One of a user waits at a time: of a crowd, the others would hold places of strangers for nothing.
    pub(super) async fn take_soon(&self, user: &UserName, limits: impl Fn() -> Limits) -> Result<Seat, Full> {
        let full = match self.take(user, &limits) {
            Err(full) => full,
            taken => return taken,
        };
        let Some(_waits) = Waits::begin(self, user) else { return Err(full) };
        let too_late = Instant::now() + LEAVING_MAX;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Before the look, so that none that is left behind it is missed.
            freed.as_mut().enable();
            match self.take(user, &limits) {
                Err(full) if timeout_at(too_late, freed).await.is_err() => return Err(full),
                Err(_) => {}
                taken => return taken,
            }
        }
    }

    /// A place for one more session of the user, until it is dropped. `limits`: those of now, asked for under the lock, so
    /// that none of an older policy comes behind [`Self::bound`].
    pub(super) fn take(&self, user: &UserName, limits: impl FnOnce() -> Limits) -> Result<Seat, Full> {
        let mut users = self.lock();
        // Who hangs up after a burst and comes back still waits for it.
        users.retain(|_, taken| !taken.can_go());
        let taken = users.entry(user.clone()).or_default();
        let limits = limits();
        if taken.sessions >= limits.sessions.unwrap_or(SESSIONS_OF_USER) {
            let user = user.clone();
            return Err(match limits.sessions {
                Some(sessions) => Full::Policy { user, sessions },
                None => Full::Default { user },
            });
        }
        taken.sessions += 1;
        taken.bounds.set(&limits);
        Ok(Seat { seats: self.clone(), user: user.clone(), bounds: taken.bounds.clone(), of_unnamed: None })
    }

    /// Holds everybody who is here to the limits of another policy. Sessions beyond their number stay.
    pub(super) fn bound(&self, limits: impl Fn(&UserName) -> Limits) {
        for (user, taken) in self.lock().iter() {
            taken.bounds.set(&limits(user));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserName, Taken>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one of a user who waits, until this is dropped.
struct Waits<'a> {
    seats: &'a Seats,
    user: &'a UserName,
}

impl<'a> Waits<'a> {
    fn begin(seats: &'a Seats, user: &'a UserName) -> Option<Self> {
        let mut users = seats.lock();
        let taken = users.entry(user.clone()).or_default();
        let is_first = !mem::replace(&mut taken.somebody_waits, true);
        taken.wanted |= is_first;
        drop(users);
        seats.wanted.notify_waiters();
        is_first.then(|| Self { seats, user })
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        // It is there for as long as somebody waits.
        if let Some(taken) = self.seats.lock().get_mut(self.user) {
            (taken.somebody_waits, taken.wanted) = (false, false);
        }
    }
}

/// One session's place.
pub(super) struct Seat {
    seats: Seats,
    user: UserName,
    bounds: Arc<Bounds>,
    of_unnamed: Option<OwnedSemaphorePermit>,
}

impl Seat {
    /// Takes one of the places, too, that all have together whom no rule names.
    pub(super) fn of_unnamed(mut self) -> Result<Self, Full> {
        let place = self.seats.unnamed.clone().try_acquire_owned().map_err(|_| Full::Unnamed)?;
        self.of_unnamed = Some(place);
        Ok(self)
    }

    /// How fast the user's sessions may be together.
    pub(super) fn pace(&self) -> Arc<Pace> {
        self.bounds.pace.clone()
    }

    /// Waits until another session of the user waits for a place: who has left, and only lingers, gives it back then. One of
    /// them hears it, for one place is wanted.
    pub(super) async fn is_wanted(&self) {
        loop {
            let wanted = self.seats.wanted.notified();
            tokio::pin!(wanted);
            // Before the look, so that nobody is missed who begins behind it.
            wanted.as_mut().enable();
            if self.seats.lock().get_mut(&self.user).is_some_and(|taken| mem::take(&mut taken.wanted)) {
                return;
            }
            wanted.await;
        }
    }

    /// How many streams the session may have at once.
    pub(super) fn streams_max(&self) -> u32 {
        self.bounds.streams.load(Ordering::Relaxed)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut users = self.seats.lock();
        if let Some(taken) = users.get_mut(&self.user) {
            taken.sessions -= 1;
            if taken.can_go() {
                users.remove(&self.user);
            }
        }
        drop(users);
        self.seats.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(sessions: u32, mbit: u32) -> impl Fn() -> Limits {
        move || Limits { sessions: Some(sessions), mbit: Some(mbit), ..Limits::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_that_is_just_about_to_be_left_is_waited_for() {
        let (seats, ana) = (Seats::default(), "ana".parse().unwrap());
        let seat = seats.take(&ana, limits(1, 1)).unwrap();
        let leaves = async {
            tokio::time::sleep(LEAVING_MAX / 2).await;
            drop(seat);
        };
        let second = async {
            let began = Instant::now();
            assert!(seats.take_soon(&ana, limits(1, 1)).await.is_err());
            assert_eq!(began.elapsed(), Duration::ZERO, "one waits, and no crowd");
        };
        let (taken, (), ()) = tokio::join!(seats.take_soon(&ana, limits(1, 1)), second, leaves);
        let began = Instant::now();
        assert!(seats.take_soon(&ana, limits(1, 1)).await.is_err());
        assert_eq!(began.elapsed(), LEAVING_MAX);
        drop(taken.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_those_who_linger_hears_that_another_session_of_their_user_waits_whoever_came_first() {
        let (seats, ana, bob) = (Seats::default(), "ana".parse().unwrap(), "bob".parse().unwrap());
        let [first, second] = [(); 2].map(|()| seats.take(&ana, limits(2, 1)).unwrap());
        let bobs = seats.take(&bob, limits(1, 1)).unwrap();
        let one_leaves = async {
            tokio::select! {
                () = first.is_wanted() => (drop(first), second).1,
                () = second.is_wanted() => (drop(second), first).1,
            }
        };
        let (taken, stays) = tokio::join!(seats.take_soon(&ana, limits(2, 1)), one_leaves);
        for seat in [taken.unwrap(), stays, bobs] {
            let wanted = tokio::time::timeout(LEAVING_MAX, seat.is_wanted());
            assert!(wanted.await.is_err(), "nobody of {} waits", seat.user);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_remembered_while_nobody_else_of_the_user_is_there() {
        let (seats, ana, bob) = (Seats::default(), "ana".parse().unwrap(), "bob".parse().unwrap());
        let second = async {
            // Whoever comes forgets those of whom there is nothing to remember.
            let _bobs = seats.take(&bob, limits(1, 1)).unwrap();
            let began = Instant::now();
            assert!(seats.take_soon(&ana, limits(0, 1)).await.is_err());
            assert_eq!(began.elapsed(), Duration::ZERO, "one waits, and no crowd");
        };
        let (first, ()) = tokio::join!(seats.take_soon(&ana, limits(0, 1)), second);
        assert!(first.is_err());
    }

    #[test]
    fn a_place_is_free_again_when_its_session_ends() {
        let (seats, alice) = (Seats::default(), "alice".parse().unwrap());
        let first = seats.take(&alice, limits(2, 8)).unwrap();
        let _second = seats.take(&alice, limits(2, 8)).unwrap();
        let full = seats.take(&alice, limits(2, 8)).err().unwrap();
        assert_eq!(
            full.to_string(),
            "alice has 2 sessions already, which is all that the policy allows: end one of them"
        );
        assert!(seats.take(&"bob".parse().unwrap(), limits(2, 8)).is_ok(), "one user's sessions are not another's");
        drop(first);
        assert!(seats.take(&alice, limits(2, 8)).is_ok());
    }

    #[test]
    fn without_a_limit_in_the_policy_there_is_one_all_the_same() {
        let (seats, alice) = (Seats::default(), "alice".parse().unwrap());
        let mut held: Vec<_> = (0..SESSIONS_OF_USER).map(|_| seats.take(&alice, Limits::default).unwrap()).collect();
        let full = seats.take(&alice, Limits::default).err().unwrap();
        assert_eq!(
            full.to_string(),
            "alice has 256 sessions already, as many as one has without `limits.sessions` in the policy: end one of them"
        );
        assert!(seats.take(&"bob".parse().unwrap(), Limits::default).is_ok());
        // The policy may give more, or less.
        held.push(seats.take(&alice, limits(SESSIONS_OF_USER + 1, 8)).unwrap());
        assert!(seats.take(&alice, limits(SESSIONS_OF_USER + 1, 8)).is_err());
        drop(held);
        assert!(seats.take(&alice, Limits::default).is_ok());
    }

    #[test]
    fn the_sessions_of_a_user_share_one_pace_and_follow_the_policy() {
        let (seats, alice) = (Seats::default(), "alice".parse().unwrap());
        let (one, two) = (seats.take(&alice, limits(9, 8)).unwrap(), seats.take(&alice, limits(9, 80)).unwrap());
        assert!(Arc::ptr_eq(&one.pace(), &two.pace()));
        assert_eq!(one.streams_max(), u32::MAX);
        seats.bound(|user| {
            assert_eq!(user.as_str(), "alice");
            Limits { streams: Some(3), ..Limits::default() }
        });
        assert_eq!((one.streams_max(), two.streams_max()), (3, 3));
    }
}
