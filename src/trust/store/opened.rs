//! Opening the store, making it, and opening it again after the disk failed.
//!
//! ```text
//!   no file ─▶ made under another name, whole and synced ─▶ linked into its place ─▶ opened
//!   opened ─▶ the disk fails ─▶ closed and opened again, under the same lock ─▶ opened
//! ```
//! A crash or a full disk leaves no half-made store, and an empty or foreign file in its place is an error: taken for a
//! new store, it would forget every revocation without a word.

use std::{
    fs::{self, File, TryLockError},
    io,
    ops::Deref,
    path::Path,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard},
    time::Instant,
};

use redb::{Database, ReadTransaction, ReadableDatabase, TableError, WriteTransaction};

use super::{
    BY_ID, META, SCHEMA, Store, StoreError, barred,
    disk::{Disk, Fault},
    reserve::{LET_GO_MAX, Reserve},
    storage, users,
};
use crate::trust::{
    keyfile::{self, KeyFileError},
    random::random,
};

/// redb's own default is 1 GiB, for stores that are not a list of users and devices.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// The database, until its file fails.
pub(super) struct Opened {
    db: Database,
    fault: Fault,
}

/// A database that stays open while this is held.
struct Sound<'a>(RwLockReadGuard<'a, Option<Opened>>);

/// Who waits for the pause after a failed reopening; see [`Retry`](super::retry::Retry).
#[derive(Clone, Copy)]
enum Patience {
    OfReader,
    OfWriter,
}

/// A look at the store as it is now; it is not closed meanwhile.
pub(super) struct Reading<'a> {
    txn: ReadTransaction,
    _open: Sound<'a>,
}

