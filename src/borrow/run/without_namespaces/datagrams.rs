//! Datagrams of a program that no namespace holds.
//!
//! ```text
//!   program ── sendto, sendmsg ──▶ supervisor ──────┬─▶ a question of names ─▶ the lender's resolvers
//!      │                                            └─▶ lane ─▶ Flow ═══ udp-bind ═══▶ lender
//!      ├── connect: to a relay on loopback, then send, write ──▶ relay ──▶ the same
//!      ◀── recvfrom, recvmsg: by whom, the supervisor says ◀── relay of whoever answered ◀──┘
//! ```
//! Each far end that answers a socket of the program has a socket of ours on loopback, its *relay*: by the relay's address it is
//! known whom a datagram comes from. A program's socket is bound to loopback, so that nothing else reaches it.
//!
//! An error that the lender hears of a datagram (a closed port) is not told to the program, to which it is silence: the kernel
//! knows of no packet that it could be an answer to.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::net::{SendFlags, connect, getsockname, send};
use tokio::{
    net::UdpSocket,
    runtime::Handle,
    sync::{Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::{
    address,
    connections::{plain, wrong},
    own_ports::OwnPorts,
};
use crate::{
    BorrowError, Borrower,
    borrow::{
        flow::{Flow, QUIET_MAX, Side},
        lane::{LaneReceiver, Lanes, Number},
        run::{listeners::Listeners, listening::program_socket::ProgramSocket, local::Local, names::Names},
    },
    proto::{DATAGRAM_BYTES_MAX, Errno, UdpBind, UdpBody, UdpMessage},
    sys,
};

/// Sockets of the program at once, and far ends that answer one of them; of more, the program hears that there is no room, and
/// an answer is lost.
const SOCKETS_MAX: usize = 1024;
const RELAYS_MAX: usize = 256;
/// Questions that are being answered at once; more are lost, as on any network.
const ANSWERING_MAX: usize = 1024;
/// How often it is looked which sockets are gone.
const LOOK: Duration = Duration::from_secs(10);
/// How long what a program has sent before its end may take to the lender.
const LAST_WORDS_MAX: Duration = Duration::from_secs(5);

/// The lender's socket of a program's: one in each family.
type Source = (u64, bool);

/// The datagrams of one program and of all that it starts.
pub struct Datagrams {
    borrower: Borrower,
    names: Arc<Names>,
    local: Vec<Local>,
    own_ports: Arc<OwnPorts>,
    listeners: Listeners,
    sockets: Mutex<HashMap<u64, Endpoint>>,
    lanes: Mutex<Lanes<Source, Outgoing>>,
    tasks: Mutex<JoinSet<()>>,
    answering: Arc<Semaphore>,
    refused_tx: mpsc::Sender<BorrowError>,
    runtime: Handle,
}

/// A socket of the program.
struct Endpoint {
    /// Where it is, on loopback.
    own: SocketAddr,
    connected: Option<SocketAddr>,
    relays: HashMap<SocketAddr, Relay>,
}

/// One far end, as the program's socket meets it.
struct Relay {
    socket: Arc<UdpSocket>,
    address: SocketAddr,
    reading: AbortHandle,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// A datagram for the lender.
struct Outgoing {
    to: SocketAddr,
    content: Vec<u8>,
}

impl Datagrams {
    /// None yet. To be called in a tokio runtime.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(
        (borrower, names): (Borrower, Arc<Names>),
        local: Vec<Local>,
        own_ports: Arc<OwnPorts>,
        refused_tx: mpsc::Sender<BorrowError>,
    ) -> io::Result<Arc<Self>> {
        let listeners = Listeners::new(sys::netlink_socket(super::NETLINK_SOCK_DIAG)?);
        let datagrams = Arc::new(Self {
            borrower,
            names,
            local,
            own_ports,
            listeners,
            sockets: Mutex::default(),
            lanes: Mutex::new(Lanes::new(SOCKETS_MAX)),
            tasks: Mutex::default(),
            answering: Arc::new(Semaphore::new(ANSWERING_MAX)),
            refused_tx,
            runtime: Handle::current(),
        });
        Ok(datagrams)
    }

    /// Forgets sockets that are gone, for ever.
    pub async fn look_after(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.forget_those_gone();
        }
    }

    /// connect(2) of UDP.
    ///
    /// # Errors
    /// What the program hears.
    pub fn connect(self: &Arc<Self>, socket: &ProgramSocket, given: &[u8]) -> Result<(), Errno> {
        let Some(target) = socket.reads(given) else {
            if address::family_of(given) != Some(libc::AF_UNSPEC) {
                return Err(wrong(given));
            }
            if let Some(endpoint) = self.sockets().get_mut(&socket.cookie) {
                endpoint.connected = None;
            }
            return plain(sys::connect_as_given(&socket.fd, given));
        };
        let target = self.check(socket, target)?;
        self.bind(socket)?;
        let to = if self.stays_here(target) {
            self.endpoint(socket, |endpoint| endpoint.connected = None)?;
            target
        } else {
            let relay = self.relay(socket.cookie, target, || self.own_of(socket))?;
            self.endpoint(socket, |endpoint| endpoint.connected = Some(target))?;
            relay
        };
        plain(connect(&socket.fd, &address::of_family(to, socket.is_ipv6)).map_err(Into::into))
    }

    /// Sends a datagram to an address; gives how many bytes were taken.
    ///
    /// # Errors
    /// What the program hears.
    pub fn send(self: &Arc<Self>, socket: &ProgramSocket, given: &[u8], content: Vec<u8>) -> Result<usize, Errno> {
        let target = self.check(socket, socket.reads(given).ok_or_else(|| wrong(given))?)?;
        if target.port() == 0 {
            return Err(Errno::EINVAL);
        }
        self.bind(socket)?;
        let length = content.len();
        if self.stays_here(target) {
            let to = address::bytes(address::of_family(target, socket.is_ipv6));
            return super::messages::send(&socket.fd, &to, &content, &[], 0);
        }
        if length > DATAGRAM_BYTES_MAX {
            return Err(Errno::EMSGSIZE);
        }
        self.endpoint(socket, |_| ())?;
        self.pass_on(socket.cookie, target, content);
        Ok(length)
    }

    /// Whom the program's socket is connected to, if that is not what the kernel says.
    pub fn peer(&self, cookie: u64) -> Option<SocketAddr> {
        self.sockets().get(&cookie)?.connected
    }

    /// Whether anything of the lender's can come to a socket.
    pub fn knows(&self, cookie: u64) -> bool {
        self.sockets().contains_key(&cookie)
    }

    /// Who is behind an address that a socket has received from.
    pub fn behind(&self, cookie: u64, from: SocketAddr) -> Option<SocketAddr> {
        let sockets = self.sockets();
        let relays = &sockets.get(&cookie)?.relays;
        relays.iter().find(|(_, relay)| relay.address == from).map(|(peer, _)| *peer)
    }

    /// Ends every flow once what the program has sent is with the lender. For a program that is over.
    pub async fn drain(&self) {
        self.lanes().end_all();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = timeout(LAST_WORDS_MAX, async { while tasks.join_next().await.is_some() {} }).await;
    }

    fn check(&self, socket: &ProgramSocket, target: SocketAddr) -> Result<SocketAddr, Errno> {
        let target = SocketAddr::new(super::connections::somewhere(target.ip()), target.port());
        let is_group = target.ip().is_multicast() || matches!(target.ip(), IpAddr::V4(ip) if ip.is_broadcast());
        // As in the other mode: there is no way to groups.
        if is_group || (target.is_ipv4() && self.own_ports.is_v6_only(socket)) {
            return Err(Errno::ENETUNREACH);
        }
        Ok(target)
    }

    fn stays_here(&self, target: SocketAddr) -> bool {
        let is_name = self.is_name(target);
        let is_local = self.local.iter().any(|local| local.holds(target));
        !is_name && (is_local || self.own_ports.has_datagrams(target))
    }

    fn is_name(&self, target: SocketAddr) -> bool {
        self.names.catches(target)
            && !self.local.iter().any(|local| local.names_port(target))
            && !self.own_ports.has_datagrams(target)
    }

    /// Binds a socket that has no port yet, so that it is on loopback.
    fn bind(&self, socket: &ProgramSocket) -> Result<(), Errno> {
        if socket.bound().is_none() {
            self.own_ports.bind_any(socket)?;
        }
        Ok(())
    }

    fn own_of(&self, socket: &ProgramSocket) -> Result<SocketAddr, Errno> {
        socket.bound().filter(|bound| bound.ip().is_loopback()).ok_or(Errno::EACCES)
    }

    fn endpoint(&self, socket: &ProgramSocket, change: impl FnOnce(&mut Endpoint)) -> Result<(), Errno> {
        let own = self.own_of(socket)?;
        let mut sockets = self.sockets();
        if sockets.len() >= SOCKETS_MAX && !sockets.contains_key(&socket.cookie) {
            drop(sockets);
            self.forget_those_gone();
            sockets = self.sockets();
            if sockets.len() >= SOCKETS_MAX {
                return Err(super::messages::ENOBUFS);
            }
        }
        let new = || Endpoint { own, connected: None, relays: HashMap::new() };
        change(sockets.entry(socket.cookie).or_insert_with(new));
        Ok(())
    }

    /// Where the program's socket meets a far end.
    fn relay(
        self: &Arc<Self>,
        cookie: u64,
        peer: SocketAddr,
        own: impl FnOnce() -> Result<SocketAddr, Errno>,
    ) -> Result<SocketAddr, Errno> {
        let known = self.sockets().get(&cookie).map(|endpoint| endpoint.own);
        let own = known.map_or_else(own, Ok)?;
        let mut sockets = self.sockets();
        let endpoint =
            sockets.entry(cookie).or_insert_with(|| Endpoint { own, connected: None, relays: HashMap::new() });
        if let Some(relay) = endpoint.relays.get(&peer) {
            return Ok(relay.address);
        }
        if endpoint.relays.len() >= RELAYS_MAX {
            return Err(super::messages::ENOBUFS);
        }
        let relay = Relay::open(self, cookie, peer, own).map_err(|error| Errno::of(&error).unwrap_or(Errno::EINVAL))?;
        let address = relay.address;
        endpoint.relays.insert(peer, relay);
        Ok(address)
    }

    /// Hands a datagram of the program to whoever it is for.
    fn pass_on(self: &Arc<Self>, cookie: u64, to: SocketAddr, content: Vec<u8>) {
        if self.is_name(to) {
            let Ok(place) = self.answering.clone().try_acquire_owned() else { return };
            let datagrams = self.clone();
            self.runtime.spawn(async move {
                if let Some(answer) = datagrams.names.answer_datagram(Some(&datagrams.borrower), &content).await {
                    datagrams.hand_in(cookie, to, &answer);
                }
                drop(place);
            });
            return;
        }
        let (source, bytes) = ((cookie, to.is_ipv4()), content.len());
        let Some((number, lane)) = self.lanes().send(source, Outgoing { to, content }, bytes) else { return };
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(self.clone().flow(source, number, lane), &self.runtime);
    }

    /// One socket of the lender, from its first datagram to its end.
    async fn flow(self: Arc<Self>, source: Source, number: Number, mut lane: LaneReceiver<Outgoing>) {
        let address: SocketAddr = if source.1 { ([0; 4], 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let wanted = UdpBind { address, listen: false, v6_only: true };
        let mut program = Program { datagrams: self.clone(), cookie: source.0 };
        let carried = match Flow::open(&self.borrower, wanted, &mut lane, &mut program).await {
            Ok(flow) => flow.carry(&mut lane, &mut program, QUIET_MAX).await,
            Err(error) => {
                let _ = self.refused_tx.try_send(error);
                Ok(())
            }
        };
        if let Err(error) = carried {
            tracing::debug!(%error, "a flow of datagrams has ended");
        }
        self.lanes().end(source, number);
    }

    /// Gives a datagram of a far end to the program's socket, or loses it.
    fn hand_in(self: &Arc<Self>, cookie: u64, peer: SocketAddr, content: &[u8]) {
        let is_known = || Err(Errno::ENETUNREACH);
        if let Err(errno) = self.relay(cookie, peer, is_known) {
            tracing::debug!(%peer, %errno, "an answer is lost");
            return;
        }
        let relay = self
            .sockets()
            .get(&cookie)
            .and_then(|endpoint| endpoint.relays.get(&peer))
            .map(|relay| relay.socket.clone());
        if let Some(relay) = relay {
            // Who is gone, or has no room, has lost it.
            let _ = send(&*relay, content, SendFlags::DONTWAIT);
        }
    }

    fn forget_those_gone(&self) {
        let known: Vec<_> = self.sockets().iter().map(|(cookie, endpoint)| (*cookie, endpoint.own.port())).collect();
        for (cookie, port) in known {
            if self.listeners.cookies(true, port).is_ok_and(|there| !there.contains(&cookie)) {
                self.sockets().remove(&cookie);
            }
        }
    }

    fn sockets(&self) -> MutexGuard<'_, HashMap<u64, Endpoint>> {
        // Every change under the lock is complete by itself.
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes<Source, Outgoing>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relay {
    fn open(datagrams: &Arc<Datagrams>, cookie: u64, peer: SocketAddr, own: SocketAddr) -> io::Result<Self> {
        let _in_runtime = datagrams.runtime.enter();
        let socket = std::net::UdpSocket::bind((own.ip(), 0))?;
        socket.set_nonblocking(true)?;
        // It hears the program's socket and nobody else.
        socket.connect(own)?;
        let address = SocketAddr::try_from(getsockname(&socket)?)?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let (reader, weak) = (socket.clone(), Arc::downgrade(datagrams));
        let reading = datagrams.runtime.spawn(async move {
            let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
            loop {
                match reader.recv(&mut buffer).await {
                    Ok(length) => {
                        let Some(datagrams) = weak.upgrade() else { return };
                        datagrams.pass_on(cookie, peer, buffer.get(..length).unwrap_or_default().to_vec());
                    }
                    // The program's socket was not there for a moment, or is gone.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                    Err(_) => return,
                }
            }
        });
        Ok(Self { socket, address, reading: reading.abort_handle() })
    }
}

/// The program's side of one flow.
struct Program {
    datagrams: Arc<Datagrams>,
    cookie: u64,
}

impl Side for Program {
    type Outgoing = Outgoing;

    fn outgoing<'a>(&mut self, outgoing: &'a Outgoing) -> UdpMessage<'a> {
        UdpMessage::datagram(outgoing.to, &outgoing.content)
    }

    fn incoming(&mut self, UdpMessage { peer, body }: UdpMessage<'_>) {
        match body {
            UdpBody::Datagram(content) => self.datagrams.hand_in(self.cookie, peer, content),
            UdpBody::Refused(refusal) => {
                let refused = BorrowError::unanswered(self.datagrams.borrower.host(), &refusal);
                let _ = self.datagrams.refused_tx.try_send(refused);
            }
            _ => {}
        }
    }
}
