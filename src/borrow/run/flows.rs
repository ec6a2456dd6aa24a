//! Datagrams of a program: one socket of the lender for each of the program's, and every answer from the address that was
//! sent to.
//!
//! ```text
//!   program ── datagram ──▶ transparent socket ─▶ its own? ──▶ sent on, inside
//!      ▲                                             └─▶ Flow (by the program's port) ═══ udp-bind ═══▶ lender
//!      └── datagram, or ICMP: the lender's errno ◀── raw socket ◀──┘
//! ```
//! What the program has bound to a port is a server: its flow is open from the bind to the end of its last socket
//! ([`listening`](super::listening)), and strangers reach it.
//!
//! A datagram that is not delivered is as one that a wire lost. A flow is over when nothing went either way for a while; the
//! next datagram begins another, which is another port at the lender, as behind any translator of addresses.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::JoinSet,
    time::{Duration, timeout},
};

use super::{
    datagram,
    hold::Hold,
    outcome::{Outcome, prohibited},
    own_address::OwnAddresses,
    packet::Unreachable,
    read_out::ReadOut,
};
use crate::{
    BorrowError, Borrower,
    borrow::{
        flow::{Flow, QUIET_MAX, Side},
        lane::{LaneReceiver, LaneSender, Lanes, Number},
    },
    proto::{Errno, UdpBind, UdpBody, UdpMessage},
};

/// Flows at once: more than a resolver library or a peer-to-peer program has sockets. Of more, the one that was quiet for
/// longest ends.
const FLOWS_MAX: usize = 1024;
/// How long what a program has sent before its end may take to the lender.
const LAST_WORDS_MAX: Duration = Duration::from_secs(5);
/// Addresses of the program that one flow remembers, by far end; beyond it all are forgotten, and noted again as they send.
const SOURCES_MAX: usize = 1024;
/// Far ends that are known to be the lender's, of all flows; beyond it all are forgotten, and known again as they send.
const HEARD_MAX: usize = 4096;

/// The program's end of a flow: its port in one family. Its address may be another for each far end.
type Source = (bool, u16);

/// A datagram of the program.
pub struct Outgoing {
    /// The program's end.
    pub from: SocketAddr,
    /// Where it is sent to.
    pub to: SocketAddr,
    /// What it holds.
    pub content: Vec<u8>,
}

/// The flows of one borrowed network.
pub struct Flows {
    borrower: Borrower,
    hold: Arc<Hold>,
    lanes: Mutex<Lanes<Source, Outgoing>>,
    servers: Mutex<Servers>,
    /// Who has sent something to which of the program's ports.
    heard: Mutex<HashSet<(Source, SocketAddr)>>,
    own_addresses: OwnAddresses,
    read_out: ReadOut,
    tasks: Mutex<JoinSet<()>>,
    refused_tx: mpsc::Sender<BorrowError>,
    runtime: Handle,
}

/// The ports that strangers reach.
#[derive(Default)]
struct Servers {
    by_source: HashMap<Source, Vec<Server>>,
    next: u64,
}

struct Server {
    number: u64,
    /// What it is bound to, of all that have its port.
    bound: IpAddr,
    sender: LaneSender<Outgoing>,
}

impl Flows {
    /// Flows to what `borrower` may send to. `refused_tx` gets what the lender refuses, as far as there is room. To be called in a
    /// tokio runtime.
    pub fn new(
        borrower: Borrower,
        (hold, read_out): (Arc<Hold>, ReadOut),
        own_addresses: OwnAddresses,
        refused_tx: mpsc::Sender<BorrowError>,
    ) -> Arc<Self> {
        let (lanes, tasks) = (Mutex::new(Lanes::new(FLOWS_MAX)), Mutex::default());
        let (servers, heard) = (Mutex::default(), Mutex::default());
        let runtime = Handle::current();
        Arc::new(Self { borrower, hold, lanes, servers, heard, own_addresses, read_out, tasks, refused_tx, runtime })
    }

