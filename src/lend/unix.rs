//! Lends connections to Unix sockets: connects to the very socket that was judged, and relays.

use std::{
    ffi::OsStr,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use tokio::net::UnixStream;

use super::{
    borrower::Borrower,
    descriptors,
    dispatch::refuse,
    gate,
    os_user::Account,
    own_user::Actor,
    real_path::open_socket,
    worker::{Failed, Keeper, Use},
};
use crate::{
    policy::{Granted, LenderPath, UnixConnect},
    proto::{Answer, Errno, ErrorKind, Ready, Refusal},
    session::{Stream, dial_unix, relay},
};

/// Connects, answers, and relays until both directions have ended.
///
/// # Cancellation
/// As of a TCP connection: a stream that is reset ends the attempt, a handle that is taken back ends all of it.
pub(super) async fn lend(borrower: &Borrower, grant: Granted<UnixConnect>, actor: Actor, stream: Stream) {
    let path = grant.request().path.clone();
    let target = path.to_string();
    let acting = actor.clone();
    let still = move |borrower: &Borrower| gate::still_unix(borrower, &grant, &acting);
    let held = match borrower.hold(&stream, "unix-connect", target.clone(), Box::new(still)) {
        Ok(held) => held,
        Err(refusal) => return refuse(&stream, refusal).await,
    };
    let failed = async |why: Option<String>| borrower.log("unix-failed", target.clone(), why).await;
    let Ok(_place) = borrower.lender.shared.sockets.try_acquire() else {
        failed(Some(descriptors::NONE_LEFT.to_owned())).await;
        return refuse(&stream, descriptors::none_left()).await;
    };
    let connecting = async {
        tokio::select! {
            connected = connect_as(borrower, &actor, &path) => Some(connected),
            _ = stream.write_closed() => None,
        }
    };
    let socket = match held.serve(&stream, connecting).await {
        Some(Some(Ok(socket))) => socket,
        Some(Some(Err(error))) => {
            let refusal = Refusal::new(ErrorKind::Target, format!("{path}: {error}")).with_errno(Errno::of(&error));
            failed(Some(error.to_string())).await;
            return refuse(&stream, refusal).await;
        }
        Some(None) | None => return failed(held.why_taken()).await,
    };
    if stream.write_message(&Answer::Granted(Ready {})).await.is_ok() {
        held.serve(&stream, Box::pin(relay(socket, &stream, held.meter()))).await;
    }
    held.log("unix-closed", target, held.why_taken()).await;
}

async fn connect_as(borrower: &Borrower, actor: &Actor, path: &LenderPath) -> io::Result<UnixStream> {
    let Actor::Other(account) = actor else { return connect(borrower, path).await };
    let (socket, _) = as_other(borrower, account, path, Use::Connect).await?;
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// A socket that another user has connected or bound, and the process that keeps it if it is to listen.
///
/// # Errors
/// What the system said to that user.
pub(super) async fn as_other(
    borrower: &Borrower,
    account: &Account,
    path: &LenderPath,
    to: Use,
) -> io::Result<(OwnedFd, Keeper)> {
    let shared = &borrower.lender.shared;
    let place = shared.programs.try_take(&borrower.principal.user).ok_or(Errno::EAGAIN)?;
    let made = shared.worker.unix_socket((account, path), to, place).await;
    made.map_err(|why| match why {
        Failed::Worker(source) | Failed::Start { source, .. } => source,
        failed @ Failed::NotOffered => io::Error::other(failed),
    })
}

async fn connect(borrower: &Borrower, path: &LenderPath) -> io::Result<UnixStream> {
    let path = path.clone();
    let shared = &borrower.lender.shared;
    let own = shared.dir.own_sockets();
    let open = move || {
        let (socket, address) = open_socket(Path::new(OsStr::from_bytes(path.as_bytes())))?;
        // Where the daemon is the user that the admin is, it would be let in; and a hard link leads nowhere, it is the file.
        match is_one_of(&socket, &own)? {
            true => Err(io::Error::from(Errno::EACCES)),
            false => Ok((socket, address)),
        }
    };
    let opened = shared.look_ups.run(&borrower.principal.user, open);
    let (_socket, address) = opened.await.map_err(|why| why.errno())??;
    dial_unix(&address).await
}

/// Whether an open file is one of those at these paths, whatever it is called.
fn is_one_of(file: &OwnedFd, paths: &[PathBuf]) -> io::Result<bool> {
    let found = rustix::fs::fstat(file)?;
    let is_it = |other: rustix::fs::Stat| (other.st_dev, other.st_ino) == (found.st_dev, found.st_ino);
    Ok(paths.iter().any(|path| rustix::fs::stat(path).is_ok_and(is_it)))
}
