//! Which SYNs are held, by the ends of their connections, and since when.
//!
//! Pure: it sends nothing, and the time is told. `F` is what is at the far end, once it is connected.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use super::{packet::Syn, way_in::Ends};

/// SYNs held at once: as many as a session has streams by default. Of more, the kernel sends each again in a second.
const HELD_MAX: usize = 4096;
/// What the next SYN may be late, beyond twice the time that the program has waited so far and the first second.
const OVERDUE: Duration = Duration::from_secs(3);
/// A connection whose SYN was sent again is accepted within microseconds, or when the kernel has sent it once more.
const ACCEPTED_MAX: Duration = Duration::from_secs(10);

/// The held SYNs.
pub struct HeldSyns<F>(HashMap<Ends, Entry<F>>);

struct Entry<F> {
    /// As it came last: a new socket may have the ends of one that is gone.
    syn: Syn,
    first: Instant,
    last: Instant,
    far: Option<F>,
}

/// A SYN that came before.
pub enum Again<'a> {
    /// What it asks for is not connected yet.
    Waits,
    /// It was let in already, and the listener had no room for it.
    Connected(&'a Syn),
}

impl<F> HeldSyns<F> {
    /// None.
    pub fn new() -> Self {
        Self(HashMap::new())
    }

    /// Notes that `syn` has come once more; `None`: it is not held.
    pub fn again(&mut self, syn: &Syn, now: Instant) -> Option<Again<'_>> {
        let entry = self.0.get_mut(&(syn.from, syn.to))?;
        entry.last = now;
        entry.syn = syn.clone();
        Some(if entry.far.is_some() { Again::Connected(&entry.syn) } else { Again::Waits })
    }

    /// Holds one that came now; `false`: there is no room.
    pub fn hold(&mut self, syn: Syn, now: Instant) -> bool {
        if self.0.len() >= HELD_MAX {
            return false;
        }
        self.0.insert((syn.from, syn.to), Entry { syn, first: now, last: now, far: None });
        true
    }

    /// What it asks for is connected: the SYN, to be let in; `None`: it is not held any more.
    pub fn connect(&mut self, ends: &Ends, far: F) -> Option<&Syn> {
        let entry = self.0.get_mut(ends)?;
        entry.far = Some(far);
        Some(&entry.syn)
    }

    /// The connection was accepted: its far end.
    pub fn accepted(&mut self, ends: &Ends) -> Option<F> {
        self.0.remove(ends)?.far
    }

    /// It is not held any more.
    pub fn remove(&mut self, ends: &Ends) -> Option<Syn> {
        Some(self.0.remove(ends)?.syn)
    }

    /// When the next SYN has come if any more does; `None`: it is not held.
    pub fn next_syn(&self, ends: &Ends) -> Option<Instant> {
        let entry = self.0.get(ends)?;
        let waited = entry.last.duration_since(entry.first);
        Some(entry.last + waited + Duration::from_secs(1) + OVERDUE)
    }

    /// Drops what was let in and is not accepted in its time, which begins anew with each SYN. Whether there is more that was let in.
    pub fn drop_late(&mut self, now: Instant) -> bool {
        let mut waits = false;
        self.0.retain(|_, entry| {
            let is_late = entry.far.is_some() && entry.last + ACCEPTED_MAX <= now;
            waits |= entry.far.is_some() && !is_late;
            !is_late
        });
        waits
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    /// Of IPv4, without options.
    fn syn(port: u16) -> Syn {
        let [high, low] = port.to_be_bytes();
        let ip = [0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 9, 9, 9];
        let tcp = [high, low, 0, 80, 0, 0, 0, 9, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];
        Syn::parse(&[ip, tcp].concat()).unwrap()
    }

    fn ends(port: u16) -> Ends {
        (syn(port).from, syn(port).to)
    }

    #[test]
    fn what_was_let_in_is_dropped_when_it_is_not_accepted_in_its_time() {
        let (mut held, begin) = (HeldSyns::new(), Instant::now());
        let far = Rc::new(());
        for port in 1..=3 {
            assert!(held.hold(syn(port), begin));
        }
        assert!(!held.drop_late(begin + ACCEPTED_MAX), "what the lender still dials is not waited for here");
        assert_eq!(held.connect(&ends(1), far.clone()), Some(&syn(1)));
        assert!(held.connect(&ends(2), far.clone()).is_some());
        assert!(held.drop_late(begin + ACCEPTED_MAX / 2));
        // The kernel has sent it once more: the listener had no room.
        let again = held.again(&syn(2), begin + ACCEPTED_MAX / 2);
        assert!(matches!(again, Some(Again::Connected(of)) if *of == syn(2)));
        assert!(held.drop_late(begin + ACCEPTED_MAX));
        assert_eq!(Rc::strong_count(&far), 2);
        assert!(held.accepted(&ends(1)).is_none() && held.accepted(&ends(2)).is_some());
        assert!(!held.drop_late(begin + 2 * ACCEPTED_MAX));
        assert!(matches!(held.again(&syn(3), begin), Some(Again::Waits)), "it is held still");
    }

    #[test]
    fn what_is_accepted_makes_room_at_once() {
        let (mut held, now) = (HeldSyns::new(), Instant::now());
        let ports = 1..=HELD_MAX as u16;
        assert!(ports.clone().all(|port| held.hold(syn(port), now)) && !held.hold(syn(0), now));
        for port in ports {
            assert!(held.connect(&ends(port), ()).is_some() && held.accepted(&ends(port)).is_some());
        }
        assert!(held.hold(syn(0), now));
        assert_eq!(held.remove(&ends(0)), Some(syn(0)));
        assert!(held.connect(&ends(0), ()).is_none() && held.again(&syn(0), now).is_none());
    }

    #[test]
    fn the_kernel_doubles_the_time_between_two_syns() {
        let (mut held, begin) = (HeldSyns::<()>::new(), Instant::now());
        assert!(held.hold(syn(1), begin) && held.next_syn(&ends(2)).is_none());
        for (came, overdue) in
            [(0, 4), (1, 6), (3, 10), (7, 18)].map(|(came, overdue)| (came, Duration::from_secs(overdue)))
        {
            held.again(&syn(1), begin + Duration::from_secs(came));
            assert_eq!(held.next_syn(&ends(1)), Some(begin + overdue), "{came}");
        }
    }
}
