//! Lends UDP sockets: each destination meets the gate before the first datagram to it, and nothing comes in from where
//! nothing was sent to, unless the port is one that strangers may reach.
//!
//! ```text
//!   stream ──▶ peers: known? ──yes──▶ socket ──▶            to a destination
//!                │ no                   │
//!                ▼                      ├──▶ peers: sent to, or open to strangers? ──▶ stream
//!             gate::datagram            └──▶ ICMP errors ──▶ stream, with the destination that they are about
//! ```
//! Datagrams never wait: what the stream or the socket has no room for is dropped and counted, as on any full link.
//!
//! Invariant: the socket lives in the future that serves it, so whatever ends that, the port is closed.

mod peers;
mod socket;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    io::Interest,
    net::UdpSocket,
    sync::SemaphorePermit,
    time::{Duration, Instant},
};

use self::peers::{May, Peers, Standing};
use super::{
    audit::Event,
    borrower::Borrower,
    descriptors,
    dispatch::{break_off, refuse},
    gate,
};
use crate::{
    policy::{Granted, Listen},
    proto::{Answer, Errno, ErrorKind, Listening, Refusal, UdpBind, UdpBody, UdpMessage, WireAddr},
    session::{DatagramQueue, DatagramReader, Meter, Stream, receive_datagrams, receive_datagrams_by},
};

/// Decisions about destinations of one socket that the log has a line for in each [`LOG_WINDOW`]; of more it has their
/// number, so that a scan over a network fills no disk.
const LOGGED_MAX: u64 = 1024;
const LOG_WINDOW: Duration = Duration::from_secs(60);

/// Serves one socket until the borrower, the policy or an admin ends it.
///
/// # Cancellation
/// Dropping the future closes the socket.
pub(super) async fn lend(borrower: &Arc<Borrower>, wanted: UdpBind, stream: Stream) {
    let (_place, (socket, local, listens)) = match open(borrower, &wanted).await {
        Ok(opened) => opened,
        Err(refusal) => return refuse(&stream, refusal).await,
    };
    let peers = Arc::new(Mutex::new(Peers::default()));
    let (judged, still_listens) = (peers.clone(), listens.clone());
    // A destination that is not allowed any more goes by itself, and is judged anew if it is sent to again.
    let still = move |borrower: &Borrower| {
        lock(&judged).judge_again(|grant| gate::still_by_rules(borrower, grant).is_ok());
        still_listens.as_ref().map_or(Ok(()), |grant| gate::still_by_rules(borrower, grant))
    };
    let held = match borrower.hold(&stream, "udp-bind", local.to_string(), Box::new(still)) {
        Ok(held) => held,
        Err(refusal) => return refuse(&stream, refusal).await,
    };
    let mut lent = Lent {
        borrower,
        socket,
        is_ipv6: local.is_ipv6(),
        listens: listens.is_some(),
        is_met_anywhere: listens.is_some() && wanted.address.ip().is_unspecified(),
        peers,
        queue: DatagramQueue::default(),
        meter: held.meter(),
        unsent: 0,
        logged: Logged { since: Instant::now(), lines: 0, more: 0 },
    };
    if stream.write_message(&Answer::Granted(Listening { local: WireAddr(local) })).await.is_ok()
        && let Some(Err(error)) = held.serve(&stream, lent.serve(&stream)).await
    {
        break_off(&borrower.session, &stream, &error);
    }
    let dropped = lent.queue.dropped() + lent.unsent;
    let more = lent.logged.more;
    // The socket first: whoever waits for the end of the stream may bind its port again.
    drop(lent);
    let why = held.why_taken().or_else(|| (dropped > 0).then(|| format!("{dropped} datagrams were dropped")));
    let event = Event { count: (more > 0).then_some(more), ..held.event("udp-closed", local.to_string(), why) };
    drop((held, stream));
    borrower.lender.shared.audit.log(event).await;
}

/// A socket, its address, and the grant of a port that strangers may reach.
type Opened = (UdpSocket, SocketAddr, Option<Granted<Listen>>);

