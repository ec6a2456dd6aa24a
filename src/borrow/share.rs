//! One session for every command of this user: who holds it serves the others, over a socket of this machine.
//!
//! ```text
//!   capuchin exec ─────┐                            (no TLS, no login: the kernel says whose the other end is)
//!   capuchin run  ─────┼──▶ share socket ──▶ Share ══ its session ══▶ lender
//!   capuchin forward ──┘
//! ```
//! Each side of the socket speaks frames as at a lender's door. A stream there becomes a stream of the session, in either
//! direction, and bytes go across ([`carry`]); what is read is only what names another stream by its number ([`numbers`],
//! [`listening`]), and what would break the protocol at the lender, which would end the session for everybody ([`speech`]).
//! A session that is lost takes along the connections of all its commands, so that each sees a loss and comes back
//! ([`entrance`]).
//!
//! # Security
//! The socket is 0600 in a folder that only its user can enter, and both ends ask the kernel who the other is. Whoever gets
//! in is the user, with everything that the session may: no more than the user's own ticket gives. The names that one
//! command has asked for count for all of them, as they belong to the session.

#[cfg(feature = "cli")]
mod beginning;
mod carry;
mod command;
mod entrance;
mod key;
mod listening;
mod numbers;
mod speech;

use std::{
    fs::File,
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
    time::Duration,
};

use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinSet,
    time::timeout,
};

#[cfg(feature = "cli")]
pub(crate) use self::beginning::{Beginning, while_others_begin};
pub(super) use self::entrance::enter;
#[cfg(feature = "run")]
pub(super) use self::entrance::keeper;
pub(super) use self::key::Key;
use super::{BorrowError, Borrower};
use crate::session::{Backoff, SocketFile};

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
        let path = borrower.shared().access().key()?.path();
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

    /// Serves until the session is over for good and every command has been told so, and says why it is.
    ///
    /// # Cancellation
    /// Dropping the future ends the connections of all commands; its socket stays until the `Share` is dropped.
    pub async fn serve(&self) -> BorrowError {
        let mut commands = JoinSet::new();
        let mut backoff = Backoff::new();
        let ended = self.borrower.ended();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                ended = &mut ended => {
                    let told = async { while commands.join_next().await.is_some() {} };
                    let _ = timeout(HELLO_MAX, told).await;
                    return ended;
                }
                Some(_) = commands.join_next() => {}
                accepted = self.listener.accept(), if commands.len() < COMMANDS_MAX => match accepted {
                    Ok((socket, _)) if is_ours(&socket) => {
                        backoff.reset();
                        commands.spawn(command::serve(self.borrower.clone(), socket));
                    }
                    Ok(_) => {}
                    Err(error) => backoff.wait("commands that share a session", &error).await,
                }
            }
        }
    }
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
