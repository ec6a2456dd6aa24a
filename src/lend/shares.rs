//! Places for work of which each user has only a part: who asks for much waits for his own, and takes nothing from others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::proto::UserName;

/// The places of a lender for one kind of work.
pub(super) struct Shares {
    places: Arc<Semaphore>,
    of_user: usize,
    /// Of each user who has one or waits for one.
    users: Mutex<HashMap<UserName, Arc<Semaphore>>>,
}

/// One place; dropping it gives it back.
pub(super) struct Share {
    _of_user: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Shares {
    /// So many places, of which a user may have `of_user`.
    pub(super) fn new(places: usize, of_user: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), of_user, users: Mutex::default() }
    }

    /// Waits for a place.
    pub(super) async fn take(&self, user: &UserName) -> Share {
        let own = self.of(user);
        const NEVER: &str = "neither is ever closed";
        // The user's own first: who waits for it takes nothing from others.
        let of_user = own.acquire_owned().await.expect(NEVER);
        Share { _of_user: of_user, _of_all: self.places.clone().acquire_owned().await.expect(NEVER) }
    }

    /// A place, if there is one now.
    pub(super) fn try_take(&self, user: &UserName) -> Option<Share> {
        let of_user = self.of(user).try_acquire_owned().ok()?;
        Some(Share { _of_user: of_user, _of_all: self.places.clone().try_acquire_owned().ok()? })
    }

    fn of(&self, user: &UserName) -> Arc<Semaphore> {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        // Only this table knows it: nobody has a place or waits for one.
        users.retain(|_, own| Arc::strong_count(own) > 1);
        users.entry(user.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.of_user))).clone()
    }

    /// Places that nobody has.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.places.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_USER: usize = 512;

    #[test]
    fn a_user_has_so_many_whoever_else_has_some() {
        let shares = Shares::new(Semaphore::MAX_PERMITS, OF_USER);
        let (ana, bob) = ("ana".parse().unwrap(), "bob".parse().unwrap());
        let mut held: Vec<_> = (0..OF_USER).map(|_| shares.try_take(&ana).unwrap()).collect();
        assert!(shares.try_take(&ana).is_none());
        drop(shares.try_take(&bob).unwrap());
        held.pop();
        assert!(shares.try_take(&ana).is_some());
        drop(held);
        drop(shares.try_take(&bob));
        assert_eq!(shares.users.lock().unwrap().len(), 1, "who has none is forgotten");
    }
}
