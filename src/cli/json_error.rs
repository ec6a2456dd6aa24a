//! Failures of a command that was given `--json`: a document with `error` on stdout, besides the line on stderr.

use std::ffi::OsString;

use serde_json::{Value, json};

use super::report::{Failure, print_json};

/// Tells the failure as JSON where the words of the command line ask `command` for that. What comes back is to be reported: a
/// stdout that takes no more is another failure.
pub fn tell(failure: Failure, command: &clap::Command, words: impl Iterator<Item = OsString>) -> Failure {
    // Without a text the status says everything, and what there was to say has been said.
    if failure.text.is_empty() || !is_wanted(command, words) {
        return failure;
    }
    let Failure { kind, text, notes, about, .. } = &failure;
    let mut document = about.clone();
    document.insert("error".to_owned(), json!({ "kind": kind.as_str(), "text": text, "notes": notes }));
    print_json(&Value::Object(document)).err().unwrap_or(failure)
}

/// Whether `--json` is among the words, for a command that knows it. They need not be a command line that can be read.
fn is_wanted(command: &clap::Command, words: impl Iterator<Item = OsString>) -> bool {
    let (mut path, mut is_asked) = (vec![command], false);
    // What is behind `--` is another program's, or no option.
    let mut words = words.skip(1).take_while(|word| word != "--");
    while let Some(word) = words.next() {
        let Some(word) = word.to_str() else { continue };
        if let Some(option) = word.strip_prefix("--") {
            is_asked |= option == "json";
            let takes_value = |command: &&clap::Command| {
                command
                    .get_arguments()
                    .any(|argument| argument.get_long() == Some(option) && argument.get_action().takes_values())
            };
            if path.iter().any(takes_value) {
                words.next();
            }
        } else if let Some(next) = path.last().and_then(|command| command.find_subcommand(word)) {
            path.push(next);
        }
    }
    let knows_it = |command: &&clap::Command| command.get_arguments().any(|it| it.get_long() == Some("json"));
    is_asked && path.iter().any(knows_it)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::{Borrowing, Lending};

    #[test]
    fn json_is_wanted_where_a_command_knows_it_and_it_is_no_word_of_a_programs() {
        let wanted = |line: &str| {
            let words = line.split(' ').map(OsString::from);
            let lends = line.starts_with("capuchind");
            is_wanted(&if lends { Lending::command() } else { Borrowing::command() }, words)
        };
        for line in [
            "capuchin hosts --json",
            "capuchin status --json --nonsense",
            "capuchin lender --dir user user list --json",
            "capuchind --dir=x sessions --json",
            "capuchind grants --json remove 1",
            "capuchind audit verify --json",
            "capuchin doctor lab --json -- ls",
        ] {
            assert!(wanted(line), "{line}");
        }
        for line in [
            "capuchin hosts",
            "capuchin exec lab ls --json",
            "capuchin run lab -- ls --json",
            "capuchin check lab shell -- --json",
            "capuchind --dir --json sessions",
            "capuchind serve --json",
        ] {
            assert!(!wanted(line), "{line}");
        }
    }
}
