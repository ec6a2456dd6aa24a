//! What all clones of a borrower share: the session of now, and who makes the next one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::{
    access::{Access, Entered},
    arrivals::Arrivals,
    give_up::{GIVEN_UP, GiveUps},
    keep::{Connection, Keeper, SessionEnd},
    renew::Renewal,
};
use crate::{
    proto::{LenderName, SessionId, UserName},
    session::Session,
};

pub(super) struct Shared {
    lender: LenderName,
    user: UserName,
    access: Arc<Access>,
    current: Mutex<Current>,
    /// Never changed with `current` locked: whoever looks at it may look at that, too.
    connection: watch::Sender<Connection>,
}

struct Current {
    present: Present,
    /// It is another program's.
    is_shared: bool,
    _renewal: Option<Renewal>,
    /// Runs once the session is to be kept, until it is closed or dropped.
    keeper: Option<Keeper>,
    /// No session follows any more.
    is_closed: bool,
}

/// The session of now.
#[derive(Clone)]
pub(super) struct Present {
    pub(super) session: Session,
    pub(super) id: SessionId,
    pub(super) arrivals: Arrivals,
    pub(super) give_ups: Arc<GiveUps>,
}

impl Present {
    fn new(session: Session, id: SessionId) -> Self {
        let give_ups = Arc::new(GiveUps::new(GIVEN_UP));
        Self { session, id, arrivals: Arrivals::default(), give_ups }
    }
}

impl Shared {
    pub(super) fn new(entered: Entered, access: Access) -> Self {
        let Entered { session, id, lender, user, ca, renewal, is_shared } = entered;
        let present = Present::new(session, id);
        let current = Current { present, is_shared, _renewal: renewal, keeper: None, is_closed: false };
        Self {
            lender,
            access: Arc::new(access.settled(&user, ca)),
            user,
            current: Mutex::new(current),
            connection: watch::Sender::new(Connection::Up),
        }
    }

    pub(super) fn lender(&self) -> &LenderName {
        &self.lender
    }

    pub(super) fn user(&self) -> &UserName {
        &self.user
    }

    pub(super) fn access(&self) -> &Arc<Access> {
        &self.access
    }

    pub(super) fn present(&self) -> Present {
        self.current().present.clone()
    }

    pub(super) fn session(&self) -> Session {
        self.current().present.session.clone()
    }

    pub(super) fn id(&self) -> SessionId {
        self.current().present.id
    }

    /// Whether the session of now is another program's.
    pub(super) fn is_shared(&self) -> bool {
        self.current().is_shared
    }

    /// How the connection stands, now and at each change.
    pub(super) fn connection(&self) -> watch::Receiver<Connection> {
        self.connection.subscribe()
    }

    /// Makes the session again whenever it is lost, from now on.
    pub(super) fn keep(shared: &Arc<Self>) {
        let mut current = shared.current();
        if current.keeper.is_none() && !current.is_closed {
            current.keeper = Some(Keeper::start(shared));
        }
    }

    /// Whether another session may follow.
    pub(super) fn is_kept(&self) -> bool {
        self.current().keeper.is_some()
    }

    /// Goes on with another session of the same borrower, unless it was closed meanwhile.
    pub(super) fn replace(&self, entered: Entered) {
        let Entered { session, id, renewal, is_shared, lender: _, user: _, ca: _ } = entered;
        {
            let mut current = self.current();
            if current.is_closed {
                return;
            }
            (current.present, current.is_shared, current._renewal) = (Present::new(session, id), is_shared, renewal);
        }
        self.tell(Connection::Up);
    }

    /// Tells how the connection stands. What is over stays so.
    pub(super) fn tell(&self, connection: Connection) {
        self.connection.send_if_modified(|now| {
            let is_over = matches!(now, Connection::Over(_));
            if !is_over {
                *now = connection;
            }
            !is_over
        });
    }

    /// No session follows that of now, which is to be ended; who waits for the end of a kept one hears of it.
    pub(super) fn close(&self, end: SessionEnd) -> Session {
        let (session, keeper) = {
            let mut current = self.current();
            current.is_closed = true;
            (current.present.session.clone(), current.keeper.take())
        };
        if keeper.is_some() {
            self.tell(Connection::Over(end));
        }
        session
    }

    /// Every change under the lock is complete by itself.
    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
