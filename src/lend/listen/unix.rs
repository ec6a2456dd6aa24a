//! Creates a Unix socket at a path that was granted.

use std::{ffi::OsStr, io, os::unix::ffi::OsStrExt, path::Path};

use rustix::fs::OFlags;

use super::port::{Family, Port};
use crate::{
    lend::{blocking::blocking, real_path::open_place},
    policy::LenderPath,
    proto::Errno,
    session::SocketFile,
};

/// Binds in the very folder that was judged; only the daemon's own user may connect. What a listener left that is gone is
/// replaced.
pub(super) async fn bind(path: &LenderPath) -> io::Result<(Port, SocketFile)> {
    let path = path.clone();
    let bound = blocking(move || {
        let path = Path::new(OsStr::from_bytes(path.as_bytes()));
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::Error::from(Errno::EADDRINUSE));
        };
        SocketFile::bind(open_place(folder, OFlags::DIRECTORY)?, name)
    });
    let (socket, file) = bound.await?;
    Ok((Port::Bound(socket, Family::Unix), file))
}
