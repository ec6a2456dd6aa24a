//! Connections of a borrowed program that stand: accepted from the kernel of its network, and carried until both ends have
//! finished.

use std::{collections::HashMap, convert::Infallible, io, net::SocketAddr, sync::Arc, task::Poll, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::Instant,
};

use super::{
    RunError,
    far_end::FarEnd,
    hold::{Far, Hold},
    listening::Visitor,
    local_copy::copy,
    way_in::Accepted,
};
use crate::{
    borrow::{BorrowError, Borrower},
    proto::Reset,
    session::{Backoff, Crew, Meter, Session, Stream, TakenBack, relay},
};

/// What a program that is over had sent is delivered for as long as bytes move; after such a pause, nobody takes them.
const STALLED: Duration = Duration::from_secs(5);
/// How often it is looked whether bytes move.
const LOOK: Duration = Duration::from_millis(100);

/// Tells the person who started the program that a connection of it was taken back: the program itself sees a reset.
pub type Tell = Arc<dyn Fn(FarEnd, TakenBack) + Send + Sync>;

/// As far as there is room behind `refused_tx`.
pub fn tell_by(borrower: &Borrower, refused_tx: mpsc::Sender<BorrowError>) -> Tell {
    let host = borrower.host().to_owned();
    Arc::new(move |far_end, taken| {
        drop(refused_tx.try_send(BorrowError::taken_back(&host, &far_end.to_string(), taken)))
    })
}

/// Tells a connection from the others.
type Number = u64;

/// A connection that has ended.
struct Over {
    number: Number,
    /// No end of it tells that the far end has what was sent.
    is_unconfirmed: bool,
}

/// The connections of one borrowed network.
pub struct Carrier {
    /// Where the program's own connections come; without a network of its own each comes as a visitor does.
    door: Option<(TcpListener, Arc<Hold>)>,
    visitor_rx: mpsc::Receiver<Visitor>,
    tell: Tell,
    /// Those to the lender, each in the task of its session.
    to_lender: Crew<Over>,
    /// Those that stay on this machine.
    here: JoinSet<Over>,
    /// Of both.
    meters: HashMap<Number, Arc<Meter>>,
    next_number: Number,
    /// Whether the program is over, and nobody reads what still comes for it.
    over_tx: watch::Sender<bool>,
    /// One that has ended was [`Over::is_unconfirmed`].
    unconfirmed: bool,
}

impl Carrier {
    /// Carries what `listener` accepts, whose far ends `hold` knows, and whoever comes by `visitor_rx`.
    pub fn new(listener: TcpListener, hold: Arc<Hold>, visitor_rx: mpsc::Receiver<Visitor>, tell: Tell) -> Self {
        Self { door: Some((listener, hold)), ..Self::of_visitors(visitor_rx, tell) }
    }

    /// Carries whoever comes by `visitor_rx`.
    pub fn of_visitors(visitor_rx: mpsc::Receiver<Visitor>, tell: Tell) -> Self {
        let over_tx = watch::Sender::new(false);
        Self {
            door: None,
            visitor_rx,
            tell,
            to_lender: Crew::new(),
            here: JoinSet::new(),
            meters: HashMap::new(),
            next_number: 0,
            over_tx,
            unconfirmed: false,
        }
    }

    /// Accepts and carries in the task of `session`, where those run that are carried: nobody else need be woken for one.
    pub fn start(mut self, session: &Session) -> Carrying {
        let (go_on, mut over_rx) = oneshot::channel();
        let mut carrier = Crew::new();
        carrier.spawn(session, async move {
            tokio::select! {
                _ = &mut over_rx => self,
                never = self.serve() => match never {},
            }
        });
        Carrying { carrier, go_on }
    }

    /// Accepts and carries, for ever.
    ///
    /// # Cancellation
    /// The connections go on, and [`Self::drain`] waits for them.
    async fn serve(&mut self) -> Infallible {
        let mut backoff = Backoff::new();
        loop {
            tokio::select! {
                accepted = accept(self.door.as_ref()) => match accepted {
                    Ok((socket, from)) => {
                        backoff.reset();
                        self.carry(socket, from);
                    }
                    Err(error) => backoff.wait("run", &error).await,
                },
                Some(visitor) = self.visitor_rx.recv() => self.receive(visitor),
                ended = next_ended(&mut self.to_lender, &mut self.here) => self.forget(ended),
            }
        }
    }

