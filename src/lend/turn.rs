//! Whose turn it is with a lender's folder: one process at a time has its store, a daemon as long as it runs, and a command
//! without a daemon for a moment, which the next one waits for.

use std::{io, time::Duration};

use tokio::{
    net::UnixStream,
    time::{Instant, sleep},
};

use super::{LendError, Lender, LenderDir};
use crate::trust::store::StoreError;

/// A command has the store no longer than this: what takes the most of its time is to make a password's hash.
const COMMAND_MAX: Duration = Duration::from_secs(5);
/// Between two looks whether it is free.
const LOOK: Duration = Duration::from_millis(20);

/// Who answers for a folder.
pub(super) enum Turn {
    /// The daemon that runs.
    Daemons(UnixStream),
    /// This process, as none does.
    Ours(Box<Lender>),
}

/// Finds the daemon of `dir`, or opens it in its place when none runs.
///
/// # Errors
/// What `open` gives, and that the daemon's socket cannot be reached.
pub(super) async fn turn(
    dir: &LenderDir,
    open: impl Fn(&LenderDir) -> Result<Lender, LendError>,
) -> Result<Turn, LendError> {
    let until = Instant::now() + COMMAND_MAX;
    loop {
        match UnixStream::connect(dir.admin_sock()).await {
            Ok(daemon) => return Ok(Turn::Daemons(daemon)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
            Err(source) => return Err(LendError::AdminSocket { path: dir.admin_sock(), source }),
        }
        match open(dir) {
            // A command, or a daemon that begins.
            Err(LendError::Store(StoreError::InUse)) if Instant::now() < until => sleep(LOOK).await,
            opened => return opened.map(|lender| Turn::Ours(Box::new(lender))),
        }
    }
}

/// Opens the lender of `dir` to serve it.
///
/// # Errors
/// As [`Lender::open`]; also that a daemon serves it already.
///
/// # Cancellation
/// Nothing has happened.
pub async fn open_to_serve(dir: &LenderDir) -> Result<Lender, LendError> {
    match turn(dir, Lender::open).await? {
        Turn::Ours(lender) => Ok(*lender),
        Turn::Daemons(_) => Err(StoreError::InUse.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lend::{Setup, init};

    fn folder() -> (tempfile::TempDir, LenderDir) {
        let folder = tempfile::tempdir().unwrap();
        let dir = LenderDir::single(folder.path().to_owned());
        init(&dir, Setup::default()).unwrap();
        (folder, dir)
    }

    #[tokio::test(start_paused = true)]
    async fn a_command_is_waited_for() {
        let (_folder, dir) = folder();
        let command = Lender::open(&dir).unwrap();
        let (served, ()) = tokio::join!(open_to_serve(&dir), async {
            sleep(3 * LOOK).await;
            drop(command);
        });
        assert!(served.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_is_not_waited_for_and_a_process_that_hangs_not_for_ever() {
        let (_folder, dir) = folder();
        let other = Lender::open(&dir).unwrap();
        let began = Instant::now();
        let is_in_use = |opened| matches!(opened, Err(LendError::Store(StoreError::InUse)));
        assert!(is_in_use(open_to_serve(&dir).await));
        assert!(began.elapsed() >= COMMAND_MAX);
        let _daemon = tokio::net::UnixListener::bind(dir.admin_sock()).unwrap();
        let began = Instant::now();
        assert!(is_in_use(open_to_serve(&dir).await));
        assert!(began.elapsed() < LOOK);
        drop(other);
    }
}
