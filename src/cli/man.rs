//! `capuchin man`: the manual pages, from the very definitions that read the command lines.
//!
//! Names, options and lists of commands are clap's. What stands before a command's help is laid out here as man-pages(7) has
//! it: its first block, `Examples:`, goes last, `Exit status:` has a section of its own, and the rest describes.

use std::{io, path::PathBuf};

use clap::{Arg, ArgAction, Command, CommandFactory};
use clap_mangen::Man;

use super::{
    Borrowing, Lending,
    report::{Failure, print},
};
use crate::proto::ErrorKind;

const EXAMPLES: &str = "Examples:";
const EXIT_STATUS: &str = "Exit status: ";
/// Once more, in a synopsis; it ends no sentence.
const MORE: &str = r"\ ...\&";

/// Write the manual pages of all commands into a folder
#[derive(clap::Args)]
#[command(before_help = "\
Examples:
  capuchin man /usr/local/share/man/man1
  capuchin man . && man -l capuchin-exec.1")]
pub struct Arguments {
    /// Where to; it is made if it is missing
    folder: PathBuf,
}

pub fn run(Arguments { folder }: &Arguments) -> Result<(), Failure> {
    let failed =
        |error: io::Error| Failure::new(ErrorKind::Local, format!("cannot write to {}: {error}", folder.display()));
    std::fs::create_dir_all(folder).map_err(failed)?;
    for command in [Borrowing::command(), Lending::command()] {
        let mut command = command.disable_help_subcommand(true);
        command.build();
        write_all(&command, folder).map_err(failed)?;
    }
    print(&format!("The manual pages are in {}", folder.display()))
}

/// The page of a command, and of each below it that is not hidden.
fn write_all(command: &Command, folder: &std::path::Path) -> io::Result<()> {
    std::fs::write(folder.join(format!("{}.1", name_of(command))), page(command)?)?;
    command.get_subcommands().filter(|below| !below.is_hide_set()).try_for_each(|below| write_all(below, folder))
}

fn page(command: &Command) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone());
    let before = command.get_before_help().map(ToString::to_string).unwrap_or_default();
    let blocks: Vec<&str> = before.split("\n\n").filter(|block| !block.is_empty()).collect();
    let mut page = title(command).into_bytes();
    man.render_name_section(&mut page)?;
    page.extend(synopsis(command).into_bytes());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let is_apart = |block: &&str| block.starts_with(EXAMPLES) || block.starts_with(EXIT_STATUS);
    let paragraphs = blocks.iter().copied().filter(|block| !is_apart(block)).map(escape);
    let described: Vec<_> = std::iter::once(escape(&format!("{about}."))).chain(paragraphs).collect();
    page.extend(format!(".SH DESCRIPTION\n{}\n", described.join("\n.PP\n")).into_bytes());
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut page)?;
    }
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    for status in blocks.iter().filter_map(|block| block.strip_prefix(EXIT_STATUS)) {
        let (first, rest) = status.split_at(status.chars().next().map_or(0, char::len_utf8));
        page.extend(format!(".SH EXIT STATUS\n{}{}\n", first.to_uppercase(), escape(rest)).into_bytes());
    }
    for examples in blocks.iter().filter_map(|block| block.strip_prefix(EXAMPLES)) {
        let lines: Vec<_> =
            examples.lines().skip(1).map(|line| escape(line.strip_prefix("  ").unwrap_or(line))).collect();
        page.extend(format!(".SH EXAMPLES\n.nf\n{}\n.fi\n", lines.join("\n")).into_bytes());
    }
    page.extend(format!(".SH SEE ALSO\n{}\n", see_also(command)).into_bytes());
    Ok(page)
}

/// What stands around the page. It has no date, and says so: where that is left out, the version is taken for it.
fn title(command: &Command) -> String {
    let (name, version) = (name_of(command).to_uppercase(), env!("CARGO_PKG_VERSION"));
    format!(".TH {name} 1 \"\" \"capuchin {version}\" \"Capuchin\"\n")
}

/// What can be written, as ssh(1) has it: options first, each with the name of its value, and then words in their order.
fn synopsis(command: &Command) -> String {
    let mut words = vec![format!(".B {}", escape(command.get_bin_name().unwrap_or(command.get_name())))];
    let shown = || command.get_arguments().filter(|argument| !argument.is_hide_set());
    words.extend(shown().filter(|argument| !argument.is_positional()).map(option));
    let mut positional: Vec<_> = shown().filter(|argument| argument.is_positional()).collect();
    positional.sort_by_key(|argument| (argument.is_last_set(), argument.get_index()));
    words.extend(positional.into_iter().map(word));
    if command.has_subcommands() {
        let one = if command.is_subcommand_required_set() { r"\fICOMMAND\fR" } else { r"[\fICOMMAND\fR]" };
        words.push(one.to_owned());
    }
    // A line each, which the page fills: an option and its value stay together.
    format!(".SH SYNOPSIS\n.nh\n.ad l\n{}\n.ad b\n.hy\n", words.join("\n"))
}

