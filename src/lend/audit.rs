//! Who did what, and by which rule: JSON lines, each chained to the one before it by SHA-256.
//!
//! ```text
//!   {"seq":7,"time":"…","event":"tcp-connect", … ,"hash":H7}     H7 = SHA-256(H6 ‖ the line up to `,"hash"`)
//! ```
//! A line that is changed, left out or put in breaks the chain; [`verify`] finds where. One thread writes, fed by a
//! bounded queue: who asks waits for the log rather than outruns it.
//!
//! # Security
//! Never logged: passwords, invitations, tickets, keys, contents. Text from a peer is cut at [`FIELD_BYTES_MAX`] and its
//! control bytes are escaped by JSON.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Serialize;
use tokio::sync::mpsc;

use crate::trust::{keyfile, proof::sha256};

/// Longest text in one field, in bytes.
pub(super) const FIELD_BYTES_MAX: usize = 4096;
/// Events that may wait to be written.
const QUEUE: usize = 1024;
/// The hash before the first line.
const GENESIS: [u8; 32] = [0; 32];

/// Why there is no audit log.
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
    /// The folder is too open.
    #[error(transparent)]
    Folder(#[from] keyfile::KeyFileError),
    /// The chain is broken.
    #[error("{}:{line}: {why}", .path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The first line that does not fit.
        line: u64,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// One event; fields that do not apply are left out.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Event {
    pub(super) event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) serial: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verdict: Option<&'static str>,
    /// How a user logged in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<String>,
    /// Why not, or why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) why: Option<String>,
    /// From the borrower, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes_in: Option<u64>,
    /// To the borrower, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes_out: Option<u64>,
}

#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    time: String,
    #[serde(flatten)]
    event: &'a Event,
}

/// The log of a running lender.
#[derive(Clone)]
pub(super) struct Audit {
    event_tx: mpsc::Sender<Event>,
    healthy: Arc<AtomicBool>,
}

impl Audit {
    /// Opens the log in `dir`, and goes on with its chain.
    pub(super) fn open(dir: &Path) -> Result<Self, AuditError> {
        keyfile::create_dir(dir)?;
        let mut chain = Chain::open(dir.join("audit.jsonl"))?;
        let (event_tx, mut event_rx) = mpsc::channel::<Event>(QUEUE);
        let healthy = Arc::new(AtomicBool::new(true));
        let writer = healthy.clone();
        // A thread and not a task: a slow disk must not hold a worker. It ends when the last sender is gone.
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || {
                while let Some(event) = event_rx.blocking_recv() {
                    let result = chain.append(&event);
                    if let Err(error) = &result {
                        tracing::error!(%error, event = event.event, "an audit line could not be written");
                    }
                    writer.store(result.is_ok(), Ordering::Relaxed);
                }
            })
            .map_err(|source| AuditError::Io { path: dir.to_owned(), source })?;
        Ok(Self { event_tx, healthy })
    }

    /// Writes an event; waits while the queue is full.
    pub(super) async fn log(&self, event: Event) {
        // The writer lives as long as a sender does.
        let _ = self.event_tx.send(event).await;
    }

    /// `false` while lines cannot be written: nothing new may begin then.
    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }
}

struct Chain {
    path: PathBuf,
    file: File,
    seq: u64,
    hash: [u8; 32],
    /// Length of all whole lines.
    length: u64,
}

impl Chain {
    fn open(path: PathBuf) -> Result<Self, AuditError> {
        let io = |source| AuditError::Io { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(keyfile::SECRET_MODE)
            .open(&path)
            .map_err(io)?;
        let (length, last) = last_line(&mut file).map_err(io)?;
        // A crash may have cut the last line; what is whole before it stands.
        file.set_len(length).map_err(io)?;
        let (seq, hash) = match last {
            None => (0, GENESIS),
            Some(line) => parse(&line).map(|parsed| (parsed.seq, parsed.hash)).ok_or(AuditError::Broken {
                path: path.clone(),
                line: 0,
                why: "the last line is no audit line; move the file away to begin a new chain",
            })?,
        };
        Ok(Self { path, file, seq, hash, length })
    }

    fn append(&mut self, event: &Event) -> Result<(), AuditError> {
        let io = |source| AuditError::Io { path: self.path.clone(), source };
        let event = shortened(event.clone());
        let time = time::OffsetDateTime::now_utc();
        let time = time.format(&time::format_description::well_known::Rfc3339).unwrap_or_default();
        let text = serde_json::to_string(&Line { seq: self.seq + 1, time, event: &event }).map_err(|e| io(e.into()))?;
        let body = text.strip_suffix('}').unwrap_or(&text);
        let hash = link(&self.hash, body);
        let line = format!("{body}{HASH_KEY}{}\"}}\n", data_encoding::HEXLOWER.encode(&hash));
        if let Err(source) = self.file.write_all(line.as_bytes()) {
            // Half a line would break the chain for good.
            let _ = self.file.set_len(self.length);
            return Err(io(source));
        }
        self.length += line.len() as u64;
        (self.seq, self.hash) = (self.seq + 1, hash);
        Ok(())
    }
}

/// Checks the whole chain of a log and gives the number of its lines.
///
/// # Errors
/// The first line that was changed, left out or put in.
pub fn verify(dir: &Path) -> Result<u64, AuditError> {
    let path = dir.join("audit.jsonl");
    let io = |source| AuditError::Io { path: path.clone(), source };
    let (mut seq, mut hash) = (0, GENESIS);
    for line in BufReader::new(File::open(&path).map_err(io)?).lines() {
        let line = line.map_err(io)?;
        let broken = |why| AuditError::Broken { path: path.clone(), line: seq + 1, why };
        let parsed = parse(&line).ok_or_else(|| broken("it is no audit line"))?;
        if parsed.seq != seq + 1 {
            return Err(broken("its number does not follow the line before it"));
        }
        if parsed.hash != link(&hash, parsed.body) {
            return Err(broken("its hash does not follow from it and the line before it"));
        }
        (seq, hash) = (parsed.seq, parsed.hash);
    }
    Ok(seq)
}

fn link(before: &[u8; 32], body: &str) -> [u8; 32] {
    sha256(&[before, body.as_bytes()].concat())
}

const HASH_KEY: &str = ",\"hash\":\"";

struct Parsed<'a> {
    seq: u64,
    hash: [u8; 32],
    /// The line up to its hash: what the hash is over.
    body: &'a str,
}

