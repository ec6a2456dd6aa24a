//! Keeps a session: whenever its connection is lost, it is made again by the ticket of the last login.
//!
//! ```text
//!        ┌──────── the connection is lost ───────┐
//!        ▼                                       │
//!      Down ── entered again, with what is new ──▶ Up
//!        └── the lender says no, or the login is over ──▶ Over
//! ```
//! The new login names the session that it replaces: the lender may still take it for alive, and ends it, so that its ports
//! are free before the new session asks for them. A session that another program shares is left to that program: who used it
//! comes back over whatever is shared, or over a session of its own.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use super::{
    BorrowError,
    access::{Access, Entered},
    present::Shared,
    share,
};
use crate::{
    proto::{ErrorKind, SessionId},
    trust::random,
};

/// Before the first attempt after a loss, and again after one that failed or led to a session that did not last; doubles
/// up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(100);
/// A session that lasted so long is no reason for a longer pause when it is lost.
const SETTLED: Duration = Duration::from_secs(10);
/// Longest pause: a person who waits for the network to come back does not notice more.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// One attempt: what was sent into a dead network is not waited for when the network may be back.
const ATTEMPT_MAX: Duration = Duration::from_secs(10);

/// How the connection of a kept session stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Connection {
    /// There is one.
    Up,
    /// It is lost, and being made again.
    Down {
        /// How it was lost, or why the last attempt failed. The lender's words may stand in it.
        why: String,
    },
    /// It is not made again.
    Over(SessionEnd),
}

/// Why a kept session is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    /// Which of the error kinds.
    pub kind: ErrorKind,
    /// One line. The lender's words may stand in it.
    pub text: String,
    /// What to do.
    pub notes: Vec<String>,
}

impl SessionEnd {
    pub(super) fn error(&self, host: &str) -> BorrowError {
        let Self { kind, text, notes } = self.clone();
        match kind {
            ErrorKind::Login => BorrowError::Login { text, notes },
            _ => BorrowError::Ended { lender: host.to_owned(), kind, text },
        }
    }
}

impl From<&BorrowError> for SessionEnd {
    fn from(error: &BorrowError) -> Self {
        let text = match error {
            BorrowError::Ended { text, .. } => text.clone(),
            BorrowError::Refused { reason, .. } => reason.clone(),
            error => error.to_string(),
        };
        Self { kind: error.kind(), text, notes: error.notes().to_vec() }
    }
}

/// The task that keeps a session; dropping it ends it.
pub(super) struct Keeper(tokio::task::JoinHandle<()>);

impl Keeper {
    pub(super) fn start(shared: &Arc<Shared>) -> Self {
        // It must not keep alive what it looks after.
        Self(tokio::spawn(keep(Arc::downgrade(shared))))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn keep(kept: Weak<Shared>) {
    let (mut pauses, mut since) = (Pauses::default(), Instant::now());
    while let Some(shared) = kept.upgrade() {
        let end = shared.session().watch_end();
        let host = shared.access().host().to_owned();
        drop(shared);
        let lost = BorrowError::ended(&host, end.await);
        pauses.lost_after(since.elapsed());
        let outcome = match may_pass(&lost) {
            true => come_back(&kept, lost, &mut pauses).await,
            false => Err(lost),
        };
        since = Instant::now();
        let Some(shared) = kept.upgrade() else { return };
        match outcome {
            Ok(entered) => shared.replace(entered),
            Err(error) => {
                shared.tell(Connection::Over(SessionEnd::from(&error)));
                return;
            }
        }
    }
}

/// Tries until it is in again, or will never be.
async fn come_back(kept: &Weak<Shared>, lost: BorrowError, pauses: &mut Pauses) -> Result<Entered, BorrowError> {
    let mut why = lost;
    loop {
        let (access, own) = {
            let Some(shared) = kept.upgrade() else { return Err(why) };
            shared.tell(Connection::Down { why: SessionEnd::from(&why).text });
            (shared.access().clone(), (!shared.is_shared()).then(|| shared.id()))
        };
        tokio::time::sleep(jittered(pauses.next())).await;
        why = match tokio::time::timeout(ATTEMPT_MAX, enter_again(&access, own)).await {
            Ok(Ok(entered)) => return Ok(entered),
            Ok(Err(error)) if !may_pass(&error) => return Err(error),
            Ok(Err(error)) => error,
            Err(_) => {
                let text = format!("no answer within {} s", ATTEMPT_MAX.as_secs());
                BorrowError::Ended { lender: access.host().to_owned(), kind: ErrorKind::Unreachable, text }
            }
        };
    }
}

/// Enters in the place of `own`. Where the session was another program's, it is that one's again, or of whoever shares one by
/// now, and else one of our own; none is replaced then, as the one that was lost may live on and be used by others.
async fn enter_again(access: &Access, own: Option<SessionId>) -> Result<Entered, BorrowError> {
    if own.is_none()
        && let Some(entered) = share::enter(access).await?
    {
        return Ok(entered);
    }
    access.again(own).await
}

/// Between attempts.
struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(PAUSE)
    }
}

