//! A Unix socket to listen on, as a file: nobody else may use it, and it goes with its listener.
//!
//! A file that an earlier listener left is replaced: a socket of ours that nobody has any more. What lives is never taken
//! away, nor what is no socket, or somebody else's.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat, fchmod, fstat, openat, statat, unlinkat},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, socket_with},
};

/// The file of a bound socket; removed when dropped, unless it is another's by then.
pub struct SocketFile {
    folder: OwnedFd,
    name: OsString,
    identity: (u64, u64),
}

impl SocketFile {
    /// Binds a new socket to `name` in `folder`, for this user alone; it does not listen yet.
    ///
    /// # Errors
    /// EADDRINUSE where something is in the way, and what the system says.
    pub fn bind(folder: OwnedFd, name: &OsStr) -> io::Result<(OwnedFd, Self)> {
        remove_stale(&folder, name)?;
        let socket = open(SocketType::STREAM)?;
        // The file gets the mode of the socket, so that there is no moment in which others may connect.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        bind(&socket, &address_in(&folder, name)?)?;
        let identity = identity(&statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW)?);
        Ok((socket, Self { folder, name: name.to_owned(), identity }))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        if found.is_ok_and(|found| identity(&found) == self.identity) {
            // A file that stays is stale, and replaced the next time.
            let _ = unlinkat(&self.folder, &self.name, AtFlags::empty());
        }
    }
}

/// The address of an opened file or of what lies in an opened folder, whatever its path leads to by now.
///
/// # Errors
/// ENAMETOOLONG for a name of more than about 90 bytes.
fn address_in(folder: &OwnedFd, name: &OsStr) -> io::Result<SocketAddrUnix> {
    let path = [format!("/proc/self/fd/{}/", folder.as_raw_fd()).as_bytes(), name.as_bytes()].concat();
    Ok(SocketAddrUnix::new(path)?)
}

fn open(kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, kind, flags, None)?)
}

fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Removes a socket of ours that nobody has any more.
fn remove_stale(folder: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = match openat(folder, name, flags, Mode::empty()) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let stat = fstat(found.as_fd())?;
    let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    // By a socket of another kind: whoever lives answers EPROTOTYPE, and sees no connection.
    let is_dead = || {
        let probe = open(SocketType::SEQPACKET)?;
        Ok::<_, io::Error>(connect(&probe, &SocketAddrUnix::new(path)?) == Err(Errno::CONNREFUSED))
    };
    if !is_socket || !ours || !is_dead()? {
        return Err(Errno::ADDRINUSE.into());
    }
    let now = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if identity(&now) != identity(&stat) {
        return Err(Errno::ADDRINUSE.into());
    }
    Ok(unlinkat(folder, name, AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::{UnixDatagram, UnixListener},
        },
        path::Path,
    };

    use super::*;

    fn bind_in(folder: &Path) -> io::Result<(OwnedFd, SocketFile)> {
        SocketFile::bind(File::open(folder).unwrap().into(), OsStr::new("s"))
    }

    #[test]
    fn it_is_for_its_user_alone_and_goes_when_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_socket, file) = bind_in(folder.path()).unwrap();
        let found = path.symlink_metadata().unwrap();
        assert!(found.file_type().is_socket());
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
        drop(file);
        assert!(path.symlink_metadata().is_err());
    }

    #[test]
    fn what_a_crash_left_is_replaced_and_what_lives_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        // A file of a listener that is gone.
        drop(UnixListener::bind(&path).unwrap());
        let (socket, file) = bind_in(folder.path()).unwrap();
        let in_use = |result: io::Result<_>| assert_eq!(result.err().unwrap().raw_os_error(), Some(98));
        in_use(bind_in(folder.path()).map(drop));
        rustix::net::listen(&socket, 1).unwrap();
        in_use(bind_in(folder.path()).map(drop));
        drop((socket, file));
        for occupy in [
            |path: &Path| drop(File::create(path).unwrap()),
            |path: &Path| std::os::unix::fs::symlink("/nowhere", path).unwrap(),
            |path: &Path| std::mem::forget(UnixDatagram::bind(path).unwrap()),
        ] {
            occupy(&path);
            in_use(bind_in(folder.path()).map(drop));
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_file_that_took_its_place_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (_socket, file) = bind_in(folder.path()).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "another's").unwrap();
        drop(file);
        assert_eq!(std::fs::read(&path).unwrap(), b"another's");
    }
}
