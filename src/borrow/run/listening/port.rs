//! One port of the lender's that the program has; of TCP it is here what becomes of it, of UDP in [`server`](super::server).
//!
//! ```text
//!   Bound ──listen──▶ Listening ◀──listen── Closed
//!                        │  ▲                 ▲
//!        the session ended  └─ the next one   │
//!                        └──── nobody listens inside (told, or met by a visitor), or the lender took it back
//! ```
//! It belongs to all sockets of the program that share it, and is closed with the last of them. One visitor at a time is let
//! in; while he waits for room in the program's queue, the others wait at the lender.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{
    ProgramSocket, ShutDowns, Transport,
    server::Server,
    visitors::{Inside, Visitors},
};
use crate::{
    BorrowError, Borrower,
    borrow::{
        TcpBound, TcpOptions,
        arrivals::Arrival,
        listen_again::listen_again,
        listener::Listener,
        run::{flows::Flows, listeners::Listeners},
    },
    proto::{Errno, UdpBind},
};

/// Calls of listen that wait: each caller waits for its own.
const CALLS_MAX: usize = 16;

/// A port that is bound, and perhaps listens. Dropping it closes it.
pub struct Port {
    place: Place,
    serves: Serves,
    closed_rx: watch::Receiver<()>,
}

enum Serves {
    /// And hears that one of its sockets listens no more.
    Connections(mpsc::Sender<Listen>, Arc<Notify>, Arc<Narrower>),
    Datagrams(#[expect(dead_code, reason = "it is there to be dropped")] Server),
}

/// What its sockets are bound to inside that are bound to less than the first one.
type Narrower = Mutex<Vec<SocketAddr>>;

/// What all ports of a network need.
#[derive(Clone)]
pub struct Surroundings {
    /// Who lends them.
    pub borrower: Borrower,
    /// Knows where the program listens.
    pub listeners: Arc<Listeners>,
    /// Tells where it does not any more.
    pub shut_downs: Arc<ShutDowns>,
    /// Lets visitors in.
    pub visitors: Arc<Visitors>,
    /// Carries datagrams.
    pub flows: Arc<Flows>,
    /// Gets what the lender refuses, as far as there is room.
    pub refused_tx: mpsc::Sender<BorrowError>,
}

impl Surroundings {
    /// What the lender's kernel would say of an address that is bound to no port by number, which it is not always asked.
    ///
    /// # Errors
    /// Its machine has no such address.
    pub fn has(&self, socket: &ProgramSocket, address: IpAddr) -> Result<(), Errno> {
        let is_lacking = !socket.takes_every_address() && self.flows.lacks(address);
        if is_lacking { Err(Errno::EADDRNOTAVAIL) } else { Ok(()) }
    }
}

/// Where a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of which kind.
    pub transport: Transport,
    /// At the lender.
    pub at_lender: SocketAddr,
    /// How it is bound there.
    pub options: TcpOptions,
    /// In the program's own network.
    pub inside: Inside,
}

impl Place {
    /// As it is asked for, of UDP.
    pub fn udp_bind(&self) -> UdpBind {
        UdpBind { address: self.at_lender, listen: true, v6_only: self.options.v6_only }
    }
}

/// A call of listen(2).
struct Listen {
    socket: ProgramSocket,
    backlog: i32,
    done_tx: oneshot::Sender<Result<(), NotListening>>,
}

/// Why a port does not listen.
pub enum NotListening {
    /// The lender says no.
    Lender(BorrowError),
    /// The program's own kernel does.
    Here(Errno),
}

impl Port {
    /// Serves what the lender has bound.
    pub fn new(surroundings: Surroundings, bound: TcpBound, place: Place) -> Self {
        Self::serve(surroundings, State::Bound(bound), place)
    }

    /// One that no lender knows.
    #[cfg(test)]
    pub fn of_nobody(place: Place) -> Arc<Self> {
        let (serves, closed_rx) =
            (Serves::Connections(mpsc::channel(1).0, Arc::default(), Arc::default()), watch::channel(()).1);
        Arc::new(Self { place, serves, closed_rx })
    }

    /// As [`Self::new`], and it is bound only when it is to listen.
    pub fn unbound(surroundings: Surroundings, place: Place) -> Self {
        Self::serve(surroundings, State::Closed, place)
    }

