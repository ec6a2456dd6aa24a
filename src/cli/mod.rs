//! The command line: arguments in, exit status out.
//!
//! One program under two names: `capuchind …` is `capuchin lender …`. Results go to stdout and everything else to
//! stderr; our own failures are one line `error[kind]: …` and the exit status 255, as ssh(1) has it.
//!
//! # Security
//! No secret is read from the environment or from arguments, but for the one-time join line. Whatever a peer wrote is
//! escaped before it is printed.

#![forbid(unsafe_code)]

mod audit;
mod background;
mod check;
mod completion;
mod connect;
mod connection;
mod demo;
mod descriptors;
mod doctor;
mod exec;
mod forward;
mod grants;
mod host;
mod hosts;
mod join;
mod json_error;
mod lender;
mod man;
mod offer;
mod presence;
mod prompt;
mod report;
mod run;
mod runtime;
mod sessions;
mod signals;
mod status;
mod users;

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory, Parser, error::ErrorKind as ClapKind};

use self::{report::Failure, runtime::block_on};
use crate::proto::ErrorKind;

/// Borrow another machine's sockets, over one mutually authenticated connection and under its policy.
#[derive(Parser)]
#[command(name = "capuchin", version, before_help = BORROWER_EXAMPLES)]
struct Borrowing {
    #[command(subcommand)]
    command: Command,
}

/// Lend this machine's sockets to those who were invited, under a policy.
#[derive(Parser)]
#[command(name = "capuchind", version, before_help = LENDER_EXAMPLES)]
struct Lending {
    #[command(flatten)]
    arguments: lender::Arguments,
}

#[derive(clap::Subcommand)]
enum Command {
    Join(join::Arguments),
    Login(join::LoginArguments),
    Hosts(hosts::Arguments),
    Check(check::Arguments),
    Run(run::Arguments),
    Forward(forward::Arguments),
    Status(status::Arguments),
    Doctor(doctor::Arguments),
    Offer(offer::Arguments),
    Connect(connect::Arguments),
    Exec(exec::Arguments),
    Shell(exec::ShellArguments),
    /// Lend: everything that `capuchind` does
    #[command(before_help = LENDER_EXAMPLES)]
    Lender(lender::Arguments),
    Man(man::Arguments),
    /// Show the main job on this machine: a throw-away lender, and a page that only it can reach
    #[command(before_help = "Examples:\n  capuchin demo")]
    Demo,
    /// The lender's machine of the demo
    #[command(hide = true)]
    DemoMachine(demo::Machine),
}

const BORROWER_EXAMPLES: &str = "\
Examples:
  capuchin demo                                 the main job, on this machine
  capuchin join cap1_…                          join with the line of a lender
  capuchin run lab -- curl http://10.0.0.5/     any program, on its network
  capuchin forward lab -L 8080:intranet:80      its intranet at 127.0.0.1:8080
  capuchin exec lab -- git -C /srv/app status   a program there, as with ssh
  capuchin shell lab                            a shell there
  capuchin offer lab calc stdio                 our stdin and stdout, for others
  capuchin check lab connect db.internal:5432   may I, and by which rule?
  capuchin login lab                            log in again";

const LENDER_EXAMPLES: &str = "\
Examples:
  capuchind up                                   keys, serving, a join line
  capuchind invite ana                           one more device for ana
  capuchind check ana connect db.internal:5432   may she, and by which rule?
  capuchind audit --follow                       who does what, as it happens";

/// What both binaries do.
pub fn main() -> ExitCode {
    crate::sys::hear_of_children();
    // A write beyond it fails as one to a full disk: that is told, and what was begun is cleared away.
    crate::sys::outlive_file_size_limit();
    // Before anything that could start a thread.
    if let Some(status) = crate::lend::serve_as_worker() {
        return status;
    }
    // A shell that asks what could be typed next is answered, and that is all.
    if lends() {
        completion::answer::<Lending>()
    } else {
        completion::answer::<Borrowing>()
    }
    let result = if lends() {
        parse::<Lending>().and_then(|Lending { arguments }| with_log(|| block_on(lender::run(arguments))))
    } else {
        parse::<Borrowing>().and_then(|Borrowing { command }| with_log(|| run(command)))
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => told(failure).report(),
    }
}

