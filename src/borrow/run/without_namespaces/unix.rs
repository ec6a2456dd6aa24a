//! Unix sockets of a program that no namespace holds: each path is resolved once, judged by where it leads, and used by what was
//! resolved.
//!
//! What looks up names, starts programs or speaks for others is refused, by the same list by which it is covered in the other
//! mode. A program may move such a file of its user's, or mount it where nobody looks: what was there when it began is known by
//! its number. An abstract name belongs to the network and not to a file: the program's own alone are let through, as
//! far as they are of this network, since in one of its own making a program could have any name.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs, io, iter,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2, stat},
    net::{AddressFamily, SocketType, socket, sockopt},
};
use tokio::sync::Semaphore;

use super::{answers::plain, thread::Thread, waiting::without_waiting};
use crate::{
    borrow::run::{
        mask::{covered, sockets_below},
        supervisor::Caller,
    },
    proto::Errno,
    sys,
};

/// Where the path begins in a `sockaddr_un`.
const PATH_AT: usize = 2;
/// Abstract names that are remembered as the program's own.
const NAMES_MAX: usize = 4096;
/// Connects that wait for room at a listener; one more hears that there is none.
const WAITING_MAX: usize = 1024;
/// How soon a listener is asked again; the time doubles up to the other.
const LOOK: Duration = Duration::from_millis(5);
const LOOK_MAX: Duration = Duration::from_millis(500);

/// Which Unix sockets are within reach.
pub struct UnixSockets {
    /// Sockets of this machine that are, although they would be refused.
    kept: Vec<PathBuf>,
    /// What is refused wherever it is moved to.
    refused: HashSet<FileNumber>,
    own_names: Mutex<HashSet<Vec<u8>>>,
    /// The network that such names are of; `None` where the kernel gives it no number.
    network: Option<u64>,
    /// Room for connects that wait.
    pub waiting: Arc<Semaphore>,
}

/// Which file it is, of all that there are: its device, and its number there.
type FileNumber = (u64, u64);

/// An address that was judged, and what it leads to for as long as this is held.
pub struct Judged {
    /// The address for the kernel.
    pub address: Vec<u8>,
    _file: Option<OwnedFd>,
}

impl UnixSockets {
    /// All but those on the list; `kept` are let through.
    pub fn new(kept: &[PathBuf]) -> Self {
        let kept: Vec<_> = kept.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
        let places = covered(&kept.iter().map(PathBuf::as_path).collect::<Vec<_>>());
        let within = places.iter().flat_map(|place| sockets_below(place)).filter(|path| !kept.contains(path));
        let refused =
            places.iter().cloned().chain(within).filter_map(|path| Some(number(&stat(&path).ok()?))).collect();
        let here = socket(AddressFamily::UNIX, SocketType::DGRAM, None).map_err(io::Error::from);
        let network = here.and_then(sys::network_of).ok();
        Self { kept, refused, own_names: Mutex::default(), network, waiting: Arc::new(Semaphore::new(WAITING_MAX)) }
    }

    /// Judges where a program connects or sends to.
    ///
    /// # Errors
    /// What the program hears: `ECONNREFUSED` for what is out of its reach, as if nobody listened there.
    pub fn judge(&self, thread: &Thread, given: &[u8]) -> Result<Judged, Errno> {
        match given.get(PATH_AT..).unwrap_or_default() {
            [] => Ok(Judged { address: given.to_vec(), _file: None }),
            [0, ..] => {
                let own = self.own_names.lock().unwrap_or_else(PoisonError::into_inner);
                let is_own = own.contains(given);
                is_own.then(|| Judged { address: given.to_vec(), _file: None }).ok_or(Errno::ECONNREFUSED)
            }
            path => self.judge_path(thread, path),
        }
    }

