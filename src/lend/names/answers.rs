//! What one session was answered: which name each address was given for, for as long as a program may use it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::policy::Answered;

/// Most facts that a session keeps: some hundred kilobytes. A program that looks up more forgets the oldest.
const ANSWERS_MAX: usize = 4096;
/// How long a fact holds at least, whatever its TTL: programs keep addresses for longer than they should.
const KEPT_MIN: Duration = Duration::from_secs(600);

/// The facts of one session, the oldest out first.
#[derive(Default)]
pub(super) struct Answers {
    facts: HashMap<Answered, Kept>,
    /// By age, so that the oldest is found.
    order: BTreeMap<u64, Answered>,
    /// The places in `order` of what is known of an address, which each connection by address asks for.
    by_address: HashMap<IpAddr, BTreeSet<u64>>,
    next: u64,
}

struct Kept {
    place: u64,
    until: Instant,
}

impl Answers {
    /// Notes what was answered at `now`. Noted again it is as young as a new one, and holds no shorter than it did.
    pub(super) fn note(&mut self, answered: Answered, ttl_seconds: u32, now: Instant) {
        let mut until = now + KEPT_MIN.max(Duration::from_secs(ttl_seconds.into()));
        if let Some(before) = self.forget(&answered) {
            until = until.max(before.until);
        }
        while self.facts.len() >= ANSWERS_MAX {
            let Some(oldest) = self.order.first_entry().map(|oldest| oldest.get().clone()) else { break };
            self.forget(&oldest);
        }
        let place = self.next;
        self.next += 1;
        self.by_address.entry(answered.address).or_default().insert(place);
        self.order.insert(place, answered.clone());
        self.facts.insert(answered, Kept { place, until });
    }

    /// What holds at `now` about `address`, the oldest first.
    pub(super) fn about(&self, address: IpAddr, now: Instant) -> Vec<Answered> {
        let places = self.by_address.get(&address.to_canonical()).into_iter().flatten();
        let facts = places.filter_map(|place| self.order.get(place));
        facts.filter(|fact| self.facts.get(fact).is_some_and(|kept| now < kept.until)).cloned().collect()
    }

    fn forget(&mut self, fact: &Answered) -> Option<Kept> {
        let kept = self.facts.remove(fact)?;
        self.order.remove(&kept.place);
        if let Some(places) = self.by_address.get_mut(&fact.address) {
            places.remove(&kept.place);
            if places.is_empty() {
                self.by_address.remove(&fact.address);
            }
        }
        Some(kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Host;

    fn fact(name: &str, address: &str) -> Answered {
        let Ok(Host::Name(name)) = Host::parse(name) else { panic!("{name} is no name") };
        Answered { name, address: address.parse().unwrap(), alias: false }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_fact_holds_for_its_ttl_and_for_ten_minutes_at_least() {
        let (mut answers, t0) = (Answers::default(), Instant::now());
        answers.note(fact("short.internal", "10.0.0.1"), 0, t0);
        answers.note(fact("long.internal", "10.0.0.1"), 3600, t0);
        let names = |answers: &Answers, at| {
            let about = answers.about("10.0.0.1".parse().unwrap(), t0 + at);
            about.iter().map(|fact| fact.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(&answers, seconds(599)), ["short.internal", "long.internal"]);
        assert_eq!(names(&answers, seconds(600)), ["long.internal"]);
        assert_eq!(names(&answers, seconds(3599)), ["long.internal"]);
        assert!(names(&answers, seconds(3600)).is_empty());
        assert!(answers.about("10.0.0.2".parse().unwrap(), t0).is_empty());
        assert_eq!(answers.about("::ffff:10.0.0.1".parse().unwrap(), t0).len(), 2);

        answers.note(fact("long.internal", "10.0.0.1"), 0, t0 + seconds(60));
        assert_eq!(names(&answers, seconds(3599)), ["long.internal"], "a shorter answer takes nothing away");
        answers.note(fact("short.internal", "10.0.0.1"), 0, t0 + seconds(3000));
        assert_eq!(names(&answers, seconds(3599)).len(), 2, "what is answered again holds again");
    }

    #[test]
    fn the_oldest_fact_goes_first_and_the_number_is_bounded() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        let nth = |number: usize| fact("a.internal", &format!("10.1.{}.{}", number / 256, number % 256));
        for number in 0..ANSWERS_MAX {
            answers.note(nth(number), 0, now);
        }
        answers.note(nth(0), 0, now);
        answers.note(nth(ANSWERS_MAX), 0, now);
        let known = |number: usize| !answers.about(nth(number).address, now).is_empty();
        assert!(known(0) && !known(1) && known(2) && known(ANSWERS_MAX));
        assert_eq!((answers.facts.len(), answers.order.len()), (ANSWERS_MAX, ANSWERS_MAX));
        assert_eq!(answers.by_address.len(), ANSWERS_MAX, "an address of which nothing is known any more is forgotten");
    }
}
