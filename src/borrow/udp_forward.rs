//! A local UDP port whose datagrams the lender sends on: the library's side of `capuchin forward -L …/udp`.
//!
//! ```text
//!   client ──▶ UdpPort ─▶ its lane ─▶ Flow ═══ udp-bind ═══▶ a socket of its own at the lender ──▶ target
//!      ◀────── from the address that it sent to ◀──┘
//! ```
//! A datagram that is not delivered is as one that a wire lost. What the lender says about it cannot be told to a client by an
//! ordinary socket: it is told to whoever runs the forward.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::mpsc,
    time::{Duration, Instant},
};

use super::{
    BorrowError, Borrower,
    flow::{Flow, QUIET_MAX, Side},
    lane::{LaneReceiver, Lanes, Number},
    local::wind_up,
    udp_port::{Client, UdpPort},
};
use crate::{
    proto::{ErrorKind, Refusal, SessionId, Target, UdpBind, UdpBody, UdpMessage, wildcard_like},
    session::Crew,
};

/// Clients at once, each with a socket of the lender; of more, the one that was quiet for longest is forgotten.
const CLIENTS_MAX: usize = 1024;
/// Failures that wait to be told; more at once are not new.
const FAILURES_MAX: usize = 16;
/// How long an address of the target's name is good for new clients: shorter than the 10 minutes for which the lender
/// remembers at least that it was answered.
const RESOLVED_FOR: Duration = Duration::from_secs(30);

/// A bound local UDP port that is not served yet.
pub struct UdpForward {
    port: UdpPort,
    target: Target,
    borrower: Borrower,
    quiet_max: Duration,
}

impl UdpForward {
    /// Binds a local port, where 0 picks one. The lender resolves the target's name.
    ///
    #[cfg_attr(feature = "lend", doc = "```")]
    #[cfg_attr(not(feature = "lend"), doc = "```text")]
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc_lab.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let (profiles, _web, _folder) = lab().await?;
    /// # let lab = capuchin::Borrower::connect_with(&profiles, "lab").await?;
    /// # let server = std::net::UdpSocket::bind("127.0.0.1:0")?;
    /// use capuchin::UdpForward;
    ///
    /// let target = server.local_addr()?.to_string().parse()?;
    /// let forward = UdpForward::bind(&lab, "127.0.0.1:0".parse()?, target).await?;
    /// let local = forward.local();
    /// let serving = tokio::spawn(forward.serve(|failure| eprintln!("{failure}")));
    ///
    /// let client = std::net::UdpSocket::bind("127.0.0.1:0")?;
    /// client.send_to(b"good day", local)?;
    /// # tokio::task::spawn_blocking(move || {
    /// let (_, lender) = server.recv_from(&mut [0; 64])?;
    /// server.send_to(b"and to you", lender)?;
    /// assert_eq!(client.recv_from(&mut [0; 64])?, (10, local));
    /// # std::io::Result::Ok(())
    /// # }).await??;
    /// // Aborting it closes the port, and the lender's sockets.
    /// serving.abort();
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// The port cannot be bound.
    pub async fn bind(borrower: &Borrower, local: SocketAddr, target: Target) -> Result<Self, BorrowError> {
        let port = UdpPort::bind(local).await?;
        Ok(Self { port, target, borrower: borrower.clone(), quiet_max: QUIET_MAX })
    }

    /// Forgets a client, and closes its socket at the lender, when nothing went either way for so long; 300 s if not said
    /// otherwise (RFC 4787 §4.3).
    #[must_use]
    pub fn forget_after(self, quiet_max: Duration) -> Self {
        Self { quiet_max, ..self }
    }

    /// Where programs send to, with the port that was picked.
    pub fn local(&self) -> SocketAddr {
        self.port.local()
    }

