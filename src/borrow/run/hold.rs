//! Held SYNs: a program's `connect` waits until the lender has connected, and fails as the lender's did.
//!
//! ```text
//!   (none) ──SYN──▶ Dialing ──the lender is connected──▶ Connected ──accepted──▶ (none), and is carried
//!                      │                                     └────too late────▶ (none)
//!                      ├──it failed: the program hears it──▶ (none)
//!                      └──the program gave up─────────────▶ (none)
//! ```
//! The kernel of the borrowed network drops the SYN, and the tap shows it. What is decided here is only which of the three
//! answers it gets, and when.
//!
//! Invariant: one attempt for each pair of addresses; a SYN that comes again while it is held only shows that the program
//! still waits. A program that closed its socket says nothing, but it stops sending: the kernel doubles the time between
//! two SYNs, so that one which is long overdue will not come.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use rustix::net::{SendFlags, sendto};
use tokio::{io::unix::AsyncFd, net::TcpStream, time::Instant};

use super::{
    dialer::Dialer,
    doors::PerFamily,
    listeners::Listeners,
    listening::Ports,
    local::Local,
    outcome::Outcome,
    own_address::OwnAddresses,
    packet::Syn,
    way_in::{Accepted, Ends, WayIn},
};
use crate::{
    proto::Errno,
    session::{Stream, dial},
    sys,
};

/// SYNs held at once: as many as a session has streams by default. Of more, the kernel sends each again in a second.
const HELD_MAX: usize = 4096;
/// What the next SYN may be late, beyond twice the time that the program has waited so far and the first second.
const OVERDUE: Duration = Duration::from_secs(3);
/// A connection whose SYN was sent again is accepted within microseconds, or when the kernel has sent it once more.
const ACCEPTED_MAX: Duration = Duration::from_secs(10);

/// What is at the other end of a program's connection.
pub enum Far {
    /// A socket of the lender.
    Lender(Stream),
    /// A socket of this machine.
    Here(TcpStream),
    /// The resolver inside.
    Names,
}

/// The held SYNs of a borrowed network.
pub struct Hold {
    dialer: Dialer,
    local: Vec<Local>,
    listeners: Arc<Listeners>,
    own_addresses: OwnAddresses,
    /// What the program has at the lender, once it can have anything.
    ports: OnceLock<Weak<Ports>>,
    way_in: WayIn,
    own: PerFamily,
    table: Mutex<HashMap<Ends, Entry>>,
}

struct Entry {
    /// As it came last: a new socket may have the ends of one that is gone.
    syn: Syn,
    first: Instant,
    last: Instant,
    far: Option<Far>,
}

impl Hold {
    /// Holds SYNs for what `dialer` connects to.
    pub fn new(
        dialer: Dialer,
        local: Vec<Local>,
        (listeners, own_addresses): (Arc<Listeners>, OwnAddresses),
        (way_in, own): (WayIn, PerFamily),
    ) -> Arc<Self> {
        let (table, ports) = (Mutex::default(), OnceLock::new());
        Arc::new(Self { dialer, local, listeners, own_addresses, ports, way_in, own, table })
    }

    /// Serves one tap, for ever.
    ///
    /// # Errors
    /// The tap fails.
    pub async fn watch(self: Arc<Self>, tap: OwnedFd) -> io::Result<()> {
        let tap = sys::await_readable(tap)?;
        let mut packet = [0; sys::TAPPED_BYTES_MAX];
        loop {
            let length = receive(&tap, &mut packet).await?;
            if let Some(syn) = packet.get(..length).and_then(Syn::parse) {
                self.take(syn);
            }
        }
    }

    /// The connection that was accepted, and its far end.
    pub fn accepted(&self, from: SocketAddr, to: SocketAddr) -> Option<(Accepted, Far)> {
        let accepted = self.way_in.accepted(from, to)?;
        let far = self.table().remove(&accepted.ends)?.far?;
        Some((accepted, far))
    }

    /// Sends a packet to a socket of the program.
    pub fn send_to_program(&self, to: IpAddr, packet: &[u8]) {
        send(&self.own, to, packet);
    }

    /// Speaks with a program that has connected to the resolver inside.
    pub async fn answer_names(&self, connection: TcpStream) {
        self.dialer.answer_names(connection).await;
    }

    /// Takes a SYN of the program.
    pub fn take(self: &Arc<Self>, syn: Syn) {
        let (ends, now) = ((syn.from, syn.to), Instant::now());
        if let Some(entry) = self.table().get_mut(&ends) {
            entry.last = now;
            entry.syn = syn;
            if entry.far.is_some() {
                // The listener had no room for it.
                self.way_in.let_in(&entry.syn, &self.own);
            }
            return;
        }
        // A program that listens at an address of the machine's own is met inside.
        if self.own_addresses.contains(syn.to.ip()) && self.is_programs_own(syn.to) {
            self.way_in.leave(ends);
            return send(&self.own, syn.to.ip(), &syn.again());
        }
        let mut table = self.table();
        if table.len() < HELD_MAX {
            table.insert(ends, Entry { syn, first: now, last: now, far: None });
            drop(table);
            tokio::spawn(self.clone().attempt(ends));
        }
    }

