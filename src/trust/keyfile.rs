//! Key files and the admin's files: written so that a crash leaves the old or the new one, read only if safe.
//!
//! A secret that others may read is no secret, and a policy that others may write is theirs. Both are refused with the
//! command that mends it. All questions are asked of the opened file, never of its path, so that nothing can be swapped
//! between the check and the reading.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, CWD, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use zeroize::Zeroizing;

use super::random::random;

/// Largest key, certificate or ticket file, in bytes; real ones have at most a few KiB.
pub const SECRET_FILE_MAX: usize = 64 * 1024;
/// Largest file of the admin (`policy.toml`, `lender.toml`), in bytes: tens of thousands of rules.
pub const ADMIN_FILE_MAX: usize = 1024 * 1024;
/// Mode of a file that only its owner may read.
pub const SECRET_MODE: u32 = 0o600;
/// Mode of a file that everyone may read and only its owner may write.
pub const PUBLIC_MODE: u32 = 0o644;

/// Why a file or folder is not used. Each message ends with what mends it, where something does.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// The system refused.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried: a verb.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It belongs to someone else.
    #[error("{} belongs to uid {owner}, not to uid {wanted}: do this as uid {owner}, or chown {wanted} {}", path.display(), quoted(path))]
    Owner {
        /// The file or folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Whose it must be.
        wanted: u32,
    },
    /// Others may read or write it.
    #[error("{} is open to others (mode {mode:04o}): chmod {fix} {}", path.display(), quoted(path))]
    Mode {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What to tell `chmod`.
        fix: &'static str,
    },
    /// A link could be pointed elsewhere by whoever owns it.
    #[error("{} is a symbolic link: put the file itself there", path.display())]
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// A folder, a pipe or a device.
    #[error("{} is not a {wanted}", path.display())]
    Kind {
        /// What was found there.
        path: PathBuf,
        /// What should be there.
        wanted: &'static str,
    },
    /// More than the bound.
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The bound, in bytes.
        limit: usize,
    },
}

impl KeyFileError {
    /// `true` if there is no such file: on a first start not an error at all.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Makes a folder, and those above it, for our eyes only (0700). One that exists is checked instead.
///
/// # Errors
/// If it cannot be made, belongs to someone else, or others may write to it.
pub fn create_dir(path: &Path) -> Result<(), KeyFileError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("make", path))?;
    open_folder(path).map(drop)
}

/// Writes a file so that it holds all of `bytes` or what it held before, even if the machine stops in between.
///
/// # Errors
/// If the folder is not safe, or the system refuses.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), KeyFileError> {
    let (folder, name) = split(path)?;
    let dir = open_folder(folder)?;
    let temporary = format!(".{}.{}.tmp", name.display(), data_encoding::HEXLOWER.encode(&random::<8>()));
    let written = fill(&dir, &temporary, bytes, mode)
        .and_then(|()| fs::renameat(&dir, temporary.as_str(), &dir, name).map_err(io::Error::from));
    if written.is_err() {
        // The first error is the one to report; a temporary file that stays behind is private and has no reader.
        let _ = fs::unlinkat(&dir, temporary.as_str(), AtFlags::empty());
    }
    written.and_then(|()| Ok(fs::fsync(&dir)?)).map_err(io_error("write", path))
}

/// Reads a key, a password or a ticket.
///
/// # Errors
/// If it is not a plain file of ours that only we may read, in a folder that only we may write to.
pub fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let (file, size) = open_checked(path, OFlags::RDONLY, Guard::Secret)?;
    read_bounded(file, size, path, SECRET_FILE_MAX)
}

/// Reads a file that the admin writes: the world may read it, but only we or root may write to it.
///
/// # Errors
/// If others may write to it or to its folder, or it is no plain file of ours or root's.
pub fn read_admin_file(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    let (file, size) = open_checked(path, OFlags::RDONLY, Guard::Admin)?;
    Ok(std::mem::take(&mut *read_bounded(file, size, path, ADMIN_FILE_MAX)?))
}

/// Opens a secret file for reading and writing, and makes an empty one if there is none.
///
/// # Errors
/// As [`read_secret`].
pub fn open_secret(path: &Path) -> Result<File, KeyFileError> {
    Ok(open_checked(path, OFlags::RDWR | OFlags::CREATE, Guard::Secret)?.0)
}

/// As [`open_secret`], for a file that must be there: [`KeyFileError::is_missing`] if it is not.
///
/// # Errors
/// As [`read_secret`].
pub fn open_existing_secret(path: &Path) -> Result<File, KeyFileError> {
    Ok(open_checked(path, OFlags::RDWR, Guard::Secret)?.0)
}

