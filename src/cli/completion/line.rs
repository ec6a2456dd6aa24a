//! The line that a shell asks about: what is typed already says what may follow.

use clap::{ArgMatches, Command};

use super::bash::Typed;

/// How to read it.
#[derive(Clone)]
pub struct Line(Command);

impl Line {
    pub fn new(command: &Command) -> Self {
        Self(command.clone().ignore_errors(true))
    }

    /// What it gives its subcommand.
    pub fn read(&self) -> Option<ArgMatches> {
        let words = std::env::args_os().skip_while(|word| word != "--").skip(1).collect();
        let Typed { words, .. } = Typed::of(words, usize::MAX);
        let mut line = self.0.clone().try_get_matches_from(words).ok()?;
        line.remove_subcommand().map(|(_, line)| line)
    }

    /// Whether `argument`, a program with arguments of its own, has no word behind the first. clap counts the first two as one.
    pub fn is_at_the_first_word(&self, argument: &str) -> bool {
        let words = self.read().and_then(|line| line.try_get_raw(argument).ok().flatten().map(Iterator::count));
        words.is_none_or(|count| count < 2)
    }
}
