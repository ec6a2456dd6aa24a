//! The line that a shell asks about: what is typed already says what may follow.

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
};

use clap::{ArgMatches, Command};

use super::bash;

/// How to read it.
#[derive(Clone)]
pub struct Line {
    command: Command,
    words: Words,
}

/// Its words, without quotes where the shell tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    pub words: Vec<OsString>,
    /// The one to complete.
    pub at: usize,
}

impl Words {
    /// What this process is asked by a shell's script.
    pub fn asked(is_bash: bool) -> Self {
        let words: Vec<_> = env::args_os().skip_while(|word| word != "--").skip(1).collect();
        if is_bash {
            return bash::typed(&words).0;
        }
        // fish gives none behind the cursor.
        let at = env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|number| number.parse().ok());
        Self { at: at.unwrap_or(words.len().saturating_sub(1)), words }
    }
}

impl Line {
    pub fn new(command: &Command, words: &Words) -> Self {
        Self { command: command.clone().ignore_errors(true), words: words.clone() }
    }

    /// What it gives its subcommand.
    pub fn read(&self) -> Option<ArgMatches> {
        self.read_up_to(self.words.words.len())
    }

    fn read_up_to(&self, count: usize) -> Option<ArgMatches> {
        let mut line = self.command.clone().try_get_matches_from(self.words.words.iter().take(count)).ok()?;
        line.remove_subcommand().map(|(_, line)| line)
    }

    /// Whether the first word of `argument`, a program with arguments of its own, is completed. clap counts the first two as one.
    pub fn is_at_the_first_word(&self, argument: &str) -> bool {
        let line = self.read_up_to(self.words.at + 1);
        let words = line.and_then(|line| line.try_get_raw(argument).ok().flatten().map(Iterator::count));
        words.is_none_or(|count| count < 2)
    }
}

/// What stands in front of a path in one word with it, as in dd's `if=/etc/hosts` and in `--file=hosts`, and the path.
pub fn path_in(word: &OsStr) -> (&OsStr, &OsStr) {
    let word = word.as_bytes();
    let is_of_a_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
    let sign = word.iter().position(|byte| !is_of_a_name(byte)).filter(|at| word.get(*at) == Some(&b'='));
    let (front, path) = word.split_at(sign.map_or(0, |at| at + 1));
    (OsStr::from_bytes(front), OsStr::from_bytes(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_behind_a_name_and_a_sign() {
        for (word, front, path) in [
            ("/etc/hosts", "", "/etc/hosts"),
            ("if=/etc/hosts", "if=", "/etc/hosts"),
            ("--file=", "--file=", ""),
            ("./a=b", "", "./a=b"),
            ("a:b=c", "", "a:b=c"),
        ] {
            assert_eq!(path_in(OsStr::new(word)), (OsStr::new(front), OsStr::new(path)), "{word}");
        }
    }
}