impl Store {
    /// Opens the store, and makes it on first use (0600).
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process has it open, [`StoreError::Foreign`] if what is there is no store: an
    /// empty file neither.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = match keyfile::open_existing_secret(path) {
            Err(error) if error.is_missing() => {
                make(path)?;
                keyfile::open_existing_secret(path)?
            }
            found => found?,
        };
        lock(&file, path)?;
        let file = Arc::new(file);
        let opened = Opened::open(&file, path)?;
        let store = Self {
            opened: RwLock::new(Some(opened)),
            reserve: Mutex::new(Reserve::open(path)),
            retry: Mutex::default(),
            path: path.to_owned(),
            file,
        };
        // Nothing is written where nothing is lacking: a lender must be able to start on a full disk.
        if !store.is_complete()? {
            store.write(complete)?;
        }
        Ok(store)
    }

    /// One transaction: on the disk when it returns `Ok`, without effect when it returns an error; a disk that fails at
    /// the very end of it may have kept it all the same.
    pub(super) fn write<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        self.attempt(work).0
    }

    /// As [`Self::write`], for what takes something back: on a full disk with the room that is kept for it. `work` may be
    /// done again, also where the disk has kept what it did and failed only then.
    pub(super) fn take_back<T, E: From<StoreError>>(
        &self,
        work: impl Fn(&WriteTransaction) -> Result<T, E>,
    ) -> Result<T, E> {
        // What others write meanwhile may fill the reserve again, and take the room.
        for _ in 0..LET_GO_MAX {
            let (done, failed) = self.attempt(&work);
            let full = matches!(failed, Some(io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded));
            if !full || !self.reserve.lock().unwrap_or_else(PoisonError::into_inner).let_go() {
                return done;
            }
        }
        self.write(work)
    }

    pub(super) fn read(&self) -> Result<Reading<'_>, StoreError> {
        let open = self.sound(Patience::OfReader)?;
        Ok(Reading { txn: open.begin_read().map_err(storage)?, _open: open })
    }

    /// A transaction that need not last: a crash, or an error of the disk, may undo it.
    pub(super) fn write_lazily(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let open = self.sound(Patience::OfReader)?;
        let mut txn = open.begin_write().map_err(storage)?;
        txn.set_durability(redb::Durability::None).map_err(storage)?;
        work(&txn)?;
        txn.commit().map_err(storage)
    }

    /// Gives what the file said, too, when it failed; the database is open again by then, if it can be.
    fn attempt<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<T, E>,
    ) -> (Result<T, E>, Option<io::ErrorKind>) {
        let open = match self.sound(Patience::OfWriter) {
            Ok(open) => open,
            Err(error) => {
                let failed = error.io_kind();
                return (Err(error.into()), failed);
            }
        };
        let done = write_to(&open, work);
        match (&done, open.fault()) {
            (Err(_), Some(failed)) => {
                drop(open);
                if let Err(error) = self.reopen(Patience::OfWriter) {
                    tracing::error!(%error, "the store cannot be opened again yet");
                }
                (done, Some(failed))
            }
            _ => {
                drop(open);
                if done.is_ok() {
                    self.reserve.lock().unwrap_or_else(PoisonError::into_inner).fill();
                }
                (done, None)
            }
        }
    }

    /// Opens it again if it must be. At most twice: another fault may be found in between, and what fails as fast as it is
    /// opened is an error and no reason to go on.
    fn sound(&self, patience: Patience) -> Result<Sound<'_>, StoreError> {
        for _ in 0..2 {
            let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
            if opened.as_ref().is_some_and(Opened::is_sound) {
                return Ok(Sound(opened));
            }
            drop(opened);
            self.reopen(patience)?;
        }
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        match opened.as_ref().map(|opened| opened.fault.kind()) {
            Some(None) => Ok(Sound(opened)),
            failed => Err(failed_with(failed.flatten().unwrap_or(io::ErrorKind::Other))),
        }
    }

    fn reopen(&self, patience: Patience) -> Result<(), StoreError> {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if opened.as_ref().is_some_and(Opened::is_sound) {
            // Somebody else was faster.
            return Ok(());
        }
        let mut retry = self.retry.lock().unwrap_or_else(PoisonError::into_inner);
        if let Patience::OfReader = patience {
            retry.too_soon(Instant::now())?;
        }
        // Closed first. A failed database writes nothing more.
        *opened = None;
        let tried = Opened::open(&self.file, &self.path);
        *opened = Some(retry.note(tried, Instant::now())?);
        tracing::warn!(store = %self.path.display(), "the store was opened again after an error of the disk");
        Ok(())
    }

    /// As after an error of the disk.
    #[cfg(test)]
    pub(crate) fn fail(&self) {
        let opened = self.opened.read().unwrap_or_else(PoisonError::into_inner);
        opened.as_ref().unwrap().fault.note(io::ErrorKind::Other);
    }

    /// Until the guard is dropped nobody reads it, as while a disk that hangs keeps it from being opened again.
    #[cfg(test)]
    pub(crate) fn hang(&self) -> impl Drop + use<'_> {
        self.opened.write().unwrap()
    }

    /// Whether every table that this version knows is there, so that readers may rely on it.
    fn is_complete(&self) -> Result<bool, StoreError> {
        let txn = self.read()?;
        let lacks = |error: &TableError| matches!(error, TableError::TableDoesNotExist(_));
        let meta = match txn.open_table(META) {
            Err(error) if lacks(&error) => return Ok(false),
            found => found.map_err(storage)?,
        };
        match redb::ReadableTable::get(&meta, "schema").map_err(storage)?.map(|version| version.value()) {
            None => return Ok(false),
            Some(SCHEMA) => {}
            Some(got) => return Err(StoreError::Newer { got }),
        }
        let tables = BY_ID.map(|table| txn.open_table(table).map(drop));
        let others = [txn.open_table(barred::BARRED).map(drop), txn.open_table(users::USERS).map(drop)].into_iter();
        for table in tables.into_iter().chain(others) {
            match table {
                Err(error) if lacks(&error) => return Ok(false),
                found => found.map_err(storage)?,
            }
        }
        Ok(true)
    }
}

impl Opened {
    fn open(file: &Arc<File>, path: &Path) -> Result<Self, StoreError> {
        let foreign = |why: String| StoreError::Foreign { path: path.to_owned(), why };
        if file.metadata().map_err(|error| storage(redb::StorageError::Io(error)))?.len() == 0 {
            return Err(foreign("it is empty".to_owned()));
        }
        let opened = Self::open_or_begin(file, path).map_err(|(error, fault)| match fault.kind() {
            // A file that ends too early is no trouble of the disk.
            Some(kind) if kind != io::ErrorKind::UnexpectedEof => storage(error),
            _ => foreign(error.to_string()),
        })?;
        // One that was passed over while opening: redb may give the database up at any later moment.
        match opened.fault.kind() {
            Some(kind) => Err(failed_with(kind)),
            None => Ok(opened),
        }
    }

