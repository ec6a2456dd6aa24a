//! What a relay has moved, for whoever wants to see it while it runs, and how fast it may.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// What may pass at once after a pause, as time at the full rate: a tenth of a second is not felt, and keeps batches
/// whole.
const BURST: Duration = Duration::from_millis(100);

/// Counts a relay's bytes, and slows it where a limit says so.
#[derive(Debug, Default)]
pub struct Meter {
    to_stream: AtomicU64,
    from_stream: AtomicU64,
    is_finished: AtomicBool,
    /// The peer ended its half before all of ours was in the stream.
    peer_ended_first: AtomicBool,
    pace: Option<Arc<Pace>>,
}

impl Meter {
    /// A meter that keeps to `pace`, which others may share.
    pub fn paced(pace: Option<Arc<Pace>>) -> Self {
        Self { pace, ..Self::default() }
    }

    /// From the socket into the stream so far, in bytes.
    pub fn to_stream(&self) -> u64 {
        self.to_stream.load(Ordering::Relaxed)
    }

    /// From the stream into the socket so far, in bytes.
    pub fn from_stream(&self) -> u64 {
        self.from_stream.load(Ordering::Relaxed)
    }

    /// Whether the socket has ended in good order, and all of its bytes are in the stream.
    pub fn is_finished(&self) -> bool {
        self.is_finished.load(Ordering::Acquire)
    }

    /// Notes that nothing more goes into the stream.
    pub fn finish(&self) {
        self.is_finished.store(true, Ordering::Release);
    }

    /// Whether the peer had ended its own half before ours: nothing that comes back on this stream tells that ours, or its end, has
    /// arrived.
    pub fn is_unconfirmed(&self) -> bool {
        self.peer_ended_first.load(Ordering::Acquire)
    }

    /// Notes that nothing more comes out of the stream.
    pub fn end_of_stream(&self) {
        if !self.is_finished() {
            self.peer_ended_first.store(true, Ordering::Release);
        }
    }

    /// Counts bytes that went into the stream.
    pub fn went_to_stream(&self, bytes: usize) {
        self.to_stream.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes that came out of the stream.
    pub fn went_from_stream(&self, bytes: usize) {
        self.from_stream.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Waits until so many bytes may pass.
    pub async fn keep_pace(&self, bytes: usize) {
        if let Some(pace) = &self.pace {
            pace.pass(bytes).await;
        }
    }
}

/// A rate that everybody who shares it keeps to together; it may be changed at any time. The default has no bound.
#[derive(Debug)]
pub struct Pace {
    /// 0: as fast as it goes.
    bytes_per_second: AtomicU64,
    /// When all that has passed would have passed at the full rate.
    paid_until: Mutex<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { bytes_per_second: AtomicU64::new(0), paid_until: Mutex::new(Instant::now()) }
    }
}

impl Pace {
    /// From now on so many bytes a second, at least one; `None`: as fast as it goes. Who waits already waits on.
    pub fn set(&self, bytes_per_second: Option<u64>) {
        self.bytes_per_second.store(bytes_per_second.map_or(0, |rate| rate.max(1)), Ordering::Relaxed);
    }

    /// Whether what has passed would not have passed yet at the full rate.
    pub fn is_behind(&self) -> bool {
        *self.paid_until.lock().unwrap_or_else(PoisonError::into_inner) > Instant::now()
    }

    /// Accounts for bytes, and waits for as long as they would be too fast.
    ///
    /// # Cancellation
    /// They are accounted for all the same.
    async fn pass(&self, bytes: usize) {
        let rate = self.bytes_per_second.load(Ordering::Relaxed);
        if rate == 0 {
            return;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let paid_until = {
            let mut paid_until = self.paid_until.lock().unwrap_or_else(PoisonError::into_inner);
            *paid_until = (*paid_until).max(Instant::now()) + cost;
            *paid_until
        };
        if let Some(until) = paid_until.checked_sub(BURST) {
            tokio::time::sleep_until(until).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_confirmed_by_an_end_of_the_peers_that_comes_behind_ours() {
        let (first, second, silent) = (Meter::default(), Meter::default(), Meter::default());
        first.went_to_stream(10);
        first.end_of_stream();
        first.finish();
        assert!(first.is_unconfirmed());
        second.went_to_stream(10);
        second.finish();
        second.end_of_stream();
        assert!(!second.is_unconfirmed());
        silent.end_of_stream();
        silent.finish();
        assert!(silent.is_unconfirmed(), "its end was sent");
    }

    #[tokio::test(start_paused = true)]
    async fn two_who_share_a_pace_have_it_together() {
        let pace = Arc::new(Pace::default());
        pace.set(Some(1_000_000));
        let began = Instant::now();
        let relay = |pace: Arc<Pace>| async move {
            let meter = Meter::paced(Some(pace));
            for _ in 0..10 {
                meter.keep_pace(50_000).await;
                meter.went_to_stream(50_000);
                meter.keep_pace(50_000).await;
                meter.went_from_stream(50_000);
            }
            meter.to_stream() + meter.from_stream()
        };
        let (one, two) = tokio::join!(relay(pace.clone()), relay(pace));
        assert_eq!((one, two), (1_000_000, 1_000_000));
        let took = began.elapsed();
        assert!((Duration::from_millis(1890)..Duration::from_millis(2010)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pace_that_changes_holds_for_those_who_share_it() {
        let pace = Arc::new(Pace::default());
        let (meter, began) = (Meter::paced(Some(pace.clone())), Instant::now());
        meter.keep_pace(usize::MAX >> 8).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "without a bound");
        pace.set(Some(1_000_000));
        meter.keep_pace(1_100_000).await;
        assert_eq!(began.elapsed().as_millis(), 1000);
        pace.set(None);
        meter.keep_pace(usize::MAX >> 8).await;
        assert_eq!(began.elapsed().as_millis(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_pace_nothing_waits() {
        let (meter, began) = (Meter::default(), Instant::now());
        meter.keep_pace(usize::MAX >> 8).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
