//! Lends listening sockets, and names to listen as: what comes to them is announced to the borrower on a stream of its own,
//! and relayed.
//!
//! ```text
//!   bound ──StartListening──▶ listening ──▶ accepted, announced ──▶ pending ──Ready──▶ served
//!     └───────── end of the listener's stream, cut, new policy ────────┴──▶ closed      (goes on by itself)
//! ```
//! What is announced and not accepted yet is bounded, and nobody is accepted before there is a descriptor for him; the others
//! wait in the kernel's queue, as behind any slow server.
//!
//! Invariant: the socket lives in the future that serves it, so whatever ends that, the port is closed.

mod port;
mod tcp;
mod unix;

use std::{future::pending, io, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

pub(super) use self::tcp::bind_granted;
use self::{
    port::{Came, Port},
    unix::Kept,
};
use super::{
    borrower::Borrower,
    descriptors,
    dispatch::{break_off, refuse},
    gate,
    own_user::Actor,
};
use crate::{
    policy::{Granted, Listen, OfferService, UnixListen},
    proto::{
        Accepted, Answer, Errno, ErrorKind, Listening, PENDING_MAX, Ready, Refusal, ServiceListen, StartListening,
        StreamId, TcpListen, WireAddr, message,
    },
    session::{Backoff, Crew, Stream, relay_unanswered},
};

/// Judges a listener and what came to it again.
type StillListens = Arc<dyn Fn(&Borrower) -> Result<(), Refusal> + Send + Sync>;

/// Binds one of the ports that were granted, and serves it until the borrower, the policy or an admin ends it.
///
/// # Cancellation
/// Dropping the future closes the port and every connection.
pub(super) async fn tcp(borrower: &Arc<Borrower>, grant: Granted<Listen>, wanted: TcpListen, stream: Stream) {
    let (port, local, grant) = match tcp::bind(grant, &wanted) {
        Ok(bound) => bound,
        Err(error) => return failed(borrower, &stream, wanted.address.to_string(), &error).await,
    };
    let still: StillListens = Arc::new(move |borrower| gate::still_listens(borrower, &grant));
    let listener = Listener { port, kept: None, kind: "tcp-listen", target: local.to_string(), still };
    listener.lend(borrower, stream, wanted.backlog, &Listening { local: WireAddr(local) }).await;
}

/// As [`tcp`], for a Unix socket.
///
/// # Cancellation
/// As [`tcp`]; its file goes too.
pub(super) async fn unix(
    borrower: &Arc<Borrower>,
    (grant, actor): (Granted<UnixListen>, Actor),
    backlog: Option<u32>,
    stream: Stream,
) {
    let target = grant.request().path.to_string();
    let (port, kept) = match unix::bind_as(borrower, &actor, &grant.request().path).await {
        Ok(bound) => bound,
        Err(error) => return failed(borrower, &stream, target, &error).await,
    };
    let still: StillListens = Arc::new(move |borrower| gate::still_unix(borrower, &grant, &actor));
    let listener = Listener { port, kept: Some(kept), kind: "unix-listen", target, still };
    listener.lend(borrower, stream, backlog, &Ready {}).await;
}

/// As [`tcp`], for a name that other borrowers connect to.
///
/// # Cancellation
/// As [`tcp`]; the name is free again.
pub(super) async fn service(
    borrower: &Arc<Borrower>,
    grant: Granted<OfferService>,
    wanted: ServiceListen,
    stream: Stream,
) {
    let target = grant.request().name().to_owned();
    let offered = match borrower.lender.shared.services.offer(&target, wanted.at_once) {
        Ok(offered) => offered,
        Err(refusal) => {
            borrower.log("listen-failed", target, Some(refusal.text().to_owned())).await;
            return refuse(&stream, refusal).await;
        }
    };
    let still: StillListens = Arc::new(move |borrower| gate::still_by_rules(borrower, &grant));
    let listener = Listener { port: Port::Service(offered), kept: None, kind: "service-listen", target, still };
    listener.lend(borrower, stream, None, &Ready {}).await;
}

/// What was bound, and how to judge it again.
struct Listener {
    port: Port,
    /// Of a Unix socket; removed with it.
    kept: Option<Kept>,
    kind: &'static str,
    target: String,
    still: StillListens,
}

impl Listener {
    /// Answers, and serves until the end of the last connection.
    async fn lend<A: minicbor::Encode<()>>(
        mut self,
        borrower: &Arc<Borrower>,
        stream: Stream,
        backlog: Option<u32>,
        answer: &A,
    ) {
        let (target, still) = (self.target.clone(), self.still.clone());
        let held = match borrower.hold(&stream, self.kind, target.clone(), Box::new(move |borrower| still(borrower))) {
            Ok(held) => held,
            Err(refusal) => return refuse(&stream, refusal).await,
        };
        let Ok(place) = borrower.lender.shared.sockets.try_acquire() else {
            // Not while the log is waited for: there would be as many sockets as requests.
            drop(self);
            borrower.log("listen-failed", target, Some(descriptors::NONE_LEFT.to_owned())).await;
            return refuse(&stream, descriptors::none_left()).await;
        };
        if let Some(backlog) = backlog
            && let Err(error) = self.listen(backlog).await
        {
            return failed(borrower, &stream, target, &error).await;
        }
        let (taken_tx, taken) = watch::channel(false);
        let mut connections = Crew::new();
        if stream.write_message(&Answer::Granted(answer)).await.is_ok() {
            let serving = self.serve(borrower, &stream, &taken, &mut connections);
            held.serve(&stream, serving).await;
        }
        // The port first: whoever waits for the end of the stream may bind it again.
        drop(self.port);
        match self.kept {
            // Dropped unheard, it removes its file as well, a little later.
            Some(Kept::Keeper(keeper)) => keeper.close().await,
            Some(Kept::File(file)) => drop(file),
            None => {}
        }
        drop(place);
        let why = held.why_taken();
        taken_tx.send_replace(why.is_some());
        drop((held, stream));
        borrower.log("listen-closed", target, why).await;
        while connections.join_next().await.is_some() {}
    }

    /// Listens, or with another backlog: as the user whose socket it is.
    async fn listen(&mut self, backlog: u32) -> io::Result<()> {
        match &self.kept {
            Some(Kept::Keeper(keeper)) => {
                keeper.listen(backlog).await?;
                self.port.listens()
            }
            _ => self.port.listen(backlog),
        }
    }

    /// Until the borrower ends its half of `stream`.
    async fn serve(
        &mut self,
        borrower: &Arc<Borrower>,
        stream: &Stream,
        taken: &watch::Receiver<bool>,
        connections: &mut Crew<()>,
    ) {
        let pending = Arc::new(Semaphore::new(PENDING_MAX));
        let mut backoff = Backoff::new();
        let word = stream.read_message::<StartListening>("word to a listener");
        tokio::pin!(word);
        loop {
            tokio::select! {
                heard = &mut word => match heard {
                    Ok(StartListening { backlog }) => {
                        let answer = self.listen(backlog).await.map(|()| Ready {});
                        let answer = answer.map_or_else(|error| Answer::Refused(refusal(&error)), Answer::Granted);
                        if stream.write_message(&answer).await.is_err() {
                            return;
                        }
                        word.set(stream.read_message("word to a listener"));
                    }
                    // Its end; only what cannot be read breaks the protocol.
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        return break_off(&borrower.session, stream, &error);
                    }
                    Err(_) => return,
                },
                came = next(&self.port, &pending, &borrower.lender.shared.sockets) => match came {
                    Ok((came, place, descriptor)) => {
                        backoff.reset();
                        let arrival = Arrival {
                            listener: stream.id(),
                            came,
                            still: self.still.clone(),
                            place,
                            _descriptor: descriptor,
                            taken: taken.clone(),
                        };
                        connections.spawn(&borrower.session, arrival.serve(borrower.clone()));
                    }
                    Err(error) => backoff.wait(self.kind, &error).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

/// The next connection, once there is a place among the pending, and a descriptor for it of those that are lent.
async fn next(
    port: &Port,
    pending: &Arc<Semaphore>,
    sockets: &Arc<Semaphore>,
) -> io::Result<(Came, OwnedSemaphorePermit, Option<OwnedSemaphorePermit>)> {
    // Never closed.
    let place = pending.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (came, descriptor) = port.accept(sockets).await?;
    Ok((came, place, descriptor))
}

/// A connection that has come.
struct Arrival {
    listener: StreamId,
    came: Came,
    still: StillListens,
    /// Among the pending of its listener.
    place: OwnedSemaphorePermit,
    /// Held as long as it lasts.
    _descriptor: Option<OwnedSemaphorePermit>,
    /// Becomes true when the listener is taken back.
    taken: watch::Receiver<bool>,
}

impl Arrival {
    /// Announces it, and relays until both directions have ended; it outlives its listener.
    async fn serve(self, borrower: Arc<Borrower>) {
        let Self { listener, came, still, place, _descriptor, taken } = self;
        let target = came.to_string();
        let opened = borrower.session.open(message::encode_prefixed(&Accepted::new(listener, came.ends())));
        let stream = match opened {
            Ok(stream) => stream,
            Err(error) => {
                came.reset();
                return borrower.log("accept-failed", target, Some(error.to_string())).await;
            }
        };
        let held = match borrower.hold(&stream, "accepted", target.clone(), Box::new(move |borrower| still(borrower))) {
            Ok(held) => held,
            Err(refusal) => {
                came.reset();
                return borrower.log("accept-failed", target, Some(refusal.text().to_owned())).await;
            }
        };
        let answer = async {
            let answer = tokio::select! {
                answer = stream.read_message::<Answer<Ready>>("answer") => answer,
                () = taken_back(taken) => return Err(()),
            };
            drop(place);
            match answer {
                Ok(Answer::Granted(Ready {})) => Ok(()),
                Ok(Answer::Refused(_)) | Err(_) => Err(()),
            }
        };
        let relay = async {
            match came {
                Came::Tcp { socket, .. } => relay_unanswered(socket, &stream, held.meter(), answer, pending()).await,
                Came::Unix(socket) => relay_unanswered(socket, &stream, held.meter(), answer, pending()).await,
                Came::Service(visit) => visit.relay(&stream, held.meter(), answer).await,
            }
        };
        // On the heap: its room is free again while the connection idles.
        let _ = held.serve(&stream, Box::pin(relay)).await;
        held.log("accepted-closed", target, held.why_taken()).await;
    }
}

/// Ready when the listener is taken back; never when it is only closed, as what was accepted goes on then.
async fn taken_back(mut taken: watch::Receiver<bool>) {
    if taken.wait_for(|taken| *taken).await.is_err() {
        pending().await
    }
}

/// Tells the borrower and the log that there is no listener.
async fn failed(borrower: &Borrower, stream: &Stream, target: String, error: &io::Error) {
    let refusal = refusal(error);
    borrower.log("listen-failed", target, Some(refusal.text().to_owned())).await;
    refuse(stream, refusal).await;
}

fn refusal(error: &io::Error) -> Refusal {
    Refusal::new(ErrorKind::Target, format!("the lender cannot listen there: {error}")).with_errno(Errno::of(error))
}
