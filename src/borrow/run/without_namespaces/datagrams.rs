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
    collections::HashSet,
    io,
    net::{Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::net::connect;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};

use super::{
    address,
    answers::{plain, wrong},
    own_ports::OwnPorts,
    relays::{Endpoints, SOCKETS_MAX, Way},
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
    endpoints: Mutex<Endpoints>,
    lanes: Mutex<Lanes<Source, Outgoing>>,
    tasks: Mutex<JoinSet<()>>,
    answering: Arc<Semaphore>,
    refused_tx: mpsc::Sender<BorrowError>,
    runtime: Handle,
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
        let listeners = Listeners::of_this_network()?;
        let datagrams = Arc::new(Self {
            borrower,
            names,
            local,
            own_ports,
            listeners,
            endpoints: Mutex::new(Endpoints::new()),
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
        let Some(target) = socket.reads_target(given) else {
            if address::family_of(given) != Some(libc::AF_UNSPEC) {
                return Err(wrong(given));
            }
            plain(sys::connect_as_given(&socket.fd, given))?;
            let left = self.endpoints().connect(socket.cookie, None);
            self.left(socket, left);
            return Ok(());
        };
        let target = self.check(socket, target)?;
        self.bind(socket)?;
        let stays_here = self.stays_here(target);
        if !stays_here {
            self.note(socket)?;
        }
        // Until the kernel has connected it, no relay may go.
        let mut endpoints = self.endpoints();
        let to = if stays_here { target } else { self.meet(&mut endpoints, socket.cookie, target)?.0 };
        plain(connect(&socket.fd, &address::of_family(to, socket.is_ipv6)).map_err(Into::into))?;
        let left = endpoints.connect(socket.cookie, (!stays_here).then_some(target));
        drop(endpoints);
        self.left(socket, left);
        Ok(())
    }

    /// After a socket was connected to something else than before: what it has sent to that goes there still.
    fn left(self: &Arc<Self>, socket: &ProgramSocket, left: Option<(SocketAddr, Arc<Way>)>) {
        if let Some((peer, way)) = left {
            way.take_all(|content| self.pass_on(socket.cookie, peer, content));
            self.endpoints().close_unused(socket.cookie, peer);
        }
        let mut endpoints = self.endpoints();
        // Without a port, or on another one, it is not what its relays know.
        if endpoints.find(socket.cookie).is_some_and(|endpoint| socket.bound() != Some(endpoint.own)) {
            endpoints.forget(socket.cookie);
        }
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
        self.note(socket)?;
        self.pass_on(socket.cookie, target, content);
        Ok(length)
    }

    /// Whom the program's socket is connected to, if that is not what the kernel says.
    pub fn peer(&self, cookie: u64) -> Option<SocketAddr> {
        self.endpoints().find(cookie)?.connected
    }

    /// Whether anything of the lender's can come to a socket.
    pub fn knows(&self, cookie: u64) -> bool {
        self.endpoints().find(cookie).is_some()
    }

    /// Who is behind an address that a socket has received from.
    pub fn behind(&self, cookie: u64, from: SocketAddr) -> Option<SocketAddr> {
        self.endpoints().find(cookie)?.behind(from)
    }

    /// Ends every flow once what the program has sent is with the lender. For a program that is over.
    pub async fn drain(self: &Arc<Self>) {
        // What connected sockets have sent is with their relays, as far as nobody has read it yet.
        let ways = self.endpoints().ways();
        for (cookie, peer, way) in ways {
            way.take_all(|content| self.pass_on(cookie, peer, content));
        }
        self.lanes().end_all();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = timeout(LAST_WORDS_MAX, async { while tasks.join_next().await.is_some() {} }).await;
    }

    fn check(&self, socket: &ProgramSocket, target: SocketAddr) -> Result<SocketAddr, Errno> {
        let target = SocketAddr::new(address::somewhere(target.ip()), target.port());
        // As in the other mode: there is no way to groups.
        if address::is_for_many(target.ip()) || (target.is_ipv4() && self.own_ports.is_v6_only(socket)) {
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

    /// Notes a socket that may be answered.
    fn note(&self, socket: &ProgramSocket) -> Result<(), Errno> {
        let own = self.own_of(socket)?;
        let is_full = self.endpoints().is_full_for(socket.cookie);
        if is_full {
            self.forget_those_gone();
        }
        self.endpoints().note(socket.cookie, own)
    }

    /// Where the program's socket meets a far end.
    fn meet(
        self: &Arc<Self>,
        endpoints: &mut Endpoints,
        cookie: u64,
        peer: SocketAddr,
    ) -> Result<(SocketAddr, Arc<Way>), Errno> {
        let weak = Arc::downgrade(self);
        let pass_on = move |content| {
            weak.upgrade().map(|datagrams: Arc<Self>| datagrams.pass_on(cookie, peer, content)).is_some()
        };
        endpoints.meet(cookie, peer, |own| Way::open(&self.runtime, own, pass_on))
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
        let met = self.meet(&mut self.endpoints(), cookie, peer);
        match met {
            Ok((_, way)) => way.give(content),
            Err(errno) => tracing::debug!(%peer, %errno, "an answer is lost"),
        }
    }

    fn forget_those_gone(&self) {
        let known = self.endpoints().ports();
        // Of every port.
        let Ok(there) = self.listeners.cookies(true, 0) else { return };
        let there: HashSet<u64> = there.into_iter().collect();
        for (cookie, port) in known.into_iter().filter(|(cookie, _)| !there.contains(cookie)) {
            // A long list may lack some that were there all the time.
            if self.listeners.cookies(true, port).is_ok_and(|there| !there.contains(&cookie)) {
                self.endpoints().forget(cookie);
            }
        }
    }

    fn endpoints(&self) -> MutexGuard<'_, Endpoints> {
        // Every change under the lock is complete by itself.
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes<Source, Outgoing>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
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
