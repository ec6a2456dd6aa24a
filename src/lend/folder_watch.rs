//! Waits until something changes in a folder (inotify(7)).

use std::{io, os::fd::OwnedFd, path::Path};

pub(super) use rustix::fs::inotify::WatchFlags;
use rustix::fs::inotify::{self, CreateFlags};
use tokio::io::{Interest, unix::AsyncFd};

/// A folder that is watched.
pub(super) struct FolderWatch(AsyncFd<OwnedFd>);

impl FolderWatch {
    /// Watches from now on. Needs a tokio runtime.
    pub(super) fn new(folder: &Path, flags: WatchFlags) -> io::Result<Self> {
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&watch, folder, flags)?;
        Ok(Self(crate::sys::await_readable(watch)?))
    }

    /// Ready when something has changed since the last time; what, is for the caller to find out.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub(super) async fn changed(&self) -> io::Result<()> {
        let changed = self.0.async_io(Interest::READABLE, |watch| {
            // A buffer that stays full is read again.
            rustix::io::read(watch, &mut [0_u8; 4096]).map_err(io::Error::from)
        });
        changed.await.map(drop)
    }
}
