//! Refusals in bounded lines: the first of a source are lines of their own, the rest is one line with a count.
//!
//! ```text
//!   refused ──▶ the source has lines left: a line        they come back slowly, one after the other
//!          └──▶ none left: counted; one line when the window ends, and the next window is twice as long
//! ```
//! Pure: time comes in. A source is where a stranger comes from, or who a user is: neither can fill the disk, or replace
//! the oldest files of the log, by asking for what is refused. Sources of strangers beyond [`STRANGERS_MAX`] share one count.
//! So do all penalties, apart from what they are for: who has a network to come from is penalised once for each address.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use super::event::Event;
use crate::{lend::peer::network_of, proto::UserName};

/// The first window.
const WINDOW_FIRST: Duration = Duration::from_secs(1);
/// The longest.
const WINDOW_LONGEST: Duration = Duration::from_secs(64);
/// Strangers that are told apart at a time: at 300 bytes a line a day of flood from all of them is 50 MiB.
const STRANGERS_MAX: usize = 64;

/// Where refusals come from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::lend) enum Source {
    /// What [`network_of`] says.
    Network(IpAddr),
    /// An OS user of this machine.
    Local(u32),
    /// Somebody who has shown who he is, with all of his sessions.
    User(UserName),
    /// The same, who asks and is told, so that nothing comes of it.
    Asking(UserName),
    /// The penalties of all strangers together.
    Penalties,
    /// Connections that are closed before they are heard, whosever they are.
    Unheard,
    /// What befalls a loop that accepts.
    Accept,
    /// All strangers for whom there is no room.
    Others,
}

/// The refusals of the last moments.
#[derive(Default)]
pub(super) struct Bursts {
    sources: HashMap<Source, Burst>,
}

struct Burst {
    /// Lines that are left, and since when.
    lines: u32,
    since: Instant,
    until: Instant,
    window: Duration,
    /// The last that was not given a line, and how many there were.
    counted: Option<(u64, Event)>,
}

impl Bursts {
    /// Takes a refusal, and gives it back if it is to be a line now.
    pub(super) fn note(&mut self, from: Source, event: Event, now: Instant) -> Option<Event> {
        let burst = self.burst_of(from, now);
        if let Some(left) = burst.lines.checked_sub(1) {
            burst.lines = left;
            return Some(event);
        }
        burst.count(event);
        None
    }

    /// Takes a refusal that cannot be a line now, whatever its source has left.
    pub(super) fn count(&mut self, from: Source, event: Event, now: Instant) {
        self.burst_of(from, now).count(event);
    }

    fn burst_of(&mut self, from: Source, now: Instant) -> &mut Burst {
        let source = self.place_for(from, now);
        let allowance = source.allowance();
        let new = || Burst {
            lines: allowance.lines,
            since: now,
            until: now + WINDOW_FIRST,
            window: WINDOW_FIRST,
            counted: None,
        };
        let burst = self.sources.entry(source).or_insert_with(new);
        burst.refill(allowance, now);
        burst
    }

    /// When the next count is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.sources.values().filter(|burst| burst.counted.is_some()).map(|burst| burst.until).min()
    }

    /// One of the counts that are due.
    pub(super) fn next_due(&mut self, now: Instant) -> Option<Event> {
        let due = |burst: &&mut Burst| now >= burst.until && burst.counted.is_some();
        let (source, burst) = self.sources.iter_mut().find(|(_, burst)| due(burst))?;
        let (count, event) = burst.counted.take()?;
        burst.window = (burst.window * 2).min(WINDOW_LONGEST);
        burst.until = now + burst.window;
        let peer = if source.is_many() { None } else { event.peer };
        Some(Event { count: Some(count), peer, ..event })
    }

    /// The counts that are due.
    fn all_due(&mut self, now: Instant) -> Vec<Event> {
        std::iter::from_fn(|| self.next_due(now)).collect()
    }

    /// All counts, due or not: the lender stops.
    pub(super) fn drain(&mut self) -> Vec<Event> {
        let last = self.sources.values().map(|burst| burst.until).max();
        last.map(|last| self.all_due(last)).unwrap_or_default()
    }

    fn place_for(&mut self, from: Source, now: Instant) -> Source {
        // Quiet for so long that it has all its lines again: the next refusal is the first again.
        self.sources.retain(|source, burst| {
            burst.refill(source.allowance(), now);
            burst.counted.is_some() || burst.lines < source.allowance().lines
        });
        if !from.is_stranger() || self.sources.contains_key(&from) {
            return from;
        }
        let strangers = self.sources.keys().filter(|source| source.is_stranger()).count();
        if strangers < STRANGERS_MAX { from } else { Source::Others }
    }
}