    fn is_programs_own(&self, target: SocketAddr) -> bool {
        known(self.listeners.has(target.ip(), target.port()))
    }

    /// Whether a datagram to `target` is for a socket of the program itself.
    pub fn keeps_datagram(&self, target: SocketAddr) -> bool {
        self.own_addresses.contains(target.ip()) && known(self.listeners.has_datagrams(target.ip(), target.port()))
    }

    /// Whether `target` stays on this machine.
    pub fn is_local(&self, target: SocketAddr) -> bool {
        self.local.iter().any(|local| local.holds(target))
    }

    /// One entry, from the first SYN to its end.
    async fn attempt(self: Arc<Self>, ends: Ends) {
        let connected = tokio::select! {
            connected = self.connect(ends.1) => connected,
            () = self.given_up(ends) => {
                self.table().remove(&ends);
                return;
            }
        };
        match connected {
            Ok(far) => {
                self.let_in(ends, far);
                self.forget(ends).await;
            }
            Err(outcome) => {
                let Some(Entry { syn, .. }) = self.table().remove(&ends) else { return };
                match outcome {
                    Outcome::Refused => send(&self.own, ends.0.ip(), &syn.refused()),
                    Outcome::Unreachable(why) => send(&self.own, ends.0.ip(), &syn.unreachable(why)),
                    Outcome::Silence => {}
                }
            }
        }
    }

    fn let_in(&self, ends: Ends, far: Far) {
        if let Some(entry) = self.table().get_mut(&ends) {
            entry.far = Some(far);
            self.way_in.let_in(&entry.syn, &self.own);
        }
    }

    /// Drops a connection that is not accepted in its time, which begins anew with each SYN.
    async fn forget(&self, ends: Ends) {
        loop {
            let until = {
                let mut table = self.table();
                // Accepted, or another one by now, which has its own time.
                let Some(entry) = table.get(&ends).filter(|entry| entry.far.is_some()) else { return };
                let until = entry.last + ACCEPTED_MAX;
                if until <= Instant::now() {
                    table.remove(&ends);
                    return;
                }
                until
            };
            tokio::time::sleep_until(until).await;
        }
    }

    /// From now on the program may have ports at the lender.
    pub fn know(&self, ports: &Arc<Ports>) {
        // It begins once.
        let _ = self.ports.set(Arc::downgrade(ports));
    }

    async fn connect(&self, target: SocketAddr) -> Result<Far, Outcome> {
        if self.own_addresses.contains(target.ip())
            && let Some(ports) = self.ports.get().and_then(Weak::upgrade)
        {
            // What the program has just closed must not be met at the lender any more.
            ports.close_what_is_gone(target.port()).await;
        }
        // A name that is asked for over TCP must not leave by an address that was kept for something else.
        if self.dialer.catches(target) && !self.local.iter().any(|local| local.names_port(target)) {
            return Ok(Far::Names);
        }
        if self.is_local(target) {
            let failed = |source: io::Error| Outcome::of_errno(Errno::of(&source).unwrap_or(Errno::EHOSTUNREACH));
            let socket = dial(&[target]).await;
            return socket.map(Far::Here).map_err(|error| error.map_or(Outcome::Silence, |error| failed(error.source)));
        }
        self.dialer.dial(target).await.map(|(stream, _)| Far::Lender(stream)).map_err(|failed| failed.outcome)
    }

    /// Ready once the program does not wait any more, and its attempt may be given up.
    async fn given_up(&self, ends: Ends) {
        loop {
            let Some(next) = self.table().get(&ends).map(Entry::next_syn) else { break };
            if next <= Instant::now() {
                break;
            }
            tokio::time::sleep_until(next).await;
        }
        self.dialer.may_give_up().await;
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Ends, Entry>> {
        // Every change under the lock is complete by itself.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// When the next SYN has come if any more does.
    fn next_syn(&self) -> Instant {
        let waited = self.last.duration_since(self.first);
        self.last + waited + Duration::from_secs(1) + OVERDUE
    }
}

fn known(answer: io::Result<bool>) -> bool {
    answer.unwrap_or_else(|error| {
        tracing::warn!(%error, "the program's own ports cannot be listed");
        false
    })
}

/// Sends a whole packet. One that is lost is as one that a wire lost: TCP sends again.
pub fn send(sockets: &PerFamily, to: IpAddr, packet: &[u8]) {
    let socket = if to.is_ipv4() { &sockets.v4 } else { &sockets.v6 };
    if let Err(error) = sendto(socket, packet, SendFlags::DONTWAIT, &SocketAddr::new(to, 0)) {
        tracing::debug!(%error, %to, "a packet was not sent");
    }
}

async fn receive(tap: &AsyncFd<OwnedFd>, packet: &mut [u8]) -> io::Result<usize> {
    let receive = |tap: &OwnedFd| Ok(rustix::net::recv(tap, &mut *packet, rustix::net::RecvFlags::DONTWAIT)?.0);
    sys::read_when_ready(tap, receive).await
}
