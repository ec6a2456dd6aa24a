//! `capuchin exec` and `capuchin shell`: a program at the lender, with our stdin, stdout, stderr and terminal.

mod escape_keys;
mod keys;
mod local_terminal;
mod relay;
mod signals;
pub(super) mod streams;

use std::{ffi::OsString, io::IsTerminal, path::PathBuf};

use self::local_terminal::LocalTerminal;
use super::{
    host::HostArgument,
    presence::Presence,
    report::{Failure, print},
};
use crate::{BorrowError, Borrower, Child, Command, Stdio, proto::ErrorKind};

/// Exit status of a shell for a program that is there and cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// Exit status of a shell for a program that is not there.
const NOT_FOUND: u8 = 127;
const ENOENT: u16 = 2;

/// Run a program at the lender, as ssh does; no shell reads its arguments
#[derive(clap::Args)]
#[command(before_help = "\
Examples:
  capuchin exec lab -- git -C /srv/app status     its output and its exit status
  tar c . | capuchin exec lab -- tar x -C /srv    stdin goes there
  capuchin exec -t lab -- vim notes.txt           with a terminal
  capuchin exec lab -- sh -c 'ls *.txt | wc -l'   a shell, where one is wanted
  rsync -as -e 'capuchin exec' src/ lab:src/      in the place of ssh

Exit status: that of the program, or 128+N if signal N ended it; 126 if it cannot be executed, 127 if it or the \
interpreter that its first line names is not there, 255 after any failure before that, as of --cwd.

Without -s rsync puts a backslash before each space of a name, for a shell that would read it, and here none does; \
contrib/capuchin-ssh has one, and is for git, scp and sftp, too.

SIGINT, SIGTERM, SIGHUP and SIGQUIT go to the program; sent twice, or where it has a terminal, they end this. What the \
program leaves behind is ended with it, nohup and setsid or not; --detach is for what is to stay.")]
pub struct Arguments {
    #[command(flatten)]
    session: Session,
    /// Give it a terminal, of 80x24 where there is none here; -tt is the same
    #[arg(short = 't', long = "tty", overrides_with = "terminal")]
    terminal: bool,
    /// Without a terminal, as if nothing were said
    #[arg(short = 'T', long = "no-tty", overrides_with = "terminal")]
    no_terminal: bool,
    /// Nothing on its stdin
    #[arg(short = 'n', long = "null-stdin")]
    null_stdin: bool,
    /// Let it run on without us, where the policy says `detach = true`, and print its process number. Its stdin, stdout and
    /// stderr are /dev/null: what is piped in here does not reach it, as with docker run -d
    #[arg(long, conflicts_with = "terminal")]
    detach: bool,
    /// The program, by name or path, and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGV")]
    argv: Vec<OsString>,
}

/// The login shell of the user whom programs run as, on a terminal where stdin is one
#[derive(clap::Args)]
#[command(before_help = "\
Examples:
  capuchin shell lab
  capuchin shell -l ana lab
  echo uptime | capuchin shell lab

Keys behind a newline: ~. ends, ~^Z suspends, ~? lists them all.

Exit status: that of the shell; 255 after any failure of our own.")]
pub struct ShellArguments {
    #[command(flatten)]
    session: Session,
    /// Give it a terminal, of 80x24 where there is none here; -tt is the same
    #[arg(short = 't', long = "tty", overrides_with = "terminal")]
    terminal: bool,
    /// Without a terminal
    #[arg(short = 'T', long = "no-tty", overrides_with = "terminal")]
    no_terminal: bool,
}

/// What both have.
#[derive(clap::Args)]
struct Session {
    /// Set a variable there, or send ours; the policy decides (`env.send`). With a terminal LANG and LC_* go by themselves,
    /// where it lets them through
    #[arg(long = "env", value_name = "NAME[=VALUE]")]
    variables: Vec<OsString>,
    /// Working directory there; the home if left out. One that cannot be entered ends this with 255
    // Not one of this machine, which a shell would complete.
    #[arg(long = "cwd", value_name = "FOLDER", value_hint = clap::ValueHint::Other)]
    folder: Option<PathBuf>,
    /// The character that steers the session behind a newline on a terminal, or none
    #[arg(short = 'e', long = "escape", value_name = "CHARACTER", default_value = "~", value_parser = escape_key)]
    escape: EscapeKey,
    #[command(flatten)]
    host: HostArgument,
}

/// What `-e` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EscapeKey(Option<u8>);

fn escape_key(text: &str) -> Result<EscapeKey, String> {
    match text.as_bytes() {
        b"none" => Ok(EscapeKey(None)),
        [byte] if byte.is_ascii_graphic() => Ok(EscapeKey(Some(*byte))),
        [b'^', letter @ b'@'..=b'_'] => Ok(EscapeKey(Some(letter ^ 0x40))),
        _ => Err("write one character, ^ and a letter, or none".to_owned()),
    }
}

/// `capuchin exec`.
pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let Arguments { session, terminal, no_terminal: _, null_stdin, detach, argv } = arguments;
    let borrower = session.host.connect_or_share().await?;
    let [program, rest @ ..] = argv.as_slice() else {
        return Err(Failure::new(ErrorKind::Usage, "a program is missing"));
    };
    let mut command = borrower.command(program);
    command.args(rest);
    session.apply(&mut command);
    let words: Vec<_> = argv.iter().map(|word| word.to_string_lossy()).collect();
    let mut wanted = Wanted { host: &session.host, borrower, command, about: ("exec", words.join(" ")) };
    if detach {
        let started = wanted.start_detached().await;
        wanted.borrower.leave().await;
        return print(&started?);
    }
    if !null_stdin {
        wanted.command.stdin(Stdio::Piped);
    }
    if terminal {
        Session::apply_language(&mut wanted.command);
    }
    let ran = relay::run(wanted, terminal, session.escape.0).await;
    ran.map_err(|failure| if failure.code == NOT_FOUND { for_a_shell(failure, &argv) } else { failure })
}

