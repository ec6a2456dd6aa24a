//! Creates a Unix socket at a path that was granted, as the daemon or as the user that the policy says.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path};

use super::port::{Family, Port};
use crate::{
    lend::{
        borrower::Borrower,
        own_user::Actor,
        real_path::bind_socket,
        unix::as_other,
        worker::{Keeper, Use},
    },
    policy::LenderPath,
    session::SocketFile,
};

/// What removes the file of a socket.
pub(super) enum Kept {
    File(SocketFile),
    Keeper(Keeper),
}

/// Binds in the very folder that was judged; only who binds may connect. What a listener left that is gone is replaced.
pub(super) async fn bind_as(borrower: &Borrower, actor: &Actor, path: &LenderPath) -> io::Result<(Port, Kept)> {
    match actor {
        Actor::Daemon => bind(borrower, path).await.map(|(port, file)| (port, Kept::File(file))),
        Actor::Other(account) => {
            let (socket, keeper) = as_other(borrower, account, path, Use::Listen).await?;
            Ok((Port::Bound(socket, Family::Unix), Kept::Keeper(keeper)))
        }
    }
}

async fn bind(borrower: &Borrower, path: &LenderPath) -> io::Result<(Port, SocketFile)> {
    let path = path.clone();
    let look_ups = &borrower.lender.shared.look_ups;
    let bind = move || bind_socket(Path::new(OsStr::from_bytes(path.as_bytes())));
    let bound = look_ups.run(&borrower.principal.user, bind);
    let (socket, file) = bound.await.map_err(|why| why.errno())??;
    Ok((Port::Bound(socket, Family::Unix), file))
}