    /// See [`Carrying::drain`].
    async fn drain(mut self, are_coming: impl Fn() -> bool) -> bool {
        // What the kernel has accepted for the program is ours, too; one look at what is ready, after the runtime's own.
        tokio::task::yield_now().await;
        while let Some(Ok((socket, from))) = ready(self.door.as_ref()).await {
            self.carry(socket, from);
        }
        self.over_tx.send_replace(true);
        let (mut before, mut since) = (self.moved(), Instant::now());
        while self.has_any(are_coming()) {
            tokio::select! {
                Some(visitor) = self.visitor_rx.recv() => self.receive(visitor),
                ended = next_ended(&mut self.to_lender, &mut self.here) => {
                    self.forget(ended);
                    since = Instant::now();
                }
                () = tokio::time::sleep(LOOK) => {}
            }
            let now = self.moved();
            if now != before {
                (before, since) = (now, Instant::now());
            } else if since.elapsed() > STALLED {
                tracing::debug!(connections = self.meters.len(), "ended with connections that the other end keeps");
                // Before this process ends, so that each is reset.
                self.to_lender.shutdown().await;
                self.here.shutdown().await;
                break;
            }
        }
        self.unconfirmed
    }

    /// Whether there is anything to carry; `are_coming` was asked before what has come is looked at.
    fn has_any(&mut self, are_coming: bool) -> bool {
        while let Ok(visitor) = self.visitor_rx.try_recv() {
            self.receive(visitor);
        }
        are_coming || !self.meters.is_empty()
    }

    /// Bytes of the connections that there are, in both directions.
    fn moved(&self) -> u64 {
        self.meters.values().map(|meter| meter.to_stream() + meter.from_stream()).sum()
    }

    /// `None`: one that panicked, alone or with its session, and let its meter go.
    fn forget(&mut self, ended: Option<Over>) {
        match ended {
            Some(Over { number, is_unconfirmed }) => {
                self.meters.remove(&number);
                self.unconfirmed |= is_unconfirmed;
            }
            None => self.meters.retain(|_, meter| Arc::strong_count(meter) > 1),
        }
    }

    fn receive(&mut self, visitor: Visitor) {
        self.spawn_to_lender(visitor, None);
    }

    /// `accepted` lasts until its socket is closed.
    fn spawn_to_lender(&mut self, visitor: Visitor, accepted: Option<Accepted>) {
        let Visitor { socket, stream, far_end } = visitor;
        let ((number, meter), over_rx) = (self.count(), self.over_tx.subscribe());
        let tell = self.tell.clone();
        let tell = move |taken| tell(far_end, taken);
        self.to_lender.spawn_with(stream, |stream| async move {
            let is_unconfirmed = to_lender(socket, stream, meter, over_rx, tell).await;
            drop(accepted);
            Over { number, is_unconfirmed }
        });
    }

    fn carry(&mut self, socket: TcpStream, from: SocketAddr) {
        let (Ok(to), Some((_, hold))) = (socket.local_addr(), &self.door) else { return };
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let Some((accepted, far)) = hold.accepted(plain(from), plain(to)) else {
            tracing::debug!(%from, %to, "nobody waited for this connection");
            let _ = socket.set_zero_linger();
            return;
        };
        let (hold, over_rx) = (hold.clone(), self.over_tx.subscribe());
        let far = match far {
            Far::Lender(stream) => {
                let far_end = FarEnd::To(accepted.ends.1);
                return self.spawn_to_lender(Visitor { socket, stream, far_end }, Some(accepted));
            }
            Far::Here(far) => Some(far),
            Far::Names => None,
            Far::Gone => {
                let _ = socket.set_zero_linger();
                drop(socket);
                return;
            }
        };
        let (number, meter) = self.count();
        self.here.spawn(async move {
            // Until its socket is closed.
            let _accepted = accepted;
            match far {
                Some(far) => copy(socket, far, meter, over_rx).await,
                None => hold.answer_names(socket).await,
            }
            Over { number, is_unconfirmed: false }
        });
    }

