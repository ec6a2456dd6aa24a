//! Sockets of ours on loopback by which a program's sockets meet the far ends of their datagrams: one relay for each of both.
//!
//! ```text
//!   (none) ── connect, or an answer ──▶ relay ──▶ (none), when there is no room and it was quiet for longest,
//!                                                 or when it was left by another connect and nothing has gone by it
//! ```
//! # Security
//! The kernel sends what a connected socket of the program sends to its relay's port. That port must not be anybody else's as long
//! as it does: the relay of a socket that is connected stays, whatever there is no room for.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::{
    net::{RecvFlags, SendFlags, recv, send},
    process::{Resource, getrlimit},
};
use tokio::{io::Interest, net::UdpSocket, runtime::Handle, task::AbortHandle};

use super::messages::ENOBUFS;
use crate::proto::{DATAGRAM_BYTES_MAX, Errno};

/// Sockets of the program at once; of more, the program hears that there is no room.
pub const SOCKETS_MAX: usize = 1024;
/// Far ends of one of them.
const RELAYS_OF_ONE_MAX: usize = 256;
/// Far ends of all, where this process may have four times as many descriptors.
const RELAYS_MAX: usize = 4096;
/// Datagrams that are taken before others have their turn.
const TAKEN_AT_ONCE: usize = 64;

/// Sockets of the program, by the kernel's number for each.
pub struct Endpoints {
    table: HashMap<u64, Endpoint>,
    relays_max: usize,
    /// Counts uses.
    now: u64,
}

/// A socket of the program.
pub struct Endpoint {
    /// Where it is, on loopback.
    pub own: SocketAddr,
    /// The far end that it is connected to.
    pub connected: Option<SocketAddr>,
    relays: HashMap<SocketAddr, Relay>,
}

