//! Hashing off the async threads, a few at a time.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use super::{
    Password, PasswordError,
    hash::{Blocks, hash_with, verify_nobody, verify_with},
};

/// Logins that may wait.
pub const QUEUE_MAX: usize = 16;
/// How long each may wait for its turn.
pub const WAIT_MAX: Duration = Duration::from_secs(2);

/// Hashes passwords, one per two cores at once; cheap to clone, and clones share the queue.
///
/// # Cancellation
/// Dropping a call gives its place in the queue back. A hash that has begun runs to its end, and keeps its turn until
/// then: who hangs up early gains nothing.
#[derive(Clone)]
pub struct PasswordQueue {
    /// Places for those who hash and those who wait.
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
    /// One set of blocks, so that an idle lender holds 64 MiB; a second hash at the same time brings its own.
    spare: Arc<Mutex<Option<Blocks>>>,
}

impl PasswordQueue {
    /// A queue for this machine.
    pub fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_turns((cores / 2).max(1))
    }

    /// Hashes a password that is being set.
    ///
    /// # Errors
    /// If it is too short to be set, or the queue is full.
    pub async fn hash(&self, password: Password) -> Result<String, PasswordError> {
        self.run(move |blocks| hash_with(blocks, &password)).await
    }

    /// Whether this is the password of the hash. Without a hash it never is, and takes just as long to say so.
    ///
    /// # Errors
    /// If the hash is not acceptable, or the queue is full.
    pub async fn verify(&self, password: Password, phc: Option<String>) -> Result<bool, PasswordError> {
        self.run(move |blocks| match phc {
            Some(phc) => verify_with(blocks, &password, &phc),
            None => verify_nobody(blocks, &password).map(|()| false),
        })
        .await
    }

    fn with_turns(turns: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(turns + QUEUE_MAX)),
            turns: Arc::new(Semaphore::new(turns)),
            spare: Arc::default(),
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Blocks) -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| PasswordError::Busy)?;
        let turn = timeout(WAIT_MAX, self.turns.clone().acquire_owned()).await.map_err(|_| PasswordError::Busy)?;
        let spare = self.spare.clone();
        let hashing = spawn_blocking(move || {
            // Owned here, so that both are given back when the hash is done and not when its caller hangs up.
            let _held = (place, turn);
            let take = || spare.lock().unwrap_or_else(PoisonError::into_inner);
            let mut blocks = take().take().unwrap_or_default();
            let result = work(&mut blocks);
            *take() = Some(blocks);
            result
        });
        // It does not panic and nobody aborts it; what is left is a runtime that shuts down.
        hashing.await.unwrap_or(Err(PasswordError::Busy))
    }
}

impl Default for PasswordQueue {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password() -> Password {
        Password::new(b"correct horse".to_vec()).unwrap()
    }

    #[tokio::test]
    async fn a_password_set_through_the_queue_is_verified_through_it() {
        let queue = PasswordQueue::new();
        let phc = queue.hash(password()).await.unwrap();
        assert!(queue.verify(password(), Some(phc)).await.unwrap());
        assert!(!queue.verify(password(), None).await.unwrap());
    }

    #[tokio::test]
    async fn sixty_four_at_once_are_bounded_and_the_rest_is_told_busy() {
        let queue = PasswordQueue::with_turns(1);
        let _turn = queue.turns.clone().acquire_owned().await.unwrap();
        tokio::time::pause();
        let calls: Vec<_> = (0..64)
            .map(|_| {
                tokio::spawn({
                    let queue = queue.clone();
                    async move { queue.hash(password()).await }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        assert_eq!(queue.places.available_permits(), 0, "one place per turn and sixteen to wait");
        let started = tokio::time::Instant::now();
        for call in calls {
            assert!(matches!(call.await.unwrap(), Err(PasswordError::Busy)));
        }
        // tokio's timers are rounded up to a millisecond.
        assert_eq!(started.elapsed().as_secs(), WAIT_MAX.as_secs());
        assert_eq!(queue.places.available_permits(), 1 + QUEUE_MAX, "every place is given back");
    }
}