impl Pauses {
    /// A session that lasted for so long is lost.
    fn lost_after(&mut self, lasted: Duration) {
        if lasted > SETTLED {
            *self = Self::default();
        }
    }

    fn next(&mut self) -> Duration {
        let longer = (self.0 * 2).min(PAUSE_MAX);
        std::mem::replace(&mut self.0, longer)
    }
}

/// Whether a failure may be none after a while. Another machine may answer at an address of the lender while this one is
/// elsewhere, and a file that cannot be read may be half written: those are no reasons to give up.
fn may_pass(error: &BorrowError) -> bool {
    use ErrorKind::{Busy, Identity, Local, Lost, Tls, Unreachable};
    matches!(error.kind(), Lost | Unreachable | Busy | Tls | Identity | Local)
        || matches!(error, BorrowError::Profile { .. })
}

/// Between three quarters and five quarters of `pause`: a lender that starts again must not meet all its borrowers at once.
fn jittered(pause: Duration) -> Duration {
    let [random] = random::<1>();
    pause * (192 + u32::from(random) / 2) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ_by_a_quarter_at_most() {
        for _ in 0..1000 {
            let pause = jittered(PAUSE_MAX);
            assert!(pause >= PAUSE_MAX * 3 / 4 && pause <= PAUSE_MAX * 5 / 4, "{pause:?}");
        }
    }

    #[test]
    fn a_session_that_is_lost_again_and_again_is_made_more_and_more_seldom() {
        let mut pauses = Pauses::default();
        let mut after = |lasted| {
            pauses.lost_after(lasted);
            pauses.next()
        };
        let short: Vec<_> = (0..8).map(|_| after(Duration::from_millis(150)).as_millis()).collect();
        assert_eq!(short, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(after(Duration::from_secs(11)), PAUSE);
    }

    #[test]
    fn what_the_lender_has_decided_is_not_tried_again() {
        use ErrorKind::*;
        let ended = |kind| BorrowError::Ended { lender: "lab".into(), kind, text: "over".into() };
        for kind in [Usage, Config, Login, Policy, Target, Version, Protocol, Revoked] {
            assert!(!may_pass(&ended(kind)), "{kind}");
        }
        for kind in [Lost, Unreachable, Busy, Tls, Identity, Local] {
            assert!(may_pass(&ended(kind)), "{kind}");
        }
        let half_written = BorrowError::Profile { path: "config.toml".into(), why: "line 3: invalid string".into() };
        assert!(may_pass(&half_written));
    }

    #[test]
    fn the_end_of_a_login_says_what_to_do() {
        let error =
            BorrowError::Login { text: "the last login at lab is over".into(), notes: vec!["log in again".into()] };
        let end = SessionEnd::from(&error).error("lab");
        assert_eq!((end.kind(), end.notes()), (ErrorKind::Login, error.notes()));
        let revoked =
            BorrowError::Ended { lender: "lab".into(), kind: ErrorKind::Revoked, text: "ana was revoked".into() };
        assert_eq!(SessionEnd::from(&revoked).error("lab").to_string(), revoked.to_string());
    }
}
