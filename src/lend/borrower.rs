//! One borrower's session as the lender sees it: who, since when, and every handle that it holds.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, OwnedSemaphorePermit, watch};

use super::{Lender, audit::Event, login::Welcomed, names::SessionNames, peer::Peer, seats::Seat, spawn::Programs};
use crate::{
    policy::Principal,
    proto::{ErrorKind, Refusal, Reset, SessionId, StreamId},
    session::{Meter, Session, Stream},
    trust::{UnixTime, identity::Identity, store},
};

/// How often a session looks at the wall clock, which may be set while it runs.
const CLOCK_STEP: Duration = Duration::from_secs(30);
const HOURS_OVER: &str = "the hours that the policy gives a login are over: log in again";

/// Who borrows in this session, and what.
pub(super) struct Borrower {
    pub(super) lender: Lender,
    pub(super) principal: Principal,
    pub(super) identity: Identity,
    pub(super) session_id: SessionId,
    pub(super) peer: Peer,
    pub(super) since: UnixTime,
    /// As `since`, by a clock that tells two of one second apart and is never set.
    pub(super) began: Instant,
    pub(super) session: Session,
    /// What the session goes back to.
    pub(super) login: store::Login,
    /// When its last ticket was issued, in seconds since 1970; 0 for never.
    ticket_at: AtomicU64,
    /// The same of its last certificate.
    certificate_at: AtomicU64,
    seat: Seat,
    /// Of its connection, until the last words are said.
    _descriptor: OwnedSemaphorePermit,
    pub(super) names: SessionNames,
    pub(super) programs: Programs,
    /// When its certificate ends; a renewal moves it.
    not_after: watch::Sender<UnixTime>,
    handles: Mutex<BTreeMap<StreamId, Arc<Handle>>>,
}

impl Borrower {
    pub(super) fn new(lender: Lender, welcome: Welcomed, peer: Peer, session: Session) -> Self {
        let Welcomed { identity, session_id, login, seat, descriptor, .. } = welcome;
        Self {
            lender,
            login,
            ticket_at: AtomicU64::new(0),
            certificate_at: AtomicU64::new(0),
            seat,
            _descriptor: descriptor,
            principal: Principal { user: identity.user.clone(), device: identity.device },
            not_after: watch::Sender::new(identity.not_after),
            identity,
            session_id,
            peer,
            since: UnixTime::now(),
            began: Instant::now(),
            session,
            names: SessionNames::default(),
            programs: Programs::default(),
            handles: Mutex::default(),
        }
    }

    /// An audit event of this session.
    pub(super) fn event(&self, event: &'static str) -> Event {
        Event {
            event,
            session: Some(self.session_id.to_string()),
            user: Some(self.principal.user.to_string()),
            device: Some(self.principal.device.to_string()),
            peer: Some(self.peer.to_string()),
            ..Event::default()
        }
    }

    /// Logs what has become of something that this session asked for.
    pub(super) async fn log(&self, event: &'static str, target: String, why: Option<String>) {
        let event = Event { target: Some(target), why, ..self.event(event) };
        self.lender.shared.audit.log(event).await;
    }

