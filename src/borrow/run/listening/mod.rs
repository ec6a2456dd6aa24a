//! Listening: what a program binds is bound at the lender first, and what comes there is let in.
//!
//! ```text
//!   program ─ bind, listen ─▶ supervisor ─▶ Ports ─ loopback, bound before, … ─▶ done here
//!                                             │
//!                                             └─ publish: where at the lender ─▶ Port ═══ tcp-listen ═══▶ lender
//!   program ◀─ kernel's TCP ◀─ from the visitor's address ◀─ visitors ◀───────────┘ ◀═══ accepted ═════════┘
//!
//!   kernel ─┬ a socket is gone (sock_diag) ─▶ destroyed ─▶ Ports: the last one of a port closes it
//!           └ one does not listen any more (epoll) ─▶ shut_down ─▶ Port: nobody listens there?
//! ```
//! The lender's system decides: its error number is the program's, and its port the program's. A socket is known by the
//! kernel's number for it (SO_COOKIE), whichever processes have it, so that descriptors may be inherited, passed and
//! duplicated: the port is open as long as somebody has one.
//!
//! Port 0 is never refused: where the lender lends none, the socket has a port inside, and its listen fails.

mod destroyed;
mod holders;
mod ipv4_half;
mod not_bound;
mod port;
pub(super) mod program_socket;
mod publish;
mod server;
mod shut_down;
mod stock;
mod visitors;
mod wider;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    time::timeout,
};

use self::{
    holders::{Held, Holders, Open},
    not_bound::{NotBound, too_old},
    port::{Place, Port, Surroundings},
    program_socket::{ProgramSocket, Transport},
    visitors::Inside,
};
pub use self::{
    publish::{Publish, PublishedPort},
    shut_down::ShutDowns,
    stock::{BATCH, Stock},
    visitors::{Visitor, Visitors},
};
use super::{
    flows::Flows,
    listeners::{self, Listeners},
    supervisor::{Asked, Call},
};
use crate::{BorrowError, Borrower, borrow::TcpOptions, proto::Errno};

/// Calls that wait for the lender at once; the next ones wait in the kernel.
const CALLS_MAX: usize = 256;
/// Ports that the lender picks and the program has for something else inside, before it is told that there is none.
const PICKS_MAX: usize = 16;
/// How long an older kernel may take to tell that a socket is gone which it does not list.
const TOLD_MAX: Duration = Duration::from_millis(50);
/// How long the lender may take to close what is to be bound again.
const CLOSED_MAX: Duration = Duration::from_secs(2);

/// The ports of one borrowed network.
pub struct Ports {
    surroundings: Surroundings,
    publish: Publish,
    /// The number of the network; `None` where the kernel gives none.
    network: Option<u64>,
    /// Programs can wait for the lender: else they have nothing but loopback.
    can_wait: bool,
    /// The kernel lists sockets that are bound and no more.
    lists_bound: bool,
    holders: Mutex<Holders>,
    /// One bind after the other, so that two sockets which share a port find each other.
    binding: tokio::sync::Mutex<()>,
    calls: Arc<Semaphore>,
    runtime: Handle,
}

/// What [`Ports`] are made of, besides what they are for.
pub struct Means {
    /// As in [`Ports`].
    pub network: Option<u64>,
    /// As in [`Ports`].
    pub can_wait: bool,
    /// Lists the sockets of the network.
    pub listeners: Arc<Listeners>,
    /// Tells which of them listen no more.
    pub shut_downs: Arc<ShutDowns>,
    /// Lets visitors in.
    pub visitors: Arc<Visitors>,
    /// Carries datagrams.
    pub flows: Arc<Flows>,
    /// Gets what the lender refuses, as far as there is room.
    pub refused_tx: mpsc::Sender<BorrowError>,
}

