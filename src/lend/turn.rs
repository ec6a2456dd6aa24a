//! Whose turn it is with a lender's folder: one process at a time has its store, a daemon as long as it runs, and a command
//! without a daemon for a moment, which the next one waits for.

use std::{io, time::Duration};

use tokio::{
    net::UnixStream,
    time::{Instant, sleep},
};

use super::{LendError, Lender, LenderDir};
use crate::trust::store::StoreError;

/// A command has the store no longer than this, of which it takes the most to make a password's hash; nor has a daemon that
/// stops, whose sessions have 3 s to say good-bye.
const TURN_MAX: Duration = Duration::from_secs(5);
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
    let until = Instant::now() + TURN_MAX;
    loop {
        match UnixStream::connect(dir.admin_sock()).await {
            Ok(daemon) => return Ok(Turn::Daemons(daemon)),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
            Err(source) => return Err(LendError::AdminSocket { path: dir.admin_sock(), source }),
        }
        // In use by a command, or by a daemon that begins or ends.
        if let Some(lender) = opened(open(dir), dir, until).await? {
            return Ok(Turn::Ours(Box::new(lender)));
        }
    }
}

/// Opens the lender of `dir` to serve it; a daemon that may be about to stop is waited for as a command is.
///
/// # Errors
/// As [`Lender::open`]; also that another process goes on to have it.
///
/// # Cancellation
/// Nothing has happened.
pub async fn open_to_serve(dir: &LenderDir) -> Result<Lender, LendError> {
    let until = Instant::now() + TURN_MAX;
    loop {
        if let Some(lender) = opened(Lender::open(dir), dir, until).await? {
            return Ok(lender);
        }
    }
}

/// What has come of opening `dir`; nothing, after a moment, where another process has the store, until that has had its time.
async fn opened(
    opened: Result<Lender, LendError>,
    dir: &LenderDir,
    until: Instant,
) -> Result<Option<Lender>, LendError> {
    match opened {
        Err(LendError::Store(StoreError::InUse)) if Instant::now() < until => {
            sleep(LOOK).await;
            Ok(None)
        }
        Err(LendError::Store(StoreError::InUse)) => {
            let daemon = UnixStream::connect(dir.admin_sock()).await.and_then(|daemon| daemon.peer_cred());
            let pid = daemon.ok().and_then(|daemon| daemon.pid());
            Err(LendError::InUse { dir: dir.state().to_owned(), pid })
        }
        opened => opened.map(Some),
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
    async fn a_daemon_that_stops_is_waited_for() {
        let (_folder, dir) = folder();
        let daemon = Lender::open(&dir).unwrap();
        let admin = tokio::net::UnixListener::bind(dir.admin_sock()).unwrap();
        let (served, ()) = tokio::join!(open_to_serve(&dir), async {
            sleep(3 * LOOK).await;
            drop(admin);
            sleep(3 * LOOK).await;
            drop(daemon);
        });
        assert!(served.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_goes_on_and_a_process_that_hangs_are_not_waited_for_for_ever() {
        let (_folder, dir) = folder();
        let other = Lender::open(&dir).unwrap();
        let began = Instant::now();
        let in_use_by = |opened| match opened {
            Err(LendError::InUse { dir: named, pid }) if named == dir.state() => pid,
            other => panic!("{:?}", other.err()),
        };
        assert_eq!(in_use_by(open_to_serve(&dir).await), None);
        assert!(began.elapsed() >= TURN_MAX);
        let _daemon = tokio::net::UnixListener::bind(dir.admin_sock()).unwrap();
        assert_eq!(in_use_by(open_to_serve(&dir).await), i32::try_from(std::process::id()).ok());
        assert!(began.elapsed() < 3 * TURN_MAX);
        drop(other);
    }
}