fn parse(line: &str) -> Option<Parsed<'_>> {
    let (body, hash) = line.strip_suffix("\"}")?.rsplit_once(HASH_KEY)?;
    let hash = data_encoding::HEXLOWER.decode(hash.as_bytes()).ok()?.try_into().ok()?;
    let seq = body.strip_prefix("{\"seq\":")?.split(',').next()?.parse().ok()?;
    Some(Parsed { seq, hash, body })
}

/// The length of all whole lines, and the last of them.
fn last_line(file: &mut File) -> io::Result<(u64, Option<String>)> {
    /// More than the longest line can have.
    const TAIL: u64 = 256 * 1024;
    let end = file.seek(SeekFrom::End(0))?;
    let from = file.seek(SeekFrom::Start(end.saturating_sub(TAIL)))?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail)?;
    let Some(newline) = tail.iter().rposition(|byte| *byte == b'\n') else { return Ok((from, None)) };
    let whole = tail.get(..newline).unwrap_or_default();
    let line = whole.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok((from + newline as u64 + 1, Some(String::from_utf8_lossy(line).into_owned())))
}

fn shortened(mut event: Event) -> Event {
    let texts = [&mut event.peer, &mut event.target, &mut event.rule, &mut event.why];
    for text in texts.into_iter().flatten() {
        let mut end = text.len().min(FIELD_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(why: &str) -> Event {
        Event { event: "login", why: Some(why.to_owned()), ..Event::default() }
    }

    fn written(dir: &Path) -> String {
        std::fs::read_to_string(dir.join("audit.jsonl")).unwrap()
    }

    #[test]
    fn the_chain_goes_on_after_a_restart_and_after_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        Chain::open(path.clone()).unwrap().append(&event("one")).unwrap();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"seq\":2,\"ti").unwrap();
        let mut chain = Chain::open(path).unwrap();
        chain.append(&event("two")).unwrap();
        chain.append(&event("three")).unwrap();
        assert_eq!(verify(dir.path()).unwrap(), 3);
    }

    #[test]
    fn a_line_that_is_changed_left_out_or_put_in_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut chain = Chain::open(path.clone()).unwrap();
        for why in ["one", "two", "three"] {
            chain.append(&event(why)).unwrap();
        }
        let whole = written(dir.path());
        let lines: Vec<&str> = whole.lines().collect();
        for (forged, broken_at) in [
            (whole.replace("two", "owt"), 2),
            ([lines[0], lines[2]].join("\n"), 2),
            ([lines[0], lines[0], lines[1]].join("\n"), 2),
            (lines[1].to_owned(), 1),
        ] {
            std::fs::write(&path, forged).unwrap();
            let error = verify(dir.path()).unwrap_err();
            assert!(matches!(error, AuditError::Broken { line, .. } if line == broken_at), "{error}");
        }
    }

    #[test]
    fn text_of_a_peer_cannot_begin_a_line_or_fill_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let mut chain = Chain::open(dir.path().join("audit.jsonl")).unwrap();
        chain.append(&event("a\n{\"seq\":9}\u{1b}[2J")).unwrap();
        chain.append(&event(&"x".repeat(1 << 20))).unwrap();
        let text = written(dir.path());
        assert_eq!(text.lines().count(), 2);
        assert!(!text.contains('\u{1b}') && text.len() < 10_000);
        assert_eq!(verify(dir.path()).unwrap(), 2);
    }
}