impl Ports {
    /// None yet. To be called in a tokio runtime.
    pub fn new(borrower: Borrower, publish: Publish, means: Means) -> Arc<Self> {
        let Means { network, can_wait, listeners, shut_downs, visitors, flows, refused_tx } = means;
        Arc::new(Self {
            surroundings: Surroundings { borrower, listeners, shut_downs, visitors, flows, refused_tx },
            publish,
            network,
            can_wait,
            lists_bound: listeners::lists_bound(&rustix::system::uname().release().to_string_lossy()),
            holders: Mutex::default(),
            binding: tokio::sync::Mutex::default(),
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            runtime: Handle::current(),
        })
    }

    /// Does a call, or has it done: what concerns nobody but the program's own kernel at once, on this thread.
    pub fn take(self: &Arc<Self>, Call { asked, socket, caller }: Call) {
        let socket = match ProgramSocket::new(socket) {
            Ok(socket) => socket,
            Err(error) => return caller.hear(Err(Errno::of(&error).unwrap_or(Errno::EINVAL))),
        };
        let here = match &asked {
            Asked::Bind(address) => self.bind_here(&socket, address),
            Asked::Listen(backlog) => self.listen_here(&socket, *backlog),
        };
        if let Some(done) = here {
            drop(socket);
            return caller.hear(done);
        }
        let ports = self.clone();
        // It is closed by nobody. Here it waits, and not in the runtime.
        let Ok(place) = self.runtime.block_on(self.calls.clone().acquire_owned()) else { return };
        self.runtime.spawn(async move {
            let done = match asked {
                Asked::Bind(address) => ports.bind(socket, &address).await,
                Asked::Listen(backlog) => ports.listen(socket, backlog).await,
            };
            let done = done.map_err(|NotBound(errno, why)| {
                why.into_iter().for_each(|why| ports.tell(why));
                errno
            });
            caller.hear(done);
            drop(place);
        });
    }

    /// `None`: the lender is to be asked.
    fn bind_here(&self, socket: &ProgramSocket, address: &[u8]) -> Option<Result<(), Errno>> {
        let here = || Some(done(socket.bind(address)));
        // What is bound already, or is bound to what is no address, the kernel refuses by itself.
        let Some(inside) = socket.reads(address).filter(|_| socket.bound().is_none()) else { return here() };
        let at_lender = self.publish.at_lender(inside);
        if at_lender.is_none() || socket.transport == Transport::Other || !socket.is_in(self.network) {
            return here();
        }
        // Such a socket has a port at the lender when it sends its first datagram.
        if inside.port() == 0 && (socket.transport == Transport::Udp || !self.can_wait) {
            return Some(self.surroundings.has(socket, inside.ip()).and_then(|()| done(socket.bind(address))));
        }
        if self.can_wait {
            return None;
        }
        self.tell(too_old());
        Some(Err(Errno::EACCES))
    }

    /// `None`: the lender is to be asked.
    fn listen_here(&self, socket: &ProgramSocket, backlog: i32) -> Option<Result<(), Errno>> {
        let here = || Some(done(socket.listen(backlog)));
        if socket.transport != Transport::Tcp || !socket.is_in(self.network) || socket.is_connected() {
            return here();
        }
        if self.holders().knows(socket.cookie) {
            return None;
        }
        if socket.bound().is_some_and(|bound| self.publish.at_lender(bound).is_none()) {
            return here();
        }
        if self.can_wait {
            return None;
        }
        self.tell(too_old());
        Some(Err(Errno::EACCES))
    }

    async fn bind(&self, socket: ProgramSocket, address: &[u8]) -> Result<(), NotBound> {
        let Some(inside) = socket.reads(address) else { return Ok(done(socket.bind(address))?) };
        let Some(at_lender) = self.publish.at_lender(inside) else { return Ok(done(socket.bind(address))?) };
        let options = TcpOptions { v6_only: socket.v6_only(), reuse_address: socket.reuse_address() };
        let _binding = self.binding.lock().await;
        if at_lender.port() == 0 {
            return self.bind_any(&socket, address, at_lender, options).await;
        }
        let place = Place { transport: socket.transport, at_lender, options, inside: Inside { bound: inside } };
        if let Some(half) = self.ipv4_half(place) {
            return self.bind_beside(&socket, address, place, half).await;
        }
        if let Some(port) = self.shared(place) {
            // One of the program's own has it, or had it until a moment ago: its kernel knows which.
            done(socket.bind(address))?;
            port.is_had_at(inside);
            self.holders().hold(socket.cookie, Held::Port(port));
            return Ok(());
        }
        let port = self.open(place).await.map_err(|error| self.not_opened(error, place))?;
        done(socket.bind(address))?;
        self.hold(&socket, port);
        Ok(())
    }

