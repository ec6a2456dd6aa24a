//! One session for every command of this user: who holds it serves the others, over a socket of this machine.
//!
//! ```text
//!   capuchin exec ──┐                            (no TLS, no login: the kernel says whose the other end is)
//!   capuchin exec ──┼──▶ share socket ──▶ Share ══ its session ══▶ lender
//!   capuchin shell ─┘
//! ```
//! Each side of the socket speaks frames as at a lender's door. A stream there becomes a stream of the session, and bytes
//! go across; what is read is only the first message, because it may name another stream by its number.
//!
//! # Security
//! The socket is 0600 in a folder that only its user can enter, and both ends ask the kernel who the other is. Whoever gets
//! in is the user, with everything that the session may: no more than the user's own ticket gives.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::BufReader,
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};

use super::{
    BorrowError, Borrower,
    access::{Access, Entered},
    link::{LinkError, Way},
    login::{LoggedIn, enter},
};
use crate::{
    proto::{
        FromBorrower, FromLender, Greeting, LocalNames, Login, LoginMethod, Request, Reset, SpawnStdio, Welcome,
        message, mux,
    },
    session::{Backoff, Greeter, Meter, Metered, READ_BYTES, Session, SocketFile, Stream, runtime_folder, splice},
};

/// A command of ours that says nothing for so long is given up.
const HELLO_MAX: Duration = Duration::from_secs(5);
/// Commands that share the session at once.
const COMMANDS_MAX: usize = 256;

/// Serves a session to the other commands of this user, until it is dropped.
///
/// # Cancellation
/// Dropping it removes the socket; what the others had borrowed through it fails.
pub struct Share {
    borrower: Borrower,
    listener: UnixListener,
    _file: SocketFile,
}

impl Share {
    /// Opens the socket for this session's host and user.
    ///
    /// # Errors
    /// Another one serves them already, or the socket cannot be made.
    pub fn open(borrower: &Borrower) -> Result<Self, BorrowError> {
        let path = path(&borrower.shared().access().key()?);
        let place = path.as_ref().map_or_else(String::new, |path| format!(" at {}", path.display()));
        let failed =
            |source| BorrowError::local(format!("cannot share the session with {}{place}", borrower.host()), source);
        let path = path.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let (folder, name) = (path.parent().unwrap_or(&path), path.file_name().unwrap_or_default());
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder).map_err(failed)?;
        check_folder(folder).map_err(failed)?;
        let opened = File::open(folder).map_err(failed)?;
        let (socket, file) = SocketFile::bind(opened.into(), name).map_err(failed)?;
        rustix::net::listen(&socket, 64).map_err(|errno| failed(errno.into()))?;
        let listener = UnixListener::from_std(socket.into()).map_err(failed)?;
        Ok(Self { borrower: borrower.clone(), listener, _file: file })
    }

    /// Serves until the session is over for good, and says why it is.
    pub async fn serve(&self) -> BorrowError {
        let mut commands = JoinSet::new();
        let mut backoff = Backoff::new();
        let ended = self.borrower.ended();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                ended = &mut ended => return ended,
                Some(_) = commands.join_next() => {}
                accepted = self.listener.accept(), if commands.len() < COMMANDS_MAX => match accepted {
                    Ok((socket, _)) if is_ours(&socket) => {
                        backoff.reset();
                        commands.spawn(serve_command(self.borrower.clone(), socket));
                    }
                    Ok(_) => {}
                    Err(error) => backoff.wait("commands that share a session", &error).await,
                }
            }
        }
    }
}

impl Borrower {
    /// The session that another program of this user shares, if one does; see [`Share`].
    ///
    /// Listeners are not shared: ask for them on a session of one's own.
    ///
    /// # Errors
    /// As [`Self::connect`], for a host that is none.
    pub async fn shared_by_others(host: &str) -> Result<Option<Self>, BorrowError> {
        let access = Access::from_env(host)?;
        let Some(path) = access.key().ok().and_then(|key| path(&key)) else { return Ok(None) };
        let Ok(socket) = UnixStream::connect(&path).await else { return Ok(None) };
        if !is_ours(&socket) {
            return Ok(None);
        }
        let way = Shared { host: host.to_owned(), path };
        let connection = BufReader::with_capacity(READ_BYTES, socket);
        let entering = enter(&way, connection, Login::by(LoginMethod::Peer), None);
        let Ok(Ok(LoggedIn { session, id, local: Some(names), .. })) = timeout(HELLO_MAX, entering).await else {
            return Ok(None);
        };
        let (Ok(user), Ok(lender)) = (names.user.parse(), names.lender.parse()) else { return Ok(None) };
        // Another's, by one chance in four billion or a profile that was replaced.
        if access.key().ok() != Some(key_of(host_alias(&access), &names.user, &names.lender)) {
            return Ok(None);
        }
        Ok(Some(Self::new(Entered { session, id, lender, user, renewal: None }, access)))
    }

