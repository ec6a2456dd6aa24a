//! How a failure reaches the user: one line, notes below it, an exit status; and how anything reaches stdout.
//!
//! # Security
//! A peer's text may hold escape sequences that rewrite the screen or type for the user. Everything is escaped here,
//! where it leaves, so that no caller can forget it.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

use crate::{BorrowError, proto::ErrorKind};

/// Exit status of our own failures, as ssh(1) has it: a borrowed program's own statuses stay apart from it.
pub const FAILURE: u8 = 255;
/// What a shell adds to a signal's number for the exit status of a program that it ended.
pub const SIGNALLED: u8 = 128;
/// What a shell says of a program that SIGPIPE ended.
pub const CLOSED_STDOUT: u8 = SIGNALLED + 13;

/// Why a command ends without success.
#[derive(Debug)]
pub struct Failure {
    /// The word in `error[kind]`.
    pub kind: ErrorKind,
    /// What failed, and why. Empty: nothing is printed, only the status tells.
    pub text: String,
    /// What decided, and what to do.
    pub notes: Vec<String>,
    /// The exit status.
    pub code: u8,
    /// What a script hears beside it, such as what was asked.
    pub about: serde_json::Map<String, serde_json::Value>,
}

impl Failure {
    /// A failure of our own, without notes.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into(), notes: Vec::new(), code: FAILURE, about: serde_json::Map::new() }
    }

    /// An end whose exit status says everything.
    pub fn silent(code: u8) -> Self {
        Self { code, ..Self::new(ErrorKind::Local, "") }
    }

    /// With another exit status.
    #[must_use]
    pub fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// Prints it to stderr, and gives the exit status.
    pub fn report(&self) -> ExitCode {
        if !self.text.is_empty() {
            // Without stderr there is nobody to tell.
            let _ = io::stderr().write_all(self.rendered().as_bytes());
        }
        ExitCode::from(self.code)
    }

    fn rendered(&self) -> String {
        let mut lines = format!("error[{}]: {}\n", self.kind, escape(&self.text));
        for note in &self.notes {
            let _ = writeln!(lines, "  = {}", escape(note.trim_start()));
        }
        lines
    }
}

impl From<BorrowError> for Failure {
    fn from(error: BorrowError) -> Self {
        let mut text = error.to_string();
        // A failure of the system stands behind some errors and not in their line.
        if let Some(source) = std::error::Error::source(&error) {
            let why = source.to_string();
            if !text.contains(&why) {
                let _ = write!(text, ": {why}");
            }
        }
        Self { notes: error.notes().to_vec(), ..Self::new(error.kind(), text) }
    }
}

/// Prints a line to stdout.
///
/// # Errors
/// A closed stdout ends the command quietly, as it ends every program that a shell pipes.
pub fn print(line: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(line.as_bytes())
        .and_then(|()| stdout.write_all(b"\n"))
        .and_then(|()| stdout.flush())
        .map_err(|error| of_stdout(&error))
}

/// What a stdout that takes no more means: a closed one ends the command quietly.
pub fn of_stdout(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::silent(CLOSED_STDOUT),
        _ => Failure::new(ErrorKind::Local, format!("cannot write to stdout: {error}")),
    }
}

/// A stdin that fails before its end: what came of it must not be taken for the whole.
pub fn of_stdin(error: &io::Error) -> Failure {
    Failure::new(ErrorKind::Local, format!("cannot read stdin: {error}"))
}

/// Prints one JSON document to stdout.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    // A peer's text may stand in it, and a terminal be at its end.
    print(&crate::lend::ascii_json(&value.to_string()))
}

/// Prints a line to stderr that is no failure of the command.
pub fn warn(line: &str) {
    let _ = io::stderr().write_all(format!("{}\n", escape(line)).as_bytes());
}

/// An error that is told beside what goes on, as one line: behind a refusal stands what to send to the lender's admin.
pub fn one_line(error: &BorrowError) -> String {
    let is_refusal = matches!(error.kind(), ErrorKind::Policy | ErrorKind::Busy);
    match error.notes().last().map(|note| note.trim_start()).filter(|_| is_refusal) {
        None => error.to_string(),
        // Nothing that the admin could do.
        Some(help) if help.starts_with("help: ") => format!("{error}; {help}"),
        Some(line) => format!("{error}; to send to the lender's admin: {line}"),
    }
}

/// Text as it may reach a terminal: control characters, and those that change the direction of what follows, are shown
/// as what they are.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            c if c.is_control() || is_invisible(c) => {
                let _ = write!(escaped, "\\u{{{:x}}}", u32::from(c));
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// Marks, embeddings, overrides and isolates of direction, line separators, and what has no width at all.
fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_steer_a_terminal_is_shown_and_not_obeyed() {
        for (text, shown) in [
            ("plain é 漢", "plain é 漢"),
            ("\x1b[2J", "\\u{1b}[2J"),
            ("a\nerror[x]: b", "a\\nerror[x]: b"),
            ("\r\t\x07\x7f", "\\r\\t\\u{7}\\u{7f}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("\u{202e}gpj.exe", "\\u{202e}gpj.exe"),
            ("\u{2066}\u{200b}\u{feff}\u{2028}", "\\u{2066}\\u{200b}\\u{feff}\\u{2028}"),
        ] {
            assert_eq!(escape(text), shown);
        }
    }

    #[test]
    fn a_failure_is_one_line_and_its_notes() {
        let failure = Failure {
            notes: vec!["  help: ask\x1b".to_owned()],
            ..Failure::new(ErrorKind::Policy, "lab: connect db:1 is refused\n: no rule allows it")
        };
        let text = "error[policy]: lab: connect db:1 is refused\\n: no rule allows it\n  = help: ask\\u{1b}\n";
        assert_eq!(failure.rendered(), text);
    }

    #[test]
    fn a_refusal_in_one_line_ends_with_what_to_send_to_the_admin() {
        let refused = |kind, notes: &[&str]| BorrowError::Refused {
            lender: "lab".to_owned(),
            kind,
            reason: "connect db:1 is refused: no rule allows it".to_owned(),
            errno: None,
            notes: notes.iter().map(|&note| note.to_owned()).collect(),
            warnings: Vec::new(),
        };
        let said = "lab: connect db:1 is refused: no rule allows it";
        for (kind, notes, more) in [
            (
                ErrorKind::Policy,
                &["  help: ask:", "  capuchind allow ana connect db:1 --for 1h"][..],
                "; to send to the lender's admin: capuchind allow ana connect db:1 --for 1h",
            ),
            (
                ErrorKind::Busy,
                &["ask:", "limits = { streams = N }"],
                "; to send to the lender's admin: limits = { streams = N }",
            ),
            (ErrorKind::Policy, &["  help: write the address"], "; help: write the address"),
            (ErrorKind::Policy, &[], ""),
            (ErrorKind::Target, &["help: ask"], ""),
        ] {
            assert_eq!(one_line(&refused(kind, notes)), format!("{said}{more}"));
        }
    }

    #[test]
    fn what_the_system_said_is_said_once() {
        let source = || io::Error::from_raw_os_error(98);
        let error = BorrowError::Local { what: "cannot listen on 127.0.0.1:1".to_owned(), source: source() };
        assert_eq!(Failure::from(error).text.matches("in use").count(), 1);
        let file = crate::trust::keyfile::KeyFileError::Io { verb: "read", path: "/x".into(), source: source() };
        assert_eq!(Failure::from(BorrowError::from(file)).text, "cannot read /x: Address already in use (os error 98)");
    }
}