    fn serve(surroundings: Surroundings, state: State, place: Place) -> Self {
        let (listen_tx, listen_rx) = mpsc::channel(CALLS_MAX);
        let (closed_tx, closed_rx) = watch::channel(());
        let shut_down = Arc::new(Notify::new());
        let narrower = Arc::<Narrower>::default();
        let serving = Serving {
            surroundings,
            place,
            narrower: narrower.clone(),
            state,
            again: None,
            listen_rx,
            shut_down: shut_down.clone(),
        };
        // With the connections that it lets in.
        serving.surroundings.borrower.session().spawn(async move {
            serving.serve().await;
            drop(closed_tx);
        });
        Self { place, serves: Serves::Connections(listen_tx, shut_down, narrower), closed_rx }
    }

    /// Binds a port of UDP at the lender.
    ///
    /// # Errors
    /// The lender's.
    pub async fn datagrams(surroundings: Surroundings, place: Place) -> Result<Self, BorrowError> {
        let (closed_tx, closed_rx) = watch::channel(());
        let server = Server::open(surroundings, place, closed_tx).await?;
        Ok(Self { place, serves: Serves::Datagrams(server), closed_rx })
    }

    /// Where it is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// Listens at the lender, then inside, with `socket`, which is closed before this is ready.
    ///
    /// # Errors
    /// Which of the two does not.
    pub async fn listen(&self, socket: ProgramSocket, backlog: i32) -> Result<(), NotListening> {
        let (done_tx, done_rx) = oneshot::channel();
        let down = || NotListening::Here(Errno(libc::ENETDOWN as u16));
        let Serves::Connections(listen_tx, ..) = &self.serves else {
            return Err(NotListening::Here(Errno(libc::EOPNOTSUPP as u16)));
        };
        listen_tx.send(Listen { socket, backlog, done_tx }).await.map_err(|_| down())?;
        done_rx.await.map_err(|_| down())?
    }

    /// One of its sockets listens no more: unless another does, nor does the port.
    pub fn was_shut_down(&self) {
        if let Serves::Connections(_, shut_down, _) = &self.serves {
            shut_down.notify_one();
        }
    }

    /// A socket has it that is bound to `inside`.
    pub fn is_had_at(&self, inside: SocketAddr) {
        let Serves::Connections(_, _, narrower) = &self.serves else { return };
        let mut narrower = narrower.lock().unwrap_or_else(PoisonError::into_inner);
        if inside != self.place.inside.bound && !narrower.contains(&inside) {
            narrower.push(inside);
        }
    }

    /// Becomes an error when the port is closed at the lender.
    pub fn closed(&self) -> watch::Receiver<()> {
        self.closed_rx.clone()
    }
}

enum State {
    Bound(TcpBound),
    Listening(Listener, u32),
    Closed,
}

type Soon<T> = Pin<Box<dyn Future<Output = T> + Send>>;

struct Serving {
    surroundings: Surroundings,
    place: Place,
    narrower: Arc<Narrower>,
    state: State,
    /// It listens on the session that follows.
    again: Option<Soon<Result<(Listener, u32), BorrowError>>>,
    listen_rx: mpsc::Receiver<Listen>,
    shut_down: Arc<Notify>,
}

impl Serving {
    async fn serve(mut self) {
        // Whether somebody listens inside, when the visitor who is being let in knows.
        let mut letting_in: Option<Soon<bool>> = None;
        loop {
            tokio::select! {
                biased;
                call = self.listen_rx.recv() => match call {
                    Some(Listen { socket, backlog, done_tx }) => {
                        let done = self.listen(socket, backlog).await;
                        // A caller that is gone has nothing that listens.
                        let _ = done_tx.send(done);
                    }
                    None => {
                        // Who is in already was answered, perhaps: a program that serves one and ends is gone by now.
                        let last = async {
                            if let Some(letting_in) = letting_in {
                                letting_in.await;
                            }
                        };
                        let ((), ()) = tokio::join!(self.close(), last);
                        return;
                    }
                },
                somebody_listens = ready(&mut letting_in) => {
                    letting_in = None;
                    if !somebody_listens && !self.another_listens() {
                        self.hush().await;
                    }
                }
                // It may listen again meanwhile.
                () = self.shut_down.notified() => if !self.somebody_listens() {
                    self.hush().await;
                },
                arrival = next(&self.state), if letting_in.is_none() && matches!(self.state, State::Listening(..)) => {
                    match arrival {
                        Ok(arrival) => {
                            let (visitors, inside) = (self.surroundings.visitors.clone(), self.place.inside);
                            letting_in = Some(Box::pin(async move { visitors.let_in(arrival, inside).await }));
                        }
                        Err(error) => self.lost(error),
                    }
                }
                listened = ready(&mut self.again) => {
                    self.again = None;
                    match listened {
                        Ok((listener, backlog)) => self.state = State::Listening(listener, backlog),
                        // The session is not made again.
                        Err(BorrowError::Ended { .. }) => {}
                        Err(error) => drop(self.surroundings.refused_tx.try_send(error)),
                    }
                }
            }
        }
    }

