//! Counts wrong passwords by user and device, and says how long to wait.
//!
//! Never by user alone: that would let anyone with a certificate lock everyone else out. Every 5 failures in a row lock
//! the pair, for 30 seconds at first and twice as long each time, up to 15 minutes. It lives in memory: a restart
//! forgets it, which gains an attacker five tries.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::proto::{DeviceId, UserName};

/// Failures that lock.
pub const FAILURES_MAX: u32 = 5;
/// First wait.
pub const LOCK_FIRST: Duration = Duration::from_secs(30);
/// Longest wait.
pub const LOCK_LONGEST: Duration = Duration::from_secs(15 * 60);
/// A pair that failed no more for this long starts anew.
pub const FORGET_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Most pairs remembered. Each needs a certificate of ours, so a full table means someone invited thousands.
pub const PAIRS_MAX: usize = 4096;

/// Who is locked out, and until when.
#[derive(Default)]
pub struct Lockout {
    pairs: HashMap<(UserName, DeviceId), Pair>,
}

struct Pair {
    failures: u32,
    last_failure: Instant,
    locked_until: Instant,
}

impl Lockout {
    /// How long this pair must still wait; `None` if it may try.
    pub fn wait(&self, user: &UserName, device: DeviceId, now: Instant) -> Option<Duration> {
        let pair = self.pairs.get(&(user.clone(), device))?;
        pair.locked_until.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// Notes a wrong password.
    pub fn failed(&mut self, user: &UserName, device: DeviceId, now: Instant) {
        self.pairs.retain(|_, pair| now.saturating_duration_since(pair.last_failure) < FORGET_AFTER);
        let key = (user.clone(), device);
        if self.pairs.len() >= PAIRS_MAX && !self.pairs.contains_key(&key) {
            self.forget_oldest();
        }
        let pair = self.pairs.entry(key).or_insert(Pair { failures: 0, last_failure: now, locked_until: now });
        pair.failures += 1;
        pair.last_failure = now;
        if pair.failures.is_multiple_of(FAILURES_MAX) {
            let doublings = (pair.failures / FAILURES_MAX - 1).min(16);
            pair.locked_until = now + (LOCK_FIRST * 2u32.pow(doublings)).min(LOCK_LONGEST);
        }
    }

    /// Notes a right password.
    pub fn succeeded(&mut self, user: &UserName, device: DeviceId) {
        self.pairs.remove(&(user.clone(), device));
    }

    fn forget_oldest(&mut self) {
        let oldest = self.pairs.iter().min_by_key(|(_, pair)| pair.last_failure).map(|(key, _)| key.clone());
        if let Some(key) = oldest {
            self.pairs.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(n: u16) -> DeviceId {
        let mut digest = [0; 32];
        digest[..2].copy_from_slice(&n.to_be_bytes());
        DeviceId::from_digest(&digest)
    }

    fn fail(lockout: &mut Lockout, times: u32, now: Instant) {
        for _ in 0..times {
            lockout.failed(&ana(), device(1), now);
        }
    }

    fn ana() -> UserName {
        "ana".parse().unwrap()
    }

    #[test]
    fn five_failures_lock_for_half_a_minute() {
        let (mut lockout, now) = (Lockout::default(), Instant::now());
        fail(&mut lockout, 4, now);
        assert_eq!(lockout.wait(&ana(), device(1), now), None);
        fail(&mut lockout, 1, now);
        assert_eq!(lockout.wait(&ana(), device(1), now), Some(LOCK_FIRST));
        assert_eq!(lockout.wait(&ana(), device(1), now + LOCK_FIRST), None);
    }

    #[test]
    fn each_lock_is_twice_as_long_up_to_a_quarter_of_an_hour() {
        let (mut lockout, mut now) = (Lockout::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..7 {
            fail(&mut lockout, FAILURES_MAX, now);
            let wait = lockout.wait(&ana(), device(1), now).unwrap();
            waits.push(wait.as_secs());
            now += wait;
        }
        assert_eq!(waits, [30, 60, 120, 240, 480, 900, 900]);
    }

    #[test]
    fn a_locked_device_locks_no_other_device_of_the_user() {
        let (mut lockout, now) = (Lockout::default(), Instant::now());
        fail(&mut lockout, FAILURES_MAX, now);
        assert_eq!(lockout.wait(&ana(), device(2), now), None);
    }

    #[test]
    fn the_right_password_or_a_quiet_day_starts_anew() {
        let (mut lockout, now) = (Lockout::default(), Instant::now());
        fail(&mut lockout, 4, now);
        lockout.succeeded(&ana(), device(1));
        fail(&mut lockout, 4, now);
        fail(&mut lockout, 4, now + FORGET_AFTER);
        assert_eq!(lockout.wait(&ana(), device(1), now + FORGET_AFTER), None);
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_goes_first() {
        let (mut lockout, now) = (Lockout::default(), Instant::now());
        fail(&mut lockout, FAILURES_MAX, now);
        for n in 0..PAIRS_MAX as u16 {
            lockout.failed(&"bob".parse().unwrap(), device(n), now + Duration::from_secs(1));
        }
        assert_eq!(lockout.pairs.len(), PAIRS_MAX);
        assert_eq!(lockout.wait(&ana(), device(1), now), None);
    }
}
