//! Programs at the lender, asked for with the names of `tokio::process`.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Output},
};

use bytes::{BufMut, BytesMut};

use super::{BorrowError, Borrower, child::Child, connect::first_message};
use crate::{
    proto::{
        Answer, Errno, ErrorKind, OFFERED_BYTES_MAX, OFFERED_MAX, Program, Refusal, Request, Spawn, SpawnStdio,
        Spawned, Terminal, WORDS_BYTES_MAX, WORDS_MAX, message,
    },
    session::Stream,
};

/// What follows a request in its first frame at most, in bytes; the rest comes when the lender takes it.
const FIRST_BYTES_MAX: usize = message::MESSAGE_BYTES_MAX;

/// A program to run at the lender: [`Borrower::command`] makes one.
///
/// As in `tokio::process`, but for three things: starting it waits for the lender, so [`spawn`](Self::spawn) is async; there
/// is nothing to inherit, so a stream that is not [piped](Stdio::Piped) is /dev/null; and the environment is the one that a
/// login gives, with what [`env`](Self::env) adds and the policy lets through (`env.send`).
///
/// No shell reads the arguments. They are bytes and need not be text.
///
#[cfg_attr(feature = "lend", doc = "```standalone_crate")]
#[cfg_attr(not(feature = "lend"), doc = "```text")]
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc_lab.rs"));
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # if capuchin::lend::serve_as_worker().is_some() { return Ok(()); }
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// # let (profiles, _web, _folder) = lab().await?;
/// # let lab = capuchin::Borrower::connect_with(&profiles, "lab").await?;
///
/// let output = lab.command("echo").arg("a  b").arg("$HOME").output().await?;
/// assert!(output.status.success());
/// assert_eq!(output.stdout, b"a  b $HOME\n");
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a command does nothing until it is spawned"]
pub struct Command {
    borrower: Borrower,
    what: Program,
    arguments: Vec<OsString>,
    variables: Vec<OsString>,
    folder: Option<PathBuf>,
    terminal: Option<Terminal>,
    stdio: [Option<Stdio>; 3],
    detach: bool,
    offered: Vec<OsString>,
}

/// What a program has as stdin, stdout or stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdio {
    /// A stream, which [`Child`] then holds.
    Piped,
    /// /dev/null of the lender.
    Null,
}

impl Borrower {
    /// A program at the lender, by its name or its path there.
    ///
    /// A name without a slash is looked for in `/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`. What is found
    /// there is what the policy judges (`exec`), together with the arguments.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        Command { arguments: vec![program.as_ref().to_owned()], ..Command::new(self, Program::Exec) }
    }

    /// The login shell of the user whom the lender runs our programs as. Arguments are ignored.
    pub fn shell(&self) -> Command {
        Command::new(self, Program::Shell)
    }
}

impl Command {
    fn new(borrower: &Borrower, what: Program) -> Self {
        Self {
            borrower: borrower.clone(),
            what,
            arguments: Vec::new(),
            variables: Vec::new(),
            folder: None,
            terminal: None,
            stdio: [None; 3],
            detach: false,
            offered: Vec::new(),
        }
    }