    /// Whether the machine has this address.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.own_addresses.contains(address)
    }

    /// Whether no socket can be bound there, as far as is known.
    pub fn lacks(&self, address: IpAddr) -> bool {
        self.own_addresses.lacks(address)
    }

    /// Whether `to` is known to be the lender's: it has sent something to the program's `from`.
    pub fn has_heard(&self, from: SocketAddr, to: SocketAddr) -> bool {
        self.heard().contains(&(source_of(from), to))
    }

    /// Hands what the program sends from `bound` to `sender`, until what this gives is dropped. A socket of IPv6 that is bound
    /// to the wildcard, and not to IPv6 alone, sends by IPv4 as well.
    pub fn open_server(
        self: &Arc<Self>,
        bound: SocketAddr,
        v6_only: bool,
        sender: &LaneSender<Outgoing>,
    ) -> OpenServer {
        let mut sources = vec![source_of(bound)];
        if bound.is_ipv6() && bound.ip().is_unspecified() && !v6_only {
            sources.push((true, bound.port()));
        }
        let mut servers = self.servers();
        let number = servers.next;
        servers.next += 1;
        for source in &sources {
            let server = Server { number, bound: bound.ip(), sender: sender.clone() };
            servers.by_source.entry(*source).or_default().push(server);
        }
        OpenServer { flows: self.clone(), number, sources }
    }

    /// The program's side of a flow; of a server, which is `bound`, strangers reach it.
    pub fn program(&self, bound: Option<SocketAddr>) -> Program<'_> {
        Program { flows: self, sources: HashMap::new(), bound }
    }

    /// Sends a datagram on its way, or loses it where too many wait.
    pub fn send(self: &Arc<Self>, outgoing: Outgoing) {
        let (source, bytes) = (source_of(outgoing.from), outgoing.content.len());
        if let Some(servers) = self.servers().by_source.get(&source) {
            let from = outgoing.from.ip();
            let of_it = |server: &&Server| server.bound.is_unspecified() || server.bound == from;
            if let Some(server) = servers.iter().find(of_it) {
                return server.sender.send(outgoing, bytes);
            }
        }
        let Some((number, lane)) = self.lanes().send(source, outgoing, bytes) else { return };
        self.spawn(self.clone().run(source, number, lane));
    }

    /// Runs what is to be over before a drain is.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &self.runtime);
    }

    /// Ends every flow once what the program has sent is with the lender. For a program that is over, and whose datagrams are read.
    pub async fn drain(&self) {
        self.lanes().end_all();
        self.servers().by_source.clear();
        let mut tasks = std::mem::take(&mut *self.tasks());
        let _ = timeout(LAST_WORDS_MAX, async { while tasks.join_next().await.is_some() {} }).await;
    }

    /// One flow, from its first datagram to its end.
    async fn run(self: Arc<Self>, source: Source, number: Number, mut lane: LaneReceiver<Outgoing>) {
        let address: SocketAddr = if source.0 { ([0; 4], 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let wanted = UdpBind { address, listen: false, v6_only: true };
        let mut program = self.program(None);
        match Flow::open(&self.borrower, wanted, &mut lane, &mut program).await {
            Ok(flow) => {
                if let Err(error) = flow.carry(&mut lane, &mut program, QUIET_MAX).await {
                    tracing::debug!(%error, "a flow of datagrams has ended");
                }
            }
            Err(error) => {
                if let Outcome::Unreachable(why) = Outcome::of(&error) {
                    lane.take_now().iter().for_each(|outgoing| program.note(outgoing));
                    let why_of = |peer: &SocketAddr| match why {
                        Unreachable::Prohibited => prohibited(peer.ip()),
                        why => Some(why),
                    };
                    program.sources.iter().for_each(|(peer, program)| self.tell(*program, *peer, why_of(peer)));
                }
                let _ = self.refused_tx.try_send(error);
            }
        }
        self.lanes().end(source, number);
    }

    /// What the lender says about `peer`, to the program.
    fn hand_in(&self, program: SocketAddr, peer: SocketAddr, body: UdpBody<'_>) {
        match body {
            UdpBody::Datagram(content) => {
                self.note_heard(program, peer);
                if let Some(packet) = datagram::packet(peer, program, content) {
                    self.hold.send_to_program(program.ip(), &packet);
                }
            }
            UdpBody::Failed(Errno::ECONNREFUSED) => self.tell(program, peer, None),
            UdpBody::Failed(Errno::EACCES) => self.tell(program, peer, prohibited(peer.ip())),
            UdpBody::Failed(Errno::ENETUNREACH) => self.tell(program, peer, Some(Unreachable::Network)),
            UdpBody::Failed(Errno::EHOSTUNREACH) => self.tell(program, peer, Some(Unreachable::Host)),
            UdpBody::Refused(refusal) => {
                self.tell(program, peer, prohibited(peer.ip()));
                let _ = self.refused_tx.try_send(BorrowError::unanswered(self.borrower.host(), &refusal));
            }
            // Nothing that ICMP has a word for which a program hears.
            _ => {}
        }
    }

    /// Answers by ICMP; `None`: nobody listens on the port.
    fn tell(&self, program: SocketAddr, peer: SocketAddr, why: Option<Unreachable>) {
        if let Some(packet) = datagram::undelivered(program, peer, why) {
            self.hold.send_to_program(program.ip(), &packet);
        }
    }

    fn note_heard(&self, program: SocketAddr, peer: SocketAddr) {
        let mut heard = self.heard();
        if heard.len() >= HEARD_MAX {
            heard.clear();
        }
        heard.insert((source_of(program), peer));
    }

    fn servers(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) -> MutexGuard<'_, HashSet<(Source, SocketAddr)>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes<Source, Outgoing>> {
        // Every change under the lock is complete by itself.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The program's side of one flow.
pub struct Program<'a> {
    flows: &'a Flows,
    /// What a server is bound to.
    bound: Option<SocketAddr>,
    /// From where it sent to each far end: there the answer goes.
    sources: HashMap<SocketAddr, SocketAddr>,
}

impl Program<'_> {
    fn note(&mut self, Outgoing { from, to, .. }: &Outgoing) {
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(to) {
            self.sources.clear();
        }
        self.sources.insert(*to, *from);
    }
}