/// Who may do what to a file.
#[derive(Clone, Copy, PartialEq)]
enum Guard {
    /// Ours alone, to read and to write.
    Secret,
    /// Ours or root's to write, everyone's to read.
    Admin,
    /// Ours or root's to write, or with the sticky bit, which keeps others from replacing our files (`/tmp`).
    Folder,
}

impl Guard {
    fn judge(self, path: &Path, stat: &Stat, we: u32) -> Result<(), KeyFileError> {
        let path = || path.to_owned();
        let mode = stat.st_mode & 0o7777;
        let (kind, wanted) = match self {
            Self::Secret | Self::Admin => (FileType::RegularFile, "plain file"),
            Self::Folder => (FileType::Directory, "folder"),
        };
        if FileType::from_raw_mode(stat.st_mode) != kind {
            return Err(KeyFileError::Kind { path: path(), wanted });
        }
        if stat.st_uid != we && (self == Self::Secret || stat.st_uid != 0) {
            return Err(KeyFileError::Owner { path: path(), owner: stat.st_uid, wanted: we });
        }
        let (forbidden, fix) = match self {
            Self::Secret => (0o077, "600"),
            Self::Folder if mode & 0o1000 != 0 => (0, "go-w"),
            Self::Admin | Self::Folder => (0o022, "go-w"),
        };
        if mode & forbidden == 0 { Ok(()) } else { Err(KeyFileError::Mode { path: path(), mode, fix }) }
    }
}

/// Opens `path` without following a link at its end, and gives it with its size if it and its folder are safe.
fn open_checked(path: &Path, flags: OFlags, guard: Guard) -> Result<(File, usize), KeyFileError> {
    let (folder, name) = split(path)?;
    let dir = open_folder(folder)?;
    // NONBLOCK: a pipe put in place of the file would otherwise hold us up for ever.
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let we = rustix::process::geteuid().as_raw();
    let file = fs::openat(&dir, name, flags, Mode::from_raw_mode(SECRET_MODE)).map_err(|errno| match errno {
        Errno::LOOP => KeyFileError::Symlink { path: path.to_owned() },
        // Someone else's file cannot even be opened; its owner says more than "permission denied".
        Errno::ACCESS => fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .ok()
            .and_then(|stat| guard.judge(path, &stat, we).err())
            .unwrap_or_else(|| io_error("open", path)(errno.into())),
        _ => io_error("open", path)(errno.into()),
    })?;
    let stat = fs::fstat(&file).map_err(|errno| io_error("examine", path)(errno.into()))?;
    guard.judge(path, &stat, we)?;
    if flags.contains(OFlags::CREATE) {
        // What is synced into a new file is lost with its name.
        fs::fsync(&dir).map_err(|errno| io_error("write", folder)(errno.into()))?;
    }
    // What does not fit a usize is beyond every bound.
    Ok((file.into(), usize::try_from(stat.st_size).unwrap_or(usize::MAX)))
}

fn open_folder(path: &Path) -> Result<OwnedFd, KeyFileError> {
    let open = || {
        let dir = fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fs::fstat(&dir)?;
        Ok((dir, stat))
    };
    let (dir, stat) = open().map_err(|errno: Errno| io_error("open", path)(errno.into()))?;
    Guard::Folder.judge(path, &stat, rustix::process::geteuid().as_raw())?;
    Ok(dir)
}

/// The folder of a file, and its name in there.
fn split(path: &Path) -> Result<(&Path, &OsStr), KeyFileError> {
    let name = path.file_name().ok_or_else(|| KeyFileError::Kind { path: path.to_owned(), wanted: "plain file" })?;
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => Ok((folder, name)),
        _ => Ok((Path::new("."), name)),
    }
}

fn fill(dir: &OwnedFd, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(fs::openat(dir, name, flags, Mode::from_raw_mode(SECRET_MODE))?);
    // Not by openat, whose mode the umask narrows.
    fs::fchmod(&file, Mode::from_raw_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Reads at most `limit` bytes into one allocation, so that no copy of a secret stays behind in memory.
fn read_bounded(file: File, size: usize, path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let too_large = || KeyFileError::TooLarge { path: path.to_owned(), limit };
    if size > limit {
        return Err(too_large());
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(size + 1));
    // One byte more than it had when opened: a file that still grows is refused rather than cut.
    file.take(size as u64 + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() > size { Err(too_large()) } else { Ok(bytes) }
}

fn io_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeyFileError {
    let path = path.to_owned();
    move |source| KeyFileError::Io { verb, path, source }
}

/// A path as a shell takes it, so that the command in an error can be pasted.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
    if text.chars().all(plain) { text.into_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests;
