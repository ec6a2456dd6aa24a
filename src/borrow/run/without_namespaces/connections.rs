//! Connections of a program that no namespace holds: dialed by the lender, then met on loopback.
//!
//! A socket that waits is answered when the lender has answered. One that does not is connecting in the kernel's eyes for as
//! long (see [`held`](super::held)): it becomes writable when it is connected, or has failed; why, SO_ERROR says.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use rustix::net::{connect, getpeername, sockopt};
use tokio::{net::TcpStream, runtime::Handle, sync::mpsc};

use super::{
    address,
    answers::{EALREADY, EINPROGRESS, EISCONN, ENOTCONN, plain, wrong},
    held::Held,
    known::{Entry, Known},
    own_ports::OwnPorts,
    waiting::{connected, gone, is_waiting, without_waiting},
};
use crate::{
    borrow::run::{
        coming::{Coming, OnItsWay},
        dialer::Dialer,
        far_end::FarEnd,
        listeners::Listeners,
        listening::{Visitor, program_socket::ProgramSocket},
        local::Local,
        supervisor::Caller,
    },
    proto::Errno,
    session::Stream,
    sys,
};

/// The connections of one program and of all that it starts.
pub struct Connections {
    dialer: Dialer,
    local: Vec<Local>,
    own_ports: Arc<OwnPorts>,
    listeners: Listeners,
    v4: Held,
    /// A machine may have none.
    v6: Option<Held>,
    known: Known,
    visitor_tx: mpsc::Sender<Visitor>,
    coming: Coming,
    runtime: Handle,
}

/// What is at the far end.
enum Far {
    /// A socket of the lender, which has this address there.
    Lender(Stream, IpAddr),
    /// Whoever answers questions of names.
    Names,
}

