//! `admin.sock`: one JSON line asks, one answers. It is 0600, and only its owner and root are answered.

use std::{fmt, io, path::PathBuf, pin::pin, sync::Arc, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use zeroize::Zeroizing;

use super::{
    super::{
        LendError, Lender, LenderDir,
        audit::{Event, Source},
        error::in_brackets,
    },
    AdminReply, AdminRequest, Refused,
};
use crate::session::Backoff;

/// Longest request, in bytes: a password and a few names.
const LINE_BYTES_MAX: u64 = 1024 * 1024;
/// Longest answer, in bytes: every stream of as many sessions as a machine carries.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Requests at once.
pub(in crate::lend) const PLACES: usize = 16;
/// An answer takes less, unless something hangs: the log is waited for up to 2 s.
const LATE: Duration = Duration::from_secs(4);
/// A request is one line, written at once.
const REQUEST_MAX: Duration = Duration::from_secs(5);

/// The admin's socket of a running daemon; gone with it.
pub(in crate::lend) struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Only called by whoever holds the store: a socket that is there already is left over from a crash.
    pub(in crate::lend) fn open(dir: &LenderDir) -> Result<Self, LendError> {
        let path = dir.admin_sock();
        let failed = |source| LendError::AdminSocket { path: path.clone(), source };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        // Its folder is 0700, so nobody else can connect before the mode is set.
        let socket = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(failed)?;
        Ok(Self { socket, path })
    }

    pub(in crate::lend) async fn run(&self, lender: &Lender) {
        let places = Arc::new(Semaphore::new(PLACES));
        let mut tasks = tokio::task::JoinSet::new();
        let mut backoff = Backoff::new();
        loop {
            // Never closed.
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.socket.accept().await {
                Ok((admin, _)) => {
                    backoff.reset();
                    let lender = lender.clone();
                    tasks.spawn(async move {
                        if let Err(error) = answer(&lender, admin).await {
                            tracing::warn!(%error, "an admin's request failed");
                        }
                        drop(place);
                    });
                }
                Err(error) => backoff.wait("admin", &error).await,
            }
            while tasks.try_join_next().is_some() {}
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// A daemon that has not answered yet.
#[derive(Clone, Copy, Debug)]
pub struct LateDaemon {
    pid: Option<i32>,
}

impl fmt::Display for LateDaemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let process = in_brackets(self.pid);
        write!(f, "capuchind{process} does not answer yet: it is stopped or busy, or its disk hangs; waiting for it")
    }
}

/// Asks a daemon that runs.
pub(super) async fn ask_daemon(
    dir: &LenderDir,
    mut daemon: UnixStream,
    request: &AdminRequest,
    tell_late: impl FnOnce(LateDaemon),
) -> Result<AdminReply, LendError> {
    let failed = |source: io::Error| match source.kind() {
        // The kernel says so of a Unix socket only where what was sent has not been read.
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => LendError::AdminUnheard,
        _ => LendError::AdminSocket { path: dir.admin_sock(), source },
    };
    let mut line = Zeroizing::new(serde_json::to_vec(request).map_err(|error| failed(error.into()))?);
    line.push(b'\n');
    let late = LateDaemon { pid: daemon.peer_cred().ok().and_then(|peer| peer.pid()) };
    let mut asked = pin!(async {
        daemon.write_all(&line).await?;
        let mut answer = String::new();
        daemon.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await.map(|_| answer)
    });
    let answer = match tokio::time::timeout(LATE, &mut asked).await {
        Ok(answer) => answer,
        Err(_) => {
            tell_late(late);
            asked.await
        }
    };
    let answer = answer.map_err(failed)?;
    if answer.is_empty() {
        return Err(LendError::AdminUnanswered);
    }
    let answer: Result<AdminReply, Refused> =
        serde_json::from_str(&answer).map_err(|error| LendError::AdminAnswer(error.to_string()))?;
    answer.map_err(LendError::Admin)
}

async fn answer(lender: &Lender, admin: UnixStream) -> io::Result<()> {
    let peer = admin.peer_cred()?.uid();
    if peer != 0 && peer != rustix::process::geteuid().as_raw() {
        let why = format!("uid {peer} is not the admin");
        let event = Event { event: "admin", uid: Some(peer), verdict: Some("refused"), ..Event::default() };
        lender.shared.audit.bounded(Source::Local(peer), Event { why: Some(why.clone()), ..event }).await;
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    let mut admin = BufReader::new(admin);
    let mut line = Zeroizing::new(Vec::new());
    let mut limited = (&mut admin).take(LINE_BYTES_MAX);
    let length = tokio::time::timeout(REQUEST_MAX, limited.read_until(b'\n', &mut line)).await??;
    if length == 0 {
        // Who looked only who is here.
        return Ok(());
    }
    let refused = |error: LendError| Refused { kind: error.kind().to_string(), text: error.line() };
    let reply: Result<AdminReply, Refused> = match serde_json::from_slice(&line) {
        Ok(request) if AdminRequest::gives(&request) && has_gone(admin.get_ref()) => {
            lender.leave_undone(peer, &request).await;
            return Ok(());
        }
        Ok(request) => lender.execute_for(peer, request).await.map_err(refused),
        Err(error) => Err(Refused { kind: "usage".to_owned(), text: error.to_string() }),
    };
    admin.write_all(&serde_json::to_vec(&reply)?).await?;
    admin.shutdown().await
}

/// Whether whoever asked has hung up. Who has only shut down what he sends still waits for the answer.
fn has_gone(admin: &UnixStream) -> bool {
    // A hang-up is told whatever is asked for.
    let mut look = [PollFd::new(admin, PollFlags::empty())];
    let told = poll(&mut look, Some(&Timespec::default()));
    told.is_ok() && look.iter().any(|look| look.revents().contains(PollFlags::HUP))
}
