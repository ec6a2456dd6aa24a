//! How many bytes may be on their way, sent and not acknowledged: what the path holds, and no more.
//!
//! Each byte on its way is memory that is kept, and has been copied into. On a short path a sender that is faster than its
//! peer would fill megabytes of it, and of the kernel's; they leave the processor's cache between two uses, which costs more
//! than to encrypt them. So the limit begins at what a short path can use, and grows, while it is what stops the sender, to
//! a multiple of the rate that the peer acknowledges times the shortest round trip.

use std::time::{Duration, Instant};

use super::{
    keep::{ACK_BYTES, KEPT_BYTES_MAX},
    transmit::BATCH_BYTES,
    window::growth,
};

/// Smallest limit, in bytes: one ACK is on its way while the peer takes what is to cause the next, and a third part keeps the
/// sender from sleeping until then.
pub const FLIGHT_MIN: usize = 3 * ACK_BYTES;

/// Beyond the limit, in bytes, for streams that just became active: a keystroke does not wait for the ACK of a copy.
const SPARE_BYTES: usize = BATCH_BYTES;

/// Who may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    All,
    /// New streams, and those that just became active.
    Fresh,
    None,
}

pub(super) struct Flight {
    limit: usize,
    round: Option<Round>,
}

/// From a moment at which something is on its way until all of that is acknowledged. Bytes are counted from the session's
/// beginning.
struct Round {
    began: Instant,
    acked_before: u64,
    sent_by_then: u64,
    /// The limit stopped the sender.
    limited: bool,
}

impl Flight {
    pub(super) fn new() -> Self {
        Self { limit: FLIGHT_MIN, round: None }
    }

    /// Who may send behind `kept` bytes that are on their way.
    pub(super) fn room(&mut self, kept: usize) -> Room {
        if kept < self.limit {
            return Room::All;
        }
        if let Some(round) = &mut self.round {
            round.limited = true;
        }
        if kept < self.limit + SPARE_BYTES { Room::Fresh } else { Room::None }
    }

    /// Something was sent: of `sent` bytes so far, `acked` are acknowledged.
    pub(super) fn handle_sent(&mut self, now: Instant, sent: u64, acked: u64) {
        if sent > acked {
            let round = || Round { began: now, acked_before: acked, sent_by_then: sent, limited: false };
            self.round.get_or_insert_with(round);
        }
    }

    /// The peer has acknowledged `acked` bytes so far.
    pub(super) fn handle_ack(&mut self, now: Instant, acked: u64, round_trip: Option<Duration>) {
        let Some(round) = self.round.take_if(|round| round.sent_by_then <= acked) else { return };
        if let Some(round_trip) = round_trip.filter(|_| round.limited) {
            let (bytes, took) = (acked - round.acked_before, now.saturating_duration_since(round.began));
            let product = u128::from(bytes) * round_trip.as_nanos() / took.as_nanos().max(1);
            let target = usize::try_from(u128::from(growth(round_trip)) * product).unwrap_or(usize::MAX);
            // A pause of the peer's is no shorter path: what it took to find is not given up at once.
            self.limit = target.max(self.limit / 2).clamp(FLIGHT_MIN, KEPT_BYTES_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends as much as it may for `rounds` round trips over a path of `rate` bytes a second and says what the limit is then.
    fn drive(flight: &mut Flight, rounds: u32, round_trip: Duration, rate: u64) -> usize {
        let (mut now, mut sent, mut acked) = (Instant::now(), 0, 0);
        for _ in 0..rounds {
            while flight.room(usize::try_from(sent - acked).unwrap()) == Room::All {
                sent += 32 * 1024;
                flight.handle_sent(now, sent, acked);
            }
            let transfer = Duration::from_nanos((sent - acked) * 1_000_000_000 / rate);
            now += round_trip.max(transfer);
            acked = sent;
            flight.handle_ack(now, acked, Some(round_trip));
        }
        flight.limit
    }

    #[test]
    fn a_long_fast_path_is_full_after_few_round_trips_and_not_more_than_full() {
        let mut flight = Flight::new();
        let product = 125_000_000 / 20; // 1 Gbit/s at 50 ms
        assert!(drive(&mut flight, 4, Duration::from_millis(50), 125_000_000) >= 2 * product);
        assert!(drive(&mut flight, 20, Duration::from_millis(50), 125_000_000) <= 5 * product);
    }

    #[test]
    fn a_short_path_keeps_the_smallest_limit_however_fast_it_is() {
        let mut flight = Flight::new();
        assert_eq!(drive(&mut flight, 1000, Duration::from_micros(100), 2_000_000_000), FLIGHT_MIN);
    }

    #[test]
    fn no_path_is_longer_than_what_may_be_kept() {
        let mut flight = Flight::new();
        assert_eq!(drive(&mut flight, 20, Duration::from_secs(1), 1_000_000_000), KEPT_BYTES_MAX);
    }

    #[test]
    fn a_pause_halves_the_limit_and_no_more() {
        let mut flight = Flight::new();
        let full = drive(&mut flight, 20, Duration::from_millis(50), 125_000_000);
        let now = Instant::now();
        flight.handle_sent(now, full as u64, 0);
        assert_eq!(flight.room(full), Room::Fresh);
        assert_eq!(flight.room(full + SPARE_BYTES), Room::None);
        flight.handle_ack(now + Duration::from_secs(60), full as u64, Some(Duration::from_millis(50)));
        assert_eq!(flight.limit, full / 2);
    }

    #[test]
    fn a_sender_that_is_not_stopped_by_it_changes_nothing() {
        let mut flight = Flight::new();
        let full = drive(&mut flight, 20, Duration::from_millis(50), 125_000_000);
        let mut now = Instant::now();
        for sent in 1..1000 {
            flight.handle_sent(now, sent, sent - 1);
            assert_eq!(flight.room(1), Room::All);
            now += Duration::from_secs(1);
            flight.handle_ack(now, sent, Some(Duration::from_millis(50)));
        }
        assert_eq!(flight.limit, full);
    }
}