    fn not_opened(&self, error: BorrowError, place: Place) -> NotBound {
        let mut not_bound = NotBound::of(error);
        // The program's error is about its own number, which the lender does not know.
        if place.at_lender.port() != place.inside.bound.port()
            && let Some(why) = not_bound.1.take()
        {
            self.say(why);
        }
        not_bound
    }

    /// Binds a port that the lender picks, or, where it lends none, one that is the program's alone.
    async fn bind_any(
        &self,
        socket: &ProgramSocket,
        address: &[u8],
        at_lender: SocketAddr,
        options: TcpOptions,
    ) -> Result<(), NotBound> {
        // Those that did not fit are kept until the end, so that none is picked twice.
        let mut unfit = Vec::new();
        while unfit.len() < PICKS_MAX {
            let bound = match self.surroundings.borrower.tcp_bind(at_lender, options).await {
                Ok(bound) => bound,
                // The lender's system knows no such address, say.
                Err(error @ BorrowError::Listen { .. }) => return Err(NotBound::of(error)),
                Err(error) => {
                    self.surroundings.has(socket, at_lender.ip())?;
                    done(socket.bind(address))?;
                    self.holders().hold(socket.cookie, Held::Refused(Some(error)));
                    return Ok(());
                }
            };
            let port = bound.local_addr().port();
            match socket.bind_at(address, port) {
                Ok(()) => {
                    let inside = Inside { bound: SocketAddr::new(at_lender.ip(), port) };
                    let at_lender = bound.local_addr();
                    let place = Place { transport: socket.transport, at_lender, options, inside };
                    self.hold(socket, Port::new(self.surroundings.clone(), bound, place));
                    return Ok(());
                }
                Err(error) if Errno::of(&error) == Some(Errno::EADDRINUSE) => unfit.push(bound),
                Err(error) => return Ok(done(Err(error))?),
            }
        }
        Err(NotBound(Errno::EADDRINUSE, None))
    }

    /// Binds at the lender; what the program has closed there a moment ago is waited for.
    async fn open(&self, place: Place) -> Result<Port, BorrowError> {
        let Place { at_lender, options, .. } = place;
        // Before it is asked for: what is closed meanwhile was in the way.
        let own = self.holders().with_number(at_lender.port());
        let refused = match self.bind_at_lender(place).await {
            Err(error) if error.errno() == Some(Errno::EADDRINUSE) => error,
            // A lender without IPv6 still has every IPv4 address.
            Err(error) if at_lender.ip().is_unspecified() && !options.v6_only && error.is_for_want_of_ipv6() => {
                let at_lender = ([0; 4], at_lender.port()).into();
                return self.bind_at_lender(Place { at_lender, ..place }).await;
            }
            bound => return bound,
        };
        let was_own = self.close_those(at_lender.port(), own).await;
        if was_own { self.bind_at_lender(place).await } else { Err(refused) }
    }

    /// Waits until what the program has closed is closed at the lender, of all that has this port there.
    pub async fn close_what_is_gone(&self, at_lender: u16) {
        let own = self.holders().with_number(at_lender);
        if !own.is_empty() {
            self.close_those(at_lender, own).await;
        }
    }

    /// As [`Self::close_what_is_gone`], and says whether anything was closed.
    async fn close_those(&self, at_lender: u16, own: Vec<Open>) -> bool {
        self.settle(Some(at_lender));
        let mut has_closed = false;
        for Open { port, mut closed_rx } in own {
            let is_closing = port.strong_count() == 0;
            if is_closing || !self.lists_bound {
                let patience = if is_closing { CLOSED_MAX } else { TOLD_MAX };
                // An error is its end.
                has_closed |= timeout(patience, closed_rx.changed()).await.is_ok();
            }
        }
        has_closed
    }

