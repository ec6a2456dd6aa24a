//! Credit for the bytes that a peer may send: small at first, grown to what the path carries.
//!
//! A window of the bandwidth-delay product keeps a path full; more than that leaves room to find out that it could carry
//! more: twice as much, and four times where each step takes a round trip that is felt. The rate is what the reader really took, measured over at least one round trip, so a reader that stalls is
//! never granted more. Growth comes out of one pool per session, which bounds what a peer can make us hold.

use std::time::{Duration, Instant};

/// Largest window of one stream, in bytes: 1 Gbit/s at 128 ms.
pub const CREDIT_MAX: u32 = 16 * 1024 * 1024;
/// All growth of one session together, in bytes.
pub const POOL_BYTES: u32 = 64 * 1024 * 1024;

/// Credit returns in parts of the window: early enough that the sender need not stop, rarely enough to cost nothing.
const RETURN_PARTS: u32 = 4;
/// Shortest round trip that a window is made for: below it the scheduler, not the path, sets the pace, and credit that
/// returns in small parts wakes the sender for each.
const ROUND_TRIP_MIN: Duration = Duration::from_millis(2);

/// From here on a path is long, and its window is found in half as many steps.
const LONG_ROUND_TRIP: Duration = Duration::from_millis(10);

/// How many times the bytes of a round trip may be on their way.
pub(super) fn growth(round_trip: Duration) -> u32 {
    if round_trip < LONG_ROUND_TRIP { 2 } else { 4 }
}

/// What is left of the session's growth.
pub(super) struct CreditPool {
    left: u32,
}

impl CreditPool {
    pub(super) fn new() -> Self {
        Self { left: POOL_BYTES }
    }

    fn take(&mut self, wanted: u32) -> u32 {
        let taken = wanted.min(self.left);
        self.left -= taken;
        taken
    }

    fn give_back(&mut self, bytes: u32) {
        self.left = self.left.saturating_add(bytes).min(POOL_BYTES);
    }
}

/// The credit that this end gives one stream.
pub(super) struct Window {
    /// Unread and in flight may be so much together.
    size: u32,
    /// Part of `size` that came out of the pool.
    borrowed: u32,
    /// What the peer may still send.
    left: u32,
    /// Read by the application, not yet handed back.
    returnable: u32,
    /// Since when `epoch_bytes` counts; `None` before the first read.
    epoch: Option<Instant>,
    epoch_bytes: u64,
}

impl Window {
    pub(super) fn new(size: u32) -> Self {
        Self { size, borrowed: 0, left: size, returnable: 0, epoch: None, epoch_bytes: 0 }
    }

    /// What the peer may still send, in bytes.
    pub(super) fn left(&self) -> u32 {
        self.left
    }

    /// Counts bytes from the peer. `false`: it had no credit for them.
    pub(super) fn spend(&mut self, bytes: usize) -> bool {
        let left = u32::try_from(bytes).ok().and_then(|bytes| self.left.checked_sub(bytes));
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }

    /// Counts bytes that were read; gives the credit to send back, when there is enough to be worth a frame.
    pub(super) fn consume(
        &mut self,
        now: Instant,
        bytes: usize,
        round_trip: Option<Duration>,
        pool: &mut CreditPool,
    ) -> Option<u32> {
        self.returnable = self.returnable.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.epoch_bytes += bytes as u64;
        if self.returnable < self.size / RETURN_PARTS {
            return None;
        }
        let grown = self.grow(now, round_trip, pool);
        let credit = self.returnable + grown;
        self.returnable = 0;
        self.left = self.left.saturating_add(credit);
        Some(credit)
    }

