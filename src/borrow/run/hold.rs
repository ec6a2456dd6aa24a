//! Held SYNs: a program's `connect` waits until the lender has connected, and fails as the lender's did.
//!
//! ```text
//!   (none) ──SYN──▶ Dialing ──the lender is connected──▶ Connected ──accepted──▶ (none), and is carried
//!                      │                                     └────too late────▶ (none)
//!                      ├──it failed: the program hears it──▶ (none)
//!                      ├──it was reset already: Connected, to be reset as soon as it is accepted
//!                      └──the program gave up─────────────▶ (none)
//! ```
//! The kernel of the borrowed network drops the SYN, and the tap shows it. What is decided here is only which of the three
//! answers it gets, and when.
//!
//! Invariant: one attempt for each pair of addresses; a SYN that comes again while it is held only shows that the program
//! still waits. A program that closed its socket says nothing, but it stops sending: the kernel doubles the time between
//! two SYNs, so that one which is long overdue will not come.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use rustix::net::{SendFlags, sendto};
use tokio::{io::unix::AsyncFd, net::TcpStream, sync::Notify, time::Instant};

use super::{
    dialer::Dialer,
    doors::PerFamily,
    held_syns::{Again, HeldSyns},
    listeners::Listeners,
    listening::Ports,
    local::Local,
    outcome::Outcome,
    own_address::OwnAddresses,
    packet::{Length, Syn, Unreachable},
    way_in::{Accepted, Ends, WayIn},
};
use crate::{
    proto::Errno,
    session::{Stream, dial},
    sys,
};

/// How often it is looked for connections that were let in and are not accepted in their time.
const LOOK: Duration = Duration::from_secs(1);

/// What is at the other end of a program's connection.
pub enum Far {
    /// A socket of the lender.
    Lender(Stream),
    /// A socket of this machine.
    Here(TcpStream),
    /// The resolver inside.
    Names,
    /// Somebody who has reset it already.
    Gone,
}

/// The held SYNs of a borrowed network.
pub struct Hold {
    dialer: Dialer,
    local: Vec<Local>,
    listeners: Arc<Listeners>,
    own_addresses: OwnAddresses,
    /// A port at which we listen, which is nobody's to the program.
    own_port: u16,
    /// What the program has at the lender, once it can have anything.
    ports: OnceLock<Weak<Ports>>,
    way_in: WayIn,
    own: PerFamily,
    held: Mutex<HeldSyns<Far>>,
    /// A connection was let in.
    lets_in: Notify,
}

impl Hold {
    /// Holds SYNs for what `dialer` connects to.
    pub fn new(
        dialer: Dialer,
        local: Vec<Local>,
        (listeners, own_addresses, own_port): (Arc<Listeners>, OwnAddresses, u16),
        (way_in, own): (WayIn, PerFamily),
    ) -> Arc<Self> {
        let (held, lets_in, ports) = (Mutex::new(HeldSyns::new()), Notify::new(), OnceLock::new());
        Arc::new(Self { dialer, local, listeners, own_addresses, own_port, ports, way_in, own, held, lets_in })
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
        let far = self.held().accepted(&accepted.ends)?;
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
        if let Some(again) = self.held().again(&syn, now) {
            if let Again::Connected(syn) = again {
                self.way_in.let_in(syn, &self.own);
            }
            return;
        }
        // A program that listens at an address of the machine's own is met inside.
        let is_own = self.own_addresses.contains(syn.to.ip()) && syn.to.port() != self.own_port;
        if is_own && known(self.listeners.has(syn.to)) {
            self.way_in.leave(ends);
            return send(&self.own, syn.to.ip(), &syn.again());
        }
        let is_held = self.held().hold(syn, now);
        if is_held {
            self.dialer.session().spawn(self.clone().attempt(ends));
        }
    }

    /// Whether a datagram is for a socket of the program itself.
    pub fn keeps_datagram(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.own_addresses.contains(to.ip()) && known(self.listeners.has_datagrams(from, to))
    }

    /// Whether `target` stays on this machine.
    pub fn is_local(&self, target: SocketAddr) -> bool {
        self.local.iter().any(|local| local.holds(target))
    }

    /// Whether `target` stays on this machine, and its port was named.
    pub fn names_local_port(&self, target: SocketAddr) -> bool {
        self.local.iter().any(|local| local.names_port(target))
    }

    /// One SYN, from when it came first until it is answered, or let in.
    async fn attempt(self: Arc<Self>, ends: Ends) {
        let connected = tokio::select! {
            connected = self.connect(ends.1) => connected,
            () = self.given_up(ends) => {
                self.held().remove(&ends);
                return;
            }
        };
        match connected {
            Ok(far) => self.let_in(ends, far),
            Err(Outcome::Reset) => self.let_in(ends, Far::Gone),
            Err(outcome) => {
                let Some(syn) = self.held().remove(&ends) else { return };
                match outcome {
                    Outcome::Refused => send(&self.own, ends.0.ip(), &syn.refused()),
                    Outcome::Unreachable(why) => self.tell_unreachable(&syn, why),
                    Outcome::Silence | Outcome::Reset => {}
                }
            }
        }
    }

    fn tell_unreachable(&self, syn: &Syn, why: Unreachable) {
        if try_send(&self.own, syn.from.ip(), &syn.unreachable(why, Length::Long)).is_err() {
            self.send_to_program(syn.from.ip(), &syn.unreachable(why, Length::Short));
        }
    }

    fn let_in(&self, ends: Ends, far: Far) {
        if let Some(syn) = self.held().connect(&ends, far) {
            self.way_in.let_in(syn, &self.own);
            self.lets_in.notify_one();
        }
    }

    /// Drops the connections that are not accepted in their time, for ever. One task looks at all of them: there is one for each
    /// connection that a program makes, for an instant.
    pub async fn sweep(self: Arc<Self>) -> Infallible {
        loop {
            self.lets_in.notified().await;
            while self.held().drop_late(Instant::now()) {
                tokio::time::sleep(LOOK).await;
            }
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
        if self.dialer.catches(target) && !self.names_local_port(target) {
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
            let Some(next) = self.held().next_syn(&ends) else { break };
            if next <= Instant::now() {
                break;
            }
            tokio::time::sleep_until(next).await;
        }
        self.dialer.may_give_up().await;
    }

    fn held(&self) -> MutexGuard<'_, HeldSyns<Far>> {
        // Every change under the lock is complete by itself.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
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
    if let Err(error) = try_send(sockets, to, packet) {
        tracing::debug!(%error, %to, "a packet was not sent");
    }
}

fn try_send(sockets: &PerFamily, to: IpAddr, packet: &[u8]) -> io::Result<()> {
    let socket = if to.is_ipv4() { Some(&sockets.v4) } else { sockets.v6.as_ref() };
    let socket = socket.ok_or(io::ErrorKind::Unsupported)?;
    sendto(socket, packet, SendFlags::DONTWAIT, &SocketAddr::new(to, 0))?;
    Ok(())
}

async fn receive(tap: &AsyncFd<OwnedFd>, packet: &mut [u8]) -> io::Result<usize> {
    let receive = |tap: &OwnedFd| Ok(rustix::net::recv(tap, &mut *packet, rustix::net::RecvFlags::DONTWAIT)?.0);
    sys::read_when_ready(tap, receive).await
}
