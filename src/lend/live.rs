//! The sessions that are open now: what `sessions` lists and what `cut`, `revoke` and a new policy go through.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Lender, borrower::Borrower};
use crate::{
    proto::{ErrorKind, SessionId},
    trust::identity::Identity,
};

/// How long whoever cuts sessions waits for their ends: the borrower has been told by then, or does not listen.
const CUT_MAX: Duration = Duration::from_secs(1);

/// Every session that is logged in.
#[derive(Default)]
pub(super) struct Live(Mutex<HashMap<SessionId, Arc<Borrower>>>);

impl Live {
    /// Lists a session until the guard is dropped.
    pub(super) fn list(&self, borrower: Arc<Borrower>) -> Listed {
        self.lock().insert(borrower.session_id, borrower.clone());
        Listed(borrower)
    }

    /// All of them, the oldest first.
    pub(super) fn all(&self) -> Vec<Arc<Borrower>> {
        let mut all: Vec<_> = self.lock().values().cloned().collect();
        all.sort_by_key(|borrower| borrower.began);
        all
    }

    /// Ends every session that `chosen` chooses, at once and all together; gives how many, and how many streams in them.
    pub(super) async fn cut(&self, kind: ErrorKind, why: &str, chosen: impl Fn(&Borrower) -> bool) -> (usize, usize) {
        let chosen: Vec<_> = self.all().into_iter().filter(|borrower| chosen(borrower)).collect();
        let streams = chosen.iter().map(|borrower| borrower.cut(kind, why)).sum();
        let ends = async {
            for borrower in &chosen {
                borrower.session.ended().await;
            }
        };
        let _ = tokio::time::timeout(CUT_MAX, ends).await;
        (chosen.len(), streams)
    }

    /// Ends a session whose borrower has come back by another connection, so that what it held is free for the new one.
    /// Nothing happens to a session of somebody else, or of another device.
    pub(super) fn replace(&self, session: SessionId, by: &Identity) {
        let replaced = self.lock().get(&session).cloned();
        if let Some(old) = replaced.filter(|old| is_of(&old.identity, by)) {
            old.cut(ErrorKind::Lost, "its borrower came back by another connection");
        }
    }

    /// A device's certificate was renewed: every session of it goes on until the new one ends. The device holds one
    /// certificate for all of them, so that those that did not ask find nothing due and will not ask.
    pub(super) fn renewed(&self, new: &Identity) {
        for borrower in self.all().into_iter().filter(|borrower| is_of(&borrower.identity, new)) {
            borrower.renewed(new.not_after);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Borrower>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether it is the same user's same device, by whichever of its certificates.
fn is_of(one: &Identity, other: &Identity) -> bool {
    (&one.user, one.device) == (&other.user, other.device)
}

/// A session in the list; dropping it takes it off.
pub(super) struct Listed(Arc<Borrower>);

impl Listed {
    pub(super) fn borrower(&self) -> &Arc<Borrower> {
        &self.0
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.0.lender.shared.live.lock().remove(&self.0.session_id);
    }
}

impl Lender {
    /// Judges every handle again, and takes back what the policy no longer allows; gives how many.
    pub(super) fn judge_again(&self) -> usize {
        let mut taken = 0;
        for borrower in self.shared.live.all() {
            taken += borrower.judge_login();
            for (stream, handle) in borrower.held() {
                if let Err(refusal) = (handle.still)(&borrower) {
                    let why = format!("the policy has changed: {}", refusal.text());
                    taken += usize::from(borrower.take_back(stream, ErrorKind::Policy, &why));
                }
            }
        }
        taken
    }
}
