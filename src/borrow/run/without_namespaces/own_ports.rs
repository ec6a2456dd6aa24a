//! Ports that a program itself has, on this machine's loopback: the only place where it may listen without a namespace.
//!
//! What it binds to any other address is bound to loopback as well, so that nobody outside reaches it; getsockname says what it asked for.
//! A port that another program has is not shared with it (SO_REUSEADDR, SO_REUSEPORT): what is sent there, it would get.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::net::bind;
use tokio::sync::mpsc;

use super::{
    address,
    answers::{plain, wrong},
    messages::ENOBUFS,
    thread::Thread,
};
use crate::{
    BorrowError,
    borrow::run::{
        listeners::Listeners,
        listening::program_socket::{ProgramSocket, Transport},
    },
    proto::Errno,
};

/// Sockets of each kind that are known at once; of more, the program hears that there is no room. Which were bound to another address than
/// they asked for is forgotten beyond it, and seen as it is.
const KNOWN_MAX: usize = 4096;
/// Ports below it are root's.
const UNPRIVILEGED_PORT: u16 = 1024;

/// The ports of one program and of all that it starts.
pub struct OwnPorts {
    /// Asks which sockets are still there.
    listeners: Listeners,
    known: Mutex<Known>,
    refused_tx: mpsc::Sender<BorrowError>,
}

/// Sockets, by the kernel's number for each.
#[derive(Default)]
struct Known {
    listening: HashMap<u64, SocketAddr>,
    /// Of datagrams.
    bound: HashMap<u64, SocketAddr>,
    /// What they were to be bound to, where that is not where they are.
    asked: HashMap<u64, Wanted>,
}

/// How a socket was to be bound that is bound to loopback.
#[derive(Clone, Copy)]
struct Wanted {
    address: IpAddr,
    /// By a bind to an address of IPv6 the kernel sets it.
    v6_only: bool,
}

impl Known {
    fn want(&mut self, cookie: u64, wanted: Wanted) {
        if self.asked.len() >= KNOWN_MAX {
            let Self { listening, asked, .. } = self;
            asked.retain(|cookie, _| listening.contains_key(cookie));
        }
        self.asked.insert(cookie, wanted);
    }

    fn of_kind(&mut self, datagrams: bool) -> &mut HashMap<u64, SocketAddr> {
        if datagrams { &mut self.bound } else { &mut self.listening }
    }
}

