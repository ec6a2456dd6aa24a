//! The head: a small file beside the log that remembers how far the log has come, and where the kept part begins.
//!
//! A log alone cannot show that its last lines were cut off: what is left is a good chain. The head, written after each
//! batch of lines is on the disk, says which line was the last. It is never ahead of what was synced, so that a machine
//! that lost its power is not taken for somebody who cut the log.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{AuditError, chain::Position, io_error};
use crate::trust::keyfile;

/// Reads of a head that is just being written, until two agree.
const READS_MAX: usize = 16;

/// What the head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    /// The last line.
    pub(super) last: Position,
    /// The line before the first that is kept; older ones were removed.
    pub(super) base: Position,
}

pub(super) struct Head {
    path: PathBuf,
    file: File,
}

impl Head {
    pub(super) fn path(dir: &Path) -> PathBuf {
        dir.join("head")
    }

    /// Opens it for writing, and makes it; `None` if there was none or it cannot be read.
    pub(super) fn open(dir: &Path) -> Result<(Self, Option<Marks>), AuditError> {
        let path = Self::path(dir);
        let file = keyfile::open_secret(&path)?;
        let marks = read(&file).map_err(io_error(&path))?;
        Ok((Self { path, file }, marks))
    }

    /// In place: it needs no room on a full disk, and the fixed width leaves nothing of what was there before.
    pub(super) fn write(&self, marks: &Marks) -> Result<(), AuditError> {
        self.file.write_all_at(encode(marks).as_bytes(), 0).map_err(io_error(&self.path))
    }

    /// What the head of `dir` says at the moment; `None` if there is none or it cannot be understood.
    pub(super) fn marks(dir: &Path) -> Result<Option<Marks>, AuditError> {
        let path = Self::path(dir);
        match File::open(&path) {
            Ok(file) => read(&file).map_err(io_error(&path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(&path)(error)),
        }
    }
}

fn encode(Marks { last, base }: &Marks) -> String {
    let hex = |position: &Position| data_encoding::HEXLOWER.encode(&position.hash);
    format!("last {:020} {} base {:020} {}\n", last.seq, hex(last), base.seq, hex(base))
}

fn read(file: &File) -> io::Result<Option<Marks>> {
    let mut before = None;
    for _ in 0..READS_MAX {
        let mut bytes = [0; 256];
        let length = file.read_at(&mut bytes, 0)?;
        let now = bytes.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok()).and_then(decode);
        if length == 0 || (now.is_some() && now == before) {
            return Ok(now);
        }
        before = now;
    }
    Ok(None)
}

fn decode(text: &str) -> Option<Marks> {
    let words: Vec<&str> = text.strip_suffix('\n')?.split(' ').collect();
    let position = |seq: &str, hash: &str| {
        let hash = data_encoding::HEXLOWER.decode(hash.as_bytes()).ok()?.try_into().ok()?;
        Some(Position { seq: seq.parse().ok()?, hash })
    };
    match words.as_slice() {
        ["last", last, last_hash, "base", base, base_hash] => {
            Some(Marks { last: position(last, last_hash)?, base: position(base, base_hash)? })
        }
        _ => None,
    }
}
