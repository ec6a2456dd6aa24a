//! Takes TOML values apart, and says by file and line what does not fit.

use std::{fmt::Display, ops::Range, sync::Arc};

use toml::{
    Spanned,
    de::{DeString, DeTable, DeValue},
};

use super::{
    problem::{PolicyError, Problem},
    refusal::Origin,
};

/// Most patterns and names in one file: each may be compared with every address of every request.
pub const PATTERNS_MAX: usize = 10_000;

/// Longest single text, in bytes: PATH_MAX of Linux without its NUL. It also keeps an error that quotes one readable.
const TEXT_BYTES_MAX: usize = 4095;

pub(super) type Key<'t> = Spanned<DeString<'t>>;
pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// One file being read: its name, its lines, and how many patterns it may still hold.
pub(super) struct Reader<'a> {
    file: &'a str,
    shared_file: Arc<str>,
    newlines: Vec<usize>,
    patterns_left: usize,
}

/// A pattern that was read, and where, to be shown when it decides.
#[derive(Clone, Debug)]
pub(super) struct Entry<T> {
    pub value: T,
    pub origin: Origin,
    /// The value as a policy writes it.
    pub text: String,
}

impl<'a> Reader<'a> {
    pub fn new(text: &str, file: &'a str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect();
        Self { file, shared_file: file.into(), newlines, patterns_left: PATTERNS_MAX }
    }

    pub fn error(&self, span: Range<usize>, problem: Problem) -> PolicyError {
        PolicyError { file: self.file.to_owned(), line: self.line(&span), problem }
    }

    pub fn bad_value(&self, value: &Value<'_>, key: &'static str, message: impl Display) -> PolicyError {
        self.error(value.span(), Problem::BadValue { key, message: message.to_string() })
    }

    pub fn unknown_key(
        &self,
        key: &Key<'_>,
        place: &'static str,
        valid: impl Iterator<Item = &'static str> + Clone,
    ) -> PolicyError {
        self.error(key.span(), Problem::unknown_key(key.get_ref(), place, valid))
    }

    pub fn missing_key(&self, span: Range<usize>, key: &'static str, place: &'static str) -> PolicyError {
        self.error(span, Problem::MissingKey { key, place })
    }

    /// The line that a span begins in, from 1.
    pub fn line(&self, span: &Range<usize>) -> u32 {
        u32::try_from(self.newlines.partition_point(|newline| *newline < span.start) + 1).unwrap_or(u32::MAX)
    }

    /// Where a value stands.
    pub fn origin(&self, value: &Value<'_>) -> Origin {
        Origin::File { file: self.shared_file.clone(), line: self.line(&value.span()) }
    }

    pub fn table<'t, 'v>(&self, value: &'v Value<'t>, key: &'static str) -> Result<&'v DeTable<'t>, PolicyError> {
        value.get_ref().as_table().ok_or_else(|| self.bad_value(value, key, "write a table"))
    }

    /// The blocks of `[[key]]`.
    pub fn tables<'t, 'v>(&self, value: &'v Value<'t>, key: &'static str) -> Result<Vec<Block<'t, 'v>>, PolicyError> {
        let blocks =
            value.get_ref().as_array().ok_or_else(|| self.bad_value(value, key, format!("write [[{key}]]")))?;
        blocks.iter().map(|block| Ok((block.span(), self.table(block, key)?))).collect()
    }

    pub fn flag(&self, value: &Value<'_>, key: &'static str) -> Result<bool, PolicyError> {
        value.get_ref().as_bool().ok_or_else(|| self.bad_value(value, key, "write true or false"))
    }

    /// A whole number above zero.
    pub fn count(&self, value: &Value<'_>, key: &'static str) -> Result<u32, PolicyError> {
        let integer = value.get_ref().as_integer();
        integer
            .and_then(|it| u32::from_str_radix(it.as_str(), it.radix()).ok())
            .filter(|count| *count > 0)
            .ok_or_else(|| self.bad_value(value, key, format!("write a whole number from 1 to {}", u32::MAX)))
    }

    pub fn string<T, E: Display>(
        &mut self,
        value: &Value<'_>,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Entry<T>, PolicyError> {
        let Some(text) = value.get_ref().as_str() else {
            return Err(self.bad_value(value, key, "write a text in quotes"));
        };
        let Some(left) = self.patterns_left.checked_sub(1) else {
            return Err(self.error(value.span(), Problem::TooManyPatterns { limit: PATTERNS_MAX }));
        };
        self.patterns_left = left;
        if text.len() > TEXT_BYTES_MAX {
            return Err(self.bad_value(value, key, format!("a text has at most {TEXT_BYTES_MAX} bytes")));
        }
        let parsed = parse(text).map_err(|message| self.bad_value(value, key, message))?;
        Ok(Entry { value: parsed, origin: self.origin(value), text: format!("{text:?}") })
    }

    /// One text, or a list of them.
    pub fn strings<T, E: Display>(
        &mut self,
        value: &Value<'_>,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<Entry<T>>, PolicyError> {
        match value.get_ref() {
            DeValue::Array(items) => items.iter().map(|item| self.string(item, key, &parse)).collect(),
            _ => Ok(vec![self.string(value, key, parse)?]),
        }
    }
}

/// A table of an array of tables, and the span of its header.
pub(super) type Block<'t, 'v> = (Range<usize>, &'v DeTable<'t>);