    /// The process that shares a session with this host, if there is one.
    ///
    /// # Errors
    /// As [`Self::shared_by_others`].
    pub async fn sharing_process(host: &str) -> Result<Option<i32>, BorrowError> {
        let Some(path) = Access::from_env(host)?.key().ok().and_then(|key| path(&key)) else { return Ok(None) };
        let Ok(socket) = UnixStream::connect(&path).await else { return Ok(None) };
        Ok(socket.peer_cred().ok().filter(|_| is_ours(&socket)).and_then(|peer| peer.pid()))
    }
}

/// Which session it is: the host as its profile is called, the user, and the lender there.
pub(super) fn key_of(alias: &str, user: &str, lender: &str) -> String {
    format!("{alias}\0{user}\0{lender}")
}

fn host_alias(access: &Access) -> &str {
    access.alias().unwrap_or_default()
}

fn path(key: &str) -> Option<PathBuf> {
    let name = format!("{:08x}.sock", crc32fast::hash(key.as_bytes()));
    Some(runtime_folder()?.join("capuchin/share").join(name))
}

/// Only its user may have a say in it.
fn check_folder(folder: &Path) -> io::Result<()> {
    let found = folder.symlink_metadata()?;
    let ours = found.uid() == rustix::process::geteuid().as_raw();
    if found.is_dir() && ours && found.mode() & 0o077 == 0 {
        Ok(())
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

fn is_ours(socket: &UnixStream) -> bool {
    socket.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
}

/// Greets a command, and passes on its streams.
async fn serve_command(borrower: Borrower, socket: UnixStream) {
    let ours = mux::Config::default();
    let mut greeter = Greeter::new(BufReader::with_capacity(READ_BYTES, socket));
    let Ok(FromBorrower::Greeting(theirs)) = greeter.receive("greeting", HELLO_MAX).await else { return };
    let Ok(FromBorrower::Login(_)) = greeter.receive("login", HELLO_MAX).await else { return };
    let Ok(config) = theirs.agree(&ours) else { return };
    let names = LocalNames { user: borrower.user().to_string(), lender: borrower.lender().to_string(), os_user: None };
    let welcome = Welcome { session: borrower.session_id().0, ticket: None, local: Some(names), addresses: None };
    let hello = [FromLender::Greeting(Greeting::new(&ours)), FromLender::Welcome(welcome)];
    if greeter.send(&hello).await.is_err() {
        return;
    }
    let session = Session::start(greeter.into_inner(), mux::Role::Lender, config);
    let programs = Arc::new(Programs::default());
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            stream = session.accept() => {
                let Some(near) = stream else { break };
                // One after the other, so that a program is known before its streams are; each comes with its request.
                let Ok(Ok(bytes)) = timeout(HELLO_MAX, near.read_message_bytes("request")).await else { continue };
                let Some((first, names_program)) = programs.translate(&bytes) else {
                    near.reset(Reset::Refused);
                    continue;
                };
                let Ok(far) = borrower.open_with(first) else {
                    near.reset(Reset::Cancelled);
                    continue;
                };
                let known = names_program.then(|| programs.clone().know(&near, &far));
                streams.spawn(async move {
                    let meter = Meter::default();
                    splice(Metered { stream: &near, meter: &meter }, Metered { stream: &far, meter: &meter }).await;
                    drop(known);
                });
            }
            Some(_) = streams.join_next() => {}
        }
    }
}

/// The programs of one command: its number of each, and the session's.
#[derive(Default)]
struct Programs(Mutex<HashMap<u64, u64>>);

/// A program that is known until this is dropped.
struct Known(Arc<Programs>, u64);

impl Programs {
    /// A request as the lender is to have it, and whether others may name its stream. `None`: it is none that is shared.
    fn translate(&self, bytes: &[u8]) -> Option<(Bytes, bool)> {
        let as_it_is = || {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
            Bytes::from([&length[..], bytes].concat())
        };
        match Request::decode(bytes).ok()?.ok()? {
            Request::SpawnStdio(SpawnStdio { spawn, which }) => {
                let spawn = *self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&spawn)?;
                Some((message::encode_prefixed(&Request::SpawnStdio(SpawnStdio { spawn, which })), false))
            }
            Request::Spawn(_) => Some((as_it_is(), true)),
            Request::TcpListen(_) | Request::UnixListen(_) | Request::ServiceListen(_) => None,
            _ => Some((as_it_is(), false)),
        }
    }

    fn know(self: Arc<Self>, near: &Stream, far: &Stream) -> Known {
        let number = near.id().number();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number, far.id().number());
        Known(self, number)
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// The way to who shares, in errors; all of them mean that nobody does.
struct Shared {
    host: String,
    path: PathBuf,
}

impl Way for Shared {
    fn alias(&self) -> &str {
        &self.host
    }

    fn unreachable(&self, why: String) -> BorrowError {
        let (lender, tried) = (self.host.clone(), self.path.display().to_string());
        BorrowError::Unreachable { lender, tried, why, notes: Vec::new() }
    }

    fn io_error(&self, error: io::Error) -> LinkError {
        LinkError::Closed(error)
    }
}