    /// Adds an argument.
    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets a variable; the policy must let it through (`env.send`), or the program is refused.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.variables.push(assignment(name.as_ref(), value.as_ref()));
        self
    }

    /// Sets a variable if the policy lets it through (`env.send`), and leaves it out without a word where it does not, as
    /// ssh(1) sends `LANG`; what [`env`](Self::env) sets counts more. A policy that lets it through no more ends the program
    /// for what `env` has set, and not for this. There are 32 of them and 4,096 bytes at most: those behind, and those with a
    /// NUL byte, are left out, too.
    pub fn env_if_allowed(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        let variable = assignment(name.as_ref(), value.as_ref());
        let bytes = self.offered.iter().map(|variable| variable.len()).sum::<usize>() + variable.len();
        if self.offered.len() < OFFERED_MAX && bytes <= OFFERED_BYTES_MAX && !variable.as_bytes().contains(&0) {
            self.offered.push(variable);
        }
        self
    }

    /// Sets the working directory; a relative one is taken from the user's home there, which is also what there is without.
    pub fn current_dir(&mut self, folder: impl AsRef<Path>) -> &mut Self {
        self.folder = Some(folder.as_ref().to_owned());
        self
    }

    /// Gives it a terminal: stdin and stdout are then the two directions of it, and there is no stderr.
    pub fn terminal(&mut self, terminal: Terminal) -> &mut Self {
        self.terminal = Some(terminal);
        self
    }

    /// Sets what it reads.
    pub fn stdin(&mut self, stdin: Stdio) -> &mut Self {
        self.stdio[0] = Some(stdin);
        self
    }

    /// Sets where its output goes.
    pub fn stdout(&mut self, stdout: Stdio) -> &mut Self {
        self.stdio[1] = Some(stdout);
        self
    }

    /// Sets where its errors go.
    pub fn stderr(&mut self, stderr: Stdio) -> &mut Self {
        self.stdio[2] = Some(stderr);
        self
    }

    /// Lets it outlive its [`Child`] and the session; the policy must allow it (`detach = true`).
    pub fn detach(&mut self) -> &mut Self {
        self.detach = true;
        self
    }

    /// Starts it, with the streams that were [piped](Stdio::Piped).
    ///
    /// # Errors
    /// No program can be so, as with a NUL byte in an argument ([`BorrowError::Usage`]); the lender refuses it, or cannot run it:
    /// then [`BorrowError::errno`] is that of its `execve`, or, of a [`BorrowError::Start`], of the step before that failed, as
    /// entering the working directory.
    ///
    /// # Cancellation
    /// Dropping the future ends what may have been started.
    pub async fn spawn(&self) -> Result<Child, BorrowError> {
        self.spawn_with([Stdio::Null; 3]).await
    }

    /// Runs it to its end, with what it said on stdout and stderr.
    ///
    /// # Errors
    /// As [`Self::spawn`], and if the session ends first.
    ///
    /// # Cancellation
    /// Dropping the future ends the program.
    pub async fn output(&self) -> Result<Output, BorrowError> {
        self.spawn_with([Stdio::Null, Stdio::Piped, Stdio::Piped]).await?.wait_with_output().await
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// As [`Self::output`].
    ///
    /// # Cancellation
    /// As [`Self::output`].
    pub async fn status(&self) -> Result<ExitStatus, BorrowError> {
        self.spawn().await?.wait().await
    }

    /// Asks another session for it from now on.
    #[cfg(feature = "cli")]
    pub(crate) fn change_borrower(&mut self, borrower: &Borrower) {
        self.borrower = borrower.clone();
    }

    async fn spawn_with(&self, otherwise: [Stdio; 3]) -> Result<Child, BorrowError> {
        let mut piped = [0, 1, 2].map(|index: usize| self.stdio[index].unwrap_or(otherwise[index]) == Stdio::Piped);
        piped[2] &= self.terminal.is_none();
        let words = self.words()?;
        let request = Request::Spawn(self.request(words.len(), piped));
        let mut first = BytesMut::from(&first_message(&request)?[..]);
        let mut rest = words.freeze();
        let room = FIRST_BYTES_MAX.saturating_sub(first.len());
        first.put(rest.split_to(room.min(rest.len())));
        let stream = self.borrower.open_with(first.freeze())?;
        let unanswered = super::answer::Unanswered(&stream);
        let mut streams = [None, None, None];
        for (which, (place, piped)) in crate::proto::Stdio::ALL.into_iter().zip(streams.iter_mut().zip(piped)) {
            if piped {
                let attach = SpawnStdio { spawn: stream.id().number(), which };
                *place = Some(self.borrower.open(&Request::SpawnStdio(attach))?);
            }
        }
        let spawned = self.answer(&stream, rest).await?;
        std::mem::forget(unanswered);
        Ok(Child::new(self.borrower.clone(), self.name(), (spawned.pid, self.detach), stream, streams))
    }

    async fn answer(&self, stream: &Stream, rest: bytes::Bytes) -> Result<Spawned, BorrowError> {
        // If the words cannot be sent, the answer says why.
        let _ = stream.write_all_bytes(rest).await;
        let name = self.name();
        let answer = stream.read_message("answer").await;
        match answer.map_err(|error| BorrowError::answer(self.borrower.host(), &name, error))? {
            Answer::Granted(spawned) => Ok(spawned),
            Answer::Refused(refusal) => Err(BorrowError::not_started(self.borrower.host(), &refusal)),
        }
    }

    fn request(&self, words_bytes: usize, piped: [bool; 3]) -> Spawn {
        let count = |words: &[OsString]| u32::try_from(words.len()).unwrap_or(u32::MAX);
        Spawn {
            what: self.what,
            arguments: if self.what == Program::Shell { 0 } else { count(&self.arguments) },
            variables: count(&self.variables),
            words_bytes: u32::try_from(words_bytes).unwrap_or(u32::MAX),
            folder: self.folder.as_ref().map(|folder| folder.as_os_str().as_bytes().to_vec()),
            terminal: self.terminal.clone(),
            piped,
            detach: self.detach,
            offered: self.offered.iter().map(|variable| variable.as_bytes().to_vec()).collect(),
        }
    }

    /// Arguments and variables, each with a NUL behind it.
    fn words(&self) -> Result<BytesMut, BorrowError> {
        let arguments = if self.what == Program::Shell { &[][..] } else { &self.arguments };
        let all = || arguments.iter().chain(&self.variables).map(|word| word.as_bytes());
        if all().any(|word| word.contains(&0)) {
            return Err(BorrowError::usage("an argument or variable with a NUL byte cannot be given to a program"));
        }
        let (count, bytes) = (all().count(), all().map(|word| word.len() + 1).sum::<usize>());
        if count > WORDS_MAX as usize || bytes > WORDS_BYTES_MAX as usize {
            let reason = format!(
                "{count} arguments and variables of {bytes} bytes are too many: the limits are {WORDS_MAX} and {WORDS_BYTES_MAX}"
            );
            let refusal = Refusal::new(ErrorKind::Target, reason).with_errno(Some(Errno::E2BIG));
            return Err(BorrowError::unanswered(self.borrower.host(), &refusal));
        }
        let mut words = BytesMut::with_capacity(bytes);
        for word in all() {
            words.put_slice(word);
            words.put_u8(0);
        }
        Ok(words)
    }

    /// The program, in errors.
    pub(super) fn name(&self) -> String {
        self.arguments.first().map_or_else(|| "shell".to_owned(), |name| name.to_string_lossy().into_owned())
    }
}

fn assignment(name: &OsStr, value: &OsStr) -> OsString {
    let mut variable = name.to_owned();
    variable.push("=");
    variable.push(value);
    variable
}
