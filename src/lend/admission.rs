//! Who of the strangers may begin a handshake: places for all, a share for each source, and a short queue.
//!
//! ```text
//!   arrives ──▶ penalised? ──▶ closed
//!      └──▶ a place is free, and its source has less than its share ──▶ Place, until it is logged in or gone
//!      └──▶ waits, at most WAIT_MAX ──▶ Place
//!             └──▶ from half a queue on, one that waits is closed at random, of the source that has most of them
//! ```
//! Whoever is closed here was not heard at all: a borrower comes again by itself, a flood gains nothing.
//!
//! Invariant: nobody waits who could have a place. A place that is given back goes to the first who may have it.

mod penalties;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

pub(super) use self::penalties::Offence;
use self::penalties::Penalties;
use super::peer::network_of;
use crate::trust::random;

/// Connections that are not logged in: each may cost two signatures and 64 KiB of handshake.
pub(super) const PLACES: usize = 128;
/// Of those, for one source, unless lender.toml says otherwise (`per_source`): a few programs that start together.
pub(super) const PER_SOURCE: usize = 8;
/// Connections that wait for a place: an office behind one address comes to work.
pub(super) const WAITING_MAX: usize = 64;
/// From so many on, some that wait are closed: a queue that is always full would serve only whoever fills it.
const WAITING_EARLY: usize = WAITING_MAX / 2;
/// How long each waits: as long as a handshake may take, after which its source has a place again.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How often closing connections unheard is told at most; a flood must not fill the disk.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// The places. Clones share them.
#[derive(Clone)]
pub(super) struct Admission(Arc<Mutex<State>>);

/// What becomes of a connection that has just arrived.
pub(super) enum Arrival {
    /// It may begin.
    Admitted(Place),
    /// It may begin once others have ended.
    Waits(Waiting),
    /// It is to be closed; with a number, so many were closed since the last time that this was told.
    Closed(Option<u64>),
}

/// The right to a handshake; dropping it gives it back.
pub(super) struct Place {
    admission: Admission,
    source: Source,
}

/// A place in the queue; dropping it gives it up.
pub(super) struct Waiting(oneshot::Receiver<Place>);

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// What [`network_of`] says.
    Network(IpAddr),
    /// A user of this machine, by uid.
    Local(u32),
}

impl Admission {
    /// `per_source` and `penalties` as in lender.toml.
    pub(super) fn new(per_source: usize, penalties: bool) -> Self {
        let state = State {
            per_source,
            shares: HashMap::new(),
            waiting: VecDeque::new(),
            penalties: penalties.then(Penalties::default),
            closed: 0,
            told: None,
        };
        Self(Arc::new(Mutex::new(state)))
    }

    /// Decides about a connection from `source`.
    pub(super) fn arrive(&self, source: impl Into<Source>, now: Instant) -> Arrival {
        let source = source.into();
        let mut state = self.lock();
        if state.penalties.as_ref().is_some_and(|penalties| penalties.bite(source, now)) {
            return Arrival::Closed(state.count_closed(now));
        }
        if state.has_place_for(source) {
            state.take(source);
            // Not while the lock is held, should it be dropped.
            drop(state);
            return Arrival::Admitted(Place { admission: self.clone(), source });
        }
        state.waiting.retain(|waiter| !waiter.place_tx.is_closed());
        match state.thin_out(source) {
            Some(Victim::Newcomer) => return Arrival::Closed(state.count_closed(now)),
            Some(Victim::Waiter(index)) => drop(state.waiting.remove(index)),
            None => {}
        }
        let (place_tx, place_rx) = oneshot::channel();
        state.waiting.push_back(Waiter { source, place_tx });
        Arrival::Waits(Waiting(place_rx))
    }

    /// Counts a connection that was closed after it had waited in vain; the number as in [`Arrival::Closed`].
    pub(super) fn gave_up(&self, now: Instant) -> Option<u64> {
        self.lock().count_closed(now)
    }