/// Lines of its own that a source has, and how long one takes to come back.
#[derive(Clone, Copy)]
struct Allowance {
    lines: u32,
    each: Duration,
}

impl Source {
    /// One of those that there may be any number of; users are as many as the admin has made.
    fn is_stranger(&self) -> bool {
        matches!(self, Self::Network(_) | Self::Local(_))
    }

    /// Its counts are of no one peer.
    fn is_many(&self) -> bool {
        matches!(self, Self::Penalties | Self::Unheard | Self::Others)
    }

    fn allowance(&self) -> Allowance {
        match self {
            // A person who tries again sees each attempt.
            Self::Network(_) | Self::Local(_) => Allowance { lines: 8, each: WINDOW_LONGEST },
            // Whoever finds out what he may do. His lines may be 8 KiB each, so that a day of them is 80 MiB.
            Self::User(_) | Self::Asking(_) => Allowance { lines: 256, each: Duration::from_secs(10) },
            // As many as strangers are told apart; a day of more is 2 MiB.
            Self::Penalties | Self::Unheard | Self::Accept => {
                Allowance { lines: STRANGERS_MAX as u32, each: WINDOW_LONGEST }
            }
            Self::Others => Allowance { lines: 0, each: WINDOW_LONGEST },
        }
    }
}

impl Burst {
    /// One more, or as many as the event stands for by itself.
    fn count(&mut self, event: Event) {
        let count = self.counted.take().map_or(0, |(count, _)| count);
        self.counted = Some((count + event.count.unwrap_or(1), event));
    }

    fn refill(&mut self, allowance: Allowance, now: Instant) {
        let each = allowance.each;
        let passed = now.saturating_duration_since(self.since).as_secs() / each.as_secs();
        let come = u32::try_from(passed).unwrap_or(u32::MAX).min(allowance.lines - self.lines);
        self.lines += come;
        // A part of the next one stays, unless there is no next one.
        self.since = if self.lines == allowance.lines { now } else { self.since + each * come };
    }
}

impl From<IpAddr> for Source {
    fn from(from: IpAddr) -> Self {
        Self::Network(network_of(from))
    }
}

