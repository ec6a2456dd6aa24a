//! What a source has done lately, as OpenSSH's `PerSourcePenalties` keeps it.
//!
//! Each offence adds time to its source. The time runs off by itself, and bites only once there is enough of it: one
//! slip of a finger closes no door. A connection that resets, or one that ends after its certificate was verified, is no
//! offence.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use super::Source;

/// What is held against a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lend) enum Offence {
    /// A wrong certificate, password, ticket or join proof.
    Proof,
    /// A handshake, login or join that was begun and not ended in time.
    Deadline,
    /// Bytes that are no TLS, or frames that are none of ours.
    Protocol,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proof => "it came with a wrong certificate, password, ticket or join line",
            Self::Deadline => "it began a handshake, login or join and did not end it in time",
            Self::Protocol => "it sent what is no TLS, or no message of capuchin",
        })
    }
}

impl Offence {
    /// OpenSSH's 5 s for a failed authentication and 10 s for an exceeded time; who speaks garbage is no better.
    fn penalty(self) -> Duration {
        match self {
            Self::Proof => Duration::from_secs(5),
            Self::Deadline | Self::Protocol => Duration::from_secs(10),
        }
    }
}

/// Less than this does not bite: two deadlines do, or the fourth wrong password within a few seconds.
const PENALTY_MIN: Duration = Duration::from_secs(15);
/// A source is never closed out for longer without a new offence.
const PENALTY_MAX: Duration = Duration::from_secs(600);
/// Sources remembered, about 1 MiB: beyond it the one whose penalty ends first is let off.
const SOURCES_MAX: usize = 16 * 1024;

/// Penalties that have not run off.
#[derive(Default)]
pub(super) struct Penalties {
    sources: HashMap<Source, Penalty>,
}

struct Penalty {
    until: Instant,
    /// Set once there was enough of it; holds until it has run off.
    bites: bool,
}

impl Penalties {
    /// Whether connections of this source are closed now.
    pub(super) fn bite(&self, source: Source, now: Instant) -> bool {
        self.sources.get(&source).is_some_and(|penalty| penalty.bites && now < penalty.until)
    }

    /// Notes an offence. Gives how long the source is closed out, if this is when that begins.
    pub(super) fn blame(&mut self, source: Source, offence: Offence, now: Instant) -> Option<Duration> {
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&source) {
            self.make_room(now);
        }
        let penalty = self.sources.entry(source).or_insert(Penalty { until: now, bites: false });
        if penalty.until <= now {
            *penalty = Penalty { until: now, bites: false };
        }
        penalty.until = (penalty.until + offence.penalty()).min(now + PENALTY_MAX);
        let left = penalty.until.saturating_duration_since(now);
        let begins = !penalty.bites && left >= PENALTY_MIN;
        penalty.bites |= begins;
        begins.then_some(left)
    }

    fn make_room(&mut self, now: Instant) {
        self.sources.retain(|_, penalty| now < penalty.until);
        if self.sources.len() >= SOURCES_MAX
            && let Some(first) = self.sources.iter().min_by_key(|(_, penalty)| penalty.until).map(|(source, _)| *source)
        {
            self.sources.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn source(number: u32) -> Source {
        Source::from(IpAddr::from(Ipv4Addr::from_bits(number)))
    }

    #[test]
    fn one_slip_is_free_and_the_third_wrong_proof_bites_until_it_has_run_off() {
        let (mut penalties, now) = (Penalties::default(), Instant::now());
        assert_eq!(penalties.blame(source(1), Offence::Proof, now), None);
        assert_eq!(penalties.blame(source(1), Offence::Proof, now), None);
        assert!(!penalties.bite(source(1), now));
        assert_eq!(penalties.blame(source(1), Offence::Proof, now), Some(Duration::from_secs(15)));
        // Told once, however much is added.
        assert_eq!(penalties.blame(source(1), Offence::Deadline, now), None);
        assert!(penalties.bite(source(1), now + Duration::from_secs(24)));
        assert!(!penalties.bite(source(1), now + Duration::from_secs(25)));
        assert!(!penalties.bite(source(2), now), "nobody else pays");
    }

    #[test]
    fn what_has_run_off_is_forgotten() {
        let (mut penalties, now) = (Penalties::default(), Instant::now());
        penalties.blame(source(1), Offence::Deadline, now);
        let later = now + Duration::from_secs(10);
        assert_eq!(penalties.blame(source(1), Offence::Deadline, later), None);
        assert!(!penalties.bite(source(1), later));
    }

    #[test]
    fn no_source_is_closed_out_for_more_than_ten_minutes() {
        let (mut penalties, now) = (Penalties::default(), Instant::now());
        for _ in 0..1000 {
            penalties.blame(source(1), Offence::Protocol, now);
        }
        assert!(penalties.bite(source(1), now + PENALTY_MAX - Duration::from_secs(1)));
        assert!(!penalties.bite(source(1), now + PENALTY_MAX));
    }

    #[test]
    fn the_table_is_bounded_and_who_is_let_off_first_makes_room() {
        let (mut penalties, now) = (Penalties::default(), Instant::now());
        penalties.blame(source(0), Offence::Proof, now);
        for number in 1..=SOURCES_MAX as u32 {
            penalties.blame(source(number), Offence::Protocol, now);
        }
        assert_eq!(penalties.sources.len(), SOURCES_MAX);
        assert!(!penalties.sources.contains_key(&source(0)));
    }
}
