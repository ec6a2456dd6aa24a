//! What runs now and borrows: each such command answers at a socket of its own, and `capuchin status` asks all of them.
//!
//! ```text
//!   $XDG_RUNTIME_DIR/capuchin/borrowing/PID.sock   (folder 0700)   one JSON document to whoever connects, then the end
//! ```
//! A socket and no file: one that a crash left behind answers nobody, so nothing that is gone is ever listed.

use std::{
    io::{self, Read},
    os::unix::net::UnixStream as StdUnixStream,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::UnixListener, task::JoinHandle};

use crate::{
    Borrower, Connection,
    session::{runtime_folder, short_name},
    trust::{UnixTime, keyfile},
};

/// Largest document that is read, in bytes: that of a command with its hundreds of forwards.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;
/// How long one command may take to answer: it has nothing to compute, but may be stopped.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// The state of a command that does not answer.
pub const SILENT: &str = "no answer";
/// Before another accept after one that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// This command in the list, until it is dropped.
pub struct Presence {
    path: PathBuf,
    answering: JoinHandle<()>,
}

impl Presence {
    /// Puts this command into the list: its name, what it borrows from, and what it is for, a line each. `None`, and a line
    /// in the log, where there is no place for it: that is no reason not to do the work.
    pub fn announce(borrower: &Borrower, command: &'static str, purposes: Vec<String>) -> Option<Self> {
        let folder = folder()?;
        let path = folder.join(format!("{}.sock", std::process::id()));
        let bound = keyfile::create_dir(&folder).map_err(|error| error.to_string()).and_then(|()| {
            // Of an earlier process of the same number.
            let _ = std::fs::remove_file(&path);
            short_name(&path).and_then(|(name, _folder)| UnixListener::bind(name)).map_err(|error| error.to_string())
        });
        let listener = match bound {
            Ok(listener) => listener,
            Err(why) => {
                tracing::debug!(path = %path.display(), why, "not listed by status");
                return None;
            }
        };
        let about = Arc::new(About { command, purposes, since: UnixTime::now() });
        let answering = tokio::spawn(answer(listener, borrower.clone(), about));
        Some(Self { path, answering })
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.answering.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

struct About {
    command: &'static str,
    purposes: Vec<String>,
    since: UnixTime,
}

async fn answer(listener: UnixListener, borrower: Borrower, about: Arc<About>) {
    loop {
        match listener.accept().await {
            Ok((mut socket, _)) => {
                let text = document(&borrower, &about).to_string();
                // In turn: whoever may connect is this user, and what he does not read is not waited for.
                let _ = tokio::time::timeout(ANSWER_MAX, socket.write_all(text.as_bytes())).await;
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

fn document(borrower: &Borrower, about: &About) -> Value {
    let connection = borrower.connection();
    let (state, why) = match &*connection.borrow() {
        Connection::Up => ("up", None),
        Connection::Down { why } => ("reconnecting", Some(why.clone())),
        Connection::Over(end) => ("over", Some(end.text.clone())),
    };
    json!({
        "pid": std::process::id(),
        "command": about.command,
        "host": borrower.host(),
        "lender": borrower.lender().as_str(),
        "user": borrower.user().as_str(),
        "session": borrower.session_id().to_string(),
        "since": about.since.0,
        "state": state,
        "why": why,
        "purposes": about.purposes,
    })
}

/// Every command of this user that borrows now, the longest first. What a crash left is removed.
///
/// # Errors
/// The folder is there and cannot be listed.
pub fn all() -> io::Result<Vec<Value>> {
    let Some(folder) = folder() else { return Ok(Vec::new()) };
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        match ask(&path) {
            Ok(document) => found.push(document),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let _ = std::fs::remove_file(&path);
            }
            // It is stopped, say, and has what it has borrowed.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => found.extend(silent(&path)),
            // It is ending, or was never one of ours.
            Err(error) => tracing::debug!(path = %path.display(), %error, "no answer"),
        }
    }
    found.sort_by_key(|document| (document["since"].as_u64(), document["pid"].as_u64()));
    Ok(found)
}

/// Of a command that does not answer: its process, by the name of its socket.
fn silent(path: &Path) -> Option<Value> {
    let pid: u32 = path.file_stem()?.to_str()?.parse().ok()?;
    Some(json!({ "pid": pid, "state": SILENT }))
}

/// # Errors
/// EAGAIN: it does not answer in time, or so many ask already that this one would wait.
fn ask(path: &Path) -> io::Result<Value> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let (name, _folder) = short_name(path)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(name)?)?;
    let socket = StdUnixStream::from(socket);
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(ANSWER_MAX))?;
    let mut text = String::new();
    socket.take(DOCUMENT_BYTES_MAX).read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

fn folder() -> Option<PathBuf> {
    Some(runtime_folder()?.join("capuchin/borrowing"))
}
