//! Reads the grants for who puts a policy in force: of a disk that hangs nobody waits for longer than a moment.

use std::time::Duration;

use tokio::{task::JoinHandle, time::timeout};

use crate::{
    lend::Lender,
    trust::{
        UnixTime,
        store::{StoreError, TimedGrant},
    },
};

/// How long the store may take to say what it holds, which it has in memory as a rule. Meanwhile no grant ends, and no other
/// policy comes into force.
pub(super) const READ_MAX: Duration = Duration::from_secs(5);

/// The reading that the store has not answered yet. There is one at a time: as long as it hangs it holds one thread, however
/// often the grants are asked for.
#[derive(Default)]
pub(in crate::lend) struct Reader(Option<JoinHandle<Result<Vec<TimedGrant>, StoreError>>>);

impl Reader {
    /// What the store holds now.
    ///
    /// # Errors
    /// Those of the store; [`StoreError::Hangs`] if it does not answer in time.
    ///
    /// # Cancellation
    /// A reading that was begun is waited for by the next one.
    pub(in crate::lend) async fn read(&mut self, lender: &Lender) -> Result<Vec<TimedGrant>, StoreError> {
        let read = async {
            if let Some(before) = &mut self.0 {
                // What it says may be older than what has changed since.
                let _ = before.await;
                self.0 = None;
            }
            let shared = lender.shared.clone();
            let work = move || shared.store.list_grants(UnixTime::now());
            let done = self.0.insert(tokio::task::spawn_blocking(work)).await;
            self.0 = None;
            done
        };
        match timeout(READ_MAX, read).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Ok(Err(_)) => Err(StoreError::Stopping),
            Err(_) => Err(StoreError::Hangs),
        }
    }
}
