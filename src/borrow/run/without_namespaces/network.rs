//! The outer half of a program that no namespace holds.

use std::{io, os::fd::OwnedFd, path::PathBuf, sync::Arc};

use tokio::{runtime::Handle, sync::mpsc, task::JoinSet};

use super::{calls::Calls, connections::Connections, datagrams::Datagrams, own_ports::OwnPorts, unix::UnixSockets};
use crate::{
    BorrowError, Borrower,
    borrow::run::{
        RunError,
        carry::{Carrier, Carrying, tell_by},
        dialer::Dialer,
        local::Local,
        names::Names,
        outer::{Asked, Drained, Served},
        supervisor,
    },
    proto::Machine,
};

/// Connections that are made and not carried yet.
const MADE_MAX: usize = 64;
/// Refusals that wait to be told; more at once are not new.
const REFUSED_MAX: usize = 64;

/// What serves it.
pub struct WithoutNamespaces {
    carrying: Carrying,
    connections: Arc<Connections>,
    datagrams: Arc<Datagrams>,
    refused_rx: mpsc::Receiver<BorrowError>,
    looking: JoinSet<()>,
    /// Until the program's calls come.
    calls: Option<Calls>,
}

impl WithoutNamespaces {
    /// Serves what a program asks of `borrower`'s machine. To be called in a tokio runtime.
    ///
    /// # Errors
    /// What this machine does not give.
    pub fn serve(
        borrower: Borrower,
        machine: &Machine,
        local: Vec<Local>,
        local_unix: &[PathBuf],
    ) -> Result<Self, RunError> {
        let failed = |error: io::Error| RunError::local("cannot serve the program's calls", error);
        let (refused_tx, refused_rx) = mpsc::channel(REFUSED_MAX);
        let (made_tx, made_rx) = mpsc::channel(MADE_MAX);
        let names = Arc::new(Names::new(machine, refused_tx.clone()));
        let own_ports = Arc::new(OwnPorts::new(refused_tx.clone()).map_err(failed)?);
        let session = borrower.session();
        let tell = tell_by(&borrower, refused_tx.clone());
        let dialer = Dialer::new(borrower.clone(), names.clone(), refused_tx.clone());
        let connections = Connections::new(dialer, local.clone(), own_ports.clone(), made_tx).map_err(failed)?;
        let datagrams = Datagrams::new((borrower, names), local, own_ports.clone(), refused_tx).map_err(failed)?;
        let mut looking = JoinSet::new();
        let looked_after = datagrams.clone();
        looking.spawn(async move { looked_after.look_after().await });
        let unix = Arc::new(UnixSockets::new(local_unix));
        let (carrying, runtime) = (Carrier::of_visitors(made_rx, tell).start(&session), Handle::current());
        let calls = Calls { connections: connections.clone(), datagrams: datagrams.clone(), own_ports, unix, runtime };
        Ok(Self { carrying, connections, datagrams, refused_rx, looking, calls: Some(calls) })
    }
}

impl Served for WithoutNamespaces {
    fn confined(&mut self, calls: OwnedFd, _can_wait: bool) -> Result<(), RunError> {
        let failed = |error: io::Error| RunError::local("cannot do the program's calls", error);
        // It begins once.
        let Some(served) = self.calls.take() else { return Ok(()) };
        supervisor::hear(calls, move |notification, caller| served.take(notification, caller)).map_err(failed)
    }

    fn put_sockets(&mut self, _is_ipv6: bool, _made: Vec<OwnedFd>) {}

    async fn next(&mut self) -> Result<Asked, RunError> {
        tokio::select! {
            Some(refusal) = self.refused_rx.recv() => Ok(Asked::Tell(refusal)),
            error = self.carrying.broke_off() => Err(error),
            Some(_) = self.looking.join_next() => std::future::pending().await,
        }
    }

    fn untold(&mut self) -> Option<BorrowError> {
        self.refused_rx.try_recv().ok()
    }

    async fn drain(self) -> Drained {
        let Self { carrying, connections, datagrams, refused_rx, .. } = self;
        let (is_unconfirmed, ()) = tokio::join!(carrying.drain(|| connections.are_coming()), datagrams.drain());
        Drained { is_unconfirmed, untold: refused_rx }
    }
}
