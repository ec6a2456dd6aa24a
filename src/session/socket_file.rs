//! A Unix socket to listen on, as a file: nobody else may use it, and it goes with its listener.
//!
//! A file that an earlier listener left is replaced: a socket of ours that nobody has any more, of whatever type it was.
//! What lives is never taken away, nor what is no socket, or somebody else's. What is removed is moved aside first and
//! looked at once more, so that what another process puts in its place at that very moment is not taken for it.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, RenameFlags, Stat, fchmod, fstat, open as open_file, openat, renameat_with,
        statat, unlinkat,
    },
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, socket_with},
};

use crate::trust::random;

/// The file of a bound socket; removed when dropped, unless it is another's by then.
pub struct SocketFile {
    folder: OwnedFd,
    name: OsString,
    /// The file itself: as long as this is open, no other has its number.
    file: OwnedFd,
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
        let file = openat(&folder, name, LOOK, Mode::empty())?;
        Ok((socket, Self { folder, name: name.to_owned(), file }))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A file that stays is stale, and replaced the next time.
        let _ = remove(&self.folder, &self.name, &self.file);
    }
}

/// To look at a file, whatever it is, and at no link's target.
const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The address of an opened file or of what lies in an opened folder, whatever its path leads to by now.
///
/// # Errors
/// ENAMETOOLONG for a name of more than about 90 bytes.
fn address_in(folder: &OwnedFd, name: &OsStr) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(name_in(folder, name))?)
}

/// A path to what lies in an opened folder, while that is open.
fn name_in(folder: &OwnedFd, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd").join(folder.as_raw_fd().to_string()).join(name)
}

/// The longest path that an address of the kernel's has room for, which ends with a zero (unix(7)).
const ADDRESS_PATH_MAX: usize = 107;

/// A name for a socket's `path` that an address has room for, however long the path is; good while the descriptor beside it is
/// open.
///
/// # Errors
/// The folder of a long path cannot be opened.
pub fn short_name(path: &Path) -> io::Result<(PathBuf, Option<OwnedFd>)> {
    if path.as_os_str().len() <= ADDRESS_PATH_MAX {
        return Ok((path.to_owned(), None));
    }
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let folder = open_file(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok((name_in(&folder, name), Some(folder)))
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
    let found = match openat(folder, name, LOOK, Mode::empty()) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let stat = fstat(found.as_fd())?;
    let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    let ours = stat.st_uid == rustix::process::geteuid().as_raw();
    if !is_socket || !ours || !is_dead(&found)? || !remove(folder, name, &found)? {
        return Err(Errno::ADDRINUSE.into());
    }
    Ok(())
}

/// Whether no socket is bound to a file any more; none ever will be again.
///
/// Asked with a datagram socket: who listens or is merely bound answers EPROTOTYPE, and a datagram socket itself is
/// connected to without hearing of it (unix(7)). With a type that may be theirs, one that does not listen would seem dead.
fn is_dead(file: &OwnedFd) -> io::Result<bool> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let probe = open(SocketType::DGRAM)?;
    Ok(connect(&probe, &SocketAddrUnix::new(path)?) == Err(Errno::CONNREFUSED))
}

/// Removes `name` if it is `file`; `false` if it is another by now, which stays.
fn remove(folder: &OwnedFd, name: &OsStr, file: &OwnedFd) -> io::Result<bool> {
    let wanted = identity(&fstat(file)?);
    let is_it = |name: &OsStr| statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map(|now| identity(&now) == wanted);
    if !is_it(name)? {
        return Ok(false);
    }
    // Moved away first: between a look and unlink(2) another may take its place, and unlink(2) takes what is there.
    let aside = OsString::from(format!(".{}.gone", data_encoding::HEXLOWER.encode(&random::<8>())));
    match renameat_with(folder, name, folder, &aside, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        // A file system that cannot: what is left is the look of just now.
        Err(Errno::INVAL | Errno::NOSYS) => return Ok(unlinkat(folder, name, AtFlags::empty()).map(|()| true)?),
        Err(errno) => return Err(errno.into()),
    }
    if is_it(&aside)? {
        unlinkat(folder, &aside, AtFlags::empty())?;
        return Ok(true);
    }
    // Another's: back to where it was, if a third has not come there meanwhile.
    renameat_with(folder, &aside, folder, name, RenameFlags::NOREPLACE)?;
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        os::unix::{
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
            net::{UnixDatagram, UnixListener},
        },
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

    /// Whatever type it has, whether it listens or is only bound: it stays, and it hears of nothing.
    #[test]
    fn a_lookalike_that_lives_stays_and_a_dead_one_of_any_type_goes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        for kind in [SocketType::STREAM, SocketType::SEQPACKET, SocketType::DGRAM] {
            for listens in [false, true] {
                let socket = open(kind).unwrap();
                bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
                if listens && kind != SocketType::DGRAM {
                    rustix::net::listen(&socket, 1).unwrap();
                }
                let before = path.symlink_metadata().unwrap().ino();
                let error = bind_in(folder.path()).err().unwrap();
                assert_eq!(error.raw_os_error(), Some(98), "{kind:?} {listens}");
                assert_eq!(path.symlink_metadata().unwrap().ino(), before);
                let quiet = rustix::net::accept(&socket).err() == Some(Errno::AGAIN);
                assert!(quiet || !listens || kind == SocketType::DGRAM, "{kind:?} was connected to");
                drop(socket);
                drop(bind_in(folder.path()).unwrap());
                assert!(path.symlink_metadata().is_err(), "{kind:?} {listens}");
            }
        }
        assert_eq!(folder.path().read_dir().unwrap().count(), 0, "something was left aside");
    }

    #[test]
    fn what_takes_the_place_at_the_last_moment_is_not_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let opened = OwnedFd::from(File::open(folder.path()).unwrap());
        let dead = openat(&opened, "s", LOOK, Mode::empty()).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _living = UnixListener::bind(&path).unwrap();
        let living = path.symlink_metadata().unwrap().ino();
        assert!(!remove(&opened, OsStr::new("s"), &dead).unwrap());
        assert_eq!(path.symlink_metadata().unwrap().ino(), living);
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
