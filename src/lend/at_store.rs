//! What is done at the store: on threads that may wait for its disk, and by peers no more at once than leave the others threads.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::timeout};

use super::Lender;
use crate::trust::store::{Store, StoreError};

/// How long a peer waits for a write to the store: several of them fit into the time of a login.
pub(super) const STORE_MAX: Duration = Duration::from_secs(5);
/// How long anybody waits for what the store holds, which it has in memory as a rule: less than a handshake has, which asks it
/// once.
pub(super) const LOOK_MAX: Duration = Duration::from_secs(2);
/// What peers may have the store write at once, and as many may read it, each on a thread that may wait: while a disk hangs,
/// these are the threads that hang, and the others are for names, files and policies.
const AT_STORE_MAX: usize = 64;

/// Of calls at the store, for [`AT_STORE_MAX`] at once.
pub(super) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(AT_STORE_MAX))
}

impl Lender {
    /// Does what waits for the disk where it holds up nobody else.
    ///
    /// # Cancellation
    /// What was begun is finished, whoever hangs up.
    pub(super) async fn store<T, E>(&self, work: impl FnOnce(&Store) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let shared = self.shared.clone();
        match tokio::task::spawn_blocking(move || work(&shared.store)).await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(StoreError::Stopping.into()),
        }
    }

    /// As [`Self::store`], for a peer: what a hung disk keeps him waiting for is no offence of his.
    ///
    /// # Errors
    /// Those of `work`; [`StoreError::Hangs`] if it does not come to its end in time, which it may do later.
    ///
    /// # Cancellation
    /// As of [`Self::store`].
    pub(super) async fn store_within<T, E>(
        &self,
        time: Duration,
        work: impl FnOnce(&Store) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.in_a_place(&self.shared.writers, time, work).await
    }

    /// Looks into the store. That waits for nothing as a rule, and is never done on an async worker all the same: the store
    /// answers nobody while its file is opened again, or while a disk that hangs should make it larger.
    ///
    /// # Errors
    /// As of [`Self::store_within`].
    ///
    /// # Cancellation
    /// None matters.
    pub(super) async fn look<T, E>(&self, work: impl FnOnce(&Store) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.in_a_place(&self.shared.readers, LOOK_MAX, work).await
    }

    async fn in_a_place<T, E>(
        &self,
        places: &Arc<Semaphore>,
        time: Duration,
        work: impl FnOnce(&Store) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        let work = async {
            // Never closed.
            let place = places.clone().acquire_owned().await.map_err(|_| StoreError::Stopping)?;
            self.store(move |store| {
                let _place = place;
                work(store)
            })
            .await
        };
        timeout(time, work).await.unwrap_or_else(|_| Err(StoreError::Hangs.into()))
    }
}
