//! Who did what, and by which rule: JSON lines, each chained to the one before it by SHA-256. docs/AUDIT.md describes
//! them for whoever reads them.
//!
//! ```text
//!   log, refused ──▶ queue ──▶ journal (one thread) ──▶ audit.jsonl, then head     read, verify: from the files
//! ```
//! A line that is changed, left out, put in or cut off breaks the chain; [`prove`] finds where. One thread writes, fed by
//! a bounded queue: who asks waits for the log rather than outruns it. When the disk is full, nothing new begins, what
//! goes on goes on, and what could not be written is counted.
//!
//! # Security
//! Never logged: passwords, invitations, tickets, keys, contents. Text from a peer is cut, and stands in the file as
//! printable ASCII: it can neither begin a line nor steer a terminal.

mod ascii;
mod burst;
mod chain;
mod command;
mod event;
mod files;
mod head;
mod journal;
mod mend;
mod read;
mod verify;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::timeout,
};

pub use self::{
    ascii::ascii_json,
    read::{AuditLine, AuditReader, AuditWatch},
    verify::{AuditProof, prove, verify},
};
use self::{
    burst::Bursts,
    chain::Position,
    head::Head,
    journal::{Journal, Limits},
};
pub(super) use self::{
    burst::Source,
    event::{Event, FIELD_BYTES_MAX},
};
use crate::trust::keyfile;

/// Entries that may wait to be written. With the queue full, whoever has something to say waits: a disk that hangs stops
/// new requests and nothing else, and no event is dropped for want of room here.
const QUEUE: usize = 1024;
/// Lines are written together that come within this time, unless somebody waits for them: waking the writer for each costs
/// a busy lender more than the line.
const GATHER: Duration = Duration::from_millis(2);
/// A line is on the disk so long after it was written, or sooner where somebody waits for it: with one sync for each line
/// of a busy lender, its connections would wait for the disk.
const SYNC_AFTER: Duration = Duration::from_millis(100);

/// How long somebody waits for his line: a disk that hangs is no offence of who waits for it, as being late is.
const LOG_MAX: Duration = Duration::from_secs(5);

