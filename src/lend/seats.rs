//! What one user may have at once, over all sessions: how many, and how fast together (`limits` of the policy).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{policy::Limits, proto::UserName, session::Pace};

/// Bytes a second in one megabit a second.
const MEGABIT_BYTES: u64 = 1_000_000 / 8;

/// Every user who has a session.
#[derive(Clone, Default)]
pub(super) struct Seats(Arc<Mutex<HashMap<UserName, Taken>>>);

#[derive(Default)]
struct Taken {
    sessions: u32,
    /// One for all sessions of the user, and the limit that it was made for.
    pace: Option<(u32, Arc<Pace>)>,
}

impl Taken {
    fn is_behind(&self) -> bool {
        self.pace.as_ref().is_some_and(|(_, pace)| pace.is_behind())
    }
}

/// The user has as many sessions as the policy allows.
#[derive(Debug, thiserror::Error)]
#[error("{user} has {sessions} sessions already, which is all that the policy allows: end one of them")]
pub(super) struct Full {
    user: UserName,
    sessions: u32,
}

impl Seats {
    /// A place for one more session of the user, until it is dropped.
    pub(super) fn take(&self, user: &UserName, limits: &Limits) -> Result<Seat, Full> {
        let mut users = self.lock();
        // Who hangs up after a burst and comes back still waits for it.
        users.retain(|_, taken| taken.sessions > 0 || taken.is_behind());
        let taken = users.entry(user.clone()).or_default();
        if let Some(sessions) = limits.sessions.filter(|most| taken.sessions >= *most) {
            return Err(Full { user: user.clone(), sessions });
        }
        taken.sessions += 1;
        let pace = limits.mbit.map(|mbit| match &taken.pace {
            Some((same, pace)) if *same == mbit => pace.clone(),
            _ => Arc::new(Pace::new(u64::from(mbit) * MEGABIT_BYTES)),
        });
        taken.pace = limits.mbit.zip(pace.clone());
        Ok(Seat { seats: self.clone(), user: user.clone(), pace })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<UserName, Taken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One session's place.
pub(super) struct Seat {
    seats: Seats,
    user: UserName,
    pace: Option<Arc<Pace>>,
}

impl Seat {
    /// How fast the user's sessions may be together.
    pub(super) fn pace(&self) -> Option<Arc<Pace>> {
        self.pace.clone()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut users = self.seats.lock();
        if let Some(taken) = users.get_mut(&self.user) {
            taken.sessions -= 1;
            if taken.sessions == 0 && !taken.is_behind() {
                users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(sessions: u32, mbit: u32) -> Limits {
        Limits { sessions: Some(sessions), mbit: Some(mbit), ..Limits::default() }
    }

    #[test]
    fn a_place_is_free_again_when_its_session_ends() {
        let (seats, alice) = (Seats::default(), "alice".parse().unwrap());
        let first = seats.take(&alice, &limits(2, 8)).unwrap();
        let _second = seats.take(&alice, &limits(2, 8)).unwrap();
        let full = seats.take(&alice, &limits(2, 8)).err().unwrap();
        assert_eq!(
            full.to_string(),
            "alice has 2 sessions already, which is all that the policy allows: end one of them"
        );
        assert!(seats.take(&"bob".parse().unwrap(), &limits(2, 8)).is_ok(), "one user's sessions are not another's");
        drop(first);
        assert!(seats.take(&alice, &limits(2, 8)).is_ok());
    }

    #[test]
    fn the_sessions_of_a_user_share_one_pace() {
        let (seats, alice) = (Seats::default(), "alice".parse().unwrap());
        let (one, two) = (seats.take(&alice, &limits(9, 8)).unwrap(), seats.take(&alice, &limits(9, 8)).unwrap());
        assert!(Arc::ptr_eq(&one.pace().unwrap(), &two.pace().unwrap()));
        let other = seats.take(&alice, &limits(9, 80)).unwrap();
        assert!(!Arc::ptr_eq(&one.pace().unwrap(), &other.pace().unwrap()), "a new limit is for new sessions");
    }
}
