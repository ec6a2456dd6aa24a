//! One UDP port of the lender's that the program has: its flow, from the bind to the end of its last socket.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::{oneshot, watch};

use super::port::{Place, Surroundings};
use crate::{
    BorrowError,
    borrow::{
        flow::Flow,
        lane::{LaneReceiver, lane},
        listen_again::listen_again,
        run::flows::{Flows, OpenServer, Outgoing},
    },
    proto::{ErrorKind, UdpBind},
};

/// A server may be quiet as long as it likes.
const QUIET_MAX: Duration = Duration::MAX;

/// A port that is bound. Dropping it closes it.
pub struct Server {
    _open: OpenServer,
}

impl Server {
    /// Binds it at the lender. `closed_tx` is dropped when it is closed there.
    ///
    /// # Errors
    /// The lender's.
    pub async fn open(
        surroundings: Surroundings,
        place: Place,
        closed_tx: watch::Sender<()>,
    ) -> Result<Self, BorrowError> {
        let (sender, lane) = lane();
        let (opened_tx, opened_rx) = oneshot::channel();
        let flows = surroundings.flows.clone();
        let (wanted, bound) = (place.udp_bind(), place.inside.bound);
        let serving = Serving { flows: flows.clone(), surroundings, wanted, bound };
        flows.spawn(async move {
            serving.serve(lane, opened_tx).await;
            drop(closed_tx);
        });
        match opened_rx.await {
            Ok(opened) => opened?,
            Err(_) => {
                let text = "this program ends".to_owned();
                return Err(BorrowError::Ended { lender: String::new(), kind: ErrorKind::Local, text });
            }
        }
        // Nothing is sent from a port that is not bound inside yet.
        Ok(Self { _open: flows.open_server(bound, wanted.v6_only, &sender) })
    }
}

struct Serving {
    surroundings: Surroundings,
    flows: Arc<Flows>,
    wanted: UdpBind,
    bound: SocketAddr,
}

impl Serving {
    async fn serve(self, mut lane: LaneReceiver<Outgoing>, opened_tx: oneshot::Sender<Result<(), BorrowError>>) {
        let mut program = self.flows.program(Some(self.bound));
        let mut flow = match Flow::open(&self.surroundings.borrower, self.wanted, &mut lane, &mut program).await {
            Ok(flow) => flow,
            // If nobody waits for it any more, nothing is open.
            Err(error) => return drop(opened_tx.send(Err(error))),
        };
        if opened_tx.send(Ok(())).is_err() {
            return;
        }
        loop {
            let end = match flow.carry(&mut lane, &mut program, QUIET_MAX).await {
                // Nobody has it any more.
                Ok(()) => return,
                Err(end) => end,
            };
            let again = match end {
                BorrowError::Ended { .. } => tokio::select! {
                    again = self.open_again() => again,
                    // The program has closed it meanwhile, or is over.
                    () = lane.over() => return,
                },
                // The lender has taken it back.
                taken => Err(taken),
            };
            match again {
                Ok(opened) => flow = opened,
                Err(BorrowError::Ended { .. }) => return,
                Err(taken) => return drop(self.surroundings.refused_tx.try_send(taken.of_listener())),
            }
        }
    }

    /// On the session that follows. What the program sends meanwhile waits as long as there is room.
    async fn open_again(&self) -> Result<Flow<'_>, BorrowError> {
        let open = || async {
            let (_sender, mut nothing) = lane();
            let mut program = self.flows.program(Some(self.bound));
            Flow::open(&self.surroundings.borrower, self.wanted, &mut nothing, &mut program).await
        };
        listen_again(&self.surroundings.borrower, open, &mut |_| ()).await
    }
}