impl OwnPorts {
    /// None yet. `refused_tx` hears of what cannot be listened on, as far as there is room.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(refused_tx: mpsc::Sender<BorrowError>) -> io::Result<Self> {
        let listeners = Listeners::of_this_network()?;
        Ok(Self { listeners, known: Mutex::default(), refused_tx })
    }

    /// bind(2).
    ///
    /// # Errors
    /// What the program hears.
    pub fn bind(&self, socket: &ProgramSocket, given: &[u8], thread: &Thread) -> Result<(), Errno> {
        let asked = socket.reads(given).ok_or_else(|| wrong(given))?;
        if socket.bound().is_some() {
            return Err(Errno::EINVAL);
        }
        if (1..UNPRIVILEGED_PORT).contains(&asked.port()) && !thread.is_our_user() {
            return Err(Errno::EACCES);
        }
        let is_datagram = socket.transport == Transport::Udp;
        if is_datagram {
            self.make_room(true)?;
        }
        let v6_only = socket.v6_only();
        let inside = if asked.ip().is_loopback() { asked.ip() } else { loopback(socket) };
        if is_datagram {
            self.is_nobody_elses(true, SocketAddr::new(inside, asked.port()))?;
        }
        bind_to(socket, SocketAddr::new(inside, asked.port()))?;
        let mut known = self.known();
        if is_datagram && let Some(bound) = socket.bound() {
            known.bound.insert(socket.cookie, bound);
        }
        if inside != asked.ip() {
            known.want(socket.cookie, Wanted { address: asked.ip(), v6_only });
        }
        drop(known);
        // A client may want this very port, so that it is no error; a server would wait for ever without a word.
        if is_datagram && inside != asked.ip() && asked.port() != 0 {
            let _ = self.refused_tx.try_send(answers_alone());
        }
        Ok(())
    }

    /// Binds a socket that has no port yet, as the kernel would when it is used: to the wildcard, for the program.
    ///
    /// # Errors
    /// As [`Self::bind`].
    pub fn bind_any(&self, socket: &ProgramSocket) -> Result<(), Errno> {
        let v6_only = socket.v6_only();
        let is_datagram = socket.transport == Transport::Udp;
        if is_datagram {
            self.make_room(true)?;
        }
        bind_to(socket, SocketAddr::new(loopback(socket), 0))?;
        let every: IpAddr = if socket.is_ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let mut known = self.known();
        // What another socket of the program's answers is for this one.
        if is_datagram && let Some(bound) = socket.bound() {
            known.bound.insert(socket.cookie, bound);
        }
        known.want(socket.cookie, Wanted { address: every, v6_only });
        Ok(())
    }

    /// Whether a socket leaves IPv4 alone, as the program has it.
    pub fn is_v6_only(&self, socket: &ProgramSocket) -> bool {
        let wanted = self.known().asked.get(&socket.cookie).copied();
        wanted.map_or_else(|| socket.v6_only(), |wanted| wanted.v6_only)
    }

    /// listen(2).
    ///
    /// # Errors
    /// What the program hears: `EACCES` for everything but loopback.
    pub fn listen(&self, socket: &ProgramSocket, backlog: i32) -> Result<(), Errno> {
        if socket.transport != Transport::Tcp || socket.is_connected() {
            return Err(Errno(libc::EOPNOTSUPP as u16));
        }
        let is_private = !self.known().asked.contains_key(&socket.cookie);
        let bound = socket.bound().filter(|bound| is_private && bound.ip().is_loopback());
        let Some(bound) = bound else {
            let _ = self.refused_tx.try_send(loopback_alone());
            return Err(Errno::EACCES);
        };
        if !self.known().listening.contains_key(&socket.cookie) {
            self.is_nobody_elses(false, bound)?;
            self.make_room(false)?;
        }
        plain(socket.listen(backlog))?;
        self.known().listening.insert(socket.cookie, bound);
        Ok(())
    }

    /// Whether no other program of this machine would get what is sent there.
    fn is_nobody_elses(&self, datagrams: bool, place: SocketAddr) -> Result<(), Errno> {
        if place.port() == 0 {
            return Ok(());
        }
        let owner = self.listeners.who_has(datagrams, place).map_err(|_| ENOBUFS)?;
        let is_own = owner.is_none_or(|cookie| self.known().of_kind(datagrams).contains_key(&cookie));
        if is_own { Ok(()) } else { Err(Errno::EADDRINUSE) }
    }

    /// Whether the program itself listens there.
    pub fn has(&self, target: SocketAddr) -> bool {
        self.has_one(false, target)
    }

    /// Whether the program itself has bound a socket for datagrams there.
    pub fn has_datagrams(&self, target: SocketAddr) -> bool {
        self.has_one(true, target)
    }

    fn has_one(&self, datagrams: bool, target: SocketAddr) -> bool {
        let own: Vec<u64> = {
            let mut known = self.known();
            let there = known.of_kind(datagrams).iter().filter(|(_, bound)| **bound == target);
            there.map(|(cookie, _)| *cookie).collect()
        };
        if own.is_empty() {
            return false;
        }
        // Nobody tells when a socket is gone.
        let Ok(there) = self.listeners.cookies(datagrams, target.port()) else {
            // Of what is the program's own nothing may go to the lender.
            return true;
        };
        let (alive, gone): (Vec<u64>, Vec<u64>) = own.into_iter().partition(|cookie| there.contains(cookie));
        let mut known = self.known();
        for cookie in gone {
            known.of_kind(datagrams).remove(&cookie);
            known.asked.remove(&cookie);
        }
        !alive.is_empty()
    }

    /// The address that a socket was to be bound to, where that is not where it is.
    pub fn asked(&self, cookie: u64) -> Option<IpAddr> {
        self.known().asked.get(&cookie).map(|wanted| wanted.address)
    }

    /// Makes room for one more where there is none, by those that are gone.
    fn make_room(&self, datagrams: bool) -> Result<(), Errno> {
        let known: Vec<u64> = self.known().of_kind(datagrams).keys().copied().collect();
        if known.len() < KNOWN_MAX {
            return Ok(());
        }
        let mut there = HashSet::new();
        // Of every port; a long list may lack one that was there all the time, and hardly twice.
        for _ in 0..2 {
            there.extend(self.listeners.cookies(datagrams, 0).map_err(|_| ENOBUFS)?);
        }
        let gone: Vec<u64> = known.into_iter().filter(|cookie| !there.contains(cookie)).collect();
        let mut known = self.known();
        for cookie in &gone {
            known.of_kind(datagrams).remove(cookie);
            known.asked.remove(cookie);
        }
        if gone.is_empty() { Err(ENOBUFS) } else { Ok(()) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change under the lock is complete by itself.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Loopback, as a socket of this family writes it.
pub fn loopback(socket: &ProgramSocket) -> IpAddr {
    if socket.is_ipv6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() }
}

/// Binds a socket of the program.
///
/// # Errors
/// What the kernel says.
pub fn bind_to(socket: &ProgramSocket, to: SocketAddr) -> Result<(), Errno> {
    plain(bind(&socket.fd, &address::of_family(to, socket.is_ipv6)).map_err(Into::into))
}

fn loopback_alone() -> BorrowError {
    let source = io::Error::new(io::ErrorKind::Unsupported, "only with namespaces can the lender lend it a port");
    BorrowError::local("under --no-netns a program listens on loopback alone", source)
}

fn answers_alone() -> BorrowError {
    let source = io::Error::new(io::ErrorKind::Unsupported, "only with namespaces can the lender lend it a port");
    BorrowError::local("under --no-netns a port for datagrams hears those alone whom the program has sent to", source)
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketType, socket};

    use super::*;

    /// A socket of the program that is bound, and does not listen yet.
    fn bound() -> (ProgramSocket, SocketAddr) {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let socket = ProgramSocket::new(socket).unwrap();
        let address = socket.bound().unwrap();
        (socket, address)
    }

    #[test]
    fn those_that_are_gone_make_room_and_those_that_are_there_stay() {
        let (refused_tx, _refused_rx) = mpsc::channel(1);
        let ports = OwnPorts::new(refused_tx).unwrap();
        let (socket, address) = bound();
        ports.listen(&socket, 1).unwrap();
        // No socket has so high a number.
        for number in 1..KNOWN_MAX as u64 {
            ports.known().listening.insert(u64::MAX - number, ([127, 0, 0, 1], 9).into());
        }
        assert_eq!(ports.known().listening.len(), KNOWN_MAX);
        let (other, _) = bound();
        ports.listen(&other, 1).unwrap();
        assert_eq!(ports.known().listening.len(), 2);
        assert!(ports.has(address));
    }

    #[test]
    fn what_cannot_be_asked_about_stays_the_programs_own() {
        let (refused_tx, _refused_rx) = mpsc::channel(1);
        let (socket, address) = bound();
        // A socket by which the kernel answers nothing.
        let listeners = Listeners::new(std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into());
        let ports = OwnPorts { listeners, known: Mutex::default(), refused_tx };
        ports.known().listening.insert(socket.cookie, address);
        assert!(ports.has(address) && ports.has(address));
    }
}