impl From<&UserName> for Source {
    fn from(user: &UserName) -> Self {
        Self::User(user.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn refused(peer: &str) -> Event {
        Event { event: "handshake-refused", peer: Some(peer.to_owned()), ..Event::default() }
    }

    fn ip(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    /// Lines and counted refusals of a day in which one source is refused `times(tick)` times each tenth of a second.
    fn day_of(source: &Source, times: impl Fn(u64) -> u64) -> (u64, u64, u64) {
        let (mut bursts, start) = (Bursts::default(), Instant::now());
        let (mut sent, mut lines, mut counted) = (0, 0, 0);
        for tick in 0..10 * DAY {
            let now = start + Duration::from_millis(100 * tick);
            for _ in 0..times(tick) {
                sent += 1;
                lines += u64::from(bursts.note(source.clone(), refused("x"), now).is_some());
            }
            if bursts.poll_timeout().is_some_and(|until| until <= now) {
                let due = bursts.all_due(now);
                lines += due.len() as u64;
                counted += due.iter().filter_map(|event| event.count).sum::<u64>();
            }
        }
        let rest = bursts.drain();
        counted += rest.iter().filter_map(|event| event.count).sum::<u64>();
        (sent, lines + rest.len() as u64, counted)
    }

    #[test]
    fn a_flood_from_one_source_is_two_lines_a_minute_that_count_it() {
        let (sent, lines, counted) = day_of(&ip("192.0.2.1"), |_| 1);
        assert!(lines < 8 + 2 * DAY / 64 + 10, "{lines} lines");
        // Every refusal is a line of its own or counted in one.
        assert!(counted < sent && sent - counted <= 8 + DAY / 64, "{sent} sent, {counted} counted");
    }

    #[test]
    fn a_source_that_pauses_between_its_bursts_gains_nothing() {
        // Just when the first window is over.
        let (_, lines, _) = day_of(&ip("192.0.2.1"), |tick| if tick % 11 == 0 { 10 } else { 0 });
        assert!(lines < 8 + 2 * DAY / 64 + 10, "{lines} lines");
    }

    #[test]
    fn a_user_who_asks_for_what_is_refused_cannot_replace_the_log() {
        let user = Source::User("alice".parse().unwrap());
        let (sent, lines, counted) = day_of(&user, |_| 1);
        assert!(lines < 256 + DAY / 10 + DAY / 64 + 10, "{lines} lines");
        assert!(sent - counted <= 256 + DAY / 10);
        // At two fields of 4 KiB and the rest of a line; docs/AUDIT.md says so.
        assert!(lines * 9 * 1024 < 100 << 20);
    }

    #[test]
    fn penalties_from_everywhere_are_few_lines_that_count_them() {
        let (sent, lines, counted) = day_of(&Source::Penalties, |_| 100);
        assert!(lines < 64 + 2 * DAY / 64 + 10, "{lines} lines");
        assert!(sent - counted <= 64 + DAY / 64, "{sent} sent, {counted} counted");
        let (mut bursts, now) = (Bursts::default(), Instant::now());
        let penalised = (0..65).filter_map(|_| bursts.note(Source::Penalties, refused("192.0.2.1/32"), now));
        assert_eq!(penalised.count(), 64);
        assert_eq!(bursts.drain().pop().unwrap().peer, None, "they are of many peers");
    }

    #[test]
    fn a_flood_from_everywhere_has_a_bound_in_lines_and_memory_and_hides_no_user() {
        let (mut bursts, now) = (Bursts::default(), Instant::now());
        let mut lines = 0;
        for n in 0..100_000_u32 {
            lines += u64::from(bursts.note(IpAddr::V4(n.into()).into(), refused("x"), now).is_some());
        }
        assert_eq!((lines, bursts.sources.len()), (STRANGERS_MAX as u64, STRANGERS_MAX + 1));
        let user = Source::User("alice".parse().unwrap());
        assert!(bursts.note(user, refused("x"), now).is_some());
        let due = bursts.all_due(now + WINDOW_FIRST);
        assert_eq!(due.len(), 1, "all others are one line");
        assert_eq!((due[0].count, &due[0].peer), (Some(100_000 - STRANGERS_MAX as u64), &None));
    }

    #[test]
    fn one_network_is_one_source_and_a_quiet_one_starts_anew() {
        let (mut bursts, now) = (Bursts::default(), Instant::now());
        for n in 0..8 {
            assert!(bursts.note(ip(&format!("2001:db8::{n}")), refused("x"), now).is_some());
        }
        assert!(bursts.note(ip("2001:db8::ff"), refused("x"), now).is_none());
        assert!(bursts.note(ip("2001:db8:0:1::1"), refused("x"), now).is_some());
        assert!(bursts.note(ip("::ffff:192.0.2.1"), refused("x"), now).is_some());
        assert_eq!(bursts.all_due(now + WINDOW_FIRST).len(), 1);
        let later = now + WINDOW_LONGEST;
        assert!(bursts.note(ip("2001:db8::1"), refused("x"), later).is_some(), "one has come back");
        assert!(bursts.note(ip("2001:db8::1"), refused("x"), later).is_none());
        bursts.all_due(later + WINDOW_LONGEST);
        let quiet = later + 9 * WINDOW_LONGEST;
        for _ in 0..8 {
            assert!(bursts.note(ip("2001:db8::1"), refused("x"), quiet).is_some());
        }
    }
}
