//! What a program connects to, as the lender connects to it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpStream, sync::mpsc};

use super::{
    names::Names,
    outcome::{self, Outcome},
};
use crate::{
    BorrowError, Borrower,
    borrow::{
        give_up::{GiveUps, Rate},
        tcp,
    },
    proto::{Errno, ErrorKind, Target, TcpConnected},
    session::{Session, Stream},
};

/// Attempts that one program gives up.
const GIVEN_UP: Rate = Rate { burst: 500, step: Duration::from_millis(20) };

/// Dials through the lender, and has names asked of it.
pub struct Dialer {
    borrower: Borrower,
    names: Arc<Names>,
    refused_tx: mpsc::Sender<BorrowError>,
    give_ups: GiveUps,
}

/// Why a program's connection is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotDialed {
    /// As packets say it.
    pub outcome: Outcome,
    /// As connect(2) says it.
    pub errno: Errno,
}

impl NotDialed {
    const NOBODY: Self = Self { outcome: Outcome::Refused, errno: Errno::ECONNREFUSED };
}

impl Dialer {
    /// Dials through `borrower`. `refused_tx` gets what the lender refuses, as far as there is room.
    pub fn new(borrower: Borrower, names: Arc<Names>, refused_tx: mpsc::Sender<BorrowError>) -> Self {
        Self { borrower, names, refused_tx, give_ups: GiveUps::new(GIVEN_UP) }
    }

    /// The session on which it dials now.
    pub fn session(&self) -> Session {
        self.borrower.session()
    }

    /// Connects from the lender; an address that was asked for by name on a session that is over is asked for once more.
    ///
    /// # Errors
    /// How that looks to the program; a refusal has been told to the person who started it.
    ///
    /// # Cancellation
    /// The lender gives up.
    pub async fn dial(&self, target: SocketAddr) -> Result<(Stream, TcpConnected), NotDialed> {
        if target.port() == 0 {
            // Nobody is there, and no request names it.
            return Err(NotDialed::NOBODY);
        }
        let wanted = Target { host: target.ip().to_string(), port: target.port() };
        let mut dialed = tcp::connect(&self.borrower, &wanted).await;
        if let Err(BorrowError::Refused { kind: ErrorKind::Policy, .. }) = &dialed
            && self.names.ask_again(&self.borrower, target.ip()).await
        {
            dialed = tcp::connect(&self.borrower, &wanted).await;
        }
        dialed.map_err(|error| {
            tracing::debug!(%target, %error, "not connected");
            let failed = match &error {
                BorrowError::Refused { kind: ErrorKind::Policy, .. } if outcome::prohibited(target.ip()).is_none() => {
                    NotDialed::NOBODY
                }
                error => NotDialed { outcome: Outcome::of(error), errno: outcome::errno_of(error) },
            };
            if matches!(error, BorrowError::Refused { .. } | BorrowError::Busy { .. }) {
                // Who reads them has enough of the same.
                let _ = self.refused_tx.try_send(error);
            }
            failed
        })
    }

    /// Ready once one more attempt may be given up.
    ///
    /// # Cancellation
    /// It counts as given up.
    pub async fn may_give_up(&self) {
        self.give_ups.next().await;
    }

    /// Whether what goes there is a question of names.
    pub fn catches(&self, target: SocketAddr) -> bool {
        self.names.catches(target)
    }

    /// Speaks with a program that has connected to the resolver inside.
    pub async fn answer_names(&self, connection: TcpStream) {
        if let Err(error) = self.names.serve(|| Some(self.borrower.clone()), connection).await {
            tracing::debug!(%error, "a connection with questions of names");
        }
    }
}
