//! Datagrams to what `--local` keeps on this machine: a socket of ours for each pair of ends, so that its peer's answers and errors
//! are those of the pair.
//!
//! What the program sends is with the kernel when [`send`](LocalFlows::send) returns: nothing of it is left to be delivered when the
//! program is over.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use rustix::net::SendFlags;
use tokio::{
    net::UdpSocket,
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout_at},
};

use super::{datagram, hold::Hold, packet::Unreachable};
use crate::{
    borrow::flow::QUIET_MAX,
    proto::{Errno, wildcard_like},
};

/// Pairs at once: as many as the lender serves sockets of one program. Of more, the one that was quiet for longest ends.
const PAIRS_MAX: usize = 1024;
/// The longest datagram, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;

/// A packet filter of this machine says no.
const EPERM: Errno = Errno(libc::EPERM as u16);

/// The program's end, and the one on this machine.
type Pair = (SocketAddr, SocketAddr);

/// The pairs of one borrowed network. Dropping it ends them.
pub struct LocalFlows {
    hold: Arc<Hold>,
    pairs: HashMap<Pair, Local>,
    /// Each reads what comes back for its pair, to the end of that.
    reading: JoinSet<Pair>,
}

/// This machine's socket of a pair.
struct Local {
    /// It is closed as soon as nobody reads from it; what is sent in that very moment may get no answer, as any datagram may.
    shared: Weak<Shared>,
    reading: AbortHandle,
}

struct Shared {
    socket: UdpSocket,
    used: Mutex<Instant>,
}

impl LocalFlows {
    /// None; `hold` sends to the program.
    pub fn new(hold: Arc<Hold>) -> Self {
        Self { hold, pairs: HashMap::new(), reading: JoinSet::new() }
    }

    /// Sends a datagram of the program, or loses it where its kernel has no room; what stands in its way the program hears.
    pub fn send(&mut self, from: SocketAddr, to: SocketAddr, content: &[u8]) {
        while let Some(ended) = self.reading.try_join_next() {
            if let Ok(pair) = ended
                && self.pairs.get(&pair).is_some_and(|local| local.shared.strong_count() == 0)
            {
                self.pairs.remove(&pair);
            }
        }
        let sent = self.socket((from, to)).and_then(|shared| {
            *shared.used() = Instant::now();
            match shared.send(content) {
                // What came back for an earlier one; this one was not sent.
                Err(error) if Errno::of(&error) == Some(Errno::ECONNREFUSED) => {
                    tell(&self.hold, (from, to), &error);
                    shared.send(content)
                }
                sent => sent,
            }
        });
        if let Err(error) = sent {
            tell(&self.hold, (from, to), &error);
            tracing::debug!(%error, %to, "a datagram was not sent on this machine");
        }
    }

    fn socket(&mut self, pair: Pair) -> io::Result<Arc<Shared>> {
        if let Some(shared) = self.pairs.get(&pair).and_then(|local| local.shared.upgrade()) {
            return Ok(shared);
        }
        if self.pairs.len() >= PAIRS_MAX {
            let oldest = self.pairs.iter().min_by_key(|(_, local)| local.used()).map(|(pair, _)| *pair);
            oldest.and_then(|oldest| self.pairs.remove(&oldest));
        }
        let shared = Arc::new(Shared { socket: connect(pair.1)?, used: Mutex::new(Instant::now()) });
        let (hold, reads) = (self.hold.clone(), shared.clone());
        let reading = self.reading.spawn(async move {
            reads.read(&hold, pair).await;
            pair
        });
        self.pairs.insert(pair, Local { shared: Arc::downgrade(&shared), reading });
        Ok(shared)
    }
}

impl Local {
    /// `None`: it is over.
    fn used(&self) -> Option<Instant> {
        self.shared.upgrade().map(|shared| *shared.used())
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Shared {
    /// By the kernel itself: of a new socket the runtime does not know yet that it takes something.
    fn send(&self, content: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.socket, content, SendFlags::DONTWAIT)?;
        Ok(())
    }

    /// Hands what comes back to the program, until nothing has gone either way for a while.
    async fn read(&self, hold: &Hold, pair: Pair) {
        let (program, peer) = pair;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let until = *self.used() + QUIET_MAX;
            match timeout_at(until, self.socket.recv(&mut buffer)).await {
                Err(_) if *self.used() + QUIET_MAX <= Instant::now() => return,
                Err(_) => continue,
                Ok(Ok(length)) => {
                    let content = buffer.get(..length).unwrap_or_default();
                    if let Some(packet) = datagram::packet(peer, program, content) {
                        hold.send_to_program(program.ip(), &packet);
                    }
                }
                // Of one datagram; the socket, and with it the port that answers come to, stays.
                Ok(Err(error)) if !tell(hold, pair, &error) => {
                    tracing::debug!(%error, %peer, "a datagram of this machine")
                }
                Ok(Err(_)) => {}
            }
            *self.used() = Instant::now();
        }
    }

    fn used(&self) -> MutexGuard<'_, Instant> {
        // It is one value.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket of this machine for one peer.
fn connect(peer: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(wildcard_like(peer.ip()))?;
    socket.set_nonblocking(true)?;
    // Over UDP it waits for nobody.
    socket.connect(peer)?;
    UdpSocket::from_std(socket)
}

/// Tells the program by ICMP what this machine says; `false`: it has no word for it.
fn tell(hold: &Hold, (program, peer): Pair, error: &io::Error) -> bool {
    let why = match Errno::of(error) {
        Some(Errno::ECONNREFUSED) => None,
        Some(Errno::EACCES | EPERM) => Some(Unreachable::Prohibited),
        Some(Errno::ENETUNREACH) => Some(Unreachable::Network),
        Some(Errno::EHOSTUNREACH) => Some(Unreachable::Host),
        Some(_) | None => return false,
    };
    if let Some(packet) = datagram::undelivered(program, peer, why) {
        hold.send_to_program(program.ip(), &packet);
    }
    true
}