/// Why there is no audit log, or what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The file or its folder.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The folder or a file is too open.
    #[error(transparent)]
    Folder(#[from] keyfile::KeyFileError),
    /// The chain is broken.
    #[error("{}:{line}: {why}", .path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The first line that does not fit, counted from 1.
        line: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A file that this log did not write, or only a part of one.
    #[error("the last line of {} is none of this log: move {} away to begin a new one", .path.display(), .dir.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The log's folder.
        dir: PathBuf,
    },
    /// An event that is no JSON.
    #[error("event {event}: {why}")]
    Event {
        /// Which.
        event: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

/// The log of a running lender. Clones share it.
#[derive(Clone)]
pub(super) struct Audit {
    entry_tx: mpsc::Sender<Entry>,
    sound: Arc<AtomicBool>,
    refusals: Arc<Refusals>,
    /// Somebody waits for what was written.
    hurry: Arc<Notify>,
}

enum Entry {
    Event(Box<Event>),
    /// Answered once it was tried to be written: whether it stands in the file, and everything before it.
    Sure(Box<Event>, oneshot::Sender<bool>),
    /// Answered once everything before it is on the disk: whether the log is sound.
    Flush(oneshot::Sender<bool>),
}

#[derive(Default)]
struct Refusals {
    bursts: Mutex<Bursts>,
    counted: Notify,
}

impl Refusals {
    fn bursts(&self) -> MutexGuard<'_, Bursts> {
        self.bursts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Audit {
    /// Whether a lender has written into the log in `dir`, by whatever is left of it.
    pub(super) fn has_lines(dir: &Path) -> bool {
        let is_filled = |path: &Path| std::fs::metadata(path).is_ok_and(|about| about.len() > 0);
        let head_tells = match Head::marks(dir) {
            Ok(Some(marks)) => marks.last != Position::GENESIS,
            // One that cannot be understood was somebody's.
            _ => is_filled(&Head::path(dir)),
        };
        head_tells || is_filled(&files::active(dir)) || files::list_old(dir).is_ok_and(|old| !old.is_empty())
    }

    /// Opens the log in `dir`, and goes on with its chain.
    pub(super) fn open(dir: &Path) -> Result<Self, AuditError> {
        let now = OffsetDateTime::now_utc();
        let mut journal = Journal::open(dir, Limits::default(), now)?;
        // A lender starts on a full disk too, and takes nobody until there is room.
        let is_sound = journal.commit(now);
        tell_sound(true, is_sound);
        let sound = Arc::new(AtomicBool::new(is_sound));
        let (entry_tx, entry_rx) = mpsc::channel(QUEUE);
        let hurry = Arc::new(Notify::new());
        let audit = Self { entry_tx, sound: sound.clone(), refusals: Arc::default(), hurry: hurry.clone() };
        // A thread and not a task: a slow disk must not hold a worker. It ends when the last sender is gone.
        let writer = move || match tokio::runtime::Builder::new_current_thread().enable_time().build() {
            Ok(clock) => clock.block_on(write(journal, entry_rx, &sound, &hurry)),
            // Without a writer nothing new begins.
            Err(error) => {
                sound.store(false, Ordering::Relaxed);
                tracing::error!(%error, "the audit log has no timer");
            }
        };
        std::thread::Builder::new().name("audit".to_owned()).spawn(writer).map_err(io_error(dir))?;
        Ok(audit)
    }

    /// Writes an event; waits while the queue is full.
    ///
    /// # Cancellation
    /// Nothing is written if the queue had no room yet.
    pub(super) async fn log(&self, event: Event) {
        // The writer lives as long as a sender does.
        let _ = self.entry_tx.send(Entry::Event(Box::new(event))).await;
    }

    /// Writes an event, and waits until it stands in the file, if not yet on the disk. `false`: it does not after 5 s, and
    /// nothing that it is about may begin; it may be written later all the same.
    pub(super) async fn log_surely(&self, event: Event) -> bool {
        let (written_tx, written_rx) = oneshot::channel();
        let written = async {
            let asked = self.entry_tx.send(Entry::Sure(Box::new(event), written_tx)).await;
            self.hurry.notify_one();
            asked.is_ok() && written_rx.await.unwrap_or(false)
        };
        timeout(LOG_MAX, written).await.unwrap_or(false)
    }

    /// Writes what may come in any number, as that a stranger or a user was refused, or counts it in a burst of its source.
    pub(super) async fn bounded(&self, from: impl Into<Source>, event: Event) {
        let line = self.refusals.bursts().note(from.into(), event, Instant::now());
        match line {
            Some(event) => self.log(event).await,
            None => self.refusals.counted.notify_one(),
        }
    }

    /// As [`Self::bounded`], for who must not wait, as a loop that accepts: what the queue has no room for is counted, too.
    pub(super) fn note(&self, from: impl Into<Source>, event: Event) {
        let (from, now) = (from.into(), Instant::now());
        let line = self.refusals.bursts().note(from.clone(), event, now);
        let Some(event) = line else { return self.refusals.counted.notify_one() };
        if let Err(mpsc::error::TrySendError::Full(Entry::Event(event))) =
            self.entry_tx.try_send(Entry::Event(Box::new(event)))
        {
            self.refusals.bursts().count(from, *event, now);
            self.refusals.counted.notify_one();
        }
    }

    /// Writes the counts of bursts when they are due. Runs for ever.
    pub(super) async fn write_counts(&self) {
        loop {
            let due = self.refusals.bursts().poll_timeout();
            let wait = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                // Perhaps of a source whose window ends sooner.
                () = self.refusals.counted.notified() => {}
            }
            // A place first: what was taken out of the counts would be lost with this future.
            while let Ok(place) = self.entry_tx.reserve().await {
                let Some(event) = self.refusals.bursts().next_due(Instant::now()) else { break };
                place.send(Entry::Event(Box::new(event)));
            }
        }
    }

    /// Writes everything that waits, counts of bursts too. `true`: it is on the disk, and there is room for more.
    pub(super) async fn flush(&self) -> bool {
        let events = self.refusals.bursts().drain();
        for event in events {
            self.log(event).await;
        }
        self.probe().await
    }

    /// `false` while lines cannot be written: nothing new may begin then. A log that could not be written is tried again,
    /// so that the first who asks after there is room again is served. `true` is what the last lines found: who must know
    /// that his own will be kept writes it by [`Self::log_surely`].
    pub(super) async fn is_sound(&self) -> bool {
        self.sound.load(Ordering::Relaxed) || timeout(LOG_MAX, self.probe()).await.unwrap_or(false)
    }

    async fn probe(&self) -> bool {
        let (sound_tx, sound_rx) = oneshot::channel();
        let asked = self.entry_tx.send(Entry::Flush(sound_tx)).await;
        self.hurry.notify_one();
        asked.is_ok() && sound_rx.await.unwrap_or(false)
    }
}

/// The writer: what has gathered in a moment goes to the file together, and to the disk a little later.
async fn write(mut journal: Journal, mut entry_rx: mpsc::Receiver<Entry>, sound: &AtomicBool, hurry: &Notify) {
    let mut waiting = Vec::new();
    // When what was written since must be on the disk.
    let mut due: Option<Instant> = None;
    loop {
        let next = match due {
            Some(due) => tokio::time::timeout_at(due.into(), entry_rx.recv()).await,
            None => Ok(entry_rx.recv().await),
        };
        let is_last = matches!(next, Ok(None));
        if let Ok(Some(entry)) = next {
            if matches!(entry, Entry::Event(_)) {
                let _ = tokio::time::timeout(GATHER, hurry.notified()).await;
            }
            journal.stay_in_place(OffsetDateTime::now_utc());
            let more = std::iter::from_fn(|| entry_rx.try_recv().ok()).take(QUEUE);
            for entry in std::iter::once(entry).chain(more) {
                match entry {
                    Entry::Event(event) => journal.append(&event, OffsetDateTime::now_utc()),
                    Entry::Sure(event, written_tx) => {
                        // It may have come long after the others.
                        journal.stay_in_place(OffsetDateTime::now_utc());
                        journal.append(&event, OffsetDateTime::now_utc());
                        // Who asked and went away does not mind.
                        let _ = written_tx.send(journal.is_whole());
                    }
                    Entry::Flush(sound_tx) => waiting.push(sound_tx),
                }
            }
            let due = *due.get_or_insert_with(|| Instant::now() + SYNC_AFTER);
            if waiting.is_empty() && Instant::now() < due {
                continue;
            }
        }
        due = None;
        let is_sound = journal.commit(OffsetDateTime::now_utc());
        tell_sound(sound.swap(is_sound, Ordering::Relaxed), is_sound);
        // Who asked and went away does not mind.
        for sound_tx in waiting.drain(..) {
            let _ = sound_tx.send(is_sound);
        }
        if is_last {
            return;
        }
    }
}

/// What it means to borrowers that the log can be written, or can no more.
fn tell_sound(was_sound: bool, is_sound: bool) {
    match (was_sound, is_sound) {
        (false, true) => tracing::info!("the audit log can be written again: new sessions are let in"),
        (true, false) => tracing::error!("the audit log cannot be written: new sessions are refused until it can"),
        _ => {}
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> AuditError + use<> {
    let path = path.to_owned();
    move |source| AuditError::Io { path, source }
}

#[cfg(test)]
mod tests;
