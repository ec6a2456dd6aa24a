//! The files of the log: one that is written to, and older ones, named by the number of their first line.
//!
//! `audit.jsonl` is always the newest; `audit-000000000501.jsonl` begins with line 501. The numbers, and not days or the
//! files' own times, give the order: a clock that is put back changes nothing.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// More than the longest line can have, in bytes: nine fields of 4 KiB and their names.
pub(super) const LINE_BYTES_MAX: u64 = 64 * 1024;

/// The file that is written to.
pub(super) fn active(dir: &Path) -> PathBuf {
    dir.join("audit.jsonl")
}

/// The file that will be written to, while it is being made.
pub(super) fn next(dir: &Path) -> PathBuf {
    dir.join("audit.next")
}

/// A file that is full, by the number of its first line.
pub(super) fn old(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("audit-{first:012}.jsonl"))
}

/// All full files with the number of their first line, oldest first.
pub(super) fn list_old(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let number = name.strip_prefix("audit-").and_then(|name| name.strip_suffix(".jsonl"));
        if let Some(first) = number.and_then(|number| number.parse().ok()) {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The ends of a file.
pub(super) struct Ends {
    pub(super) first: Option<String>,
    pub(super) last: Option<String>,
    /// Length of all whole lines, in bytes.
    pub(super) whole: u64,
    /// Bytes of a line behind them that was cut short.
    pub(super) torn: u64,
}

/// Finds the first and the last whole line.
pub(super) fn ends(file: &mut File) -> io::Result<Ends> {
    let end = file.seek(SeekFrom::End(0))?;
    let from = end.saturating_sub(2 * LINE_BYTES_MAX);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(2 * LINE_BYTES_MAX).read_to_end(&mut tail)?;
    let newline = tail.iter().rposition(|byte| *byte == b'\n');
    if newline.is_none() && from > 0 {
        // Not a line that a crash cut short: cutting this would destroy what somebody else put here.
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it does not end in lines"));
    }
    let whole = newline.map_or(0, |newline| from + newline as u64 + 1);
    let last = newline.map(|newline| {
        let lines = tail.get(..newline).unwrap_or_default();
        String::from_utf8_lossy(lines.rsplit(|byte| *byte == b'\n').next().unwrap_or_default()).into_owned()
    });
    file.seek(SeekFrom::Start(0))?;
    let first = if whole == 0 { None } else { Lines::new(file.try_clone()?).next()? };
    Ok(Ends { first, last, whole, torn: end - whole })
}

/// Reads whole lines of a file that may still grow.
pub(super) struct Lines {
    reader: BufReader<File>,
    partial: Vec<u8>,
}

impl Lines {
    pub(super) fn new(file: File) -> Self {
        Self { reader: BufReader::new(file), partial: Vec::new() }
    }

    pub(super) fn file(&self) -> &File {
        self.reader.get_ref()
    }

    /// The next line without its newline; `None` at the end, where a line that is not whole waits for its rest.
    pub(super) fn next(&mut self) -> io::Result<Option<String>> {
        use io::BufRead;
        let room = LINE_BYTES_MAX.saturating_sub(self.partial.len() as u64);
        (&mut self.reader).take(room).read_until(b'\n', &mut self.partial)?;
        if self.partial.last() == Some(&b'\n') {
            self.partial.pop();
            return Ok(self.rest());
        }
        // A line without an end is nothing that this log wrote; it is given as it is, in pieces.
        if self.partial.len() as u64 >= LINE_BYTES_MAX { Ok(self.rest()) } else { Ok(None) }
    }

    /// What stands behind the last newline, if anything.
    pub(super) fn rest(&mut self) -> Option<String> {
        let bytes = std::mem::take(&mut self.partial);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whether something stands behind the last newline.
    pub(super) fn is_torn(&self) -> bool {
        !self.partial.is_empty()
    }
}