/// Whether this is `capuchind`.
fn lends() -> bool {
    let name = std::env::args_os().next();
    name.as_deref().map(Path::new).and_then(Path::file_stem) == Some(OsStr::new("capuchind"))
}

/// A failure that a script has heard of, if it wants JSON, with the exit status of this command.
fn told(failure: Failure) -> Failure {
    let command = if lends() { Lending::command() } else { Borrowing::command() };
    as_answered(json_error::tell(failure, &command, std::env::args_os()))
}

/// Whatever kept an answer from being given, but for a reader who has gone, has the status of no answer.
fn as_answered(failure: Failure) -> Failure {
    let is_none = failure.code == report::FAILURE && answers_by_status(std::env::args_os());
    if is_none { failure.with_code(check::ERROR) } else { failure }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Join(arguments) => block_on(join::join(arguments)),
        Command::Login(arguments) => block_on(join::login(arguments)),
        Command::Hosts(arguments) => hosts::run(&arguments),
        Command::Check(arguments) => block_on(check::run(arguments)),
        // It forks before any thread exists.
        Command::Run(arguments) => run::run(arguments),
        Command::Forward(arguments) => forward::run(arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Offer(arguments) => block_on(offer::run(arguments)),
        Command::Connect(arguments) => block_on(connect::run(arguments)),
        Command::Exec(arguments) => block_on(exec::run(arguments)),
        Command::Shell(arguments) => block_on(exec::shell(arguments)),
        Command::Lender(arguments) => block_on(lender::run(arguments)),
        Command::Man(arguments) => man::run(&arguments),
        Command::Demo => demo::run(),
        // Namespaces come before any thread.
        Command::DemoMachine(machine) => demo::enter(&machine).and_then(|lab| block_on(lender::serve_in(lab))),
    }
}

/// Reads the arguments. Help and version are answers, and end the program well; the rest is a usage error.
fn parse<A: Parser>() -> Result<A, Failure> {
    A::try_parse().map_err(|error| match error.kind() {
        ClapKind::DisplayHelp | ClapKind::DisplayVersion => {
            let _ = error.print();
            Failure::silent(0)
        }
        ClapKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Nothing was asked for: the help, where errors go.
            let _ = error.print();
            Failure::new(ErrorKind::Usage, "a command is missing")
        }
        kind => with_shell(kind, with_separator(kind, usage(&error.to_string()))),
    })
}

/// Whether the exit status of this command is its answer (`check`, `audit verify`): one that was not understood gave none.
fn answers_by_status(arguments: impl Iterator<Item = OsString>) -> bool {
    let mut words = arguments.skip(1).filter(|word| word != "lender");
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--dir") => drop(words.next()),
            Some(option) if option.starts_with('-') => {}
            Some("check") => return true,
            Some("audit") => return words.any(|word| word == "verify"),
            _ => return false,
        }
    }
    false
}

/// `run` takes the program behind `--` alone, so that no option of the program's is taken for ours: who forgot it is told.
fn with_separator(kind: ClapKind, mut failure: Failure) -> Failure {
    let is_run = std::env::args_os().nth(1).is_some_and(|command| command == "run");
    if is_run && kind == ClapKind::UnknownArgument && !failure.text.starts_with("unexpected argument '-") {
        failure.notes.insert(0, "help: put -- before the program: capuchin run HOST -- PROGRAM".to_owned());
    }
    failure
}

/// ssh without a program opens a shell; who expects that of `exec` is told what does.
fn with_shell(kind: ClapKind, mut failure: Failure) -> Failure {
    let is_exec = std::env::args_os().nth(1).is_some_and(|command| command == "exec");
    if is_exec && kind == ClapKind::MissingRequiredArgument {
        failure.notes.insert(0, "help: capuchin shell HOST opens a login shell there".to_owned());
    }
    failure
}

