//! The outer half of a program that has a network of its own.

use std::{io, iter, os::fd::OwnedFd, sync::Arc};

use tokio::{
    net::{TcpListener, UdpSocket},
    sync::mpsc,
};

use super::{
    RunError,
    carry::{Carrier, Carrying, tell_by},
    dialer::Dialer,
    doors::{Catch, Doors, PerFamily},
    flows::Flows,
    hold::Hold,
    listeners::Listeners,
    listening::{Means, Ports, Publish, ShutDowns, Stock, Visitors},
    local::Local,
    names::Names,
    network::Network,
    outer::{Asked, Drained, Served},
    own_address::OwnAddresses,
    questions::Questions,
    read_out::{ReadOut, ReadOutCalls, read_out},
    supervisor,
    tun::Tun,
    way_in::{Translator, WayIn},
};
use crate::{
    BorrowError, Borrower,
    proto::Machine,
    session::{Crew, Session},
    sys,
};

/// Families of which more sockets may be asked for at once: both.
const FAMILIES: usize = 2;
/// Visitors who are in and not carried yet; more wait where they are.
const VISITORS_MAX: usize = 64;
/// Refusals that wait to be told; more at once are not new.
const REFUSED_MAX: usize = 64;

/// What serves it.
pub struct WithNamespaces {
    taps: Crew<io::Result<()>>,
    /// Of the program's datagrams.
    read_out: ReadOut,
    carrying: Carrying,
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
        let own_addresses = OwnAddresses::of(Network::of(machine, &[], own.v6.is_some()));
        let own_port = connections.local_addr().map_err(failed)?.port();
        let inside = (listeners.clone(), own_addresses.clone(), own_port);
        let (way_in, serving) = match catch {
            Catch::Nftables { datagrams, taps, held } => {
                let datagrams = UdpSocket::from_std(datagrams).map_err(failed)?;
                (WayIn::Marked(held), Serving::Nftables { datagrams, taps })
            }
            Catch::Tun(device) => {
                let translator = Translator::new(own_port);
                (WayIn::Translated(translator.clone()), Serving::Tun { device, translator })
            }
        };
        let dialer = Dialer::new(borrower.clone(), names.clone(), refused_tx.clone());
        let hold = Hold::new(dialer, local, inside, (way_in, own));
        let (read_out, calls) = read_out();
        let flows = Flows::new(borrower.clone(), (hold.clone(), read_out.clone()), own_addresses, refused_tx.clone());
        let questions = Questions::new(names, borrower.clone(), hold.clone(), flows.clone());
        let (mut taps, session) = (Crew::new(), borrower.session());
        serving.start((&mut taps, &session), &hold, (questions, calls));
        let sweeping = hold.clone();
        taps.spawn(&session, async move { match sweeping.sweep().await {} });
        let connections = TcpListener::from_std(connections).map_err(failed)?;
        let tell = tell_by(&borrower, refused_tx.clone());
        let carrying = Carrier::new(connections, hold.clone(), visitor_rx, tell).start(&session);
        let visitors = Arc::new(Visitors::new(Stock::new(wanted_tx), visitor_tx));
        let shut_downs = Arc::new(ShutDowns::new().map_err(failed)?);
        let (met, carried) = (visitors.clone(), flows.clone());
        let means =
            Means { network, can_wait: false, listeners, shut_downs, visitors: met, flows: carried, refused_tx };
        let listening = Some((borrower, publish, means, destroyed));
        Ok(Self { taps, read_out, carrying, flows, hold, visitors, wanted_rx, refused_rx, listening })
    }
}

impl Served for WithNamespaces {
    fn confined(&mut self, calls: OwnedFd, can_wait: bool) -> Result<(), RunError> {
        let failed = |error: io::Error| RunError::local("cannot serve the program's calls", error);
        let Some((borrower, publish, means, destroyed)) = self.listening.take() else { return Ok(()) };
        let session = borrower.session();
        let ports = Ports::new(borrower, publish, Means { can_wait, ..means });
        self.hold.know(&ports);
        self.taps.spawn(&session, ports.clone().watch(destroyed));
        self.taps.spawn(&session, ports.clone().watch_shut_downs());
        supervisor::supervise(calls, move |call| ports.take(call)).map_err(failed)
    }

    fn put_sockets(&mut self, is_ipv6: bool, made: Vec<OwnedFd>) {
        self.visitors.stock().put(is_ipv6, made);
    }

    async fn next(&mut self) -> Result<Asked, RunError> {
        tokio::select! {
            Some(is_ipv6) = self.wanted_rx.recv() => Ok(Asked::Sockets(is_ipv6)),
            Some(refusal) = self.refused_rx.recv() => Ok(Asked::Tell(refusal)),
            error = self.carrying.broke_off() => Err(error),
            Some(_) = self.taps.join_next() => {
                let source = io::Error::from(io::ErrorKind::BrokenPipe);
                Err(RunError::local("a tap of the program's network failed", source))
            }
        }
    }

    fn untold(&mut self) -> Option<BorrowError> {
        self.refused_rx.try_recv().ok()
    }

    async fn drain(self) -> Drained {
        let Self { carrying, visitors, flows, read_out, refused_rx, taps: _taps, .. } = self;
        read_out.all_read().await;
        let (is_unconfirmed, ()) = tokio::join!(carrying.drain(|| visitors.are_coming()), flows.drain());
        Drained { is_unconfirmed, untold: refused_rx }
    }
}

/// What the program sends, as it comes to us.
enum Serving {
    Nftables { datagrams: UdpSocket, taps: PerFamily },
    Tun { device: OwnedFd, translator: Arc<Translator> },
}

impl Serving {
    fn start(
        self,
        (taps, session): (&mut Crew<io::Result<()>>, &Session),
        hold: &Arc<Hold>,
        (questions, calls): (Questions, ReadOutCalls),
    ) {
        match self {
            Self::Nftables { datagrams, taps: PerFamily { v4, v6 } } => {
                for tap in iter::once(v4).chain(v6) {
                    taps.spawn(session, hold.clone().watch(tap));
                }
                taps.spawn(session, questions.serve(datagrams, calls));
            }
            Self::Tun { device, translator } => {
                taps.spawn(session, Tun { hold: hold.clone(), questions, translator }.serve(device, calls));
            }
        }
    }
}