    async fn listen(&mut self, socket: ProgramSocket, backlog: i32) -> Result<(), NotListening> {
        // As listen(2) reads it: what is less than nothing is as much as may be.
        let at_lender = u32::try_from(backlog).unwrap_or(u32::MAX);
        let listened_before = matches!(self.state, State::Listening(..));
        self.listen_at_lender(at_lender).await.map_err(NotListening::Lender)?;
        self.again = None;
        if let Err(error) = socket.listen(backlog) {
            if !listened_before {
                self.close().await;
            }
            return Err(NotListening::Here(Errno::of(&error).unwrap_or(Errno::EINVAL)));
        }
        self.surroundings.shut_downs.watch(&socket);
        Ok(())
    }

    async fn listen_at_lender(&mut self, backlog: u32) -> Result<(), BorrowError> {
        let listened = match std::mem::replace(&mut self.state, State::Closed) {
            State::Listening(listener, _) => listener.start(backlog).await.map(|()| listener),
            State::Bound(bound) => bound.listen(backlog).await.map(|listens| listens.into_listener()),
            State::Closed => open(&self.surroundings.borrower, self.place, backlog).await,
        };
        let listener = match listened {
            // What it was bound on is over.
            Err(BorrowError::Ended { .. }) => open(&self.surroundings.borrower, self.place, backlog).await?,
            listened => listened?,
        };
        self.state = State::Listening(listener, backlog);
        Ok(())
    }

    /// What listened does not any more.
    fn lost(&mut self, error: BorrowError) {
        let State::Listening(_, backlog) = std::mem::replace(&mut self.state, State::Closed) else { return };
        match error {
            BorrowError::Ended { .. } => {
                let (borrower, place) = (self.surroundings.borrower.clone(), self.place);
                self.again = Some(Box::pin(async move {
                    let listen = || open(&borrower, place, backlog);
                    Ok((listen_again(&borrower, listen, &mut |_| ()).await?, backlog))
                }));
            }
            // The lender has taken it back.
            error => drop(self.surroundings.refused_tx.try_send(error)),
        }
    }

    /// Whether one of the program's sockets listens; it is believed to where the kernel does not say.
    fn somebody_listens(&self) -> bool {
        self.listens(self.place.inside.bound) || self.another_listens()
    }

    /// Whether one listens which hears less than all that comes here.
    fn another_listens(&self) -> bool {
        let narrower = self.narrower.lock().unwrap_or_else(PoisonError::into_inner);
        narrower.iter().any(|inside| self.listens(*inside))
    }

    fn listens(&self, inside: SocketAddr) -> bool {
        self.surroundings.listeners.has(inside).unwrap_or(true)
    }

    /// Nobody listens inside.
    async fn hush(&mut self) {
        self.close().await;
        self.again = None;
    }

    /// Closes it at the lender, and waits until it is closed.
    async fn close(&mut self) {
        let closed = match std::mem::replace(&mut self.state, State::Closed) {
            State::Listening(listener, _) => listener.close().await,
            State::Bound(bound) => bound.into_listener().close().await,
            State::Closed => Ok(()),
        };
        if let Err(error) = closed {
            tracing::debug!(%error, "a port was not closed in order");
        }
    }
}

async fn open(borrower: &Borrower, place: Place, backlog: u32) -> Result<Listener, BorrowError> {
    // To the program it was bound all the time: what lingers of its own connections is no reason against it.
    let options = TcpOptions { reuse_address: true, ..place.options };
    Ok(borrower.tcp_bind(place.at_lender, options).await?.listen(backlog).await?.into_listener())
}

async fn ready<T>(soon: &mut Option<Soon<T>>) -> T {
    match soon {
        Some(soon) => soon.await,
        None => std::future::pending().await,
    }
}

async fn next(state: &State) -> Result<Arrival, BorrowError> {
    match state {
        State::Listening(listener, _) => listener.accept().await,
        State::Bound(_) | State::Closed => std::future::pending().await,
    }
}