    fn grow(&mut self, now: Instant, round_trip: Option<Duration>, pool: &mut CreditPool) -> u32 {
        let round_trip = round_trip.unwrap_or_default().max(ROUND_TRIP_MIN);
        let began = *self.epoch.get_or_insert(now);
        let elapsed = now.saturating_duration_since(began);
        // A whole window, or two round trips of a reader that does not take one: what comes in bursts would else be measured
        // from the middle of one to the beginning of the next.
        let is_measured = self.epoch_bytes >= u64::from(self.size) || elapsed >= 2 * round_trip;
        if elapsed < round_trip || !is_measured {
            return 0;
        }
        let product = u128::from(self.epoch_bytes) * round_trip.as_nanos() / elapsed.as_nanos().max(1);
        (self.epoch, self.epoch_bytes) = (Some(now), 0);
        let target = u32::try_from(u128::from(growth(round_trip)) * product).unwrap_or(u32::MAX).min(CREDIT_MAX);
        let grown = pool.take(target.saturating_sub(self.size));
        self.size += grown;
        self.borrowed += grown;
        grown
    }

    /// The stream is over: its share of the pool goes to others.
    pub(super) fn release(&mut self, pool: &mut CreditPool) {
        pool.give_back(std::mem::take(&mut self.borrowed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(50);

    /// Reads a whole window every round trip, `trips` times, as a fast reader behind a long path does.
    fn drive(window: &mut Window, pool: &mut CreditPool, now: &mut Instant, trips: u32) {
        for _ in 0..trips {
            let mut unread = window.left();
            assert!(window.spend(unread as usize));
            *now += ROUND_TRIP;
            while unread > 0 {
                let piece = unread.min(16 * 1024);
                window.consume(*now, piece as usize, Some(ROUND_TRIP), pool);
                unread -= piece;
            }
        }
    }

    #[test]
    fn a_fast_reader_behind_a_long_path_reaches_the_largest_window() {
        let (mut window, mut pool, mut now) = (Window::new(64 * 1024), CreditPool::new(), Instant::now());
        drive(&mut window, &mut pool, &mut now, 20);
        assert_eq!(window.size, CREDIT_MAX);
        assert_eq!(pool.left, POOL_BYTES - (CREDIT_MAX - 64 * 1024));
        window.release(&mut pool);
        assert_eq!(pool.left, POOL_BYTES);
    }

    /// 6 MiB are 1 Gbit/s at 50 ms; the first round trip measures.
    #[test]
    fn a_long_path_is_full_after_four_round_trips() {
        let (mut window, mut pool, mut now) = (Window::new(64 * 1024), CreditPool::new(), Instant::now());
        drive(&mut window, &mut pool, &mut now, 5);
        assert!(window.size >= 6 * 1024 * 1024, "{}", window.size);
    }

    #[test]
    fn the_pool_bounds_all_windows_together() {
        let (mut pool, now) = (CreditPool::new(), Instant::now());
        let mut windows: Vec<_> = (0..16).map(|_| Window::new(64 * 1024)).collect();
        for window in &mut windows {
            drive(window, &mut pool, &mut now.clone(), 20);
        }
        let sum: u64 = windows.iter().map(|window| u64::from(window.size)).sum();
        assert_eq!(sum, u64::from(POOL_BYTES) + 16 * 64 * 1024);
    }

    #[test]
    fn a_slow_reader_is_never_granted_more() {
        let (mut window, mut pool, mut now) = (Window::new(64 * 1024), CreditPool::new(), Instant::now());
        for _ in 0..1000 {
            now += Duration::from_secs(1);
            assert!(window.spend(1024));
            window.consume(now, 1024, Some(ROUND_TRIP), &mut pool);
        }
        assert_eq!(window.size, 64 * 1024);
    }

    #[test]
    fn credit_comes_back_every_quarter_of_the_window() {
        let (mut window, mut pool, now) = (Window::new(64 * 1024), CreditPool::new(), Instant::now());
        assert!(window.spend(64 * 1024) && !window.spend(1));
        assert_eq!(window.consume(now, 16 * 1024 - 1, None, &mut pool), None);
        assert_eq!(window.consume(now, 1, None, &mut pool), Some(16 * 1024));
        assert_eq!(window.left(), 16 * 1024);
    }
}
