//! Reads the log from its oldest line to its newest, and on, as it grows: beside a running lender and without one.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    AuditError,
    chain::parse,
    files::{self, Lines},
    io_error,
};
use crate::lend::folder_watch::{FolderWatch, WatchFlags};

/// One line, and where it stands.
#[derive(Clone, Debug)]
pub struct AuditLine {
    /// The file, as it was called when it was opened.
    pub path: Arc<Path>,
    /// Counted from 1 in its file.
    pub number: u64,
    /// The line without its newline: JSON, if the lender wrote it.
    pub text: String,
}

/// The log in a folder, read line by line.
pub struct AuditReader {
    dir: PathBuf,
    current: Option<Current>,
    /// The highest number that was read: what follows stands in a file that begins behind it.
    passed: u64,
}

struct Current {
    lines: Lines,
    path: Arc<Path>,
    number: u64,
}

impl AuditReader {
    /// Begins with the oldest line.
    ///
    /// # Errors
    /// If there is no log.
    pub fn open(dir: &Path) -> Result<Self, AuditError> {
        files::list_old(dir).map_err(io_error(dir))?;
        Ok(Self { dir: dir.to_owned(), current: None, passed: 0 })
    }

    /// The next line; `None` at the end, which may move.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn next_line(&mut self) -> Result<Option<AuditLine>, AuditError> {
        loop {
            if let Some(current) = &mut self.current {
                if let Some(line) = current.next()? {
                    return Ok(Some(self.pass(line)));
                }
                if current.is_active(&self.dir)? {
                    return Ok(None);
                }
                // It was renamed; between our reading and that, its last lines may have come.
                if let Some(line) = current.next()? {
                    return Ok(Some(self.pass(line)));
                }
                if let Some(rest) = current.torn() {
                    return Ok(Some(rest));
                }
            }
            match self.open_next()? {
                Some(next) => self.current = Some(next),
                None => return Ok(None),
            }
        }
    }

    fn pass(&mut self, line: AuditLine) -> AuditLine {
        if let Some(parsed) = parse(&line.text) {
            self.passed = self.passed.max(parsed.at.seq);
        }
        line
    }

    /// The oldest file behind what was read; `None` in the moment in which the newest has no name, or its folder was moved away
    /// and the lender has not begun another.
    fn open_next(&mut self) -> Result<Option<Current>, AuditError> {
        let old = match files::list_old(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            old => old.map_err(io_error(&self.dir))?,
        };
        let next = old.into_iter().find(|(first, _)| *first > self.passed);
        let path = match next {
            Some((first, path)) => {
                // Even if no line in it can be read, it is not to be read again.
                self.passed = first;
                path
            }
            None => files::active(&self.dir),
        };
        match File::open(&path) {
            Ok(file) => Ok(Some(Current { lines: Lines::new(file), path: path.into(), number: 0 })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(&path)(error)),
        }
    }
}

impl Current {
    fn next(&mut self) -> Result<Option<AuditLine>, AuditError> {
        let text = self.lines.next().map_err(io_error(&self.path))?;
        Ok(text.map(|text| self.line(text)))
    }

    fn torn(&mut self) -> Option<AuditLine> {
        let text = self.lines.is_torn().then(|| self.lines.rest()).flatten()?;
        Some(self.line(text))
    }

    fn line(&mut self, text: String) -> AuditLine {
        self.number += 1;
        AuditLine { path: self.path.clone(), number: self.number, text }
    }

    /// Whether it is the file that is written to.
    fn is_active(&self, dir: &Path) -> Result<bool, AuditError> {
        let path = files::active(dir);
        let ours = self.lines.file().metadata().map_err(io_error(&path))?;
        match std::fs::metadata(&path) {
            Ok(active) => Ok((active.dev(), active.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_error(&path)(error)),
        }
    }
}

/// Tells when a log may have grown.
pub struct AuditWatch {
    dir: PathBuf,
    watch: FolderWatch,
}

impl AuditWatch {
    /// Watches from now on: made before the log is read, it misses nothing. Needs a tokio runtime.
    ///
    /// # Errors
    /// If the kernel gives no more watches.
    pub fn new(dir: &Path) -> Result<Self, AuditError> {
        let flags = WatchFlags::MODIFY | WatchFlags::MOVED_TO | WatchFlags::CREATE;
        let watch = FolderWatch::new(dir, flags).map_err(io_error(dir))?;
        Ok(Self { dir: dir.to_owned(), watch })
    }

    /// Ready when something was written since the last time.
    ///
    /// # Errors
    /// If the kernel ends the watch.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn changed(&mut self) -> Result<(), AuditError> {
        // Whatever has changed: it is in several files.
        self.watch.changed(None).await.map(drop).map_err(io_error(&self.dir))
    }
}
