//! The chain: each line's hash is over the line and the hash before it.
//!
//! ```text
//!   {"seq":7,"time":"…","event":"tcp-connect", … ,"hash":H7}     H7 = SHA-256(H6 ‖ the line up to `,"hash"`)
//! ```

use crate::trust::proof::sha256;

const HASH_KEY: &str = ",\"hash\":\"";

/// A place in the chain: the number and the hash of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) seq: u64,
    pub(super) hash: [u8; 32],
}

impl Position {
    /// Before the first line.
    pub(super) const GENESIS: Self = Self { seq: 0, hash: [0; 32] };

    /// The place behind a line with this body.
    pub(super) fn then(&self, body: &str) -> Self {
        Self { seq: self.seq + 1, hash: sha256(&[&self.hash[..], body.as_bytes()].concat()) }
    }

    /// The whole line with this body, whose place this is.
    pub(super) fn seal(&self, body: &str) -> String {
        format!("{body}{HASH_KEY}{}\"}}\n", data_encoding::HEXLOWER.encode(&self.hash))
    }
}

/// What a line says of itself.
pub(super) struct Parsed<'a> {
    /// Where it says that it stands.
    pub(super) at: Position,
    /// When it was written, as it says.
    pub(super) time: &'a str,
    /// The line up to its hash: what the hash is over.
    pub(super) body: &'a str,
}

/// `None`: not a line of this log.
pub(super) fn parse(line: &str) -> Option<Parsed<'_>> {
    let (body, hash) = line.strip_suffix("\"}")?.rsplit_once(HASH_KEY)?;
    let hash = data_encoding::HEXLOWER.decode(hash.as_bytes()).ok()?.try_into().ok()?;
    let (seq, rest) = body.strip_prefix("{\"seq\":")?.split_once(",\"time\":\"")?;
    let (time, _) = rest.split_once('"')?;
    Some(Parsed { at: Position { seq: seq.parse().ok()?, hash }, time, body })
}