fn option(argument: &Arg) -> String {
    let long = argument.get_long().map(|long| format!("--{long}"));
    let name = argument.get_short().map(|short| format!("-{short}")).or(long).unwrap_or_default();
    let name = format!(r"\fB{}\fR", escape(&name));
    let values = if argument.get_action().takes_values() { format!(r"\ {}", values(argument)) } else { String::new() };
    let more = if matches!(argument.get_action(), ArgAction::Append) { MORE } else { "" };
    if argument.is_required_set() { format!("{name}{values}{more}") } else { format!("[{name}{values}]{more}") }
}

fn word(argument: &Arg) -> String {
    let many = argument.get_num_args().is_some_and(|range| range.max_values() > 1);
    let word = format!("{}{}", values(argument), if many { MORE } else { "" });
    let word = if argument.is_last_set() { format!(r"\-\- {word}") } else { word };
    if argument.is_required_set() { word } else { format!("[{word}]") }
}

fn values(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default().iter();
    let names: Vec<_> = names.map(|name| format!(r"\fI{}\fR", escape(name))).collect();
    names.join(r"\ ")
}

fn see_also(command: &Command) -> String {
    let own = name_of(command);
    let others = ["capuchin", "capuchind", "ssh"].into_iter().filter(|other| *other != own);
    others.map(|other| format!(r"\fB{other}\fR(1)")).collect::<Vec<_>>().join(", ")
}

fn name_of(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

/// Text as roff(7) reads it.
fn escape(text: &str) -> String {
    let escaped = text
        .replace('\\', r"\e")
        .replace('-', r"\-")
        .replace('\'', r"\(aq")
        .replace('~', r"\(ti")
        .replace('^', r"\(ha");
    let line = |line: &str| if line.starts_with('.') { format!(r"\&{line}") } else { line.to_owned() };
    escaped.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_and_hidden_ones_have_none() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("share/man/man1");
        run(&Arguments { folder: folder.clone() }).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        assert!(read("capuchin-exec.1").contains("capuchin exec"));
        assert!(read("capuchind.1").contains("capuchind") && read("capuchind-invite.1").contains("invite"));
        assert!(!folder.join("capuchin-demo-machine.1").exists());
        let nowhere = Arguments { folder: folder.join("capuchin.1") };
        assert_eq!(run(&nowhere).unwrap_err().kind, ErrorKind::Local);
    }

    /// What a person reads first fits a terminal; paragraphs are filled by clap, and on the page by man(1).
    #[test]
    fn every_help_begins_with_examples_of_80_columns_and_says_the_rest_in_paragraphs() {
        for command in [Borrowing::command(), Lending::command()] {
            for command in command.get_subcommands().filter(|below| !below.is_hide_set()).chain([&command]) {
                let help = command.get_before_help().map(ToString::to_string).unwrap_or_default();
                let (examples, rest) = help.split_once("\n\n").unwrap_or((&help, ""));
                let name = name_of(command);
                assert!(examples.starts_with("Examples:\n  "), "{name}: {help}");
                for line in examples.lines() {
                    assert!(line.chars().count() <= 80, "{name}: {line}");
                }
                assert!(!rest.replace("\n\n", "").contains('\n'), "{name}: {rest}");
            }
        }
    }

    #[test]
    fn a_page_says_all_that_the_help_does() {
        let mut command = Borrowing::command();
        command.build();
        let page = |name: &str| {
            let command = command.find_subcommand(name).unwrap();
            String::from_utf8(page(command).unwrap()).unwrap()
        };
        let exec = page("exec");
        for said in [
            ".TH CAPUCHIN-EXEC 1 \"\" \"capuchin ",
            "\n.B capuchin exec\n",
            "\n[\\fB\\-\\-cwd\\fR\\ \\fIFOLDER\\fR]\n",
            "\n[\\fB\\-t\\fR]\n",
            "\n[\\fB\\-\\-env\\fR\\ \\fINAME[=VALUE]\\fR]\\ ...\\&\n",
            "\n\\fIHOST\\fR\n\\fIARGV\\fR\\ ...\\&\n",
            ".SH EXIT STATUS\nThat of the program",
            ".SH EXAMPLES\n.nf\ncapuchin exec lab",
        ] {
            assert!(exec.contains(said), "{said:?} in {exec}");
        }
        assert!(page("run").contains("\n[\\fIHOST\\fR]\n[\\-\\- \\fIPROGRAM\\fR\\ ...\\&]\n"), "{}", page("run"));
        assert!(page("shell").contains("\\(ti. ends"), "{}", page("shell"));
        assert!(page("hosts").contains("[\\fICOMMAND\\fR]"));
    }
}
