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
    io,
    net::{Ipv6Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Duration, timeout},
};

use super::{datagram, hold::Hold, outcome::Outcome, packet::Unreachable};
use crate::{
    BorrowError, Borrower,
    borrow::udp::open_udp,
    proto::{Errno, UdpBind, UdpBody, UdpMessage},
    session::{DatagramQueue, DatagramReader, Stream},
};

/// Flows at once: more than a resolver library or a peer-to-peer program has sockets.
const FLOWS_MAX: usize = 1024;
/// Datagrams of a flow that wait until it is served: a burst; beyond it they are lost.
const WAITING_MAX: usize = 64;
/// How long a flow may be quiet: what RFC 4787 §4.3 recommends.
const QUIET_MAX: Duration = Duration::from_secs(300);
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
    table: Mutex<HashMap<Source, (u64, mpsc::Sender<Outgoing>)>>,
    next: AtomicU64,
    tasks: Mutex<JoinSet<()>>,
    refused_tx: mpsc::Sender<BorrowError>,
}

impl Flows {
    /// Flows to what `borrower` may send to. `refused_tx` gets what the lender refuses, as far as there is room.
    pub fn new(borrower: Borrower, hold: Arc<Hold>, refused_tx: mpsc::Sender<BorrowError>) -> Arc<Self> {
        let (table, tasks, next) = (Mutex::default(), Mutex::default(), AtomicU64::new(0));
        Arc::new(Self { borrower, hold, table, next, tasks, refused_tx })
    }

    /// Sends a datagram on its way, or loses it where too many wait.
    pub fn send(self: &Arc<Self>, outgoing: Outgoing) {
        let source = (outgoing.from.is_ipv4(), outgoing.from.port());
        let mut table = self.table();
        let Some((_, outgoing_tx)) = table.get(&source) else {
            if table.len() < FLOWS_MAX {
                let number = self.next.fetch_add(1, Ordering::Relaxed);
                let (outgoing_tx, outgoing_rx) = mpsc::channel(WAITING_MAX);
                // There is room for the first one.
                let _ = outgoing_tx.try_send(outgoing);
                table.insert(source, (number, outgoing_tx));
                drop(table);
                let mut tasks = self.tasks();
                while tasks.try_join_next().is_some() {}
                tasks.spawn(self.clone().run(source, number, outgoing_rx));
            }
            return;
        };
        let _ = outgoing_tx.try_send(outgoing);
    }

    /// Ends every flow once what the program has sent is with the lender. For a program that is over.
    pub async fn drain(&self) {
        // Without a sender a flow ends behind its last datagram.
        self.table().clear();
        let mut tasks = std::mem::take(&mut *self.tasks());
        let _ = timeout(LAST_WORDS_MAX, async { while tasks.join_next().await.is_some() {} }).await;
    }

    /// One flow, from its first datagram to its end.
    async fn run(self: Arc<Self>, source: Source, number: u64, mut outgoing_rx: mpsc::Receiver<Outgoing>) {
        let address: SocketAddr = if source.0 { ([0; 4], 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let wanted = UdpBind { address, listen: false, v6_only: true };
        match open_udp(&self.borrower, wanted).await {
            Ok((stream, _)) => {
                if let Err(error) = self.carry(&stream, &mut outgoing_rx).await {
                    tracing::debug!(%error, "a flow of datagrams has ended");
                } else {
                    // A session that is over has taken nothing more, and says so elsewhere.
                    let _ = stream.close().await;
                }
            }
            Err(error) => {
                let outcome = Outcome::of(&error);
                while let Ok(Outgoing { from, to, .. }) = outgoing_rx.try_recv() {
                    if let Outcome::Unreachable(why) = outcome {
                        self.tell(from, to, Some(why));
                    }
                }
                let _ = self.refused_tx.try_send(error);
            }
        }
        let mut table = self.table();
        if table.get(&source).is_some_and(|(current, _)| *current == number) {
            table.remove(&source);
        }
    }

    async fn carry(&self, stream: &Stream, outgoing_rx: &mut mpsc::Receiver<Outgoing>) -> io::Result<()> {
        let (mut queue, mut reader) = (DatagramQueue::default(), DatagramReader::default());
        let mut sources: HashMap<SocketAddr, SocketAddr> = HashMap::new();
        loop {
            let waiting = queue.is_waiting();
            let step = async {
                tokio::select! {
                    drained = queue.drain(stream), if waiting => drained.map(|()| true),
                    more = reader.fill(stream) => more,
                    outgoing = outgoing_rx.recv() => {
                        let Some(outgoing) = outgoing else { return Ok(false) };
                        note(&mut sources, &outgoing);
                        queue.push(stream, &UdpMessage::datagram(outgoing.to, &outgoing.content));
                        while let Ok(outgoing) = outgoing_rx.try_recv() {
                            note(&mut sources, &outgoing);
                            queue.push(stream, &UdpMessage::datagram(outgoing.to, &outgoing.content));
                        }
                        queue.flush(stream).map(|()| true)
                    }
                }
            };
            let Ok(more) = timeout(QUIET_MAX, step).await else { return Ok(()) };
            if !more? {
                return Ok(());
            }
            while let Some(UdpMessage { peer, body }) = reader.next_message()? {
                if let Some(program) = sources.get(&peer) {
                    self.hand_in(*program, peer, body);
                }
            }
        }
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

    fn table(&self) -> MutexGuard<'_, HashMap<Source, (u64, mpsc::Sender<Outgoing>)>> {
        // Every change under the lock is complete by itself.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Remembers from where the program sent to a far end: there the answer goes.
fn note(sources: &mut HashMap<SocketAddr, SocketAddr>, Outgoing { from, to, .. }: &Outgoing) {
    if sources.len() >= SOURCES_MAX && !sources.contains_key(to) {
        sources.clear();
    }
    sources.insert(*to, *from);
}
