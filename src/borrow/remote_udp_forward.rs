//! A UDP port of the lender's whose datagrams are sent on here: the library's side of `capuchin forward -R …/udp`.
//!
//! ```text
//!   visitor ──▶ the lender's port ═══ udp-bind, listening ═══▶ its lane ─▶ a socket of its own here ──▶ target
//!      ◀──────────────────────────── one lane for all ◀──────────────────────┘
//! ```
//! As for `-L`, what cannot be delivered is told to whoever runs the forward.

use std::{collections::VecDeque, io, net::SocketAddr, sync::Arc};

use tokio::{
    net::UdpSocket,
    sync::mpsc,
    time::{Duration, Instant, sleep},
};

use super::{
    BorrowError, Borrower,
    flow::QUIET_MAX,
    lane::{LaneReceiver, LaneSender, Lanes, Number, lane},
    listen_again::listen_again,
    local::wind_up,
    target_addresses::TargetAddresses,
    udp,
};
use crate::{
    proto::{Errno, Request, Target, UdpBind, UdpBody, UdpMessage, wildcard_like},
    session::{Crew, DatagramQueue, DatagramReader, Stream, receive_datagrams},
};

/// Visitors at once, each with a socket here; of more, the one that was quiet for longest is forgotten.
const VISITORS_MAX: usize = 1024;
/// Failures that wait to be told; more at once are not new.
const FAILURES_MAX: usize = 16;

/// A datagram for a visitor, or of one.
type Answer = (SocketAddr, Vec<u8>);

/// A UDP port of the lender's that is bound and not served yet.
pub struct RemoteUdpForward {
    borrower: Borrower,
    stream: Stream,
    remote: SocketAddr,
    target: Target,
    quiet_max: Duration,
}

