//! The outer half of a program that has a network of its own.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::mpsc,
    task::JoinSet,
};

use super::{
    RunError,
    carry::Carrier,
    dialer::Dialer,
    doors::{Catch, Doors, PerFamily},
    flows::Flows,
    hold::Hold,
    listeners::Listeners,
    listening::{Means, Ports, Publish, Stock, Visitors},
    local::Local,
    names::Names,
    network,
    outer::{Asked, Served},
    own_address::OwnAddresses,
    questions::Questions,
    supervisor,
    tun::Tun,
    way_in::{Translator, WayIn},
};
use crate::{BorrowError, Borrower, proto::Machine, sys};

/// Families of which more sockets may be asked for at once: both.
const FAMILIES: usize = 2;
/// Visitors who are in and not carried yet; more wait where they are.
const VISITORS_MAX: usize = 64;
/// Refusals that wait to be told; more at once are not new.
const REFUSED_MAX: usize = 64;
/// How long the datagrams of a program that is over may take to be read from its network.
const READ_MAX: Duration = Duration::from_secs(1);

/// What serves it.
pub struct WithNamespaces {
    taps: JoinSet<io::Result<()>>,
    /// Where they find the program's datagrams.
    caught: OwnedFd,
    carrier: Carrier,
    flows: Arc<Flows>,
    hold: Arc<Hold>,
    visitors: Arc<Visitors>,
    wanted_rx: mpsc::Receiver<bool>,
    refused_rx: mpsc::Receiver<BorrowError>,
    /// What listening needs once the program's calls come.
    listening: Option<(Borrower, Publish, Means, OwnedFd)>,
}

impl WithNamespaces {
    /// Begins to serve.
    ///
    /// # Errors
    /// It cannot be served.
    pub fn serve(
        doors: Doors,
        borrower: Borrower,
        machine: &Machine,
        local: Vec<Local>,
        publish: Publish,
    ) -> Result<Self, RunError> {
        let failed = |error: io::Error| RunError::local("cannot serve the program's network", error);
        let Doors { connections, own, listeners, destroyed, catch } = doors;
        // Older kernels have no number for it.
        let network = sys::network_of(&connections).ok();
        let (refused_tx, refused_rx) = mpsc::channel(REFUSED_MAX);
        let (wanted_tx, wanted_rx) = mpsc::channel(FAMILIES);
        let (visitor_tx, visitor_rx) = mpsc::channel(VISITORS_MAX);
        let names = Arc::new(Names::new(machine, refused_tx.clone()));
        let listeners = Arc::new(Listeners::new(listeners));
        let own_addresses = OwnAddresses::of(network::Network::of(machine, &[]));
        let inside = (listeners.clone(), own_addresses.clone());
        let (way_in, caught, serving) = match catch {
            Catch::Nftables { datagrams, taps, held } => {
                let caught = datagrams.as_fd().try_clone_to_owned().map_err(failed)?;
                let datagrams = UdpSocket::from_std(datagrams).map_err(failed)?;
                (WayIn::Marked(held), caught, Serving::Nftables { datagrams, taps })
            }
            Catch::Tun(device) => {
                let translator = Translator::new(connections.local_addr().map_err(failed)?.port());
                let caught = device.try_clone().map_err(failed)?;
                (WayIn::Translated(translator.clone()), caught, Serving::Tun { device, translator })
            }
        };
        let dialer = Dialer::new(borrower.clone(), names.clone(), refused_tx.clone());
        let hold = Hold::new(dialer, local, inside, (way_in, own));
        let flows = Flows::new(borrower.clone(), hold.clone(), own_addresses, refused_tx.clone());
        let questions = Questions::new(names, borrower.clone(), hold.clone(), flows.clone());
        let mut taps = JoinSet::new();
        serving.start(&mut taps, &hold, questions);
        let connections = TcpListener::from_std(connections).map_err(failed)?;
        let carrier = Carrier::new(connections, hold.clone(), visitor_rx);
        let visitors = Arc::new(Visitors::new(Stock::new(wanted_tx), visitor_tx));
        let means =
            Means { network, can_wait: false, listeners, visitors: visitors.clone(), flows: flows.clone(), refused_tx };
        let listening = Some((borrower, publish, means, destroyed));
        Ok(Self { taps, caught, carrier, flows, hold, visitors, wanted_rx, refused_rx, listening })
    }
}

impl Served for WithNamespaces {
    fn confined(&mut self, calls: OwnedFd, can_wait: bool) -> Result<(), RunError> {
        let failed = |error: io::Error| RunError::local("cannot serve the program's calls", error);
        let Some((borrower, publish, means, destroyed)) = self.listening.take() else { return Ok(()) };
        let ports = Ports::new(borrower, publish, Means { can_wait, ..means });
        self.hold.know(&ports);
        self.taps.spawn(ports.clone().watch(destroyed));
        supervisor::supervise(calls, move |call| ports.take(call)).map_err(failed)
    }

    fn put_sockets(&mut self, is_ipv6: bool, made: Vec<OwnedFd>) {
        self.visitors.stock().put(is_ipv6, made);
    }

    async fn next(&mut self) -> Result<Asked, RunError> {
        tokio::select! {
            Some(is_ipv6) = self.wanted_rx.recv() => Ok(Asked::Sockets(is_ipv6)),
            Some(refusal) = self.refused_rx.recv() => Ok(Asked::Tell(refusal)),
            () = self.carrier.serve() => std::future::pending().await,
            Some(_) = self.taps.join_next() => {
                let source = io::Error::from(io::ErrorKind::BrokenPipe);
                Err(RunError::local("a tap of the program's network failed", source))
            }
        }
    }

    fn untold(&mut self) -> Option<BorrowError> {
        self.refused_rx.try_recv().ok()
    }

    async fn drain(self) -> bool {
        let Self { carrier, visitors, flows, caught, taps: _taps, .. } = self;
        // The task that reads what was sent last has had no turn yet, perhaps.
        let all_read = async {
            while is_readable(&caught) {
                tokio::task::yield_now().await;
            }
        };
        let _ = tokio::time::timeout(READ_MAX, all_read).await;
        tokio::join!(carrier.drain(|| visitors.are_coming()), flows.drain()).0
    }
}

/// What the program sends, as it comes to us.
enum Serving {
    Nftables { datagrams: UdpSocket, taps: PerFamily },
    Tun { device: OwnedFd, translator: Arc<Translator> },
}

impl Serving {
    fn start(self, taps: &mut JoinSet<io::Result<()>>, hold: &Arc<Hold>, questions: Questions) {
        match self {
            Self::Nftables { datagrams, taps: PerFamily { v4, v6 } } => {
                taps.spawn(hold.clone().watch(v4));
                taps.spawn(hold.clone().watch(v6));
                taps.spawn(questions.serve(datagrams));
            }
            Self::Tun { device, translator } => {
                taps.spawn(Tun { hold: hold.clone(), questions, translator }.serve(device));
            }
        }
    }
}

fn is_readable(fd: &OwnedFd) -> bool {
    let mut ready = [PollFd::new(fd, PollFlags::IN)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ready, Some(&at_once)).is_ok() && ready[0].revents().contains(PollFlags::IN)
}
