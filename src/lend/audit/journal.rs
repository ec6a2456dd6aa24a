//! Writes the log: appends to the chain, begins new files, and removes old ones.
//!
//! ```text
//!   open ─▶ mend ─▶ append … append ─▶ commit (on the disk, then the head) ─▶ append …
//!                        └─▶ a new file: by size, or with a new day
//! ```
//! Room is reserved ahead of the end of the file: when the disk is full, the log says so while it can still write about
//! what is going on. A line that could not be written is counted, and the next one that can be says how many are missing.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use time::{Date, Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    AuditError,
    chain::{Position, parse},
    event::Event,
    files,
    head::{Head, Marks},
    io_error,
    mend::{Behind, Mended},
};
use crate::trust::keyfile;

/// Largest file, in bytes: some 50,000 lines, quick to read and to pack.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most files that are kept: more than a year of days.
const FILES_KEPT_MAX: usize = 400;
/// Most bytes of full files that are kept: three million lines, and little beside a disk of today.
const BYTES_KEPT_MAX: u64 = 1024 * 1024 * 1024;
/// Room reserved behind the end of the file, in bytes: for some 200 lines about what goes on while the disk is full.
const RESERVE_BYTES: u64 = 64 * 1024;
/// A clock that goes back by more than this is noted; less is what setting it right costs.
const CLOCK_BACK: Duration = Duration::SECOND;

/// When a new file begins, and how much is kept.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) file_bytes: u64,
    pub(super) files_kept: usize,
    pub(super) bytes_kept: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file_bytes: FILE_BYTES_MAX, files_kept: FILES_KEPT_MAX, bytes_kept: BYTES_KEPT_MAX }
    }
}

pub(super) struct Journal {
    dir: PathBuf,
    limits: Limits,
    file: File,
    head: Head,
    marks: Marks,
    /// Where the chain has come to.
    at: Position,
    /// Number and day of the first line in the file; none while it is empty.
    first: Option<(u64, Option<Date>)>,
    /// When the last line was written.
    last_time: Option<OffsetDateTime>,
    /// Length of all whole lines, in bytes.
    length: u64,
    /// A write that failed may have left half a line behind them.
    half_written: bool,
    /// Up to here the disk has promised room.
    reserved: u64,
    /// Lines that could not be written.
    lost: u64,
    /// Whether the file still has its name; what is written to another one is read by nobody.
    in_place: bool,
    /// Why the last commit failed was said.
    told: bool,
}

impl Journal {
    /// Opens the log in `dir`, mends it, and goes on with its chain. What was mended waits to be committed.
    pub(super) fn open(dir: &Path, limits: Limits, now: OffsetDateTime) -> Result<Self, AuditError> {
        Self::go_on(dir, limits, now, Behind::Crash)
    }

    fn go_on(dir: &Path, limits: Limits, now: OffsetDateTime, behind: Behind) -> Result<Self, AuditError> {
        let Mended { file, head, marks, at, first, last_time, length, found } = Mended::open(dir, behind)?;
        let mut journal = Self {
            dir: dir.to_owned(),
            limits,
            file,
            head,
            marks,
            at,
            first,
            last_time,
            length,
            half_written: false,
            reserved: 0,
            lost: 0,
            in_place: true,
            told: false,
        };
        for why in found {
            tracing::warn!(folder = %dir.display(), why, "the audit log was mended");
            journal.append(&Event::of_log("log-mended", why), now);
        }
        Ok(journal)
    }

    /// Looks whether the file is still there before lines are written to it. One that was removed or replaced cannot be
    /// brought back: another is begun, which says what is missing, and the chain goes on so that
    /// [`verify`](super::verify) misses it, too.
    pub(super) fn stay_in_place(&mut self, now: OffsetDateTime) {
        let checked = self.has_its_name().and_then(|has| if has { Ok(()) } else { self.begin_anew(now) });
        if let Err(error) = &checked
            && self.in_place
        {
            tracing::error!(%error, "the audit log was removed, and cannot be begun anew");
        }
        self.in_place = checked.is_ok();
    }