/// clap's own text, in the one form that all our failures have.
fn usage(text: &str) -> Failure {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned);
    let first = lines.next().unwrap_or_default();
    Failure { notes: lines.collect(), ..Failure::new(ErrorKind::Usage, first) }
}

fn with_log<T>(run: impl FnOnce() -> T) -> T {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::WARN.into())
        .with_env_var("CAPUCHIN_LOG")
        .from_env_lossy();
    let colour = std::env::var_os("NO_COLOR").is_none() && std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).init();
    run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_lines_are_sound() {
        Borrowing::command().debug_assert();
        Lending::command().debug_assert();
    }

    #[test]
    fn the_commands_read_as_they_are_documented() {
        for line in [
            "capuchin join",
            "capuchin join - --password-file -",
            "capuchin join cap1_x --as attic --password-file secret",
            "capuchin login ana@lab --password-file -",
            "capuchin hosts --json",
            "capuchin check lab connect db.internal:5432 --json",
            "capuchin check lab shell",
            "capuchin check lab env.send --json -- LANG",
            "capuchin run lab",
            "capuchin run ana@lab --local 127.0.0.1:80 --local ::1 --keep-fd 3 --wait-all -- make -j2 test",
            "capuchin run --print-apparmor",
            "capuchin offer lab calc stdio",
            "capuchin offer ana@lab calc stdio --once",
            "capuchin run lab --stdio service:calc -- bc",
            "capuchin connect -F lab",
            "capuchin man /tmp",
            "capuchin exec lab -- ls -l",
            "capuchin exec -t lab vim -u none",
            "capuchin shell -l ana lab",
            "capuchin forward lab -N -L 8080:a:80 -L [::1]:0:[::1]:81",
            "capuchin forward lab -f -R *:8000-8010:localhost:8000-8010 -D 1080 -L /tmp/a:/run/b",
            "capuchin forward lab -W [::1]:22",
            "capuchin forward -l ana -p 2279 lab -L 8080:a:80",
            "capuchin hosts set lab a:1 b",
            "capuchin hosts set lab --auto",
            "capuchin hosts remove lab",
            "capuchin doctor",
            "capuchin doctor lab --json -- ./server",
            "capuchin doctor -- ./server",
        ] {
            let read = Borrowing::try_parse_from(line.split(' '));
            assert!(read.is_ok(), "{line}: {}", read.err().map(|error| error.to_string()).unwrap_or_default());
        }
        for line in [
            "capuchin",
            "capuchin run",
            "capuchin run lab curl",
            "capuchin check lab lisen a:1",
            "capuchin login",
            "capuchin offer lab calc",
            "capuchin offer lab calc tcp:localhost:80",
            "capuchin run lab --stdio calc -- bc",
        ] {
            assert!(Borrowing::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }

    #[test]
    fn help_begins_with_examples() {
        for help in [Borrowing::command().render_long_help(), Lending::command().render_long_help()] {
            assert!(help.to_string().starts_with("Examples:"), "{help}");
        }
    }

    #[test]
    fn the_commands_whose_status_is_an_answer_are_told_apart() {
        let answers = |line: &str| answers_by_status(line.split(' ').map(OsString::from));
        for line in [
            "capuchin check lab nonsense x",
            "capuchind --dir check check ana",
            "capuchind check --dir=x",
            "capuchin lender --dir x check ana nonsense",
            "capuchind audit verify --nonsense",
        ] {
            assert!(answers(line), "{line}");
        }
        for line in ["capuchin", "capuchin run check", "capuchind --dir check up", "capuchind audit --nonsense"] {
            assert!(!answers(line), "{line}");
        }
    }

    #[test]
    fn a_usage_error_has_one_line_and_notes() {
        let failure = usage("error: unexpected argument '-x' found\n\nUsage: capuchin join\n");
        assert_eq!((failure.kind, failure.code), (ErrorKind::Usage, 255));
        assert_eq!((failure.text.as_str(), failure.notes.len()), ("unexpected argument '-x' found", 1));
    }
}