impl Connections {
    /// None yet; those that are made go to `visitor_tx`. To be called in a tokio runtime.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(
        dialer: Dialer,
        local: Vec<Local>,
        own_ports: Arc<OwnPorts>,
        visitor_tx: mpsc::Sender<Visitor>,
    ) -> io::Result<Arc<Self>> {
        let (v4, v6) = (Held::new(false)?, Held::new(true).ok());
        let listeners = Listeners::of_this_network()?;
        let (known, coming, runtime) = (Known::default(), Coming::default(), Handle::current());
        Ok(Arc::new(Self { dialer, local, own_ports, listeners, v4, v6, known, visitor_tx, coming, runtime }))
    }

    /// Does a connect(2) of TCP, or has it done.
    pub fn connect(self: &Arc<Self>, socket: ProgramSocket, given: &[u8], caller: Caller) {
        // The kernel ends what the socket is connected to, or failed to be; one that is being dialled is waited for.
        let ends = address::family_of(given) == Some(libc::AF_UNSPEC);
        if let Err(errno) = self.state_of(&socket)
            && !(ends && errno != EALREADY)
        {
            drop(socket);
            return caller.hear(Err(errno));
        }
        let Some(target) = socket.reads_target(given) else {
            let done = if ends { plain(sys::connect_as_given(&socket.fd, given)) } else { Err(wrong(given)) };
            // It is forgotten what it was.
            let _ = self.state_of(&socket);
            drop(socket);
            return caller.hear(done);
        };
        let target = SocketAddr::new(address::somewhere(target.ip()), target.port());
        if address::is_for_many(target.ip()) || target.is_ipv4() && self.own_ports.is_v6_only(&socket) {
            return refuse(socket, caller, Errno::ENETUNREACH);
        }
        if self.stays_here(target) {
            return self.connect_here(socket, target, caller);
        }
        if is_waiting(&socket.fd) {
            let connections = self.clone();
            self.spawn(async move { connections.connect_and_wait(socket, target, caller).await });
        } else {
            self.begin_to_connect(socket, target, caller);
        }
    }

    /// Whether any connection of the program's stands that is not handed on yet.
    pub fn are_coming(&self) -> bool {
        self.coming.any()
    }

    /// getpeername(2) and getsockname(2) of a socket; `None`: as the kernel has it.
    pub fn name(&self, socket: &ProgramSocket, peer: bool) -> Option<Result<SocketAddr, Errno>> {
        match self.known.of(socket.cookie)? {
            Entry::Connected { peer: there, .. } if peer => Some(Ok(there)),
            Entry::Connected { own, .. } => Some(Ok(own)),
            Entry::Dialing | Entry::Failed(_) if peer => Some(Err(ENOTCONN)),
            Entry::Dialing | Entry::Failed(_) => None,
        }
    }

    /// SO_ERROR of a socket; `None`: as the kernel has it. An error is told once.
    pub fn take_error(&self, socket: &ProgramSocket) -> Option<Errno> {
        let errno = self.known.take_failure(socket.cookie)?;
        renew(socket);
        Some(errno)
    }

    /// What connect(2) says before it looks at the target.
    fn state_of(&self, socket: &ProgramSocket) -> Result<(), Errno> {
        match self.known.of(socket.cookie) {
            Some(Entry::Dialing) => Err(EALREADY),
            Some(Entry::Failed(_)) => Err(self.take_error(socket).unwrap_or(EALREADY)),
            Some(Entry::Connected { .. }) if getpeername(&socket.fd).is_ok() => Err(EISCONN),
            Some(Entry::Connected { .. }) => {
                // It was, and its socket is used again.
                self.known.forget(socket.cookie);
                renew(socket);
                Ok(())
            }
            None if getpeername(&socket.fd).is_ok() || sockopt::socket_acceptconn(&socket.fd).unwrap_or(false) => {
                Err(EISCONN)
            }
            None => Ok(()),
        }
    }

    fn stays_here(&self, target: SocketAddr) -> bool {
        let is_local = self.local.iter().any(|local| local.holds(target));
        let is_name = self.dialer.catches(target) && !self.local.iter().any(|local| local.names_port(target));
        // A resolver of its own goes first, as for datagrams.
        is_local && !is_name || self.own_ports.has(target)
    }

    /// Connects to a socket of this machine, which is the kernel's matter alone.
    fn connect_here(self: &Arc<Self>, socket: ProgramSocket, target: SocketAddr, caller: Caller) {
        let waits = is_waiting(&socket.fd);
        let began =
            without_waiting(&socket.fd, || Ok(connect(&socket.fd, &address::of_family(target, socket.is_ipv6))?));
        match began {
            Err(error) if waits && error.raw_os_error() == Some(libc::EINPROGRESS) => {
                self.runtime.spawn(async move {
                    let done = plain(connected(socket).await);
                    caller.hear(done);
                });
            }
            began => {
                drop(socket);
                caller.hear(plain(began));
            }
        }
    }

    /// For a socket that waits: first the lender, then the program.
    async fn connect_and_wait(self: Arc<Self>, socket: ProgramSocket, target: SocketAddr, caller: Caller) {
        let patience = sockopt::socket_timeout(&socket.fd, sockopt::Timeout::Send).ok().flatten();
        let late = async {
            match patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => std::future::pending().await,
            }
        };
        let dialed = tokio::select! {
            dialed = self.reach(target) => dialed,
            () = self.given_up(|| !caller.is_waiting()) => return,
            // As for any socket with SO_SNDTIMEO.
            () = late => Err(EINPROGRESS),
        };
        let far = match dialed {
            Ok(far) => far,
            Err(errno) => return refuse(socket, caller, errno),
        };
        let on_its_way = self.coming.one();
        let met = self.meet(&socket, target, &far).await;
        drop(socket);
        match met {
            Ok((near, cookie)) => {
                caller.hear(Ok(()));
                self.carry(near, (far, target), cookie, on_its_way).await;
            }
            Err(error) => caller.hear(plain(Err(error))),
        }
    }

    async fn meet(&self, socket: &ProgramSocket, target: SocketAddr, far: &Far) -> io::Result<(TcpStream, u64)> {
        let (held, own) = self.start(socket, target)?;
        let near = held.meet(own).await?;
        // Its side has heard of it: a program that is answered now finds itself connected.
        connected(duplicate(socket)?).await?;
        self.note(socket.cookie, target, own, far);
        Ok((near, socket.cookie))
    }

    /// For a socket that does not wait: it connects until the lender has answered.
    fn begin_to_connect(self: &Arc<Self>, socket: ProgramSocket, target: SocketAddr, caller: Caller) {
        let (cookie, is_ipv6) = (socket.cookie, is_met_by_ipv6(&socket, target));
        if !self.known.insert(cookie, Entry::Dialing) {
            return refuse(socket, caller, Errno::EAGAIN);
        }
        let started = self.start(&socket, target).map(|(_, own)| own);
        drop(socket);
        let own = match started {
            Ok(own) => own,
            Err(error) => {
                self.known.forget(cookie);
                return caller.hear(plain(Err(error)));
            }
        };
        let connections = self.clone();
        self.spawn(async move { connections.finish(cookie, own, target, is_ipv6).await });
        caller.hear(Err(EINPROGRESS));
    }

    async fn finish(self: Arc<Self>, cookie: u64, own: SocketAddr, target: SocketAddr, is_ipv6: bool) {
        let held = self.held(is_ipv6);
        let is_there = || self.listeners.between(own, held.address()).is_ok_and(|there| there == Some(cookie));
        let dialed = tokio::select! {
            dialed = self.reach(target) => dialed,
            () = self.given_up(|| !is_there()) => {
                self.known.forget(cookie);
                return;
            }
        };
        if !is_there() {
            // Another socket may have its port by now, which is not to be met by us.
            self.known.forget(cookie);
            return;
        }
        // Before the program can see that anything has changed.
        match &dialed {
            Ok(far) => self.note(cookie, target, own, far),
            Err(errno) => {
                self.known.insert(cookie, Entry::Failed(*errno));
            }
        }
        // From then on the program can write, and be over.
        let on_its_way = self.coming.one();
        match (held.meet(own).await, dialed) {
            // It may have given up at the last moment.
            (Ok(near), Ok(far)) if is_there() => self.carry(near, (far, target), cookie, on_its_way).await,
            (Ok(near), Err(_)) => drop(near.set_zero_linger()),
            _ => self.known.forget(cookie),
        }
    }

    /// Runs in the task of the session, where the lender's answer comes and the connection is carried: nobody else need be woken.
    fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        // The program's calls come on a thread of their own.
        let _inside = self.runtime.enter();
        self.dialer.session().spawn(future);
    }

    /// Ready once `is_gone` says so, and the attempt may be given up.
    async fn given_up(&self, is_gone: impl Fn() -> bool) {
        gone(is_gone).await;
        self.dialer.may_give_up().await;
    }

    /// Has the lender connect.
    async fn reach(&self, target: SocketAddr) -> Result<Far, Errno> {
        if self.dialer.catches(target) {
            return Ok(Far::Names);
        }
        let (stream, connected) = self.dialer.dial(target).await.map_err(|failed| failed.errno)?;
        Ok(Far::Lender(stream, connected.local.0.ip()))
    }

    /// Lets the program's socket begin to connect to the held address, and gives its own.
    fn start(&self, socket: &ProgramSocket, target: SocketAddr) -> io::Result<(&Held, SocketAddr)> {
        let held = self.held(is_met_by_ipv6(socket, target));
        // With it, connect(2) sends nothing yet.
        sys::connect_without_delay(&socket.fd);
        let began = without_waiting(&socket.fd, || {
            Ok(connect(&socket.fd, &address::of_family(held.address(), socket.is_ipv6))?)
        });
        match began {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
            // Nobody accepts there.
            Ok(()) => return Err(Errno::EHOSTUNREACH.into()),
        }
        let own = socket.bound().ok_or(Errno::EINVAL)?;
        if self.listeners.between(own, held.address()).is_ok_and(|there| there != Some(socket.cookie)) {
            // It is bound to a device of this machine's, by which nobody meets it.
            renew(socket);
            return Err(Errno::ENETUNREACH.into());
        }
        Ok((held, own))
    }

    fn held(&self, is_ipv6: bool) -> &Held {
        self.v6.as_ref().filter(|_| is_ipv6).unwrap_or(&self.v4)
    }

    fn note(&self, cookie: u64, target: SocketAddr, own: SocketAddr, far: &Far) {
        let own = match far {
            Far::Lender(_, address) => SocketAddr::new(address.to_canonical(), own.port()),
            Far::Names => own,
        };
        self.known.insert(cookie, Entry::Connected { peer: target, own });
    }

    async fn carry(&self, near: TcpStream, (far, target): (Far, SocketAddr), cookie: u64, on_its_way: OnItsWay) {
        match far {
            // Whoever carries them ends after us.
            Far::Lender(stream, _) => {
                let far_end = FarEnd::To(target);
                let _ = self.visitor_tx.send(Visitor { socket: near, stream, far_end }).await;
            }
            Far::Names => {
                drop(on_its_way);
                self.dialer.answer_names(near).await;
                self.known.forget(cookie);
            }
        }
    }
}

fn duplicate(socket: &ProgramSocket) -> io::Result<ProgramSocket> {
    ProgramSocket::new(socket.fd.try_clone()?)
}

/// By which family a socket is met: by that of its own address, where it has one.
fn is_met_by_ipv6(socket: &ProgramSocket, target: SocketAddr) -> bool {
    socket.is_ipv6 && socket.bound().map_or(target.is_ipv6(), |bound| bound.is_ipv6())
}

/// Makes a socket whose connection has failed, or is over, one that can connect again.
fn renew(socket: &ProgramSocket) {
    let _ = sys::connect_as_given(&socket.fd, &[0; 16]);
    let _ = sockopt::socket_error(&socket.fd);
}

fn refuse(socket: ProgramSocket, caller: Caller, errno: Errno) {
    // The program may rely on having the last.
    drop(socket);
    caller.hear(Err(errno));
}
