//! The door: on the lender's own machine nobody has to join. Whoever connects to its socket is who the kernel says.
//!
//! ```text
//!   door.sock ──▶ a place for its uid ──▶ peer credentials ──▶ login ──▶ dispatch, as for any session
//! ```
//! The frames are those of the network, without TLS: the kernel is the only one between. A lender that finds the door taken
//! goes on without one.
//!
//! # Security
//! Root's door is open to every user of the machine (0666), and the policy decides what each gets; any other user's is his
//! own (0600), and answers nobody but him and root, whatever became of its mode. What the kernel tells is who connected: a
//! descriptor that is handed on takes that name along. A lock tells a door that is alive from one that a crash left, so that
//! two lenders that start at once never take it from each other.

use std::{
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Instant,
};

use rustix::fs::FlockOperation;
use tokio::{
    io::BufReader,
    net::{UnixListener, UnixStream, unix::UCred},
    sync::watch,
    task::JoinSet,
};

use super::{
    Lender,
    accept::{STOP_MAX, accept},
    admission::{Admission, Place, Source},
    login::{self, Caller},
    os_user::OsUser,
    peer::Peer,
    stranger::{self, No},
};
use crate::{
    proto::ErrorKind,
    session::{Backoff, READ_BYTES},
    trust::keyfile::{self, KeyFileError},
};

/// Mode of root's door: who may ask is everybody, who gets something says the policy.
const OPEN_MODE: u32 = 0o666;
/// Mode of the folder of root's door.
const OPEN_FOLDER_MODE: u32 = 0o755;

/// The socket, open; gone with this.
pub(super) struct Door {
    socket: UnixListener,
    path: PathBuf,
    /// Held for as long as the door is.
    _lock: std::fs::File,
}

/// Why a lender has no door.
#[derive(Debug, thiserror::Error)]
pub(super) enum DoorError {
    #[error("{} is taken: another lender serves the users of this machine", .0.display())]
    Taken(PathBuf),
    #[error("{} is there and is not a socket: move it away", .0.display())]
    NotASocket(PathBuf),
    #[error(transparent)]
    File(#[from] KeyFileError),
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Door {
    /// Opens the door at `path`, in the place of one that a crash has left.
    pub(super) async fn open(path: &Path) -> Result<Self, DoorError> {
        let failed = |source| DoorError::Io { path: path.to_owned(), source };
        let open_to_all = rustix::process::geteuid().is_root();
        make_folder(path.parent().unwrap_or(path), open_to_all).map_err(failed)??;
        let lock = keyfile::open_secret(&path.with_extension("lock"))?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
            rustix::io::Errno::WOULDBLOCK => DoorError::Taken(path.to_owned()),
            other => failed(other.into()),
        })?;
        if is_left_over(path).await? {
            std::fs::remove_file(path).map_err(failed)?;
        }
        let socket = UnixListener::bind(path).map_err(failed)?;
        let door = Self { socket, path: path.to_owned(), _lock: lock };
        let mode = if open_to_all { OPEN_MODE } else { keyfile::SECRET_MODE };
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(failed)?;
        Ok(door)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Serves until the lender stops, and then until its sessions have said good-bye.
    pub(super) async fn run(&self, lender: &Lender, mut stopping: watch::Receiver<bool>) {
        // Places of its own: a flood from the network locks out nobody here, nor the other way round.
        let visits = Visits {
            lender: lender.clone(),
            admission: Admission::new(lender.config().per_source, lender.config().penalties),
            stopping: stopping.clone(),
        };
        let mut connections = JoinSet::new();
        let mut backoff = Backoff::new();
        loop {
            tokio::select! {
                // Without a sender the lender is gone, which is the same.
                () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => break,
                Some(ended) = connections.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "a task of the door failed");
                    }
                }
                (socket, _) = accept(lender, &mut backoff, || self.socket.accept()) => {
                    visits.arrived(socket, &mut connections);
                }
            }
        }
        let _ = tokio::time::timeout(STOP_MAX, async { while connections.join_next().await.is_some() {} }).await;
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What connections to the door share.
#[derive(Clone)]
struct Visits {
    lender: Lender,
    admission: Admission,
    stopping: watch::Receiver<bool>,
}

impl Visits {
    fn arrived(&self, socket: UnixStream, connections: &mut JoinSet<()>) {
        let Ok(from) = socket.peer_cred() else { return };
        let arrival = self.admission.arrive(Source::Local(from.uid()), Instant::now());
        let visits = self.clone();
        stranger::let_in(&self.lender, &self.admission, arrival, connections, move |place| {
            visits.serve(socket, from, place)
        });
    }

    async fn serve(self, socket: UnixStream, from: UCred, place: Place) {
        let peer = Peer::Local { uid: from.uid(), pid: from.pid().unwrap_or_default() };
        let connection = BufReader::with_capacity(READ_BYTES, socket);
        login::serve(&self.lender, connection, caller(from.uid()), peer, place, self.stopping).await;
    }
}

/// Who a uid is here, if this door is for him at all.
fn caller(uid: u32) -> Result<Caller, No> {
    let we = rustix::process::geteuid();
    if !we.is_root() && uid != we.as_raw() && uid != 0 {
        let text = format!("this is the door of uid {} alone, and not of uid {uid}", we.as_raw());
        return Err(No::refused(ErrorKind::Login, text));
    }
    OsUser::find(uid).map(login::user_of_this_machine).map_err(|error| No::refused(ErrorKind::Identity, error))
}

/// Makes the door's folder, or sees that nobody else may write to the one that is there.
fn make_folder(folder: &Path, open_to_all: bool) -> io::Result<Result<(), KeyFileError>> {
    if open_to_all && !folder.exists() {
        std::fs::DirBuilder::new().recursive(true).mode(OPEN_FOLDER_MODE).create(folder)?;
        // Whatever the umask has made of it.
        std::fs::set_permissions(folder, PermissionsExt::from_mode(OPEN_FOLDER_MODE))?;
    }
    Ok(keyfile::create_dir(folder))
}

/// Whether a socket is there that nobody answers at.
async fn is_left_over(path: &Path) -> Result<bool, DoorError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(DoorError::Io { path: path.to_owned(), source }),
        Ok(found) if !found.file_type().is_socket() => return Err(DoorError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(true),
        // Answered, or too busy to: somebody without our lock, but alive.
        _ => Err(DoorError::Taken(path.to_owned())),
    }
}