    fn judge_path(&self, thread: &Thread, path: &[u8]) -> Result<Judged, Errno> {
        if !thread.is_our_user() {
            return Err(Errno::EACCES);
        }
        let path = Path::new(OsStr::from_bytes(path.split(|byte| *byte == 0).next().unwrap_or_default()));
        let absolute = thread.absolute(path).ok_or(Errno::ENOENT)?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let file = openat2(thread.root()?, &absolute, flags, Mode::empty(), ResolveFlags::IN_ROOT);
        let file = file.map_err(|error| Errno(error.raw_os_error() as u16))?;
        let about = fstat(&file).map_err(|_| Errno::EACCES)?;
        if FileType::from_raw_mode(about.st_mode) != FileType::Socket {
            return Err(Errno::ECONNREFUSED);
        }
        let by_number = format!("/proc/self/fd/{}", file.as_raw_fd());
        let real = fs::read_link(&by_number).map_err(|_| Errno::EACCES)?;
        let kept: Vec<_> = self.kept.iter().map(PathBuf::as_path).collect();
        let is_kept = kept.contains(&real.as_path());
        // By another name it might be one of those: what has two is none that anybody needs.
        let is_refused = || about.st_nlink > 1 || covered(&kept).iter().any(|place| is_at(place, &real, &about));
        if !is_kept && (self.was_refused(&real, &about) || is_refused()) {
            tracing::debug!(path = %real.display(), "a unix socket of this machine is out of the program's reach");
            return Err(Errno::ECONNREFUSED);
        }
        let address = [&(libc::AF_UNIX as u16).to_ne_bytes()[..], by_number.as_bytes(), &[0]].concat();
        Ok(Judged { address, _file: Some(file) })
    }

    /// Whether a socket, or a folder that it is in, was refused from the beginning, by whatever name.
    fn was_refused(&self, real: &Path, about: &Stat) -> bool {
        let folders = real.ancestors().skip(1).filter_map(|folder| Some(number(&stat(folder).ok()?)));
        iter::once(number(about)).chain(folders).any(|file| self.refused.contains(&file))
    }

    /// bind(2), by the name that the program gave, in its folder and with its umask. The calling thread gets both for itself
    /// ([`own_folder_and_mask`](sys::own_folder_and_mask)), or no socket file is made.
    ///
    /// # Errors
    /// What the program hears.
    pub fn bind(&self, thread: &Thread, socket: &OwnedFd, given: &[u8]) -> Result<(), Errno> {
        let is_path = given.get(PATH_AT).is_some_and(|first| *first != 0);
        if is_path {
            if !thread.is_our_user() || !thread.has_our_root() {
                return Err(Errno::EACCES);
            }
            // The first time on the thread that does the calls; afterwards it has them.
            sys::own_folder_and_mask().map_err(|_| Errno::EACCES)?;
            let folder = thread.folder().ok_or(Errno::EACCES)?;
            std::env::set_current_dir(folder).map_err(|_| Errno::EACCES)?;
            rustix::process::umask(thread.umask().ok_or(Errno::EACCES)?);
        }
        let bound = plain(sys::bind_as_given(socket, given));
        if is_path {
            // So that nothing of the program's is in use by us.
            let _ = std::env::set_current_dir("/");
        }
        bound?;
        let is_here = self.network.is_none() || sys::network_of(socket).ok() == self.network;
        if !is_path
            && is_here
            && let Ok(name) = sys::name_of_socket(socket, false)
        {
            let mut own = self.own_names.lock().unwrap_or_else(PoisonError::into_inner);
            if own.len() < NAMES_MAX {
                own.insert(name);
            }
        }
        Ok(())
    }
}

/// Whether a socket is at a place, or in a folder: by its path, or because it is the very file.
fn is_at(place: &Path, real: &Path, about: &Stat) -> bool {
    real.starts_with(place) || stat(place).is_ok_and(|there| number(&there) == number(about))
}

fn number(about: &Stat) -> FileNumber {
    (about.st_dev, about.st_ino)
}

impl Judged {
    /// An address that leads nowhere by itself.
    pub fn of(given: &[u8]) -> Self {
        Self { address: given.to_vec(), _file: None }
    }

    /// connect(2) to it, without waiting.
    ///
    /// # Errors
    /// What the kernel says; `WouldBlock` where the listener has no room, which ends no connect that waits.
    pub fn connect(&self, socket: &OwnedFd) -> io::Result<()> {
        without_waiting(socket, || sys::connect_as_given(socket, &self.address))
    }

    /// connect(2) to who has no room yet, until he has, for as long as the caller waits.
    pub async fn wait(self, socket: OwnedFd, caller: Caller) {
        let patience = sockopt::socket_timeout(&socket, sockopt::Timeout::Send).ok().flatten();
        let end = patience.map(|patience| tokio::time::Instant::now() + patience);
        let mut look = LOOK;
        let done = loop {
            // Nothing tells of room there.
            tokio::time::sleep(look).await;
            if !caller.is_waiting() {
                return;
            }
            match plain(self.connect(&socket)) {
                Err(Errno::EAGAIN) if end.is_none_or(|end| tokio::time::Instant::now() < end) => {}
                done => break done,
            }
            look = (look * 2).min(LOOK_MAX);
        };
        drop((socket, self));
        caller.hear(done);
    }
}