    fn is_sound(&self) -> bool {
        self.fault.kind().is_none()
    }

    fn open_or_begin(file: &Arc<File>, path: &Path) -> Result<Self, (redb::DatabaseError, Fault)> {
        let fault = Fault::default();
        let mut builder = Database::builder();
        // A broken file is then an error here rather than a panic later. The file is small.
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        match builder.create_with_backend(Disk::new(file.clone(), path, fault.clone())) {
            Ok(db) => Ok(Self { db, fault }),
            Err(error) => Err((error, fault)),
        }
    }
}

impl Sound<'_> {
    fn fault(&self) -> Option<io::ErrorKind> {
        self.0.as_ref().and_then(|opened| opened.fault.kind())
    }
}

impl Deref for Sound<'_> {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.0.as_ref().expect("only an open one is given out, and it is not closed while this is held").db
    }
}

impl Deref for Reading<'_> {
    type Target = ReadTransaction;

    fn deref(&self) -> &ReadTransaction {
        &self.txn
    }
}

impl StoreError {
    /// What the system said, if it was the disk.
    pub(super) fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Storage(error) => match &**error {
                redb::Error::Io(error) => Some(error.kind()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether it is the disk that did not do what it was asked to, or broke what was on it: of whoever asked that says nothing.
    pub fn is_of_disk(&self) -> bool {
        matches!(self, Self::Storage(_) | Self::Foreign { .. } | Self::Broken { .. } | Self::Hangs)
    }
}

fn failed_with(kind: io::ErrorKind) -> StoreError {
    storage(redb::StorageError::Io(kind.into()))
}

/// A commit is durable and synced unless a transaction says otherwise.
fn write_to<T, E: From<StoreError>>(
    db: &Database,
    work: impl FnOnce(&WriteTransaction) -> Result<T, E>,
) -> Result<T, E> {
    let txn = db.begin_write().map_err(storage)?;
    let value = work(&txn)?;
    txn.commit().map_err(storage)?;
    Ok(value)
}

fn complete(txn: &WriteTransaction) -> Result<(), StoreError> {
    txn.open_table(META).map_err(storage)?.insert("schema", SCHEMA).map(drop).map_err(storage)?;
    for table in BY_ID {
        txn.open_table(table).map_err(storage)?;
    }
    txn.open_table(barred::BARRED).map_err(storage)?;
    txn.open_table(users::USERS).map(drop).map_err(storage)
}

fn lock(file: &File, path: &Path) -> Result<(), StoreError> {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => StoreError::InUse,
        TryLockError::Error(source) => {
            StoreError::File(KeyFileError::Io { verb: "lock", path: path.to_owned(), source })
        }
    })
}

/// Makes a store and puts it in its place, unless somebody else has put one there meanwhile.
fn make(path: &Path) -> Result<(), StoreError> {
    let random = data_encoding::HEXLOWER.encode(&random::<8>());
    let name = path.file_name().unwrap_or_default().display();
    let temporary = path.with_file_name(format!(".{name}.{random}.tmp"));
    let failed = |source| StoreError::File(KeyFileError::Io { verb: "make", path: path.to_owned(), source });
    let made = fill(&temporary, path).and_then(|()| match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked.map_err(failed),
    });
    // One that stays behind is private and has no reader.
    let _ = fs::remove_file(&temporary);
    made?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

/// `path` is what its errors name.
fn fill(temporary: &Path, path: &Path) -> Result<(), StoreError> {
    let file = Arc::new(keyfile::open_secret(temporary)?);
    let opened = Opened::open_or_begin(&file, path).map_err(|(error, _)| storage(error))?;
    write_to(&opened.db, complete)?;
    let fault = opened.fault.clone();
    // Closing writes as well.
    drop(opened);
    let whole = fault.kind().map_or(Ok(()), |kind| Err(kind.into())).and_then(|()| file.sync_all());
    whole.map_err(|source| StoreError::File(KeyFileError::Io { verb: "make", path: path.to_owned(), source }))
}
