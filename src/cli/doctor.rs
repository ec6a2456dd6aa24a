//! `capuchin doctor`: what works on this machine and with a host, what does not, and how to mend it.

mod host;
mod machine;
mod program;

use std::ffi::OsString;

use serde_json::{Value, json};

use super::{
    block_on,
    host::{HostArgument, host_in_place},
    report::{Failure, escape, print, print_json},
};

/// Exit status when something is worth a look and nothing is broken.
const WARNED: u8 = 1;
/// Exit status when something is broken.
const FAILED: u8 = 2;

/// Check this machine, and a host and a program if they are named: a line each, with how to mend what is broken
#[derive(clap::Args)]
#[command(before_help = "\
Examples:
  capuchin doctor                   does this machine have what `run` needs?
  capuchin doctor lab               also: is lab there, how far, what may we?
  capuchin doctor lab -- ./server   also: will this program work under `run`?

Exit status: 0 all is well, 1 something is worth a look, 2 something is broken.", mut_args(host_in_place(|host| host.required(false).index(1))))]
pub struct Arguments {
    #[command(flatten)]
    host: Option<HostArgument>,
    /// One JSON document: checks, each with name, state (ok, warn or fail), text and mend
    #[arg(long)]
    json: bool,
    /// A program to look at
    #[arg(last = true, index = 2, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

/// What came of one look.
#[derive(Debug, PartialEq, Eq)]
struct Check {
    name: &'static str,
    state: State,
    text: String,
    /// What to do, where there is something.
    mend: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Ok,
    Warn,
    Fail,
}

impl Check {
    fn ok(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, state: State::Ok, text: text.into(), mend: Vec::new() }
    }

    fn warn(name: &'static str, text: impl Into<String>, mend: &str) -> Self {
        Self { name, state: State::Warn, text: text.into(), mend: vec![mend.to_owned()] }
    }

    fn fail(name: &'static str, text: impl Into<String>, mend: Vec<String>) -> Self {
        Self { name, state: State::Fail, text: text.into(), mend }
    }
}

impl State {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

pub fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { host, json, program } = arguments;
    // Before any thread: it tries the namespaces.
    let (mut checks, mode) = machine::checks();
    if let Some(name) = program.first() {
        checks.extend(program::checks(name, mode));
    }
    if let Some(host) = host {
        block_on(async {
            checks.extend(host::checks(&host.text()?).await);
            Ok(())
        })?;
    }
    let worst = checks.iter().map(|check| check.state).max().unwrap_or(State::Ok);
    if json {
        print_json(&document(&checks))?;
    } else {
        checks.iter().flat_map(lines).try_for_each(|line| print(&line))?;
    }
    match worst {
        State::Ok => Ok(()),
        State::Warn => Err(Failure::silent(WARNED)),
        State::Fail => Err(Failure::silent(FAILED)),
    }
}

fn document(checks: &[Check]) -> Value {
    let one = |check: &Check| json!({ "name": check.name, "state": check.state.word(), "text": check.text, "mend": check.mend });
    json!({ "checks": checks.iter().map(one).collect::<Vec<_>>() })
}

/// One line for the check, and one for each thing to do.
fn lines(check: &Check) -> Vec<String> {
    let first = format!("{:<4}  {:<12}  {}", check.state.word(), check.name, escape(&check.text));
    std::iter::once(first)
        .chain(check.mend.iter().map(|line| format!("      = {}", escape(line.trim_start()))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_a_line_and_what_to_do() {
        let check = Check::fail("tproxy", "no\u{1b}", vec!["help: modprobe".to_owned()]);
        assert_eq!(lines(&check), ["fail  tproxy        no\\u{1b}", "      = help: modprobe"]);
        assert_eq!(
            document(&[check]).to_string(),
            r#"{"checks":[{"mend":["help: modprobe"],"name":"tproxy","state":"fail","text":"no\u001b"}]}"#
        );
    }

    #[test]
    fn the_worst_check_decides() {
        assert!(State::Fail > State::Warn && State::Warn > State::Ok);
    }
}
