//! PING and PONG: finds a dead peer, and measures the round trip.

use std::time::{Duration, Instant};

use crate::proto::ProtocolError;

/// How often the peer is asked, by default.
pub const PING_PERIOD: Duration = Duration::from_secs(10);
/// A peer that was silent through so many periods after a PING is given up, or at least not asked again until it is heard.
pub const MISSES_MAX: u8 = 2;
/// PONGs that wait to be sent; an honest peer waits for one before it asks again.
const PONGS_OWED_MAX: usize = 8;
/// How long a measured round trip counts: paths change.
const ROUND_TRIP_LIFE: Duration = Duration::from_secs(60);

pub(super) struct KeepAlive {
    period: Duration,
    due: Instant,
    heard: bool,
    misses: u8,
    /// The number of the last PING and when it went, until its PONG comes.
    unanswered: Option<(u64, Instant)>,
    pings: u64,
    pongs_owed: Vec<u64>,
    ping_wanted: bool,
    round_trip: Option<(Duration, Instant)>,
}

impl KeepAlive {
    /// The first PING goes out at once: it gives the round trip that credit grows by.
    pub(super) fn new(now: Instant, period: Duration) -> Self {
        Self {
            period,
            due: now + period,
            heard: true,
            misses: 0,
            unanswered: None,
            pings: 0,
            pongs_owed: Vec::new(),
            ping_wanted: true,
            round_trip: None,
        }
    }

    /// Anything from the peer shows that it lives.
    pub(super) fn handle_frame(&mut self) {
        self.heard = true;
    }

    pub(super) fn handle_ping(&mut self, number: u64) {
        // Of a peer that asks and reads nothing: the oldest answers say the least.
        if self.pongs_owed.len() >= PONGS_OWED_MAX {
            self.pongs_owed.remove(0);
        }
        self.pongs_owed.push(number);
    }

    pub(super) fn handle_pong(&mut self, now: Instant, number: u64) -> Result<(), ProtocolError> {
        if number >= self.pings {
            return Err(ProtocolError::StrayPong);
        }
        if let Some((_, sent)) = self.unanswered.take_if(|(ping, _)| *ping == number) {
            let measured = now.saturating_duration_since(sent);
            let old = self.round_trip.filter(|(_, at)| now.saturating_duration_since(*at) < ROUND_TRIP_LIFE);
            if old.is_none_or(|(shortest, _)| measured <= shortest) {
                self.round_trip = Some((measured, now));
            }
        }
        Ok(())
    }

    /// `false`: the peer is dead, by all that can be heard of it; and again after each period in which that stays so.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        if now < self.due {
            return true;
        }
        self.misses = if std::mem::take(&mut self.heard) { 0 } else { self.misses.saturating_add(1) };
        self.due = now + self.period;
        // A peer that comes to itself finds few questions: many would look like a flood.
        self.ping_wanted = self.misses < MISSES_MAX;
        self.ping_wanted
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        self.due
    }

    pub(super) fn poll_ping(&mut self, now: Instant) -> Option<u64> {
        if !std::mem::take(&mut self.ping_wanted) {
            return None;
        }
        let number = self.pings;
        self.pings += 1;
        self.unanswered = Some((number, now));
        Some(number)
    }

    pub(super) fn poll_pong(&mut self) -> Option<u64> {
        self.pongs_owed.pop()
    }

    pub(super) fn min_round_trip(&self) -> Option<Duration> {
        self.round_trip.map(|(shortest, _)| shortest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_asks_and_does_not_read_is_owed_the_latest_answers_only() {
        let mut owing = KeepAlive::new(Instant::now(), Duration::from_secs(10));
        (0..1000).for_each(|number| owing.handle_ping(number));
        let owed: Vec<_> = std::iter::from_fn(|| owing.poll_pong()).collect();
        assert_eq!(owed, (992..1000).rev().collect::<Vec<_>>());
    }

    #[test]
    fn a_silent_peer_is_given_up_after_two_periods_and_a_heard_one_never() {
        let (t0, period) = (Instant::now(), Duration::from_secs(10));
        let mut alive = KeepAlive::new(t0, period);
        assert!(alive.handle_timeout(t0 + period), "the session's own start counts as heard");
        assert!(alive.handle_timeout(t0 + period * 2));
        alive.handle_frame();
        assert!(alive.handle_timeout(t0 + period * 3));
        assert!(alive.handle_timeout(t0 + period * 4));
        assert!(!alive.handle_timeout(t0 + period * 5));
    }

    #[test]
    fn a_peer_that_comes_to_itself_finds_few_pings_and_is_asked_again() {
        let (t0, period) = (Instant::now(), Duration::from_secs(10));
        let mut silent = KeepAlive::new(t0, period);
        let mut sent = 0;
        for periods in 1..1000 {
            sent += usize::from(silent.poll_ping(t0 + period * periods).is_some());
            assert_eq!(silent.handle_timeout(t0 + period * periods), periods <= u32::from(MISSES_MAX));
        }
        assert_eq!(sent, 1 + usize::from(MISSES_MAX));
        silent.handle_frame();
        assert!(silent.handle_timeout(t0 + period * 1000));
        assert!(silent.poll_ping(t0 + period * 1000).is_some());
    }

    #[test]
    fn the_shortest_round_trip_counts_until_it_is_old() {
        let (t0, ms) = (Instant::now(), Duration::from_millis);
        let mut alive = KeepAlive::new(t0, Duration::from_secs(10));
        let mut measure = |at: Instant, took| {
            alive.ping_wanted = true;
            let number = alive.poll_ping(at).unwrap();
            alive.handle_pong(at + took, number).unwrap();
            alive.min_round_trip().unwrap()
        };
        assert_eq!(measure(t0, ms(5)), ms(5));
        assert_eq!(measure(t0 + ms(1000), ms(9)), ms(5));
        assert_eq!(measure(t0 + ms(2000), ms(2)), ms(2));
        assert_eq!(measure(t0 + ms(70_000), ms(9)), ms(9));
        assert_eq!(alive.handle_pong(t0, 99), Err(ProtocolError::StrayPong));
    }
}
