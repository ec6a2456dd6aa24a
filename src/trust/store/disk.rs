//! The store's file as redb sees it: bytes at places, and what went wrong with them last.
//!
//! redb gives up a database at the first error of its file, for good. The fault is kept here as well, so that the
//! [`Store`](super::Store) knows when to open it again. Its lock is the `Store`'s (flock(2)), and outlives that.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use redb::StorageBackend;

/// What went wrong with a database's file, for as long as that database is open.
#[derive(Clone, Debug, Default)]
pub(super) struct Fault(Arc<Mutex<Option<io::ErrorKind>>>);

impl Fault {
    /// The first error, if there was one.
    pub(super) fn kind(&self) -> Option<io::ErrorKind> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note(&self, kind: io::ErrorKind) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(kind);
    }
}

/// A file with a name for its errors.
#[derive(Debug)]
pub(super) struct Disk {
    file: Arc<File>,
    path: PathBuf,
    fault: Fault,
}

impl Disk {
    pub(super) fn new(file: Arc<File>, path: &Path, fault: Fault) -> Self {
        Self { file, path: path.to_owned(), fault }
    }

    fn noted<T>(&self, done: io::Result<T>) -> io::Result<T> {
        done.map_err(|error| {
            self.fault.note(error.kind());
            let mend = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "; make room there and say it again, nothing needs to be restarted"
                }
                _ => "",
            };
            io::Error::new(error.kind(), format!("{}: {error}{mend}", self.path.display()))
        })
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.noted(self.file.metadata().map(|about| about.len()))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.noted(self.file.read_exact_at(out, offset))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.noted(self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.noted(self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.noted(self.file.write_all_at(data, offset))
    }
}