impl Side for Program<'_> {
    type Outgoing = Outgoing;

    fn outgoing<'a>(&mut self, outgoing: &'a Outgoing) -> UdpMessage<'a> {
        self.note(outgoing);
        UdpMessage::datagram(outgoing.to, &outgoing.content)
    }

    fn incoming(&mut self, UdpMessage { peer, body }: UdpMessage<'_>) {
        let stranger = || self.bound.map(|bound| self.flows.own_addresses.met_by(peer.ip(), bound));
        if let Some(program) = self.sources.get(&peer).copied().or_else(stranger) {
            self.flows.hand_in(program, peer, body);
        }
    }
}

/// A server's port is the program's until this is dropped, and what was sent before is read.
pub struct OpenServer {
    flows: Arc<Flows>,
    number: u64,
    sources: Vec<Source>,
}

impl Drop for OpenServer {
    fn drop(&mut self) {
        let (flows, number, sources) = (self.flows.clone(), self.number, std::mem::take(&mut self.sources));
        self.flows.spawn(async move {
            // The last answer of a server that closes behind it is still its own.
            flows.read_out.all_read().await;
            let mut servers = flows.servers();
            for source in &sources {
                if let Some(of_port) = servers.by_source.get_mut(source) {
                    of_port.retain(|server| server.number != number);
                    if of_port.is_empty() {
                        servers.by_source.remove(source);
                    }
                }
            }
        });
    }
}

fn source_of(address: SocketAddr) -> Source {
    (address.is_ipv4(), address.port())
}