/// What the gate and the system say to it. Its place among the sockets comes first: requests that come at once would
/// otherwise open as many as there are, if only for a moment, and leave none for strangers and admins.
async fn open<'a>(borrower: &'a Borrower, wanted: &UdpBind) -> Result<(SemaphorePermit<'a>, Opened), Refusal> {
    let grant = if wanted.listen {
        Some(gate::udp_listen(borrower, wanted.address).await?)
    } else {
        gate::udp_socket(borrower, wanted.address).await?;
        None
    };
    let failed = async |why: String| borrower.log("udp-failed", wanted.address.to_string(), Some(why)).await;
    let Ok(place) = borrower.lender.shared.sockets.try_acquire() else {
        failed(descriptors::NONE_LEFT.to_owned()).await;
        return Err(descriptors::none_left());
    };
    let opened = match grant {
        Some(grant) => socket::listening(grant, wanted).map(|(socket, local, grant)| (socket, local, Some(grant))),
        None => socket::sending(wanted).map(|(socket, local)| (socket, local, None)),
    };
    let opened = match opened {
        // Until the runtime has heard it from the kernel, there seems to be no room for what was sent with the request.
        Ok(opened) => opened.0.writable().await.map(|()| opened),
        Err(error) => Err(error),
    };
    match opened {
        Ok(opened) => Ok((place, opened)),
        Err(error) => {
            failed(error.to_string()).await;
            let text = format!("the lender cannot open a UDP socket there: {error}");
            Err(Refusal::new(ErrorKind::Target, text).with_errno(Errno::of(&error)))
        }
    }
}

/// A socket that is lent.
struct Lent<'a> {
    borrower: &'a Borrower,
    socket: UdpSocket,
    is_ipv6: bool,
    /// Strangers may reach it.
    listens: bool,
    /// They do so at every address of the machine, and take answers from that one alone.
    is_met_anywhere: bool,
    peers: Arc<Mutex<Peers>>,
    queue: DatagramQueue,
    meter: &'a Meter,
    /// Datagrams that the socket had no room for.
    unsent: u64,
    logged: Logged,
}