    /// Where the lender sends to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Serves clients until the session is over, and says why it is. On a session that is kept connected, clients have other
    /// sockets of the lender after it has come back; what they send meanwhile is lost. `failed` hears of each client whose datagrams the
    /// lender does not deliver, once until it does.
    ///
    /// # Cancellation
    /// Dropping the future closes the port, and the lender's sockets.
    pub async fn serve(self, mut failed: impl FnMut(&BorrowError)) -> BorrowError {
        let Self { port, target, borrower, quiet_max } = self;
        let (failure_tx, mut failure_rx) = mpsc::channel(FAILURES_MAX);
        let (lanes, resolved) = (Mutex::new(Lanes::new(CLIENTS_MAX)), Mutex::default());
        let served = Arc::new(Served { port, target, borrower, quiet_max, lanes, resolved, failure_tx });
        let mut clients = Crew::new();
        let ended = served.borrower.ended();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                ready = served.port.readable() => {
                    if let Err(error) = ready {
                        wind_up(clients).await;
                        return BorrowError::local(format!("cannot receive on {}/udp", served.port.local()), error);
                    }
                    served.port.receive(|client, content| {
                        let lane = served.lanes().send(client, content.to_vec(), content.len());
                        if let Some((number, lane)) = lane {
                            clients.spawn(&served.borrower.session(), served.clone().carry(client, number, lane));
                        }
                    });
                    // Waiting for a socket that is always ready costs no budget: a client that floods would keep this worker,
                    // and nobody would hear that the session is over.
                    tokio::task::coop::consume_budget().await;
                }
                Some(done) = clients.join_next() => match done {
                    // Told by whoever watches the connection; a client notices a loss.
                    Ok(Ok(()) | Err(BorrowError::Ended { .. })) | Err(_) => {}
                    Ok(Err(error)) => failed(&error),
                },
                Some(error) = failure_rx.recv() => failed(&error),
                end = &mut ended => {
                    wind_up(clients).await;
                    return end;
                }
            }
        }
    }
}

/// What all clients of a forward share.
struct Served {
    port: UdpPort,
    target: Target,
    borrower: Borrower,
    quiet_max: Duration,
    lanes: Mutex<Lanes<Client, Vec<u8>>>,
    /// An address of the target's name, until when it is good, and in which session it was answered.
    resolved: Mutex<Option<(SocketAddr, Instant, SessionId)>>,
    failure_tx: mpsc::Sender<BorrowError>,
}

impl Served {
    /// One client, from its first datagram until it is quiet.
    async fn carry(
        self: Arc<Self>,
        client: Client,
        number: Number,
        mut lane: LaneReceiver<Vec<u8>>,
    ) -> Result<(), BorrowError> {
        let carried = async {
            let to = self.resolve().await?;
            let wanted = UdpBind { address: wildcard_like(to.ip()), listen: false, v6_only: false };
            let mut side = ClientSide { served: &self, client, to, is_failing: false };
            let flow = Flow::open(&self.borrower, wanted, &mut lane, &mut side).await?;
            flow.carry(&mut lane, &mut side, self.quiet_max).await
        };
        let carried = carried.await;
        self.lanes().end(client, number);
        carried
    }

    /// Where the target is: the first address that the lender has for it, IPv4 before IPv6.
    async fn resolve(&self) -> Result<SocketAddr, BorrowError> {
        if let Ok(ip) = self.target.host.parse::<IpAddr>() {
            return Ok(SocketAddr::new(ip.to_canonical(), self.target.port));
        }
        let session = self.borrower.session_id();
        let resolved = *self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((address, until, asked)) = resolved
            && asked == session
            && Instant::now() < until
        {
            return Ok(address);
        }
        let addresses = self.borrower.lookup(&self.target.host).await?;
        let Some(ip) = addresses.first() else {
            let text = format!("{} has no address there", self.target.host);
            return Err(BorrowError::unanswered(self.borrower.host(), &Refusal::new(ErrorKind::Target, text)));
        };
        let address = SocketAddr::new(ip.to_canonical(), self.target.port);
        let until = Instant::now() + RESOLVED_FOR;
        *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) = Some((address, until, session));
        Ok(address)
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes<Client, Vec<u8>>> {
        // Every change under the lock is complete by itself.
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client's side of its flow.
struct ClientSide<'a> {
    served: &'a Served,
    client: Client,
    to: SocketAddr,
    /// The last thing that the lender said was a failure, which was told.
    is_failing: bool,
}

impl Side for ClientSide<'_> {
    type Outgoing = Vec<u8>;

    fn outgoing<'a>(&mut self, content: &'a Vec<u8>) -> UdpMessage<'a> {
        UdpMessage::datagram(self.to, content)
    }

    fn incoming(&mut self, UdpMessage { peer, body }: UdpMessage<'_>) {
        let Served { port, target, borrower, failure_tx, .. } = self.served;
        let error = match body {
            UdpBody::Datagram(content) => {
                self.is_failing = false;
                if peer == self.to {
                    port.answer(self.client, content);
                }
                return;
            }
            UdpBody::Failed(errno) => {
                let refusal = Refusal::new(ErrorKind::Target, errno.to_string()).with_errno(Some(errno));
                BorrowError::refused(borrower.host(), &format!("{target}/udp"), &refusal)
            }
            UdpBody::Refused(refusal) => BorrowError::unanswered(borrower.host(), &refusal),
            UdpBody::Unknown => return,
        };
        if !std::mem::replace(&mut self.is_failing, true) {
            // Who reads them has enough of the same.
            let _ = failure_tx.try_send(error);
        }
    }
}
