//! Cheap frames that cost us work: allowed as often as an honest peer needs them, and no more.

use std::time::{Duration, Instant};

use crate::proto::ProtocolError;

/// Streams reset before we answered: a program that dials and gives up; in a burst, and each second.
const RESETS: (u32, u32) = (1000, 100);
/// PINGs: one every ten seconds is usual, one every 50 ms the most that a test needs.
const PINGS: (u32, u32) = (100, 20);
/// DATA frames with neither bytes nor flags: nobody needs them.
const EMPTY: (u32, u32) = (100, 10);

pub(super) struct Floods {
    resets: Bucket,
    pings: Bucket,
    empty: Bucket,
}

impl Floods {
    pub(super) fn new(now: Instant) -> Self {
        Self { resets: Bucket::new(RESETS, now), pings: Bucket::new(PINGS, now), empty: Bucket::new(EMPTY, now) }
    }

    pub(super) fn count_reset(&mut self, now: Instant) -> Result<(), ProtocolError> {
        self.resets.take(now).then_some(()).ok_or(ProtocolError::ResetFlood)
    }

    pub(super) fn count_ping(&mut self, now: Instant) -> Result<(), ProtocolError> {
        self.pings.take(now).then_some(()).ok_or(ProtocolError::PingFlood)
    }

    pub(super) fn count_empty(&mut self, now: Instant) -> Result<(), ProtocolError> {
        self.empty.take(now).then_some(()).ok_or(ProtocolError::EmptyFlood)
    }
}

/// A token bucket.
struct Bucket {
    burst: u32,
    per_second: u32,
    tokens: u32,
    filled: Instant,
}

impl Bucket {
    fn new((burst, per_second): (u32, u32), now: Instant) -> Self {
        Self { burst, per_second, tokens: burst, filled: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.filled);
        let earned = u32::try_from(elapsed.as_millis() * u128::from(self.per_second) / 1000).unwrap_or(u32::MAX);
        if earned > 0 {
            self.tokens = self.tokens.saturating_add(earned).min(self.burst);
            self.filled += Duration::from_millis(u64::from(earned) * 1000 / u64::from(self.per_second.max(1)));
        }
        let left = self.tokens.checked_sub(1);
        self.tokens = left.unwrap_or(0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_a_flood_does_not_and_time_mends_it() {
        let now = Instant::now();
        let mut bucket = Bucket::new((10, 100), now);
        assert_eq!((0..20).filter(|_| bucket.take(now)).count(), 10);
        assert!(bucket.take(now + Duration::from_millis(10)));
        assert!(!bucket.take(now + Duration::from_millis(10)));
        let later = now + Duration::from_secs(3600);
        assert_eq!((0..20).filter(|_| bucket.take(later)).count(), 10);
    }
}
