//! Commands that begin a session to share: while one does, another that failed, as where the policy allows one session at a
//! time, looks again instead of giving up.
//!
//! ```text
//!   capuchin/beginning/KEY.lock   in the user's runtime folder, locked (flock(2)) together by all that begin
//! ```

use std::{fs::File, io, time::Duration};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use tokio::time::{Instant, sleep};

use crate::{borrow::access::Access, trust::keyfile};

/// Longest wait for others: one that was stopped, or that asks its person for a password, may never come to an end.
const BEGIN_MAX: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK_PERIOD: Duration = Duration::from_millis(50);

/// This command among those that begin to share a session with a host, until it is dropped.
pub(crate) struct Beginning {
    _lock: File,
}

impl Beginning {
    /// `None` where there is no place for it: whoever fails meanwhile has one look.
    pub(crate) fn announce(host: &str) -> Option<Self> {
        let lock = open(host)?;
        // Who looks whether somebody begins has it alone, and for that moment.
        flock(&lock, FlockOperation::LockShared).ok()?;
        Some(Self { _lock: lock })
    }
}

/// Looks for what another command of this user shares, again and again while one begins to. Our own [`Beginning`] is over by
/// then: two that have failed do not wait for each other.
pub(crate) async fn while_others_begin<T>(host: &str, look: impl AsyncFn() -> Option<T>) -> Option<T> {
    let (lock, end) = (open(host), Instant::now() + BEGIN_MAX);
    loop {
        // Before the look: who has come to its end by then is seen by it.
        let is_waiting = lock.as_ref().is_some_and(is_held) && Instant::now() < end;
        let found = look().await;
        if found.is_some() || !is_waiting {
            return found;
        }
        sleep(LOOK_PERIOD).await;
    }
}

fn is_held(lock: &File) -> bool {
    match flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            let _ = flock(lock, FlockOperation::Unlock);
            false
        }
        Err(errno) => errno == Errno::WOULDBLOCK,
    }
}

fn open(host: &str) -> Option<File> {
    let opened = Access::from_env(host).and_then(|access| access.key()).ok()?.lock().map(|path| {
        let folder = path.parent().unwrap_or(&path);
        keyfile::create_dir(folder).and_then(|()| keyfile::open_secret(&path)).map_err(io::Error::other)
    })?;
    opened.inspect_err(|error| tracing::debug!(%error, "others do not hear that a session begins")).ok()
}