/// A line for a shell, as ssh takes one, that was meant as a program.
fn for_a_shell(mut failure: Failure, argv: &[OsString]) -> Failure {
    let line = argv.first().map(|word| word.to_string_lossy()).unwrap_or_default();
    if line.contains(char::is_whitespace) {
        let helps = [
            "help: no shell reads this; for one: capuchin exec HOST -- sh -c 'LINE'",
            "help: for git and what else hands ssh a line: contrib/capuchin-ssh in the place of ssh",
        ];
        failure.notes.extend(helps.map(str::to_owned));
    }
    failure
}

/// `capuchin shell`.
pub async fn shell(arguments: ShellArguments) -> Result<(), Failure> {
    let ShellArguments { session, terminal, no_terminal } = arguments;
    let borrower = session.host.connect_or_share().await?;
    let mut command = borrower.shell();
    session.apply(&mut command);
    command.stdin(Stdio::Piped);
    let terminal = terminal || (!no_terminal && std::io::stdin().is_terminal());
    if terminal {
        Session::apply_language(&mut command);
    }
    let wanted = Wanted { host: &session.host, borrower, command, about: ("shell", "a login shell".to_owned()) };
    relay::run(wanted, terminal, session.escape.0).await
}

/// A program that is to run there.
struct Wanted<'a> {
    host: &'a HostArgument,
    borrower: Borrower,
    command: Command,
    /// Of what `capuchin status` lists: which command it is, and what for.
    about: (&'static str, String),
}

impl Wanted<'_> {
    /// Starts it; where the session that is shared has no room for one more, over one of its own, as ssh(1) does.
    ///
    /// # Cancellation
    /// What may have been started ends.
    async fn start(&mut self) -> Result<Child, Failure> {
        let full = match self.command.spawn().await {
            Err(error) if error.kind() == ErrorKind::Busy && self.borrower.is_shared() => error,
            spawned => return spawned.map_err(failed),
        };
        // Nobody is asked for a password: there is a session that will have room again.
        let Ok(own) = Borrower::connect(&self.host.text()?).await else { return Err(failed(full)) };
        self.command.change_borrower(&own);
        self.borrower = own;
        self.command.spawn().await.map_err(failed)
    }

    /// Starts it to live on without us, and gives its number.
    async fn start_detached(&mut self) -> Result<String, Failure> {
        self.command.detach();
        let mut child = self.start().await?;
        let pid = child.id().map(|pid| pid.to_string()).unwrap_or_default();
        child.stdin = None;
        child.detach().await?;
        Ok(pid)
    }

    fn announce(&self) -> Option<Presence> {
        let (command, purpose) = &self.about;
        Presence::announce(&self.borrower, command, vec![purpose.clone()])
    }
}

impl Session {
    fn apply(&self, command: &mut Command) {
        for variable in &self.variables {
            match split_variable(variable) {
                Some((name, value)) => drop(command.env(name, value)),
                // Ours, and nothing if we have none.
                None => {
                    if let Some(value) = std::env::var_os(variable) {
                        command.env(variable, value);
                    }
                }
            }
        }
        if let Some(folder) = &self.folder {
            command.current_dir(folder);
        }
    }

    /// Tells programs on a terminal which language the person there reads, as ssh(1) does.
    fn apply_language(command: &mut Command) {
        for (name, value) in std::env::vars_os() {
            if name == "LANG" || name.as_encoded_bytes().starts_with(b"LC_") {
                command.env_if_allowed(name, value);
            }
        }
    }
}

fn split_variable(variable: &std::ffi::OsStr) -> Option<(&std::ffi::OsStr, &std::ffi::OsStr)> {
    use std::os::unix::ffi::OsStrExt;
    let bytes = variable.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=')?;
    let (name, value) = bytes.split_at(at);
    Some((std::ffi::OsStr::from_bytes(name), std::ffi::OsStr::from_bytes(value.get(1..).unwrap_or_default())))
}

/// A program that does not start, with the exit status that a shell has for it.
fn failed(error: BorrowError) -> Failure {
    let code = match (error.kind(), error.errno().map(|errno| errno.0)) {
        // Nothing was found out about the program.
        _ if matches!(error, BorrowError::Start { .. }) => super::report::FAILURE,
        (ErrorKind::Target, Some(ENOENT)) => NOT_FOUND,
        (ErrorKind::Target, Some(_)) => NOT_EXECUTABLE,
        _ => super::report::FAILURE,
    };
    Failure::from(error).with_code(code)
}

/// The terminal here, if this one is to be passed on.
fn local_terminal(wanted: bool) -> Option<LocalTerminal> {
    if wanted { LocalTerminal::find() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escape_key_is_one_character_or_none() {
        assert_eq!(escape_key("~"), Ok(EscapeKey(Some(b'~'))));
        assert_eq!(escape_key("^B"), Ok(EscapeKey(Some(2))));
        assert_eq!(escape_key("none"), Ok(EscapeKey(None)));
        assert!(["", "ab", " ", "é"].into_iter().all(|text| escape_key(text).is_err()));
    }

    #[test]
    fn a_variable_is_split_at_its_first_equals_sign() {
        use std::ffi::OsStr;
        assert_eq!(split_variable(OsStr::new("A=b=c")), Some((OsStr::new("A"), OsStr::new("b=c"))));
        assert_eq!(split_variable(OsStr::new("A=")), Some((OsStr::new("A"), OsStr::new(""))));
        assert_eq!(split_variable(OsStr::new("A")), None);
    }
}
