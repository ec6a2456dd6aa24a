//! Waits until something changes in a folder (inotify(7)), also in one that takes its place.
//!
//! A watch belongs to the folder that it was set on, and goes with it when that is renamed. So each folder on the way is
//! watched for the next name, by the path that was given and by those that links on it lead to; when one is replaced, all
//! watches are set anew.

use std::{
    ffi::{OsStr, OsString},
    io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

pub(super) use rustix::fs::inotify::WatchFlags;
use rustix::fs::inotify::{self, CreateFlags, Event, ReadFlags, Reader};
use tokio::io::{Interest, unix::AsyncFd};

/// Links on the way that are followed: as many as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// A folder that is watched.
pub(super) struct FolderWatch {
    folder: PathBuf,
    flags: WatchFlags,
    watch: AsyncFd<OwnedFd>,
    way: Way,
}

/// Of each folder on the way, by its number, the name that matters in it.
type Way = Vec<(i32, OsString)>;

/// What has happened.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    /// To something else.
    Nothing,
    /// In the folder.
    Change,
    /// The folder may be another one.
    Replaced,
}

impl FolderWatch {
    /// Watches from now on. Needs a tokio runtime.
    pub(super) fn new(folder: &Path, flags: WatchFlags) -> io::Result<Self> {
        let folder = std::path::absolute(folder)?;
        let (watch, way) = watch(&folder, flags)?;
        Ok(Self { folder, flags, watch, way })
    }

    /// Ready when something has changed since the last time; what, is for the caller to find out.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        loop {
            match self.watch.async_io(Interest::READABLE, |watch| self.read(watch)).await? {
                Seen::Nothing => {}
                Seen::Change => return Ok(()),
                Seen::Replaced => {
                    // Before the caller looks: what changes afterwards is seen.
                    (self.watch, self.way) = watch(&self.folder, self.flags)?;
                    return Ok(());
                }
            }
        }
    }

    fn read(&self, watch: &OwnedFd) -> io::Result<Seen> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(watch, &mut buffer);
        let mut seen = Seen::Nothing;
        loop {
            seen = seen.max(self.meaning(&reader.next()?));
            // What does not fit into the buffer is read the next time.
            if reader.is_buffer_empty() {
                return Ok(seen);
            }
        }
    }

    fn meaning(&self, event: &Event<'_>) -> Seen {
        const GONE: ReadFlags = ReadFlags::MOVE_SELF
            .union(ReadFlags::DELETE_SELF)
            .union(ReadFlags::UNMOUNT)
            .union(ReadFlags::IGNORED)
            .union(ReadFlags::QUEUE_OVERFLOW);
        if event.events().intersects(GONE) {
            return Seen::Replaced;
        }
        let mut names = self.way.iter().filter(|(number, _)| *number == event.wd()).map(|(_, name)| name).peekable();
        if names.peek().is_none() {
            return Seen::Change;
        }
        let name = event.file_name().map(std::ffi::CStr::to_bytes).unwrap_or_default();
        if names.any(|expected| expected.as_bytes() == name) { Seen::Replaced } else { Seen::Nothing }
    }
}

/// Sets the watches. A folder that is missing, or that we may not read, has none; those above it see it come.
fn watch(folder: &Path, flags: WatchFlags) -> io::Result<(AsyncFd<OwnedFd>, Way)> {
    let own = WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF;
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    // Added to what a folder that is met twice is watched for.
    let add = |path: &Path, flags| inotify::add_watch(&watch, path, flags | own | WatchFlags::MASK_ADD);
    let mut way = Way::new();
    let mut paths = vec![folder.to_owned()];
    let mut done = 0;
    while let Some(path) = paths.get(done).cloned() {
        done += 1;
        for (below, above) in path.ancestors().zip(path.ancestors().skip(1)) {
            let number = add(above, WatchFlags::CREATE | WatchFlags::MOVED_TO);
            way.extend(number.ok().zip(below.file_name().map(OsStr::to_owned)));
            // What a link leads to is replaced where that is; with the link itself this is done anew.
            if let Some(target) = below.read_link().ok().filter(|_| paths.len() <= LINKS_MAX) {
                paths.push(above.join(target));
            }
        }
    }
    let there = add(folder, flags);
    if way.is_empty() {
        there?;
    }
    Ok((crate::sys::await_readable(watch)?, way))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Waits for a change, and fails if none is seen.
    async fn sees(watch: &mut FolderWatch, what: &str) {
        let seen = tokio::time::timeout(std::time::Duration::from_secs(10), watch.changed()).await;
        seen.unwrap_or_else(|_| panic!("{what} is not seen")).unwrap();
    }

    fn write(path: &Path) {
        fs::write(path, "x").unwrap();
    }

    #[tokio::test]
    async fn a_folder_that_takes_the_place_of_the_watched_one_is_watched() {
        let top = tempfile::tempdir().unwrap();
        let (folder, other) = (top.path().join("lab"), top.path().join("new"));
        fs::create_dir(&folder).unwrap();
        fs::create_dir(&other).unwrap();
        let mut watch = FolderWatch::new(&folder, WatchFlags::CLOSE_WRITE).unwrap();
        write(&folder.join("file"));
        sees(&mut watch, "a file").await;
        fs::rename(&folder, top.path().join("old")).unwrap();
        sees(&mut watch, "a folder that goes").await;
        fs::rename(&other, &folder).unwrap();
        sees(&mut watch, "a folder that comes").await;
        write(&folder.join("file"));
        sees(&mut watch, "a file in the new folder").await;
        fs::remove_dir_all(&folder).unwrap();
        sees(&mut watch, "the removal").await;
        fs::create_dir(&folder).unwrap();
        sees(&mut watch, "a folder made anew").await;
        write(&folder.join("file"));
        sees(&mut watch, "a file in it").await;
    }

    #[tokio::test]
    async fn a_link_that_is_turned_to_another_folder_is_followed() {
        let top = tempfile::tempdir().unwrap();
        let path = |name: &str| top.path().join(name);
        for version in ["one", "two"] {
            fs::create_dir_all(path(version).join("lab")).unwrap();
        }
        std::os::unix::fs::symlink("one", path("current")).unwrap();
        let mut watch = FolderWatch::new(&path("current/lab"), WatchFlags::CLOSE_WRITE).unwrap();
        std::os::unix::fs::symlink("two", path("next")).unwrap();
        fs::rename(path("next"), path("current")).unwrap();
        sees(&mut watch, "the turn").await;
        write(&path("two/lab/file"));
        sees(&mut watch, "a file in the other folder").await;
        // What the link leads to is replaced as a whole.
        fs::rename(path("two"), path("two.old")).unwrap();
        sees(&mut watch, "that it goes").await;
        fs::create_dir_all(path("two/lab")).unwrap();
        sees(&mut watch, "that another comes").await;
    }
}
