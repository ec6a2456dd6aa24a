//! Opens the log where it was left: compares the end of its files with the head, and mends what a crash did to them.
//!
//! What somebody else did to them is not mended but told: the chain then goes on from the head, so that the gap stays for
//! [`verify`](super::verify) to find.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use time::{Date, OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    AuditError,
    chain::{Position, parse},
    files::{self, Ends},
    head::{Head, Marks},
    io_error,
};
use crate::trust::keyfile;

/// Whose lines stand behind what the head knows.
pub(super) enum Behind {
    /// Ours, if they follow from it: a crash came between them and the head.
    Crash,
    /// Somebody else's: the head was told of everything.
    Foreign,
}

/// A log that can be gone on with.
pub(super) struct Mended {
    pub(super) file: File,
    pub(super) head: Head,
    pub(super) marks: Marks,
    /// Where the chain goes on.
    pub(super) at: Position,
    /// Number and day of the first line in the file; none while it is empty.
    pub(super) first: Option<(u64, Option<Date>)>,
    /// When the last line was written.
    pub(super) last_time: Option<OffsetDateTime>,
    /// Length of all whole lines, in bytes.
    pub(super) length: u64,
    /// What was wrong, for the log to say.
    pub(super) found: Vec<String>,
}

impl Mended {
    /// Opens the log in `dir`, and makes it where there is none.
    pub(super) fn open(dir: &Path, behind: Behind) -> Result<Self, AuditError> {
        let is_new = !dir.exists();
        keyfile::create_dir(dir)?;
        let path = files::active(dir);
        let (head, marks) = Head::open(dir)?;
        let mut file = keyfile::open_secret(&path)?;
        let Ends { first, last, whole, torn } = files::ends(&mut file).map_err(io_error(&path))?;
        let (end, last_time) = end_of_log(dir, last)?;
        let headless = marks.is_none();
        let foreign = match (marks, behind) {
            (Some(marks), Behind::Crash) if marks.last.seq < end.seq => stranger_behind(dir, marks.last)?,
            (Some(marks), Behind::Foreign) if marks.last.seq < end.seq => Some(marks.last.seq + 1),
            _ => None,
        };
        let (marks, at, mut found) = reconcile(marks, end, is_new, foreign);
        if headless {
            // Before any line: a log without a head is one whose head was taken away.
            head.write(&marks)?;
        }
        if torn > 0 {
            // A crash cut the last line; what is whole before it stands.
            found.push(format!("the last line was cut short: {torn} bytes of it were dropped"));
            file.set_len(whole).map_err(io_error(&path))?;
        }
        let first = first.as_deref().and_then(parse).map(|line| (line.at.seq, instant(line.time).map(|t| t.date())));
        Ok(Self { file, head, marks, at, first, last_time, length: whole, found })
    }
}

/// Place and time of the newest line: `last`, or that of the newest full file.
fn end_of_log(dir: &Path, last: Option<String>) -> Result<(Position, Option<OffsetDateTime>), AuditError> {
    let newest = match last {
        Some(last) => Some((files::active(dir), last)),
        None => newest_old(dir)?,
    };
    let Some((path, line)) = newest else { return Ok((Position::GENESIS, None)) };
    let line = parse(&line).ok_or_else(|| AuditError::Foreign { path, dir: dir.to_owned() })?;
    Ok((line.at, instant(line.time)))
}

/// Compares the head with the end of the log; gives where the chain goes on, and what is wrong.
///
/// A log that ends before its head was cut, and one with a line of somebody else behind it, `foreign`, was put in its place.
fn reconcile(
    marks: Option<Marks>,
    end: Position,
    is_new: bool,
    foreign: Option<u64>,
) -> (Marks, Position, Vec<String>) {
    if let (Some(marks), Some(line)) = (marks, foreign) {
        let why = format!("line {line} is none that was written: it does not follow from line {}", marks.last.seq);
        return (marks, marks.last, vec![why]);
    }
    match marks {
        None if end.seq == 0 => {
            let why =
                "its folder was there with neither head nor line: whether a log was removed from it cannot be said";
            let found = if is_new { Vec::new() } else { vec![why.to_owned()] };
            (Marks { last: end, base: end }, end, found)
        }
        None => {
            let why = "its head was missing or broken; whether lines before this one are missing cannot be said";
            (Marks { last: end, base: Position::GENESIS }, end, vec![why.to_owned()])
        }
        Some(marks) if marks.last.seq > end.seq => {
            let why = format!("the lines {} to {} are missing", end.seq + 1, marks.last.seq);
            (marks, marks.last, vec![why])
        }
        Some(marks) if marks.last.seq == end.seq && marks.last.hash != end.hash => {
            (marks, marks.last, vec![format!("line {} is not the one that was written", end.seq)])
        }
        Some(marks) => (marks, end, Vec::new()),
    }
}

/// The first line behind `last` that does not follow from it, by its number.
fn stranger_behind(dir: &Path, last: Position) -> Result<Option<u64>, AuditError> {
    let old = files::list_old(dir).map_err(io_error(dir))?;
    // Of files that end before it nothing is read.
    let begins = old.iter().rposition(|(first, _)| *first <= last.seq + 1).unwrap_or(0);
    let paths = old.into_iter().skip(begins).map(|(_, path)| path).chain([files::active(dir)]);
    let mut at = last;
    for path in paths {
        let mut lines = files::Lines::new(File::open(&path).map_err(io_error(&path))?);
        while let Some(line) = lines.next().map_err(io_error(&path))? {
            match parse(&line) {
                Some(line) if line.at.seq <= last.seq => {}
                Some(line) if at.then(line.body) == line.at => at = line.at,
                _ => return Ok(Some(at.seq + 1)),
            }
        }
    }
    Ok(None)
}

/// The newest full file with its last line.
fn newest_old(dir: &Path) -> Result<Option<(PathBuf, String)>, AuditError> {
    let Some((_, path)) = files::list_old(dir).map_err(io_error(dir))?.pop() else { return Ok(None) };
    let ends = File::open(&path).and_then(|mut file| files::ends(&mut file)).map_err(io_error(&path))?;
    Ok(ends.last.map(|line| (path, line)))
}

fn instant(time: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(time, &Rfc3339).ok()
}