    /// Every change under the lock is complete by itself.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Holds something against the source. Gives how long its connections are now closed, if this is when that begins.
    pub(super) fn blame(&self, offence: Offence, now: Instant) -> Option<Duration> {
        let mut state = self.admission.lock();
        let bites_for = state.penalties.as_mut()?.blame(self.source, offence, now)?;
        state.waiting.retain(|waiter| waiter.source != self.source);
        Some(bites_for)
    }

    pub(super) fn source(&self) -> Source {
        self.source
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        state.give_back(self.source);
        let next = state.next_waiter();
        drop(state);
        if let Some(Waiter { source, place_tx }) = next {
            // It comes back, and is dropped here, if that one gave up meanwhile: then it is the turn of the one behind.
            drop(place_tx.send(Self { admission: self.admission.clone(), source }));
        }
    }
}

impl Waiting {
    /// The place, or `None` if there was none in time, or this one was chosen to make room.
    pub(super) async fn place(self) -> Option<Place> {
        tokio::time::timeout(WAIT_MAX, self.0).await.ok()?.ok()
    }
}

impl From<IpAddr> for Source {
    fn from(peer: IpAddr) -> Self {
        Self::Network(network_of(peer))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => write!(f, "{address}/{}", if address.is_ipv4() { 32 } else { 64 }),
            Self::Local(uid) => write!(f, "uid {uid}"),
        }
    }
}

struct State {
    per_source: usize,
    /// Places in use; a source without one has no entry.
    shares: HashMap<Source, usize>,
    waiting: VecDeque<Waiter>,
    /// `None`: nothing is held against anybody.
    penalties: Option<Penalties>,
    /// Connections closed unheard since it was told.
    closed: u64,
    told: Option<Instant>,
}

struct Waiter {
    source: Source,
    place_tx: oneshot::Sender<Place>,
}

/// Who is closed to make room.
#[derive(Debug, PartialEq)]
enum Victim {
    Newcomer,
    /// By its index in the queue.
    Waiter(usize),
}

impl State {
    fn has_place_for(&self, source: Source) -> bool {
        let in_use: usize = self.shares.values().sum();
        in_use < PLACES && self.shares.get(&source).is_none_or(|share| *share < self.per_source)
    }

    fn take(&mut self, source: Source) {
        *self.shares.entry(source).or_default() += 1;
    }

    fn give_back(&mut self, source: Source) {
        if let Some(share) = self.shares.get_mut(&source) {
            *share -= 1;
            if *share == 0 {
                self.shares.remove(&source);
            }
        }
    }

    /// The first who may have a place now; it is taken in its name.
    fn next_waiter(&mut self) -> Option<Waiter> {
        let may = |waiter: &Waiter| !waiter.place_tx.is_closed() && self.has_place_for(waiter.source);
        let index = self.waiting.iter().position(may)?;
        let waiter = self.waiting.remove(index)?;
        self.take(waiter.source);
        Some(waiter)
    }

    /// Whether somebody must go before one more waits: with a chance that grows from none at half a queue to certainty
    /// at a full one.
    fn thin_out(&self, newcomer: Source) -> Option<Victim> {
        let over = self.waiting.len().saturating_sub(WAITING_EARLY);
        if usize::from(random::<1>()[0]) >= over * 256 / (WAITING_MAX - WAITING_EARLY) {
            return None;
        }
        let mut counts = HashMap::from([(newcomer, 1_usize)]);
        for waiter in &self.waiting {
            *counts.entry(waiter.source).or_default() += 1;
        }
        let (greediest, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        let chosen = usize::from(u16::from_ne_bytes(random())) % count;
        let mut theirs = self.waiting.iter().enumerate().filter(|(_, waiter)| waiter.source == greediest);
        Some(theirs.nth(chosen).map_or(Victim::Newcomer, |(index, _)| Victim::Waiter(index)))
    }

    fn count_closed(&mut self, now: Instant) -> Option<u64> {
        self.closed += 1;
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < TOLD_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.closed))
    }
}

#[cfg(test)]
mod tests;