/// One far end, as the program's socket meets it.
struct Relay {
    way: Arc<Way>,
    address: SocketAddr,
    used: u64,
    reading: AbortHandle,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// A relay's socket.
pub struct Way {
    socket: UdpSocket,
    /// Whether anything has gone by it; held by whoever reads.
    was_used: Mutex<bool>,
}

impl Endpoints {
    /// None yet, and as many as this process has room for.
    pub fn new() -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok());
        Self::with_most(descriptors.map_or(RELAYS_MAX, |most| (most / 4).min(RELAYS_MAX)))
    }

    fn with_most(relays_max: usize) -> Self {
        Self { table: HashMap::new(), relays_max, now: 0 }
    }

    /// One that is known.
    pub fn find(&self, cookie: u64) -> Option<&Endpoint> {
        self.table.get(&cookie)
    }

    /// Each that is known, and its port.
    pub fn ports(&self) -> Vec<(u64, u16)> {
        self.table.iter().map(|(cookie, endpoint)| (*cookie, endpoint.own.port())).collect()
    }

    /// Whether one more has no room.
    pub fn is_full_for(&self, cookie: u64) -> bool {
        self.table.len() >= SOCKETS_MAX && !self.table.contains_key(&cookie)
    }

    /// Notes one, which is at `own`.
    ///
    /// # Errors
    /// `ENOBUFS` where there is no room.
    pub fn note(&mut self, cookie: u64, own: SocketAddr) -> Result<(), Errno> {
        if self.is_full_for(cookie) {
            return Err(ENOBUFS);
        }
        let new = || Endpoint { own, connected: None, relays: HashMap::new() };
        self.table.entry(cookie).or_insert_with(new);
        Ok(())
    }

    /// Forgets one that is gone, or has no port any more.
    pub fn forget(&mut self, cookie: u64) {
        self.table.remove(&cookie);
    }

    /// Where a socket that is known meets `peer`: by what `open` opens, if it has not met it before.
    ///
    /// # Errors
    /// `ENOBUFS` where there is no room, and what `open` says.
    pub fn meet(
        &mut self,
        cookie: u64,
        peer: SocketAddr,
        open: impl FnOnce(SocketAddr) -> io::Result<(Arc<Way>, AbortHandle)>,
    ) -> Result<(SocketAddr, Arc<Way>), Errno> {
        self.now += 1;
        let now = self.now;
        let endpoint = self.table.get_mut(&cookie).ok_or(Errno::ENETUNREACH)?;
        if let Some(relay) = endpoint.relays.get_mut(&peer) {
            relay.used = now;
            return Ok((relay.address, relay.way.clone()));
        }
        let own = endpoint.own;
        let of_this_one = (endpoint.relays.len() >= RELAYS_OF_ONE_MAX).then_some(cookie);
        if of_this_one.is_some() || self.relays() >= self.relays_max {
            self.make_room(of_this_one)?;
        }
        let plain = |error: io::Error| Errno::of(&error).unwrap_or(Errno::EINVAL);
        let (way, reading) = open(own).map_err(plain)?;
        let address = way.socket.local_addr().map_err(plain)?;
        let relay = Relay { way: way.clone(), address, used: now, reading };
        self.table.get_mut(&cookie).ok_or(Errno::ENETUNREACH)?.relays.insert(peer, relay);
        Ok((address, way))
    }

    /// A socket is connected to `peer` now; gives what it was connected to before, and is not any more.
    pub fn connect(&mut self, cookie: u64, peer: Option<SocketAddr>) -> Option<(SocketAddr, Arc<Way>)> {
        let endpoint = self.table.get_mut(&cookie)?;
        let left = std::mem::replace(&mut endpoint.connected, peer).filter(|left| Some(*left) != peer)?;
        Some((left, endpoint.relays.get(&left)?.way.clone()))
    }

    /// Closes a relay by which nothing has gone, so that no answer can come by it.
    pub fn close_unused(&mut self, cookie: u64, peer: SocketAddr) {
        let Some(endpoint) = self.table.get_mut(&cookie).filter(|endpoint| endpoint.connected != Some(peer)) else {
            return;
        };
        if endpoint.relays.get(&peer).is_some_and(|relay| !relay.way.was_used()) {
            endpoint.relays.remove(&peer);
        }
    }

    /// Every relay that there is.
    pub fn ways(&self) -> Vec<(u64, SocketAddr, Arc<Way>)> {
        let all = self.table.iter().flat_map(|(cookie, endpoint)| {
            endpoint.relays.iter().map(|(peer, relay)| (*cookie, *peer, relay.way.clone()))
        });
        all.collect()
    }

    fn relays(&self) -> usize {
        self.table.values().map(|endpoint| endpoint.relays.len()).sum()
    }

    /// Closes the relay that was quiet for longest, of one socket or of all; none that a socket is connected to.
    fn make_room(&mut self, of: Option<u64>) -> Result<(), Errno> {
        let candidates = self.table.iter().filter(|(cookie, _)| of.is_none_or(|of| of == **cookie));
        let idle = candidates.flat_map(|(cookie, endpoint)| {
            let idle = endpoint.relays.iter().filter(|(peer, _)| endpoint.connected != Some(**peer));
            idle.map(|(peer, relay)| (relay.used, *cookie, *peer))
        });
        let (_, cookie, peer) = idle.min_by_key(|(used, ..)| *used).ok_or(ENOBUFS)?;
        if let Some(endpoint) = self.table.get_mut(&cookie) {
            endpoint.relays.remove(&peer);
        }
        Ok(())
    }
}

impl Endpoint {
    /// Whose relay has this address.
    pub fn behind(&self, address: SocketAddr) -> Option<SocketAddr> {
        self.relays.iter().find(|(_, relay)| relay.address == address).map(|(peer, _)| *peer)
    }
}

