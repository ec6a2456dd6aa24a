//! Counts password guesses by user and device, and says how long to wait.
//!
//! Never by user alone: that would let anyone with a certificate lock everyone else out. Every 5 failures in a row lock
//! the pair, for 30 seconds at first and twice as long each time, up to 15 minutes. It lives in memory: a restart
//! forgets it, which gains an attacker five tries.
//!
//! ```text
//!   begin ──▶ the guess counts as wrong ──succeeded──▶ the pair starts anew
//!                                       └─withdraw──▶ it was never made
//! ```
//! A guess counts before it is judged, so that guesses made at once cannot pass a lock that the first of them earns.

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

/// Why a guess may not be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Too many were wrong: for so long.
    Locked(Duration),
    /// As many as may fail are being judged.
    Judging,
}

struct Pair {
    /// In a row, those that are being judged included.
    failures: u32,
    judging: u32,
    last_failure: Instant,
    locked_until: Instant,
}

impl Lockout {
    /// Begins a guess; to be followed by one of the three other calls.
    ///
    /// # Errors
    /// If the pair is locked, or would be if all guesses that are being judged are wrong.
    pub fn begin(&mut self, user: &UserName, device: DeviceId, now: Instant) -> Result<(), Blocked> {
        self.pairs
            .retain(|_, pair| pair.judging > 0 || now.saturating_duration_since(pair.last_failure) < FORGET_AFTER);
        let key = (user.clone(), device);
        if self.pairs.len() >= PAIRS_MAX && !self.pairs.contains_key(&key) {
            self.forget_oldest();
        }
        let new = Pair { failures: 0, judging: 0, last_failure: now, locked_until: now };
        let pair = self.pairs.entry(key).or_insert(new);
        let wait = pair.locked_until.saturating_duration_since(now);
        if !wait.is_zero() {
            return Err(Blocked::Locked(wait));
        }
        if pair.judging > 0 && pair.failures.is_multiple_of(FAILURES_MAX) {
            return Err(Blocked::Judging);
        }
        pair.failures += 1;
        pair.judging += 1;
        pair.last_failure = now;
        Ok(())
    }

    /// It was wrong, or nobody waited for the verdict.
    pub fn failed(&mut self, user: &UserName, device: DeviceId, now: Instant) {
        let Some(pair) = self.judged(user, device) else { return };
        let wrong = pair.failures.saturating_sub(pair.judging);
        if wrong > 0 && wrong.is_multiple_of(FAILURES_MAX) {
            let doublings = (wrong / FAILURES_MAX - 1).min(16);
            pair.locked_until = now + (LOCK_FIRST * 2u32.pow(doublings)).min(LOCK_LONGEST);
        }
    }

    /// It was right: the pair starts anew, but for the guesses that are still being judged.
    pub fn succeeded(&mut self, user: &UserName, device: DeviceId) {
        let Some(pair) = self.judged(user, device) else { return };
        pair.failures = pair.judging;
        if pair.judging == 0 {
            self.pairs.remove(&(user.clone(), device));
        }
    }

    /// It was not judged after all.
    pub fn withdraw(&mut self, user: &UserName, device: DeviceId) {
        if let Some(pair) = self.judged(user, device) {
            pair.failures = pair.failures.saturating_sub(1);
            if pair.failures == 0 {
                self.pairs.remove(&(user.clone(), device));
            }
        }
    }

