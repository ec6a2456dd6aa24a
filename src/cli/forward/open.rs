//! The forwards of one command: asked for, bound, served.

use std::collections::{BTreeMap, VecDeque};

use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};

use super::{
    Wanted,
    spec::{Spec, Specs},
};
use crate::{
    BorrowError, Borrower, Forward, Proxy, RemoteForward, RemoteUdpForward, UdpForward, cli::report::one_line,
    proto::ErrorKind,
};

/// Bound at once: a range of ports is there after few round trips.
const BINDING_MAX: usize = 16;

/// Everything that was asked for, bound, in the order in which it is told.
pub struct Open(Vec<Bound>);

/// One forward.
enum Bound {
    Local(Forward),
    LocalUdp(UdpForward),
    Remote(RemoteForward),
    RemoteUdp(RemoteUdpForward),
    Dynamic(Proxy),
}

impl Open {
    /// Several at once: each costs a round trip or two, and a range has hundreds.
    pub async fn bind(borrower: &Borrower, wanted: &Wanted) -> Result<Self, BorrowError> {
        let local = wanted.local.iter().flat_map(|Specs(specs)| specs).map(|spec| (true, spec));
        let remote = wanted.remote.iter().flat_map(|Specs(specs)| specs).map(|spec| (false, spec));
        let all: Vec<_> = local.chain(remote).collect();
        let mut left: VecDeque<_> = (0..all.len()).collect();
        let (mut binding, mut bound, mut most) = (JoinSet::new(), BTreeMap::new(), BINDING_MAX);
        loop {
            while binding.len() < most
                && let Some(number) = left.pop_front()
            {
                let (is_local, spec) = all[number];
                let (borrower, spec, is_alone) = (borrower.clone(), spec.clone(), most == 1);
                binding.spawn(async move {
                    let made = match is_local {
                        true => Bound::local(&borrower, spec).await,
                        false => Bound::remote(&borrower, spec).await,
                    };
                    (number, is_alone, made)
                });
            }
            let Some(next) = binding.join_next().await else { break };
            match joined(next) {
                (number, _, Ok(made)) => drop(bound.insert(number, made)),
                // The policy may allow fewer streams at once than this: what is left is asked for one by one.
                (number, false, Err(error)) if error.kind() == ErrorKind::Busy => {
                    most = 1;
                    left.push_back(number);
                }
                (_, _, Err(error)) => return Err(error),
            }
        }
        let mut open: Vec<_> = bound.into_values().collect();
        for address in &wanted.dynamic {
            open.push(Bound::Dynamic(Proxy::bind(borrower, *address).await?));
        }
        Ok(Self(open))
    }

    /// One line for each.
    pub fn purposes(&self, host: &str) -> Vec<String> {
        self.0.iter().map(|bound| bound.purpose(host)).collect()
    }

    /// Each ends with the session, or when the lender takes a port back.
    pub fn serve(self, failure_tx: &mpsc::Sender<String>) -> JoinSet<BorrowError> {
        let mut serving = JoinSet::new();
        for bound in self.0 {
            let failure_tx = failure_tx.clone();
            let tell = move |error: &BorrowError| {
                // That a session is lost, and made again, is told once and not for each connection: it is no end of the forward.
                if !matches!(error, BorrowError::Ended { .. }) {
                    // A full queue holds enough of the same.
                    let _ = failure_tx.try_send(one_line(error));
                }
            };
            match bound {
                Bound::Local(forward) => serving.spawn(forward.serve(tell)),
                Bound::LocalUdp(forward) => serving.spawn(forward.serve(tell)),
                Bound::Remote(forward) => serving.spawn(forward.serve(tell)),
                Bound::RemoteUdp(forward) => serving.spawn(forward.serve(tell)),
                Bound::Dynamic(proxy) => serving.spawn(proxy.serve(tell)),
            };
        }
        serving
    }
}

impl Bound {
    async fn local(borrower: &Borrower, spec: Spec) -> Result<Self, BorrowError> {
        Ok(match spec {
            Spec::Stream { listen, destination } => {
                let (kind, target) = destination.wanted();
                check(borrower, kind, &target).await?;
                Self::Local(Forward::bind(borrower, listen, destination).await?)
            }
            Spec::Datagrams { listen, target } => {
                check(borrower, "udp", &target.to_string()).await?;
                Self::LocalUdp(UdpForward::bind(borrower, listen, target).await?)
            }
        })
    }

    async fn remote(borrower: &Borrower, spec: Spec) -> Result<Self, BorrowError> {
        Ok(match spec {
            Spec::Stream { listen, destination } => {
                Self::Remote(RemoteForward::bind(borrower, listen, destination).await?)
            }
            Spec::Datagrams { listen, target } => {
                Self::RemoteUdp(RemoteUdpForward::bind(borrower, listen, target).await?)
            }
        })
    }

    /// From where to where.
    fn purpose(&self, host: &str) -> String {
        match self {
            Self::Local(forward) => format!("{} -> {}", forward.local(), forward.destination()),
            Self::LocalUdp(forward) => format!("{}/udp -> {}/udp", forward.local(), forward.target()),
            Self::Remote(forward) => format!("{} at {host} -> {}", forward.remote(), forward.destination()),
            Self::RemoteUdp(forward) => format!("{}/udp at {host} -> {}/udp", forward.remote(), forward.target()),
            Self::Dynamic(proxy) => format!("{} -> SOCKS and HTTP", proxy.local()),
        }
    }
}

/// What a task gave that nobody ends.
fn joined<T>(result: Result<T, JoinError>) -> T {
    result.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Whether the policy says no.
async fn check(borrower: &Borrower, kind: &str, target: &str) -> Result<(), BorrowError> {
    match borrower.check(kind, target).await {
        // Down, or without an address for now: not the policy's no.
        Ok(_) | Err(BorrowError::Dial { .. } | BorrowError::Refused { kind: ErrorKind::Target, .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