    /// Lists what a stream is for, until the guard is dropped. `still` judges it again after the policy has changed, and
    /// once here: a policy that came between the decision and the list has not seen it there.
    ///
    /// # Errors
    /// The policy of now refuses it.
    pub(super) fn hold(
        &self,
        stream: &Stream,
        kind: &'static str,
        target: String,
        still: Still,
    ) -> Result<Held<'_>, Refusal> {
        let handle = Arc::new(Handle {
            kind,
            target,
            since: UnixTime::now(),
            meter: Meter::paced(Some(self.seat.pace())),
            still,
            taken: OnceLock::new(),
            wake: Notify::new(),
        });
        self.handles().insert(stream.id(), handle.clone());
        let held = Held { borrower: self, stream: stream.id(), handle };
        (held.handle.still)(self)?;
        Ok(held)
    }

    /// What it holds now, by stream.
    pub(super) fn held(&self) -> Vec<(StreamId, Arc<Handle>)> {
        self.handles().iter().map(|(id, handle)| (*id, handle.clone())).collect()
    }

    /// Takes back one handle; `false` when it is gone already. The borrower is told the kind.
    pub(super) fn take_back(&self, stream: StreamId, kind: ErrorKind, why: &str) -> bool {
        let handle = self.handles().get(&stream).cloned();
        handle.inspect(|handle| handle.take_back(kind, why)).is_some()
    }

    /// Ends the session and everything in it at once; the borrower is told why. Gives how many handles it held.
    pub(super) fn cut(&self, kind: ErrorKind, why: &str) -> usize {
        // Handles first: what they hold must not deliver its last words.
        let held = self.held();
        for (_, handle) in &held {
            handle.take_back(kind, why);
        }
        self.session.end(kind, why);
        held.len()
    }

    /// The number of streams that the policy of now allows, if the session has more of them open.
    pub(super) fn is_beyond_streams(&self) -> Option<u32> {
        let most = self.seat.streams_max();
        (self.session.peer_streams() > most).then_some(most)
    }

    /// Waits until its user wants its place for another session.
    pub(super) async fn place_is_wanted(&self) {
        self.seat.is_wanted().await;
    }

    /// Ends it if the policy of now asks for the password that its login was without, or gives a login fewer hours than this
    /// one has lasted; gives how many handles it held.
    pub(super) fn judge_login(&self) -> usize {
        if self.login.by_certificate && self.lender.asks_password(&self.principal.user) {
            return self.cut(ErrorKind::Login, "the policy asks for a password now: log in with it");
        }
        if self.login_ends().is_some_and(|ends| ends <= UnixTime::now()) {
            return self.cut(ErrorKind::Login, HOURS_OVER);
        }
        0
    }

    /// When the hours of its login are over, by the policy of now.
    fn login_ends(&self) -> Option<UnixTime> {
        self.lender.login_lasts(&self.principal.user).map(|lasts| self.login.at.plus(lasts))
    }

    /// Its certificate was renewed. Whoever renews and whoever logs in may tell it in any order: an end never moves back.
    pub(super) fn renewed(&self, not_after: UnixTime) {
        self.not_after.send_if_modified(|ends| {
            let is_later = not_after > *ends;
            if is_later {
                *ends = not_after;
            }
            is_later
        });
    }

    /// Whether the last ticket is so long ago that there may be another; if so, it is now.
    pub(super) fn may_renew_ticket(&self, pause: Duration) -> bool {
        is_long_ago(&self.ticket_at, pause)
    }

    /// As [`Self::may_renew_ticket`], of certificates.
    pub(super) fn may_renew_certificate(&self, pause: Duration) -> bool {
        is_long_ago(&self.certificate_at, pause)
    }

    /// How long its certificate and the hours of its login last, by the clock and the policy of now.
    ///
    /// # Errors
    /// Its time is over, and which.
    pub(super) fn time_left(&self) -> Result<Duration, (ErrorKind, &'static str)> {
        // Asked each time: another policy may give more hours, or fewer.
        let ends = self.login_ends();
        let (now, certificate) = (UnixTime::now(), *self.not_after.borrow());
        if certificate <= now {
            return Err((ErrorKind::Identity, "the certificate of this device has ended"));
        }
        if ends.is_some_and(|ends| ends <= now) {
            return Err((ErrorKind::Login, HOURS_OVER));
        }
        let next = ends.map_or(certificate, |ends| ends.min(certificate));
        Ok(Duration::from_secs(next.0 - now.0))
    }

    /// Waits until its time is over, and says which.
    pub(super) async fn expired(&self) -> (ErrorKind, &'static str) {
        let mut not_after = self.not_after.subscribe();
        loop {
            not_after.mark_unchanged();
            let left = match self.time_left() {
                Ok(left) => left,
                Err(over) => return over,
            };
            // The sender lives in `self`.
            let _ = tokio::time::timeout(left.min(CLOCK_STEP), not_after.changed()).await;
        }
    }

    fn handles(&self) -> MutexGuard<'_, BTreeMap<StreamId, Arc<Handle>>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether something was so long ago; if so, it is now.
fn is_long_ago(at: &AtomicU64, pause: Duration) -> bool {
    let now = UnixTime::now();
    let long_ago = |last: u64| (UnixTime(last).plus(pause) <= now).then_some(now.0);
    at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, long_ago).is_ok()
}

/// Judges a handle again.
pub(super) type Still = Box<dyn Fn(&Borrower) -> Result<(), Refusal> + Send + Sync>;

/// One borrowed thing.
pub(super) struct Handle {
    pub(super) kind: &'static str,
    pub(super) target: String,
    pub(super) since: UnixTime,
    pub(super) meter: Meter,
    pub(super) still: Still,
    /// Why it was taken back.
    taken: OnceLock<(ErrorKind, String)>,
    wake: Notify,
}

impl Handle {
    pub(super) fn take_back(&self, kind: ErrorKind, why: &str) {
        // Whoever was first has said why.
        let _ = self.taken.set((kind, why.to_owned()));
        self.wake.notify_one();
    }
}

/// A handle in the list of its session; dropping it takes it off.
pub(super) struct Held<'a> {
    borrower: &'a Borrower,
    stream: StreamId,
    handle: Arc<Handle>,
}

impl Held<'_> {
    pub(super) fn meter(&self) -> &Meter {
        &self.handle.meter
    }

    /// What is listed, for who serves it elsewhere.
    pub(super) fn handle(&self) -> Arc<Handle> {
        self.handle.clone()
    }

    /// Logs what has become of it, with the bytes that it has moved.
    pub(super) async fn log(&self, event: &'static str, target: String, why: Option<String>) {
        self.borrower.lender.shared.audit.log(self.event(event, target, why)).await;
    }

    /// As [`Self::log`], for who has more to say.
    pub(super) fn event(&self, event: &'static str, target: String, why: Option<String>) -> Event {
        Event {
            target: Some(target),
            why,
            bytes_in: Some(self.meter().from_stream()),
            bytes_out: Some(self.meter().to_stream()),
            ..self.borrower.event(event)
        }
    }

    /// Why it was taken back, if it was.
    pub(super) fn why_taken(&self) -> Option<String> {
        self.handle.taken.get().map(|(_, why)| why.clone())
    }

    /// Serves the handle until it is done or taken back, which resets its stream.
    pub(super) async fn serve<T>(&self, stream: &Stream, serving: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = serving => Some(done),
            () = self.handle.wake.notified() => {
                let kind = self.handle.taken.get().map_or(ErrorKind::Revoked, |(kind, _)| *kind);
                stream.reset(Reset::TakenBack(kind));
                None
            }
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.borrower.handles().remove(&self.stream);
    }
}