    fn judged(&mut self, user: &UserName, device: DeviceId) -> Option<&mut Pair> {
        let pair = self.pairs.get_mut(&(user.clone(), device))?;
        pair.judging = pair.judging.saturating_sub(1);
        Some(pair)
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
            lockout.begin(&ana(), device(1), now).unwrap();
            lockout.failed(&ana(), device(1), now);
        }
    }

    fn wait(lockout: &mut Lockout, now: Instant) -> Option<Duration> {
        match lockout.begin(&ana(), device(1), now) {
            Err(Blocked::Locked(wait)) => Some(wait),
            Err(Blocked::Judging) => panic!("nothing is being judged"),
            Ok(()) => {
                lockout.withdraw(&ana(), device(1));
                None
            }
        }
    }

    fn ana() -> UserName {
        "ana".parse().unwrap()
    }

    #[test]
    fn five_failures_lock_for_half_a_minute() {
        let (mut lockout, now) = (Lockout::default(), Instant::now());
        fail(&mut lockout, 4, now);
        assert_eq!(wait(&mut lockout, now), None);
        fail(&mut lockout, 1, now);
        assert_eq!(wait(&mut lockout, now), Some(LOCK_FIRST));
        assert_eq!(wait(&mut lockout, now + LOCK_FIRST), None);
    }

    #[test]
    fn each_lock_is_twice_as_long_up_to_a_quarter_of_an_hour() {
        let (mut lockout, mut now) = (Lockout::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..7 {
            fail(&mut lockout, FAILURES_MAX, now);
            let wait = wait(&mut lockout, now).unwrap();
            waits.push(wait.as_secs());
            now += wait;
        }
        assert_eq!(waits, [30, 60, 120, 240, 480, 900, 900]);
    }

    #[test]
    fn of_a_hundred_guesses_at_once_five_are_judged() {
        let (mut lockout, now) = (Lockout::default(), Instant::now());
        let begun = (0..100).filter(|_| lockout.begin(&ana(), device(1), now).is_ok()).count();
        assert_eq!(begun, 5);
        assert_eq!(lockout.begin(&ana(), device(1), now), Err(Blocked::Judging));
        for _ in 0..5 {
            lockout.failed(&ana(), device(1), now);
        }
        assert_eq!(lockout.begin(&ana(), device(1), now), Err(Blocked::Locked(LOCK_FIRST)));
        // The next five earn the next lock.
        let later = now + LOCK_FIRST;
        fail(&mut lockout, 5, later);
        assert_eq!(lockout.begin(&ana(), device(1), later), Err(Blocked::Locked(2 * LOCK_FIRST)));
    }

    #[test]
    fn a_right_password_does_not_free_the_guesses_beside_it() {
        let (mut lockout, now) = (Lockout::default(), Instant::now());
        for _ in 0..5 {
            lockout.begin(&ana(), device(1), now).unwrap();
        }
        lockout.succeeded(&ana(), device(1));
        let begun = (0..100).filter(|_| lockout.begin(&ana(), device(1), now).is_ok()).count();
        assert_eq!(begun, 1);
    }

    #[test]
    fn a_guess_that_was_not_judged_was_not_made() {
        let (mut lockout, now) = (Lockout::default(), Instant::now());
        for _ in 0..100 {
            lockout.begin(&ana(), device(1), now).unwrap();
            lockout.withdraw(&ana(), device(1));
        }
        fail(&mut lockout, 4, now);
        assert_eq!(wait(&mut lockout, now), None);
    }

    #[test]
    fn a_locked_device_locks_no_other_device_of_the_user() {
        let (mut lockout, now) = (Lockout::default(), Instant::now());
        fail(&mut lockout, FAILURES_MAX, now);
        assert_eq!(lockout.begin(&ana(), device(2), now), Ok(()));
    }

    #[test]
    fn the_right_password_or_a_quiet_day_starts_anew() {
        let (mut lockout, now) = (Lockout::default(), Instant::now());
        fail(&mut lockout, 4, now);
        lockout.begin(&ana(), device(1), now).unwrap();
        lockout.succeeded(&ana(), device(1));
        fail(&mut lockout, 4, now);
        fail(&mut lockout, 4, now + FORGET_AFTER);
        assert_eq!(wait(&mut lockout, now + FORGET_AFTER), None);
    }

    #[test]
    fn the_table_is_bounded_and_the_oldest_goes_first() {
        let (mut lockout, now) = (Lockout::default(), Instant::now());
        fail(&mut lockout, FAILURES_MAX, now);
        for n in 0..PAIRS_MAX as u16 {
            let (bob, later) = ("bob".parse().unwrap(), now + Duration::from_secs(1));
            lockout.begin(&bob, device(n), later).unwrap();
            lockout.failed(&bob, device(n), later);
        }
        assert_eq!(lockout.pairs.len(), PAIRS_MAX);
        assert_eq!(wait(&mut lockout, now), None);
    }
}
