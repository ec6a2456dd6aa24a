//! Names and numbers in a DNS message, read within its bounds.

use std::fmt::Write;

/// Most pointers in one name: a resolver writes one, and each takes time.
pub(super) const JUMPS_MAX: usize = 16;
/// Longest name on the wire, in bytes (RFC 1035 §2.3.4).
const NAME_BYTES_MAX: usize = 255;
/// Longest label, in bytes.
const LABEL_BYTES_MAX: usize = 63;

/// Reads a message from its beginning on.
pub(super) struct Cursor<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Self { message, at: 0 }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn is_at_end(&self) -> bool {
        self.at == self.message.len()
    }

    /// What was read from `from` on.
    pub fn since(&self, from: usize) -> Option<&'a [u8]> {
        self.message.get(from..self.at)
    }

    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let bytes = self.message.get(self.at..)?.get(..count)?;
        self.at += count;
        Some(bytes)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.take(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// A name without pointers, as a question has it.
    pub fn plain_name(&mut self) -> Option<String> {
        self.name_with(0)
    }

    /// A name; it may go on earlier in the message (RFC 1035 §4.1.4).
    pub fn name(&mut self) -> Option<String> {
        self.name_with(JUMPS_MAX)
    }

    fn name_with(&mut self, mut jumps: usize) -> Option<String> {
        let mut text = String::new();
        let mut length = 1;
        // Each jump goes back behind all that was read, so that no name runs in a circle.
        let mut reader = Cursor { message: self.message, at: self.at };
        let (mut begin, mut end) = (self.at, None);
        loop {
            let first = reader.u8()?;
            if first >= 0xc0 {
                let target = usize::from(first & 0x3f) << 8 | usize::from(reader.u8()?);
                end.get_or_insert(reader.at);
                jumps = jumps.checked_sub(1)?;
                if target >= begin {
                    return None;
                }
                (begin, reader.at) = (target, target);
                continue;
            }
            if first == 0 {
                self.at = end.unwrap_or(reader.at);
                return Some(text);
            }
            let label = usize::from(first);
            length += 1 + label;
            if label > LABEL_BYTES_MAX || length > NAME_BYTES_MAX {
                return None;
            }
            if !text.is_empty() {
                text.push('.');
            }
            reader.take(label)?.iter().for_each(|byte| push(&mut text, *byte));
        }
    }
}

/// Every byte has one spelling, so that two names are the same exactly when their texts are.
fn push(text: &mut String, byte: u8) {
    match byte.to_ascii_lowercase() {
        byte @ (b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_') => text.push(byte.into()),
        // Writing to memory does not fail.
        byte => drop(write!(text, "\\{byte:03}")),
    }
}

/// Writes a host name, or that of the root, which is empty; `None` if it is none.
pub(super) fn put(out: &mut Vec<u8>, name: &str) -> Option<()> {
    if name.len() + 2 > NAME_BYTES_MAX {
        return None;
    }
    if name.is_empty() {
        out.push(0);
        return Some(());
    }
    for label in name.split('.') {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !(1..=LABEL_BYTES_MAX).contains(&label.len()) || !label.bytes().all(fits) {
            return None;
        }
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    Some(())
}
