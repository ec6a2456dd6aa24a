//! What can be wrong with a policy file: where, what, and how to mend it.

/// A policy file that is not taken, with the place of a mistake. One line: `policy.toml:12: what and how to mend it`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub struct PolicyError {
    /// The file as the caller named it.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong in a policy file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The file is larger than [`POLICY_BYTES_MAX`](super::POLICY_BYTES_MAX).
    #[error("the file has {bytes} bytes, the limit is {limit}: use groups and CIDR patterns")]
    TooLarge {
        /// Size of the file.
        bytes: usize,
        /// Largest size taken.
        limit: usize,
    },
    /// The file holds more than [`PATTERNS_MAX`](super::PATTERNS_MAX) patterns and names.
    #[error("more than {limit} patterns and names: use groups, CIDR patterns and `*`")]
    TooManyPatterns {
        /// Largest number taken.
        limit: usize,
    },
    /// Not TOML.
    #[error("not TOML: {message}")]
    Syntax {
        /// What the TOML parser says, on one line.
        message: String,
    },
    /// A key that the grammar does not have in this place.
    #[error("unknown key {key:?} in {place}: {}", mend(nearest))]
    UnknownKey {
        /// The key.
        key: String,
        /// The table that it stands in.
        place: &'static str,
        /// The keys that were probably meant; all valid ones when none is close.
        nearest: Vec<&'static str>,
    },
    /// A key that a table needs.
    #[error("{place} needs a `{key}`")]
    MissingKey {
        /// The key.
        key: &'static str,
        /// The table that lacks it.
        place: &'static str,
    },
    /// A key with a value that it cannot have.
    #[error("`{key}`: {message}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// What is wrong, and what to write.
        message: String,
    },
    /// A `who` names a group that `[groups]` does not have.
    #[error("unknown group {group:?}: add `{group} = [\"alice\"]` to [groups]")]
    UnknownGroup {
        /// The group.
        group: String,
    },
    /// Two rules that name one user, and not the same `run_as`.
    #[error("{user} would run as {first} and as {second}: give all rules that name {user} the same `run_as`")]
    TwoRunAs {
        /// The user.
        user: String,
        /// What the first rule says.
        first: String,
        /// What this one says.
        second: String,
    },
    /// A `[[test]]` that the rules do not hold.
    #[error("test failed: {found}, but the test expects {expected:?}: change the rule or the test")]
    TestFailed {
        /// What was decided, and by which rule.
        found: String,
        /// The test's `expect`.
        expected: &'static str,
    },
}

impl Problem {
    /// `key` does not belong into `place`, whose keys are `valid`.
    pub(super) fn unknown_key(
        key: &str,
        place: &'static str,
        valid: impl Iterator<Item = &'static str> + Clone,
    ) -> Self {
        let key: String = key.chars().take(KEY_SHOWN_MAX).collect();
        let mut nearest: Vec<_> = valid.clone().filter(|it| distance(&key, it) <= TYPOS_MAX).collect();
        if nearest.is_empty() {
            nearest = valid.collect();
        }
        Self::UnknownKey { key, place, nearest }
    }
}

fn mend(nearest: &[&str]) -> String {
    match nearest {
        [one] => format!("did you mean `{one}`?"),
        several => format!("use one of `{}`", several.join("`, `")),
    }
}

/// Levenshtein's: letters to add, drop or change.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.chars().count()).collect();
    for (done, l) in left.chars().enumerate() {
        let (mut diagonal, mut before) = (done, done + 1);
        for (cell, r) in row.iter_mut().skip(1).zip(right.chars()) {
            let changed = diagonal + usize::from(l != r);
            diagonal = *cell;
            *cell = changed.min(diagonal + 1).min(before + 1);
            before = *cell;
        }
        if let Some(first) = row.first_mut() {
            *first = done + 1;
        }
    }
    row.last().copied().unwrap_or_default()
}

/// How much of a wrong key is shown, in characters: more than the longest right one.
const KEY_SHOWN_MAX: usize = 40;
/// A key with more wrong letters than this is another word, not a slip.
const TYPOS_MAX: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_letters_added_dropped_and_changed() {
        for (left, right, letters) in
            [("", "abc", 3), ("abc", "", 3), ("conect", "connect", 1), ("reads", "read", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(left, right), letters, "{left} {right}");
        }
    }

    #[test]
    fn a_wrong_key_is_answered_with_the_nearest_or_with_all() {
        let keys = || ["read", "write", "exec"].into_iter();
        let error = |key| Problem::unknown_key(key, "[[allow]]", keys()).to_string();
        assert_eq!(error("raed"), "unknown key \"raed\" in [[allow]]: did you mean `read`?");
        assert_eq!(error("sockets"), "unknown key \"sockets\" in [[allow]]: use one of `read`, `write`, `exec`");
    }
}