impl RemoteUdpForward {
    /// Opens a UDP port at the lender, as [`Borrower::udp_listen`] does. What comes to it is sent to `target` from this
    /// machine, which resolves its name.
    ///
    #[cfg_attr(feature = "lend", doc = "```")]
    #[cfg_attr(not(feature = "lend"), doc = "```text")]
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc_lab.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let (profiles, _web, _folder) = lab().await?;
    /// # let lab = capuchin::Borrower::connect_with(&profiles, "lab").await?;
    /// use capuchin::RemoteUdpForward;
    ///
    /// let forward = RemoteUdpForward::bind(&lab, "127.0.0.1:0".parse()?, "127.0.0.1:53".parse()?).await?;
    /// println!("our resolver is at {} of lab", forward.remote());
    /// let serving = tokio::spawn(forward.serve(|failure| eprintln!("{failure}")));
    /// // Aborting it closes the port, and our sockets.
    /// serving.abort();
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Borrower::udp_listen`].
    pub async fn bind(borrower: &Borrower, remote: SocketAddr, target: Target) -> Result<Self, BorrowError> {
        let (stream, remote) = listen(borrower, remote).await?;
        Ok(Self { borrower: borrower.clone(), stream, remote, target, quiet_max: QUIET_MAX })
    }

    /// Forgets a visitor, and closes its socket here, when nothing went either way for so long; 300 s if not said otherwise
    /// (RFC 4787 §4.3).
    #[must_use]
    pub fn forget_after(self, quiet_max: Duration) -> Self {
        Self { quiet_max, ..self }
    }

    /// What is sent to at the lender, with the port that was picked.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Where this machine sends to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Serves visitors until the session is over or the lender takes the port back, and says why. When a session that is kept
    /// connected comes back, the same port is opened again, and visitors keep their sockets here. `failed` hears of each
    /// visitor whose datagrams this machine cannot deliver, once until it can, and of each failure to open the port again.
    ///
    /// # Cancellation
    /// Dropping the future closes the port, and the sockets here.
    pub async fn serve(self, mut failed: impl FnMut(&BorrowError)) -> BorrowError {
        let Self { borrower, mut stream, remote, target, quiet_max } = self;
        let (answer_tx, mut answer_rx) = lane();
        let (failure_tx, failure_rx) = mpsc::channel(FAILURES_MAX);
        let target = Arc::new(TargetAddresses::new(target));
        let terms = Terms { target, quiet_max, answer_tx, failure_tx };
        let mut visitors = Visitors { terms, lanes: Lanes::new(VISITORS_MAX), crew: Crew::new(), failure_rx };
        loop {
            let end = match carry(&stream, &mut answer_rx, &mut visitors, &borrower, &mut failed).await {
                Ok(never) => match never {},
                Err(error) => BorrowError::answer(borrower.host(), &remote.to_string(), error).of_listener(),
            };
            let again = match end {
                BorrowError::Ended { .. } => {
                    let listen = || listen(&borrower, remote);
                    listen_again(&borrower, listen, &mut failed).await
                }
                taken => Err(taken),
            };
            match again {
                Ok((listened, _)) => stream = listened,
                Err(end) => {
                    wind_up(visitors.crew).await;
                    return end;
                }
            }
        }
    }
}

/// All who send to the port.
struct Visitors {
    terms: Terms,
    lanes: Lanes<SocketAddr, Vec<u8>>,
    crew: Crew<(SocketAddr, Number, Result<(), BorrowError>)>,
    failure_rx: mpsc::Receiver<BorrowError>,
}

/// What each visitor is given.
#[derive(Clone)]
struct Terms {
    target: Arc<TargetAddresses>,
    quiet_max: Duration,
    answer_tx: LaneSender<Answer>,
    failure_tx: mpsc::Sender<BorrowError>,
}

/// Until the stream ends.
async fn carry(
    stream: &Stream,
    answer_rx: &mut LaneReceiver<Answer>,
    visitors: &mut Visitors,
    borrower: &Borrower,
    failed: &mut impl FnMut(&BorrowError),
) -> io::Result<std::convert::Infallible> {
    let (mut queue, mut reader, mut answers) = (DatagramQueue::default(), DatagramReader::default(), VecDeque::new());
    loop {
        let waiting = queue.is_waiting();
        tokio::select! {
            drained = queue.drain(stream), if waiting => drained?,
            more = reader.fill(stream) => if !more? {
                return Err(Errno::ECONNRESET.into());
            },
            _ = answer_rx.take(&mut answers) => {
                for (peer, content) in answers.drain(..) {
                    queue.push(stream, &UdpMessage::datagram(peer, &content));
                }
                queue.flush(stream)?;
            }
            Some(Ok((peer, number, done))) = visitors.crew.join_next() => {
                visitors.lanes.end(peer, number);
                if let Err(error) = done {
                    failed(&error);
                }
            }
            Some(error) = visitors.failure_rx.recv() => failed(&error),
        }
        while let Some(UdpMessage { peer, body }) = reader.next_message()? {
            let UdpBody::Datagram(content) = body else { continue };
            if let Some((number, lane)) = visitors.lanes.send(peer, content.to_vec(), content.len()) {
                let visit = visitors.terms.clone().visit(peer, lane);
                visitors.crew.spawn(&borrower.session(), async move { (peer, number, visit.await) });
            }
        }
    }
}

impl Terms {
    /// One visitor, from its first datagram until it is quiet.
    async fn visit(self, visitor: SocketAddr, mut lane: LaneReceiver<Vec<u8>>) -> Result<(), BorrowError> {
        let failed =
            |error: io::Error| BorrowError::local(format!("cannot send to {}/udp", self.target.target()), error);
        let socket = dial(&self.target).await.map_err(failed)?;
        let (mut taken, mut is_failing) = (VecDeque::new(), false);
        let mut quiet = std::pin::pin!(sleep(self.quiet_max));
        loop {
            let done = tokio::select! {
                more = lane.take(&mut taken) => {
                    if !more {
                        return Ok(());
                    }
                    // Each may fail by the error of an earlier one, which is told once.
                    taken.drain(..).map(|content| socket.try_send(&content).map(drop)).fold(Ok(()), Result::and)
                }
                ready = socket.readable() => {
                    // Waiting for a socket that is always ready costs no budget: a target that floods would keep this worker.
                    tokio::task::coop::consume_budget().await;
                    ready.and_then(|()| receive_datagrams(&socket, |_, content| {
                        is_failing = false;
                        lane.note_use();
                        self.answer_tx.send((visitor, content.to_vec()), content.len());
                    }))
                }
                () = &mut quiet => {
                    let until = lane.used() + self.quiet_max;
                    if until <= Instant::now() {
                        return Ok(());
                    }
                    quiet.as_mut().reset(until);
                    Ok(())
                }
            };
            match done {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock && !is_failing => {
                    is_failing = true;
                    // Who reads them has enough of the same.
                    let _ = self.failure_tx.try_send(failed(error));
                }
                _ => {}
            }
        }
    }
}

/// A socket that hears from the target alone.
async fn dial(target: &TargetAddresses) -> io::Result<UdpSocket> {
    let mut failure = io::Error::from(Errno::EHOSTUNREACH);
    for address in target.now().await?.iter().copied() {
        let socket = UdpSocket::bind(wildcard_like(address.ip())).await?;
        match socket.connect(address).await {
            Ok(()) => {
                // Until the runtime has heard it from the kernel, there seems to be no room.
                socket.writable().await?;
                return Ok(socket);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// The port at the lender, and its address.
async fn listen(borrower: &Borrower, address: SocketAddr) -> Result<(Stream, SocketAddr), BorrowError> {
    match open(borrower, address).await {
        // A lender without IPv6 still has every IPv4 address.
        Err(error) if address.ip().is_unspecified() && error.is_for_want_of_ipv6() => {
            open(borrower, SocketAddr::from(([0, 0, 0, 0], address.port()))).await
        }
        opened => opened,
    }
}

async fn open(borrower: &Borrower, address: SocketAddr) -> Result<(Stream, SocketAddr), BorrowError> {
    let wanted = UdpBind { address, listen: true, v6_only: false };
    let stream = borrower.open(&Request::UdpBind(wanted))?;
    let local = udp::answer(borrower, &stream, wanted).await?;
    Ok((stream, local))
}
