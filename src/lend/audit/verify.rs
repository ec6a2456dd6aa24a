//! Proves that the log is whole, as far as it can be proven: every kept line follows from the one before it, the first
//! from the head's base, and the last is not before the head's.

use std::path::Path;

use super::{
    AuditError, AuditReader,
    chain::{Position, parse},
    files,
    head::{Head, Marks},
};

/// A log that was found whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditProof {
    /// Lines that are kept.
    pub lines: u64,
    /// The number of the last.
    pub last: u64,
    /// Its hash, in hexadecimal digits; whoever keeps it elsewhere can later ask whether the log still has this line.
    pub hash: String,
}

/// Checks the whole chain of a log, over all its files, and gives the number of its lines.
///
/// # Errors
/// As [`prove`].
pub fn verify(dir: &Path) -> Result<u64, AuditError> {
    prove(dir).map(|proof| proof.lines)
}

/// Checks the whole chain of a log, over all its files. Works beside a running lender.
///
/// # Errors
/// [`AuditError::Broken`] with the first line that was changed, left out, put in or cut off.
pub fn prove(dir: &Path) -> Result<AuditProof, AuditError> {
    // Before the lines: what the head knows by now must be in what is read afterwards.
    let head = Head::marks(dir)?;
    let mut log = AuditReader::open(dir)?;
    let (mut at, mut lines) = (None, 0);
    let (mut path, mut number) = (files::active(dir), 0);
    while let Some(line) = log.next_line()? {
        (path, number) = (line.path.to_path_buf(), line.number);
        let broken =
            |why: &str| AuditError::Broken { path: line.path.to_path_buf(), line: line.number, why: why.into() };
        let parsed = parse(&line.text).ok_or_else(|| broken("it is no line of this log, or only a part of one"))?;
        let before: Option<Position> = match at {
            Some(at) => Some(at),
            None => begin(dir, head, parsed.at.seq).map_err(&broken)?,
        };
        if before.is_some_and(|before| parsed.at.seq != before.seq + 1) {
            return Err(broken("its number does not follow the line before it"));
        }
        if before.is_some_and(|before| before.then(parsed.body) != parsed.at) {
            return Err(broken("its hash does not follow from it and the line before it"));
        }
        let marked = head.iter().flat_map(|Marks { last, base }| [last, base]).find(|mark| mark.seq == parsed.at.seq);
        if marked.is_some_and(|mark| *mark != parsed.at) {
            return Err(broken("it is not the line that was written here"));
        }
        (at, lines) = (Some(parsed.at), lines + 1);
    }
    let last = at.unwrap_or(Position::GENESIS);
    match head {
        Some(Marks { last: head, .. }) if head.seq > last.seq => {
            let why = format!("the lines {} to {} are missing", last.seq + 1, head.seq);
            Err(AuditError::Broken { path, line: number + 1, why })
        }
        // A lender writes the head before any line.
        None if lines == 0 => {
            let why = "it is missing or broken, and there is no line: the log was removed, or never begun".to_owned();
            Err(AuditError::Broken { path: Head::path(dir), line: 1, why })
        }
        None => {
            let why = "it is missing or broken: whether the end of the log was cut off cannot be said".to_owned();
            Err(AuditError::Broken { path: Head::path(dir), line: 1, why })
        }
        _ => Ok(AuditProof { lines, last: last.seq, hash: data_encoding::HEXLOWER.encode(&last.hash) }),
    }
}

/// What the first kept line must follow; `None` if that cannot be known, because a crash left files that the head knows to
/// be removed: the chain must then come by the base.
fn begin(dir: &Path, head: Option<Marks>, first: u64) -> Result<Option<Position>, &'static str> {
    if first == 1 {
        return Ok(Some(Position::GENESIS));
    }
    // And anew: old files may have been removed since the verification began.
    let marks = head.into_iter().chain(Head::marks(dir).ok().flatten());
    let bases: Vec<Position> = marks.map(|marks| marks.base).collect();
    match bases.iter().find(|base| base.seq + 1 == first) {
        Some(base) => Ok(Some(*base)),
        None if bases.iter().any(|base| base.seq >= first) => Ok(None),
        None => Err("the lines before it are missing"),
    }
}