impl Way {
    /// Opens one that hears the program's socket at `own` and nobody else; what comes is handed to `pass_on` until it says `false`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(
        runtime: &Handle,
        own: SocketAddr,
        pass_on: impl Fn(Vec<u8>) -> bool + Send + 'static,
    ) -> io::Result<(Arc<Self>, AbortHandle)> {
        let _in_runtime = runtime.enter();
        let socket = std::net::UdpSocket::bind((own.ip(), 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(own)?;
        let way = Arc::new(Self { socket: UdpSocket::from_std(socket)?, was_used: Mutex::default() });
        let reader = way.clone();
        let reading = runtime.spawn(async move {
            let mut goes_on = true;
            while goes_on && reader.socket.readable().await.is_ok() {
                let take = || reader.take(|content| goes_on = pass_on(content));
                match reader.socket.try_io(Interest::READABLE, take) {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return,
                    _ => {}
                }
                // Waiting for a socket that is always ready costs no budget: a program that floods would keep this worker.
                tokio::task::coop::consume_budget().await;
            }
        });
        Ok((way, reading.abort_handle()))
    }

    /// Gives a datagram to the program's socket. Who is gone, or has no room, has lost it.
    pub fn give(&self, content: &[u8]) {
        *self.was_used.lock().unwrap_or_else(PoisonError::into_inner) = true;
        let _ = send(&self.socket, content, SendFlags::DONTWAIT);
    }

    /// Hands on all that the program has sent by it until now.
    pub fn take_all(&self, mut pass_on: impl FnMut(Vec<u8>)) {
        // The kernel is asked itself: what the runtime has heard of is not all that is there.
        while self.take(&mut pass_on).is_ok() {}
    }

    /// Hands on what the program has sent by it; `WouldBlock` once there is no more.
    fn take(&self, mut pass_on: impl FnMut(Vec<u8>)) -> io::Result<()> {
        // Held until it is passed on, so that nobody finds nothing there while the last is on its way.
        let mut was_used = self.was_used.lock().unwrap_or_else(PoisonError::into_inner);
        // Each relay has one only while it reads.
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        for _ in 0..TAKEN_AT_ONCE {
            match recv(&self.socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((length, _)) => {
                    *was_used = true;
                    pass_on(buffer.get(..length).unwrap_or_default().to_vec());
                }
                // The program's socket was not there for a moment, or is gone.
                Err(rustix::io::Errno::CONNREFUSED | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn was_used(&self) -> bool {
        *self.was_used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    fn meet(endpoints: &mut Endpoints, cookie: u64, port: u16) -> Result<Arc<Way>, Errno> {
        let opened = endpoints.meet(cookie, peer(port), |own| Way::open(&Handle::current(), own, |_| true));
        opened.map(|(_, way)| way)
    }

    fn met(endpoints: &Endpoints, cookie: u64) -> Vec<u16> {
        let ways = endpoints.ways().into_iter();
        let mut ports: Vec<_> = ways.filter(|(of, ..)| *of == cookie).map(|(_, peer, _)| peer.port()).collect();
        ports.sort_unstable();
        ports
    }

    #[tokio::test]
    async fn the_quietest_relay_makes_room_and_that_of_a_connection_stays() {
        let mut endpoints = Endpoints::with_most(3);
        for cookie in [1, 2] {
            endpoints.note(cookie, ([127, 0, 0, 1], 9).into()).unwrap();
        }
        meet(&mut endpoints, 1, 1).unwrap();
        endpoints.connect(1, Some(peer(1)));
        meet(&mut endpoints, 1, 2).unwrap();
        meet(&mut endpoints, 2, 3).unwrap();
        meet(&mut endpoints, 1, 2).unwrap();
        meet(&mut endpoints, 2, 4).unwrap();
        assert_eq!((met(&endpoints, 1), met(&endpoints, 2)), (vec![1, 2], vec![4]));
        meet(&mut endpoints, 2, 5).unwrap();
        assert_eq!((met(&endpoints, 1), met(&endpoints, 2)), (vec![1], vec![4, 5]));
        endpoints.connect(2, Some(peer(5)));
        meet(&mut endpoints, 1, 6).unwrap();
        endpoints.connect(1, Some(peer(6)));
        assert_eq!((met(&endpoints, 1), met(&endpoints, 2)), (vec![1, 6], vec![5]));
        endpoints.note(3, ([127, 0, 0, 1], 9).into()).unwrap();
        meet(&mut endpoints, 3, 7).unwrap();
        endpoints.connect(3, Some(peer(7)));
        assert_eq!(meet(&mut endpoints, 2, 8).map(drop), Err(ENOBUFS), "all are connected");
        assert_eq!(meet(&mut endpoints, 9, 8).map(drop), Err(Errno::ENETUNREACH), "nobody knows it");
    }

    #[tokio::test]
    async fn a_relay_that_was_left_stays_only_if_something_has_gone_by_it() {
        let mut endpoints = Endpoints::with_most(9);
        endpoints.note(1, ([127, 0, 0, 1], 9).into()).unwrap();
        for port in 1..=3 {
            let way = meet(&mut endpoints, 1, port).unwrap();
            if port == 2 {
                way.give(b"an answer");
            }
            if let Some((left, _)) = endpoints.connect(1, Some(peer(port))) {
                endpoints.close_unused(1, left);
            }
        }
        endpoints.close_unused(1, peer(3));
        assert_eq!(met(&endpoints, 1), [2, 3]);
    }

    #[test]
    fn sockets_are_bounded() {
        let mut endpoints = Endpoints::with_most(9);
        let own = ([127, 0, 0, 1], 9).into();
        for cookie in 0..SOCKETS_MAX as u64 {
            endpoints.note(cookie, own).unwrap();
        }
        assert_eq!(endpoints.note(SOCKETS_MAX as u64, own), Err(ENOBUFS));
        endpoints.note(0, own).unwrap();
        endpoints.forget(0);
        endpoints.note(SOCKETS_MAX as u64, own).unwrap();
    }
}
