//! An accept loop outlives its errors: a process out of descriptors gets them back when connections end.

use std::{io, time::Duration};

/// Wait before the next accept after one that failed; doubles up to [`BACKOFF_MAX`].
const BACKOFF: Duration = Duration::from_millis(10);
/// Longest wait before the next accept: trying at once would only spin, and waiting longer is felt.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// How long an accept loop waits after a failure.
pub struct Backoff(Duration);

impl Backoff {
    /// Nothing has failed yet.
    pub fn new() -> Self {
        Self(BACKOFF)
    }

    /// An accept went well: the next failure is a first one again.
    pub fn reset(&mut self) {
        self.0 = BACKOFF;
    }

    /// Waits after a failure; not at all if it was one of a single connection, which is gone.
    ///
    /// # Cancellation
    /// Dropping the future tries again at once; the next wait is as long as this one would have been.
    pub async fn wait(&mut self, what: &'static str, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionAborted {
            return;
        }
        tracing::warn!(%error, what, "cannot accept connections for a moment");
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(BACKOFF_MAX);
    }

    /// Whether this is the first failure in a row.
    pub fn is_first(&self) -> bool {
        self.0 == BACKOFF
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_a_second_and_a_lost_connection_costs_none() {
        let (mut backoff, started) = (Backoff::new(), tokio::time::Instant::now());
        backoff.wait("test", &io::ErrorKind::ConnectionAborted.into()).await;
        assert_eq!(started.elapsed(), Duration::ZERO);
        let full = io::Error::from_raw_os_error(24); // EMFILE
        let mut waits = Vec::new();
        for _ in 0..9 {
            let before = tokio::time::Instant::now();
            backoff.wait("test", &full).await;
            waits.push(before.elapsed().as_millis());
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert!(!backoff.is_first());
        backoff.reset();
        assert!(backoff.is_first());
    }
}
