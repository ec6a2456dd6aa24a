//! Datagrams of a program: one socket of the lender for each of the program's, and every answer from the address that was
//! sent to.
//!
//! ```text
//!   program ── datagram ──▶ transparent socket ─▶ its own? ──▶ sent on, inside
//!      ▲                                             └─▶ Flow (by the program's port) ═══ udp-bind ═══▶ lender
//!      └── datagram, or ICMP: the lender's errno ◀── raw socket ◀──┘
//! ```
//! A datagram that is not delivered is as one that a wire lost. A flow is over when nothing went either way for a while; the
//! next datagram begins another, which is another port at the lender, as behind any translator of addresses.

use std::{
    collections::HashMap,
    net::{Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Duration, timeout},
};

use super::{datagram, hold::Hold, outcome::Outcome, packet::Unreachable};
use crate::{
    BorrowError, Borrower,
    borrow::{
        flow::{Flow, QUIET_MAX, Side},
        lane::{LaneReceiver, Lanes, Number},
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
    tasks: Mutex<JoinSet<()>>,
    refused_tx: mpsc::Sender<BorrowError>,
}

impl Flows {
    /// Flows to what `borrower` may send to. `refused_tx` gets what the lender refuses, as far as there is room.
    pub fn new(borrower: Borrower, hold: Arc<Hold>, refused_tx: mpsc::Sender<BorrowError>) -> Arc<Self> {
        let (lanes, tasks) = (Mutex::new(Lanes::new(FLOWS_MAX)), Mutex::default());
        Arc::new(Self { borrower, hold, lanes, tasks, refused_tx })
    }

    /// Sends a datagram on its way, or loses it where too many wait.
    pub fn send(self: &Arc<Self>, outgoing: Outgoing) {
        let source = (outgoing.from.is_ipv4(), outgoing.from.port());
        let bytes = outgoing.content.len();
        let Some((number, lane)) = self.lanes().send(source, outgoing, bytes) else { return };
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(self.clone().run(source, number, lane));
    }

    /// Ends every flow once what the program has sent is with the lender. For a program that is over.
    pub async fn drain(&self) {
        self.lanes().end_all();
        let mut tasks = std::mem::take(&mut *self.tasks());
        let _ = timeout(LAST_WORDS_MAX, async { while tasks.join_next().await.is_some() {} }).await;
    }

    /// One flow, from its first datagram to its end.
    async fn run(self: Arc<Self>, source: Source, number: Number, mut lane: LaneReceiver<Outgoing>) {
        let address: SocketAddr = if source.0 { ([0; 4], 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let wanted = UdpBind { address, listen: false, v6_only: true };
        let mut program = Program { flows: &self, sources: HashMap::new() };
        match Flow::open(&self.borrower, wanted, &mut lane, &mut program).await {
            Ok(flow) => {
                if let Err(error) = flow.carry(&mut lane, &mut program, QUIET_MAX).await {
                    tracing::debug!(%error, "a flow of datagrams has ended");
                }
            }
            Err(error) => {
                if let Outcome::Unreachable(why) = Outcome::of(&error) {
                    lane.take_now().iter().for_each(|outgoing| program.note(outgoing));
                    program.sources.iter().for_each(|(peer, program)| self.tell(*program, *peer, Some(why)));
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
                if let Some(packet) = datagram::packet(peer, program, content) {
                    self.hold.send_to_program(program.ip(), &packet);
                }
            }
            UdpBody::Failed(Errno::ECONNREFUSED) => self.tell(program, peer, None),
            UdpBody::Failed(Errno::EACCES) => self.tell(program, peer, Some(Unreachable::Prohibited)),
            UdpBody::Failed(Errno::ENETUNREACH) => self.tell(program, peer, Some(Unreachable::Network)),
            UdpBody::Failed(Errno::EHOSTUNREACH) => self.tell(program, peer, Some(Unreachable::Host)),
            UdpBody::Refused(refusal) => {
                self.tell(program, peer, Some(Unreachable::Prohibited));
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

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes<Source, Outgoing>> {
        // Every change under the lock is complete by itself.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The program's side of one flow.
struct Program<'a> {
    flows: &'a Flows,
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
        if let Some(program) = self.sources.get(&peer) {
            self.flows.hand_in(*program, peer, body);
        }
    }
}