    async fn bind_at_lender(&self, place: Place) -> Result<Port, BorrowError> {
        let surroundings = self.surroundings.clone();
        if place.transport == Transport::Udp {
            return Port::datagrams(surroundings, place).await;
        }
        let bound = surroundings.borrower.tcp_bind(place.at_lender, place.options).await?;
        Ok(Port::new(surroundings, bound, place))
    }

    async fn listen(&self, socket: ProgramSocket, backlog: i32) -> Result<(), NotBound> {
        let known = self.holders().port(socket.cookie);
        let port = match known {
            Some(Ok(port)) => port,
            Some(Err(refusal)) => return Err(NotBound(Errno::EACCES, refusal)),
            None => self.adopt(&socket).await?,
        };
        self.holders().listens(socket.cookie);
        let half = self.half_of(&socket, &port);
        port.listen(socket, backlog).await?;
        if let Some((half, socket)) = half {
            half.listen(socket, backlog).await?;
        }
        Ok(())
    }

    /// A port for a socket that was not seen to be bound: listen(2) itself binds one that has none.
    async fn adopt(&self, socket: &ProgramSocket) -> Result<Arc<Port>, NotBound> {
        let options = TcpOptions { v6_only: socket.v6_only(), reuse_address: socket.reuse_address() };
        let Some(inside) = socket.bound() else {
            let (address, _binding) = (socket.wildcard(), self.binding.lock().await);
            let every = socket.reads(&address).ok_or(NotBound(Errno::EINVAL, None))?;
            self.bind_any(socket, &address, every, options).await?;
            let held = self.holders().port(socket.cookie);
            return match held {
                Some(Ok(port)) => Ok(port),
                Some(Err(refusal)) => Err(NotBound(Errno::EACCES, refusal)),
                None => Err(NotBound(Errno::EINVAL, None)),
            };
        };
        let at_lender = self.publish.at_lender(inside).ok_or(NotBound(Errno::EINVAL, None))?;
        let place = Place { transport: socket.transport, at_lender, options, inside: Inside { bound: inside } };
        Ok(self.hold(socket, Port::unbound(self.surroundings.clone(), place)))
    }

    fn hold(&self, socket: &ProgramSocket, port: Port) -> Arc<Port> {
        let port = self.opened(port);
        self.holders().hold(socket.cookie, Held::Port(port.clone()));
        port
    }

    /// A socket of the network is gone.
    fn gone(&self, cookie: u64) {
        self.holders().gone(cookie);
    }

    /// Finds out which sockets are gone whose end was not heard of; of all, or of those that have this port at the lender.
    fn settle(&self, at_lender: Option<u16>) {
        let suspects = self.holders().inside_ports(at_lender);
        for suspect in suspects {
            let (transport, port) = suspect;
            let list = || self.surroundings.listeners.cookies(transport == Transport::Udp, port);
            // Twice: the kernel lists them in pieces, and one may be missed that moves meanwhile.
            if let (Ok(first), Ok(second)) = (list(), list()) {
                self.holders()
                    .keep_only(suspect, self.lists_bound, |cookie| first.contains(&cookie) || second.contains(&cookie));
            }
        }
    }

    fn tell(&self, why: BorrowError) {
        if matches!(why, BorrowError::Refused { .. } | BorrowError::Busy { .. } | BorrowError::Local { .. }) {
            self.say(why);
        }
    }

    fn say(&self, why: BorrowError) {
        // Who reads them has enough of the same.
        let _ = self.surroundings.refused_tx.try_send(why);
    }

    fn holders(&self) -> MutexGuard<'_, Holders> {
        // Every change under the lock is complete by itself.
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn done(result: std::io::Result<()>) -> Result<(), Errno> {
    result.map_err(|error| Errno::of(&error).unwrap_or(Errno::EINVAL))
}