impl Lent<'_> {
    /// Until the borrower ends its half of `stream`. One that reads no more has perhaps sent something before, which still
    /// goes its way.
    async fn serve(&mut self, stream: &Stream) -> io::Result<()> {
        let mut reader = DatagramReader::default();
        match self.exchange(stream, &mut reader).await {
            Err(error) if error.kind() != io::ErrorKind::InvalidData => {}
            ended => return ended,
        }
        loop {
            // Of a stream that is over altogether this fails.
            let more = reader.fill(stream).await?;
            self.send_all(stream, &mut reader).await?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Both ways, until the borrower ends its half of `stream`.
    async fn exchange(&mut self, stream: &Stream, reader: &mut DatagramReader) -> io::Result<()> {
        loop {
            let waiting = self.queue.is_waiting();
            tokio::select! {
                more = reader.fill(stream) => {
                    let more = more?;
                    self.send_all(stream, reader).await?;
                    if !more {
                        // What was refused at last; who is over may hear that still.
                        return self.queue.flush(stream);
                    }
                }
                drained = self.queue.drain(stream), if waiting => drained?,
                ready = self.socket.ready(Interest::READABLE | Interest::ERROR) => {
                    let has_errors = ready?.is_error();
                    let bytes = self.receive(stream);
                    if has_errors {
                        self.hear_errors(stream);
                    }
                    self.queue.flush(stream)?;
                    self.meter.keep_pace(bytes).await;
                    // Waiting for a socket that is always ready costs no budget: who floods it would keep this worker.
                    tokio::task::coop::consume_budget().await;
                }
            }
            self.queue.flush(stream)?;
        }
    }

    /// Sends what has been read.
    async fn send_all(&mut self, stream: &Stream, reader: &mut DatagramReader) -> io::Result<()> {
        while let Some(message) = reader.next_message()? {
            self.send(stream, message).await;
        }
        Ok(())
    }

    async fn send(&mut self, stream: &Stream, message: UdpMessage<'_>) {
        let UdpBody::Datagram(payload) = message.body else { return };
        let peer = SocketAddr::new(message.peer.ip().to_canonical(), message.peer.port());
        self.meter.keep_pace(payload.len()).await;
        let may = lock(&self.peers).may(peer, Instant::now());
        let met_at = match may {
            Some(May::BeSentTo { met_at }) => met_at,
            Some(May::NotBeSentTo) => return self.fail(stream, peer, Errno::EACCES),
            unjudged => {
                let judged = match unjudged {
                    Some(_) => gate::answer(self.borrower, peer, || self.logged.next()).await,
                    None => self.judge(peer).await,
                };
                if let Err(refusal) = judged {
                    lock(&self.peers).note(peer, Standing::Refused, Instant::now());
                    self.queue.push(stream, &UdpMessage { peer, body: UdpBody::Refused(refusal) });
                    return;
                }
                lock(&self.peers).met_at(peer)
            }
        };
        let Some(to) = self.reachable(peer) else { return self.fail(stream, peer, Errno::EAFNOSUPPORT) };
        let sent = match met_at {
            Some(source) => socket::send_from(&self.socket, self.is_ipv6, source, peer, payload),
            None => self.socket.try_send_to(payload, to),
        };
        let sent = sent.or_else(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Err(error),
            // It may be the error of an earlier datagram, which is told here once and belongs to another destination.
            _ => {
                self.hear_errors(stream);
                self.socket.try_send_to(payload, to)
            }
        });
        match sent {
            Ok(_) => self.meter.went_from_stream(payload.len()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.unsent += 1,
            Err(error) => self.fail(stream, peer, Errno::of(&error).unwrap_or(Errno::EINVAL)),
        }
    }

    async fn judge(&mut self, peer: SocketAddr) -> Result<(), Refusal> {
        let logged = self.logged.next();
        let grant = gate::datagram(self.borrower, peer, logged).await?;
        lock(&self.peers).note(peer, Standing::Granted(grant.clone()), Instant::now());
        // A policy that came between the decision and the note has not seen it there.
        gate::still_by_rules(self.borrower, &grant)
    }

    /// Takes what has come, and says how many bytes of it went on.
    fn receive(&mut self, stream: &Stream) -> usize {
        let mut bytes = 0;
        let (queue, meter, listens, now) = (&mut self.queue, self.meter, self.listens, Instant::now());
        let mut peers = lock(&self.peers);
        let mut take = |peer, at: Option<IpAddr>, payload: &[u8]| {
            if listens {
                peers.note(peer, Standing::Came { asked: false }, now);
                at.into_iter().for_each(|at| peers.met(peer, at));
            } else if !peers.was_sent_to(peer, now) {
                tracing::trace!(%peer, "a datagram from where nothing was sent to");
                return;
            }
            if queue.push(stream, &UdpMessage::datagram(peer, payload)) {
                meter.went_to_stream(payload.len());
                bytes += payload.len();
            }
        };
        // An error is that of a datagram, which `hear_errors` tells, or says that no more is there.
        let _ = match self.is_met_anywhere {
            true => {
                receive_datagrams_by(&self.socket, socket::receive, |peer, at, content| take(peer, Some(at), content))
            }
            false => receive_datagrams(&self.socket, |peer, content| take(peer, None, content)),
        };
        bytes
    }

    /// Tells the errors of datagrams, each with its destination.
    fn hear_errors(&mut self, stream: &Stream) {
        loop {
            match socket::next_error(&self.socket) {
                Ok((peer, errno)) if lock(&self.peers).was_sent_to(peer, Instant::now()) => {
                    self.fail(stream, peer, errno);
                }
                // Nobody here has sent it, or it is of no datagram.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                // No more, or none that can be heard now.
                Err(_) => return,
            }
        }
    }

    fn fail(&mut self, stream: &Stream, peer: SocketAddr, errno: Errno) {
        self.queue.push(stream, &UdpMessage { peer, body: UdpBody::Failed(errno) });
    }

    /// As this socket's family writes it; `None` where it cannot.
    fn reachable(&self, peer: SocketAddr) -> Option<SocketAddr> {
        match (self.is_ipv6, peer.ip()) {
            (false, IpAddr::V4(_)) | (true, IpAddr::V6(_)) => Some(peer),
            (true, IpAddr::V4(v4)) => Some(SocketAddr::new(v4.to_ipv6_mapped().into(), peer.port())),
            (false, IpAddr::V6(_)) => None,
        }
    }
}

/// How many decisions of a socket the log has got.
struct Logged {
    since: Instant,
    lines: u64,
    /// Those that it has not.
    more: u64,
}

impl Logged {
    /// Whether the next one has a line.
    fn next(&mut self) -> bool {
        if self.since.elapsed() >= LOG_WINDOW {
            (self.since, self.lines) = (Instant::now(), 0);
        }
        let has_line = self.lines < LOGGED_MAX;
        *(if has_line { &mut self.lines } else { &mut self.more }) += 1;
        has_line
    }
}

fn lock(peers: &Mutex<Peers>) -> MutexGuard<'_, Peers> {
    // Every change under the lock is complete by itself.
    peers.lock().unwrap_or_else(PoisonError::into_inner)
}
