//! Refused strangers in bounded lines: the first few of a source are lines of their own, the rest of a burst is one line
//! with a count.
//!
//! ```text
//!   refused ──▶ up to LINES_EACH in a window: a line each
//!          └──▶ more: counted; one line when the window ends, and the next window is twice as long
//! ```
//! Pure: time comes in. Whoever floods from one place costs a line a minute after the first, and all places together at
//! most [`SOURCES_MAX`] times that; the sources beyond share one count.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use super::event::Event;

/// Lines of one source in a window before it is counted: a person who tries again sees each attempt.
const LINES_EACH: u64 = 8;
/// The first window.
const WINDOW_FIRST: Duration = Duration::from_secs(1);
/// The longest.
const WINDOW_LONGEST: Duration = Duration::from_secs(64);
/// Sources that are told apart at a time: at 300 bytes a line a day of flood from all of them is 30 MiB.
const SOURCES_MAX: usize = 64;

/// The refusals of the last moments.
#[derive(Default)]
pub(super) struct Bursts {
    sources: HashMap<Source, Burst>,
}

/// An IPv4 address, or an IPv6 network of 64 bits, which one machine can have to itself; `None`: all others.
type Source = Option<IpAddr>;

struct Burst {
    until: Instant,
    window: Duration,
    lines: u64,
    /// The last that was not given a line, and how many there were.
    counted: Option<(u64, Event)>,
}

impl Bursts {
    /// Takes a refusal, and gives it back if it is to be a line now.
    pub(super) fn note(&mut self, from: IpAddr, event: Event, now: Instant) -> Option<Event> {
        let source = self.place_for(from, now);
        let limit = if source.is_some() { LINES_EACH } else { 0 };
        let new = || Burst { until: now + WINDOW_FIRST, window: WINDOW_FIRST, lines: 0, counted: None };
        let burst = self.sources.entry(source).or_insert_with(new);
        if burst.lines < limit {
            burst.lines += 1;
            return Some(event);
        }
        let count = burst.counted.take().map_or(0, |(count, _)| count);
        burst.counted = Some((count + 1, event));
        None
    }

    /// When the next count is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.sources.values().filter(|burst| burst.counted.is_some()).map(|burst| burst.until).min()
    }

    /// The counts that are due.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Vec<Event> {
        let mut due = Vec::new();
        for (source, burst) in &mut self.sources {
            if now < burst.until {
                continue;
            }
            if let Some((count, event)) = burst.counted.take() {
                burst.window = (burst.window * 2).min(WINDOW_LONGEST);
                burst.until = now + burst.window;
                let peer = if source.is_some() { event.peer } else { None };
                due.push(Event { count: Some(count), peer, ..event });
            }
        }
        due
    }

    /// All counts, due or not: the lender stops.
    pub(super) fn drain(&mut self) -> Vec<Event> {
        let last = self.sources.values().map(|burst| burst.until).max();
        last.map(|last| self.handle_timeout(last)).unwrap_or_default()
    }

    fn place_for(&mut self, from: IpAddr, now: Instant) -> Source {
        let source = Some(network(from));
        // Quiet for a whole window: the next refusal is the first again.
        self.sources.retain(|_, burst| now < burst.until || burst.counted.is_some());
        let room = self.sources.len() < SOURCES_MAX || self.sources.contains_key(&source);
        if room { source } else { None }
    }
}

fn network(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(peer: &str) -> Event {
        Event { event: "handshake-refused", peer: Some(peer.to_owned()), ..Event::default() }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_flood_from_one_source_is_a_line_a_minute_that_counts_it() {
        let (mut bursts, start) = (Bursts::default(), Instant::now());
        let (mut lines, mut counted) = (0, 0);
        // A day, a refusal each 100 ms.
        for tick in 0..864_000_u64 {
            let now = start + Duration::from_millis(100 * tick);
            lines += u64::from(bursts.note(ip("192.0.2.1"), refused("192.0.2.1:5"), now).is_some());
            if bursts.poll_timeout().is_some_and(|until| until <= now) {
                let due = bursts.handle_timeout(now);
                lines += due.len() as u64;
                counted += due.iter().filter_map(|event| event.count).sum::<u64>();
            }
        }
        counted += bursts.drain().iter().filter_map(|event| event.count).sum::<u64>();
        assert!(lines < LINES_EACH + 86_400 / 64 + 10, "{lines} lines");
        assert_eq!(counted + LINES_EACH, 864_000, "none is forgotten");
    }

    #[test]
    fn a_flood_from_everywhere_has_a_bound_in_lines_and_memory() {
        let (mut bursts, now) = (Bursts::default(), Instant::now());
        let mut lines = 0;
        for n in 0..100_000_u32 {
            let from = IpAddr::V4(n.into());
            lines += u64::from(bursts.note(from, refused("x"), now).is_some());
        }
        assert_eq!((lines, bursts.sources.len()), (SOURCES_MAX as u64, SOURCES_MAX + 1));
        let due = bursts.handle_timeout(now + WINDOW_FIRST);
        assert_eq!(due.len(), 1, "all others are one line");
        assert_eq!((due[0].count, &due[0].peer), (Some(100_000 - SOURCES_MAX as u64), &None));
    }

    #[test]
    fn one_network_is_one_source_and_a_quiet_one_starts_anew() {
        let (mut bursts, now) = (Bursts::default(), Instant::now());
        for n in 0..LINES_EACH {
            assert!(bursts.note(ip(&format!("2001:db8::{n}")), refused("x"), now).is_some());
        }
        assert!(bursts.note(ip("2001:db8::ff"), refused("x"), now).is_none());
        assert!(bursts.note(ip("2001:db8:0:1::1"), refused("x"), now).is_some());
        assert!(bursts.note(ip("::ffff:192.0.2.1"), refused("x"), now).is_some());
        let later = now + WINDOW_FIRST;
        assert_eq!(bursts.handle_timeout(later).len(), 1);
        let quiet = later + WINDOW_LONGEST;
        assert!(bursts.note(ip("2001:db8::1"), refused("x"), quiet).is_some());
    }
}
