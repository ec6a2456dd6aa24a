//! bash, which takes `user@host` for three words, and completes only what begins at the `@` (COMP_WORDBREAKS).

use std::{
    ffi::OsString,
    io::{self, Write},
    path::Path,
};

use clap::Command;
use clap_complete::{
    engine,
    env::{Bash as Plain, EnvCompleter},
};

/// As clap has it, with the words that a person typed.
pub struct Bash;

impl EnvCompleter for Bash {
    fn name(&self) -> &'static str {
        Plain.name()
    }

    fn is(&self, name: &str) -> bool {
        Plain.is(name)
    }

    fn write_registration(
        &self,
        var: &str,
        name: &str,
        bin: &str,
        completer: &str,
        script: &mut dyn Write,
    ) -> io::Result<()> {
        Plain.write_registration(var, name, bin, completer, script)
    }

    /// Answers what the script of [`Plain`] asks.
    fn write_complete(
        &self,
        command: &mut Command,
        words: Vec<OsString>,
        folder: Option<&Path>,
        reply: &mut dyn Write,
    ) -> io::Result<()> {
        let at = std::env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|number| number.parse().ok()).unwrap_or_default();
        let between = std::env::var("_CLAP_IFS").unwrap_or_else(|_| "\n".to_owned());
        let Typed { words, at, begun } = Typed::of(words, at);
        let candidates = engine::complete(command, words, at, folder)?;
        for (number, candidate) in candidates.iter().enumerate() {
            let whole = candidate.get_value().to_string_lossy();
            let rest = whole.strip_prefix(&*begun).unwrap_or(&whole);
            write!(reply, "{}{rest}", if number == 0 { "" } else { &between })?;
        }
        Ok(())
    }
}

/// What a person has typed.
#[derive(Debug, PartialEq, Eq)]
pub struct Typed {
    pub words: Vec<OsString>,
    /// The word to complete.
    at: usize,
    /// What bash leaves as it is, at the beginning of that word.
    begun: String,
}

impl Typed {
    /// Puts `ana` `@` `lab` together. Of the word to complete, what comes last begins with the sign: `ana` `@` `@la`.
    pub fn of(pieces: Vec<OsString>, at: usize) -> Self {
        let mut typed = Self { words: Vec::new(), at: 0, begun: String::new() };
        let mut is_open = false;
        for (number, piece) in pieces.into_iter().enumerate() {
            let is_sought = number == at;
            let is_behind =
                if is_sought { piece.as_encoded_bytes().starts_with(b"@") } else { piece == "@" || is_open };
            let begun = if is_behind { typed.words.pop() } else { None };
            if is_sought {
                typed.at = typed.words.len();
            }
            let Some(mut word) = begun else {
                is_open = false;
                typed.words.push(piece);
                continue;
            };
            if is_sought {
                let whole = word.to_string_lossy();
                typed.begun = whole.strip_suffix('@').filter(|_| is_open).unwrap_or(&whole).to_owned();
                word = OsString::from(&typed.begun);
            }
            word.push(&piece);
            typed.words.push(word);
            is_open = piece == "@" && !is_sought;
        }
        typed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_that_bash_makes_of_a_word_are_put_together() {
        for (pieces, at, words, at_word, begun) in [
            (&["capuchin", "exec", "la"][..], 2, &["capuchin", "exec", "la"][..], 2, ""),
            (&["capuchin", "exec", "ana", "@", "@la"], 4, &["capuchin", "exec", "ana@la"], 2, "ana"),
            (&["capuchin", "exec", "ana", "@"], 3, &["capuchin", "exec", "ana@"], 2, "ana"),
            (
                &["capuchin", "exec", "ana", "@", "lab", "--", "c"],
                6,
                &["capuchin", "exec", "ana@lab", "--", "c"],
                4,
                "",
            ),
            (&["capuchin", "exec", "ana", "@", ""], 4, &["capuchin", "exec", "ana@", ""], 3, ""),
            (&["capuchin", "ex", "ana", "@", "lab"], 1, &["capuchin", "ex", "ana@lab"], 1, ""),
        ] {
            let typed = Typed::of(pieces.iter().map(OsString::from).collect(), at);
            let words = words.iter().map(OsString::from).collect();
            assert_eq!(typed, Typed { words, at: at_word, begun: begun.to_owned() }, "{pieces:?}");
        }
    }
}
