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

use rustix::fs::inotify::{self, CreateFlags, Event, Reader};
pub(super) use rustix::fs::inotify::{ReadFlags, WatchFlags};
use tokio::io::{Interest, unix::AsyncFd};

use super::blocking::blocking;

/// Links on the way that are followed: as many as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// A folder that is watched.
pub(super) struct FolderWatch {
    folder: PathBuf,
    flags: WatchFlags,
    watch: AsyncFd<OwnedFd>,
    way: Way,
    /// All watches are to be set anew, and what that is told as.
    anew: Option<Seen>,
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
    /// More than the kernel keeps, so that nobody knows what.
    Lost,
}

impl FolderWatch {
    /// Watches from now on. Needs a tokio runtime.
    pub(super) fn new(folder: &Path, flags: WatchFlags) -> io::Result<Self> {
        let folder = std::path::absolute(folder)?;
        let (watch, way) = watch(&folder, flags)?;
        Ok(Self { folder, flags, watch, way, anew: None })
    }

    /// Ready when something has changed since the last time: to what, is for the caller to find out. Gives what was done to
    /// `file`, all together and without a close or a coming that it was written after; nothing when others have changed, or
    /// nobody knows what has; `None` when the folder may be another one. Of other files than a `file` that is named nobody
    /// hears that they are being written: a database would tell that all the time.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub(super) async fn changed(&mut self, file: Option<&OsStr>) -> io::Result<Option<ReadFlags>> {
        loop {
            if let Some(why) = self.anew {
                // Before the caller looks: what changes afterwards is seen. The way may lead over a disk that hangs.
                let (folder, flags) = (self.folder.clone(), self.flags);
                (self.watch, self.way) = blocking(move || watch(&folder, flags)).await?;
                self.anew = None;
                return Ok((why == Seen::Lost).then(ReadFlags::empty));
            }
            match self.watch.async_io(Interest::READABLE, |watch| self.read(watch, file)).await? {
                (Seen::Nothing, _) => {}
                (Seen::Change, done) => return Ok(Some(done)),
                (why, _) => self.anew = Some(why),
            }
        }
    }

    fn read(&self, watch: &OwnedFd, file: Option<&OsStr>) -> io::Result<(Seen, ReadFlags)> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(watch, &mut buffer);
        const WHOLE: ReadFlags = ReadFlags::CLOSE_WRITE.union(ReadFlags::MOVED_TO);
        let (mut seen, mut done) = (Seen::Nothing, ReadFlags::empty());
        loop {
            let event = reader.next()?;
            let meaning = self.meaning(&event);
            let name = event.file_name().map(std::ffi::CStr::to_bytes);
            let is_of_file = meaning == Seen::Change && name.is_some() && name == file.map(OsStr::as_bytes);
            if is_of_file || file.is_none() || event.events() != ReadFlags::MODIFY {
                seen = seen.max(meaning);
            }
            if is_of_file {
                if event.events().contains(ReadFlags::MODIFY) {
                    done -= WHOLE;
                }
                done |= event.events();
            }
            // What does not fit into the buffer is read the next time.
            if reader.is_buffer_empty() {
                return Ok((seen, done));
            }
        }
    }

    fn meaning(&self, event: &Event<'_>) -> Seen {
        const GONE: ReadFlags =
            ReadFlags::MOVE_SELF.union(ReadFlags::DELETE_SELF).union(ReadFlags::UNMOUNT).union(ReadFlags::IGNORED);
        if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
            return Seen::Lost;
        }
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
    async fn sees(watch: &mut FolderWatch, what: &str) -> Option<ReadFlags> {
        let seen = tokio::time::timeout(std::time::Duration::from_secs(30), watch.changed(Some("file".as_ref()))).await;
        seen.unwrap_or_else(|_| panic!("{what} is not seen")).unwrap()
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
    async fn what_is_done_to_one_file_is_not_told_of_another() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = FolderWatch::new(folder.path(), WatchFlags::CLOSE_WRITE | WatchFlags::CREATE).unwrap();
        let written = ReadFlags::CREATE | ReadFlags::CLOSE_WRITE;
        write(&folder.path().join("other"));
        assert_eq!(sees(&mut watch, "another file").await, Some(ReadFlags::empty()));
        let file = fs::File::create(folder.path().join("file")).unwrap();
        write(&folder.path().join("other"));
        assert_eq!(sees(&mut watch, "the file beside another").await, Some(ReadFlags::CREATE));
        drop(file);
        write(&folder.path().join("file"));
        assert!(sees(&mut watch, "the file").await.is_some_and(|done| written.contains(done) && !done.is_empty()));
    }

    #[tokio::test]
    async fn a_close_that_somebody_wrote_after_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = FolderWatch::new(folder.path(), WatchFlags::CLOSE_WRITE | WatchFlags::MODIFY).unwrap();
        let path = folder.path().join("file");
        write(&path);
        assert_eq!(sees(&mut watch, "a whole file").await, Some(ReadFlags::MODIFY | ReadFlags::CLOSE_WRITE));
        write(&path);
        let mut second = fs::File::options().append(true).open(&path).unwrap();
        std::io::Write::write_all(&mut second, b"half").unwrap();
        assert_eq!(sees(&mut watch, "half a file").await, Some(ReadFlags::MODIFY));
        write(&folder.path().join("other"));
        assert_eq!(sees(&mut watch, "another file").await, Some(ReadFlags::empty()));
        drop(second);
        assert_eq!(sees(&mut watch, "the end").await, Some(ReadFlags::CLOSE_WRITE));
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