    fn has_its_name(&self) -> Result<bool, AuditError> {
        let path = files::active(&self.dir);
        let ours = self.file.metadata().map_err(io_error(&path))?;
        match fs::symlink_metadata(&path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_error(&path)(error)),
        }
    }

    fn begin_anew(&mut self, now: OffsetDateTime) -> Result<(), AuditError> {
        keyfile::create_dir(&self.dir)?;
        // First, and with all that was written: it is what opening the log measures it by.
        let marks = Marks { last: self.at, ..self.marks };
        Head::open(&self.dir)?.0.write(&marks)?;
        let lost = self.lost;
        *self = Self::go_on(&self.dir, self.limits, now, Behind::Foreign)?;
        self.lost += lost;
        Ok(())
    }

    /// Writes a line. One that cannot be written is counted, and said to be missing as soon as there is room.
    pub(super) fn append(&mut self, event: &Event, now: OffsetDateTime) {
        if !self.in_place {
            self.lost += 1;
            return;
        }
        let written = self.write_missing(now).and_then(|()| self.write(event, now));
        if let Err(error) = written {
            if self.lost == 0 {
                tracing::error!(%error, event = event.event, "the audit log cannot be written");
            }
            self.lost += 1;
        }
    }

    /// Whether every line so far stands in the file.
    pub(super) fn is_whole(&self) -> bool {
        self.in_place && self.lost == 0
    }

    /// Brings everything to the disk. `false` while something is missing or room runs out: nothing new may begin then.
    pub(super) fn commit(&mut self, now: OffsetDateTime) -> bool {
        if !self.in_place {
            return false;
        }
        let committed = self.write_missing(now).and_then(|()| self.reserve()).and_then(|()| {
            self.file.sync_data().map_err(self.failed())?;
            if self.marks.last == self.at {
                return Ok(());
            }
            self.marks.last = self.at;
            self.head.write(&self.marks)
        });
        if let Err(error) = &committed
            && !self.told
        {
            tracing::error!(%error, "the audit log cannot be brought to the disk");
        }
        self.told = committed.is_err();
        committed.is_ok()
    }

    fn write_missing(&mut self, now: OffsetDateTime) -> Result<(), AuditError> {
        if self.lost == 0 {
            return Ok(());
        }
        // Not before there is room to go on: between two lines that are lost nothing is won by saying so.
        self.reserve()?;
        let why = "these lines could not be written: the disk was full or failed, or the log was removed".to_owned();
        self.write(&Event { count: Some(self.lost), ..Event::of_log("lines-lost", why) }, now)?;
        tracing::info!(lines = self.lost, "the audit log is written again");
        self.lost = 0;
        Ok(())
    }

    fn write(&mut self, event: &Event, now: OffsetDateTime) -> Result<(), AuditError> {
        // The numbers give the order; but who reads the times must be told that they do not.
        if let Some(back) = self.last_time.map(|last| last - now).filter(|back| *back > CLOCK_BACK) {
            let why = format!("the clock was put back by {} s", back.whole_seconds());
            self.write_line(&Event::of_log("clock-back", why), now)?;
        }
        self.write_line(event, now)
    }

    fn write_line(&mut self, event: &Event, now: OffsetDateTime) -> Result<(), AuditError> {
        let time = now.format(&Rfc3339).unwrap_or_default();
        let body = event.body(self.at.seq + 1, &time)?;
        let behind = self.at.then(&body);
        let line = behind.seal(&body);
        if self.is_full(line.len(), now.date())
            && let Err(error) = self.begin_file()
        {
            // A file that grows too large is better than a line that is lost.
            tracing::error!(%error, "no new file of the audit log could be begun");
        }
        if self.half_written {
            self.file.set_len(self.length).map_err(self.failed())?;
        }
        self.half_written = true;
        self.file.write_all_at(line.as_bytes(), self.length).map_err(self.failed())?;
        self.half_written = false;
        self.length += line.len() as u64;
        self.first.get_or_insert((behind.seq, Some(now.date())));
        (self.at, self.last_time) = (behind, Some(now));
        Ok(())
    }

    /// Whether a line of this length must begin a file: the size, or a new day. A clock that is put back begins none.
    fn is_full(&self, bytes: usize, today: Date) -> bool {
        let Some((_, day)) = self.first else { return false };
        self.length + bytes as u64 > self.limits.file_bytes || day.is_some_and(|day| today > day)
    }

    fn begin_file(&mut self) -> Result<(), AuditError> {
        let Some((first, _)) = self.first else { return Ok(()) };
        let (path, next) = (files::active(&self.dir), files::next(&self.dir));
        // Whatever stands behind the lines goes, and the room that was reserved.
        self.file.set_len(self.length).and_then(|()| self.file.sync_all()).map_err(io_error(&path))?;
        // The new file first: making it may fail, renaming hardly can.
        let file = keyfile::open_secret(&next)?;
        file.set_len(0).map_err(io_error(&next))?;
        fs::rename(&path, files::old(&self.dir, first)).map_err(io_error(&path))?;
        fs::rename(&next, &path).map_err(io_error(&next))?;
        (self.file, self.length, self.reserved) = (file, 0, 0);
        (self.first, self.half_written) = (None, false);
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(io_error(&self.dir))?;
        self.remove_oldest()
    }

    /// Removes what is more than is kept. The head knows it before it is gone: a crash in between looks like nothing.
    fn remove_oldest(&mut self) -> Result<(), AuditError> {
        let old = files::list_old(&self.dir).map_err(io_error(&self.dir))?;
        let (mut files, mut bytes) = (0, 0);
        for (_, path) in old.iter().rev() {
            let about = fs::metadata(path).map_err(io_error(path))?;
            (files, bytes) = (files + 1, bytes + about.len());
            if files <= self.limits.files_kept && bytes <= self.limits.bytes_kept {
                continue;
            }
            let mut file = File::open(path).map_err(io_error(path))?;
            let last = files::ends(&mut file).map_err(io_error(path))?.last;
            if let Some(line) = last.as_deref().and_then(parse)
                && line.at.seq > self.marks.base.seq
            {
                self.marks.base = line.at;
                self.head.write(&self.marks)?;
            }
            fs::remove_file(path).map_err(io_error(path))?;
        }
        Ok(())
    }

    fn reserve(&mut self) -> Result<(), AuditError> {
        use rustix::{fs::FallocateFlags, io::Errno};
        if self.reserved >= self.length + RESERVE_BYTES / 2 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.length, RESERVE_BYTES) {
            // A file system that reserves nothing says that it is full when it is.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.reserved = self.length + RESERVE_BYTES,
            Err(errno) => return Err(self.failed()(errno.into())),
        }
        Ok(())
    }

    fn failed(&self) -> impl FnOnce(io::Error) -> AuditError + use<> {
        io_error(&files::active(&self.dir))
    }
}

#[cfg(test)]
mod tests;