    /// One more connection.
    fn count(&mut self) -> (Number, Arc<Meter>) {
        let (number, meter) = (self.next_number, Arc::new(Meter::default()));
        self.next_number += 1;
        self.meters.insert(number, meter.clone());
        (number, meter)
    }
}

/// A carrier at work.
pub struct Carrying {
    carrier: Crew<Carrier>,
    /// It comes back when this is dropped.
    go_on: oneshot::Sender<()>,
}

impl Carrying {
    /// Ready if it broke off.
    pub async fn broke_off(&mut self) -> RunError {
        match self.carrier.join_next().await {
            Some(Err(panicked)) => {
                RunError::local("cannot carry the program's connections", io::Error::other(panicked))
            }
            // It comes back to nobody but `drain`.
            Some(Ok(_)) | None => std::future::pending().await,
        }
    }

    /// Carries on until all has been delivered, or nothing moves any more; `are_coming`: some may be on their way to it. For a
    /// program that is over: its sockets are closed, and nobody reads what would still come. A connection to this machine
    /// therefore ends once all of the program's bytes are the kernel's, and one to the lender when the far end has closed too,
    /// or at once where the program has sent nothing: no frame says that the far end has taken the last byte. Who is cut off
    /// sees a reset. `true`: bytes are perhaps on their way still, and only the end of the session can tell.
    ///
    /// # Cancellation
    /// What is not delivered ends with a reset.
    pub async fn drain(self, are_coming: impl Fn() -> bool) -> bool {
        let Self { mut carrier, go_on } = self;
        drop(go_on);
        match carrier.join_next().await {
            Some(Ok(carrier)) => carrier.drain(are_coming).await,
            // Its connections went with it.
            Some(Err(_)) | None => true,
        }
    }
}

/// The connection that has ended, once one has; `None`: one that panicked, or whose session did.
///
/// # Cancellation
/// Dropping the future loses none.
async fn next_ended(to_lender: &mut Crew<Over>, here: &mut JoinSet<Over>) -> Option<Over> {
    tokio::select! {
        Some(ended) = to_lender.join_next() => ended.ok(),
        Some(ended) = here.join_next() => ended.ok(),
        else => std::future::pending().await,
    }
}

/// Between the program and a socket of the lender. `true`: bytes of the program may still be on their way.
async fn to_lender(
    socket: TcpStream,
    stream: Stream,
    meter: Arc<Meter>,
    mut over_rx: watch::Receiver<bool>,
    tell: impl Fn(TakenBack),
) -> bool {
    let mut carried = Carried { stream, is_whole: false };
    let silent = async {
        // Its end is that of the program's network.
        let _ = over_rx.wait_for(|over| *over).await;
        while !meter.is_finished() {
            tokio::time::sleep(LOOK).await;
        }
        if meter.to_stream() > 0 {
            std::future::pending().await
        }
    };
    let is_silent = tokio::select! {
        () = relay(socket, &carried.stream, &meter) => false,
        () = silent => true,
    };
    carried.is_whole = true;
    if let Some(taken) = carried.stream.taken_back() {
        tell(taken);
    }
    // An end that is on its way when the session is gone is a reset to the far end, whatever was sent before.
    is_silent || meter.is_unconfirmed() || !carried.stream.has_left()
}

/// A stream whose far end must see a reset and no orderly end as long as the program's bytes are missing.
struct Carried {
    stream: Stream,
    is_whole: bool,
}

impl Drop for Carried {
    fn drop(&mut self) {
        if !self.is_whole {
            self.stream.reset(Reset::Cancelled);
        }
    }
}

async fn accept(door: Option<&(TcpListener, Arc<Hold>)>) -> io::Result<(TcpStream, SocketAddr)> {
    match door {
        Some((listener, _)) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// The next connection that is there already.
async fn ready(door: Option<&(TcpListener, Arc<Hold>)>) -> Option<io::Result<(TcpStream, SocketAddr)>> {
    let (listener, _) = door?;
    std::future::poll_fn(|cx| match listener.poll_accept(cx) {
        Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}
