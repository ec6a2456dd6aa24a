//! Programs to run: by path and arguments, and the two that can do anything, a shell and Python.

use std::{borrow::Cow, sync::Arc};

use super::{
    Policy,
    command_line::{self, CommandLineError},
    covered::Covers,
    decide::{Facts, Judged, Principal},
    kind::Kind,
    path::{LenderPath, PathError},
    problem::PolicyError,
    reader::{Entry, Reader, Value},
    refusal::{Reason, Refusal, Remedy, RuleRef},
    search::{Search, Select, Wanted},
};
use crate::proto::REFUSAL_TEXT_MAX;

/// A program with its arguments, each handed over as it stands: no shell reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// The program file. Granted, the one that a rule names.
    pub path: LenderPath,
    /// Where that file really is, if links led there: what denies it denies `path`, what allows it allows to run it by
    /// this path and not by the other.
    pub real: Option<LenderPath>,
    /// The arguments, without the program's own name; any bytes but NUL. There may be megabytes of them, so clones share.
    pub args: Arc<[Vec<u8>]>,
}

/// A login shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shell;

/// A Python interpreter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Python;

/// An entry of `exec`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ProgramPattern {
    /// None: every program.
    path: Option<LenderPath>,
    /// Of a deny: the same file by where its folder really is, if that is elsewhere (`/bin/sh`, which is `/usr/bin/sh`).
    led: Option<LenderPath>,
    /// What the arguments begin with, or are.
    args: Vec<String>,
    exact: bool,
}

/// Why a text is not a program with its arguments.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProgramError {
    /// It has no words.
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    /// Its first word is no path.
    #[error(transparent)]
    Path(#[from] PathError),
    /// No program can be given such an argument.
    #[error("an argument has no NUL byte")]
    Nul,
}

impl Exec {
    /// Reads a command line.
    pub(super) fn parse(line: &str) -> Result<Self, ProgramError> {
        let mut words = command_line::split(line)?.into_iter();
        let path = LenderPath::parse(words.next().ok_or(CommandLineError::Empty)?)?;
        Self::new(path, None, words.map(String::into_bytes).collect::<Vec<_>>())
    }

    /// A program file, where it really is if that is elsewhere, and its arguments.
    ///
    /// # Errors
    /// [`ProgramError::Nul`]: no program can be given such an argument.
    pub fn new(
        path: LenderPath,
        real: Option<LenderPath>,
        args: impl Into<Arc<[Vec<u8>]>>,
    ) -> Result<Self, ProgramError> {
        let args = args.into();
        if args.iter().any(|arg| arg.contains(&0)) { Err(ProgramError::Nul) } else { Ok(Self { path, real, args }) }
    }

    /// Path and arguments as a shell reads them; bytes that are no text are shown as such, and of long arguments the first 8 KiB.
    pub fn command_line(&self) -> String {
        command_line_of(&self.path, &self.args)
    }

    /// The pattern that is this program with these arguments alone. Rules are text, so arguments that are none are
    /// written as far as they are.
    pub(super) fn into_pattern(self) -> ProgramPattern {
        let args = self.args.iter().map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
        ProgramPattern { path: Some(self.path), led: None, args, exact: true }
    }
}

impl ProgramPattern {
    /// An entry as it is written in a rule.
    pub fn written(&self) -> String {
        let path = self.path.as_ref().map_or_else(|| "*".to_owned(), ToString::to_string);
        let args = if self.args.is_empty() { String::new() } else { format!(", args = {:?}", self.args) };
        format!("{{ path = {path:?}{args}{} }}", if self.exact { ", exact = true" } else { "" })
    }

    /// Of a deny: it holds for its file also by the name that `real` gives it.
    pub fn follow(&mut self, real: impl Fn(&LenderPath) -> LenderPath) {
        self.led = self.path.as_ref().map(real).filter(|led| Some(led) != self.path.as_ref());
    }

    fn names(&self, file: &LenderPath) -> bool {
        self.path.as_ref().is_none_or(|path| path == file) || self.led.as_ref() == Some(file)
    }

    /// Reads a list of `{ path, args, exact }`.
    pub fn read_all(reader: &mut Reader<'_>, value: &Value<'_>) -> Result<Vec<Entry<Self>>, PolicyError> {
        let form = "write a list such as [{ path = \"/usr/bin/git\", args = [\"status\"], exact = true }]";
        let programs = value.get_ref().as_array().ok_or_else(|| reader.bad_value(value, "exec", form))?;
        programs.iter().map(|program| Self::read(reader, program, form)).collect()
    }

    fn read(reader: &mut Reader<'_>, value: &Value<'_>, form: &str) -> Result<Entry<Self>, PolicyError> {
        const PLACE: &str = "an entry of `exec`";
        let table = value.get_ref().as_table().ok_or_else(|| reader.bad_value(value, "exec", form))?;
        if !table.contains_key("path") {
            return Err(reader.missing_key(value.span(), "path", PLACE));
        }
        let mut pattern = Self { path: None, led: None, args: Vec::new(), exact: false };
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "path" => pattern.path = reader.string(value, "path", parse_program)?.value,
                "args" => {
                    let args = reader.strings(value, "args", parse_argument)?;
                    pattern.args = args.into_iter().map(|entry| entry.value).collect();
                }
                "exact" => pattern.exact = reader.flag(value, "exact")?,
                _ => return Err(reader.unknown_key(key, PLACE, ["path", "args", "exact"].into_iter())),
            }
        }
        Ok(Entry { origin: reader.origin(value), text: pattern.written(), value: pattern })
    }
}

impl Covers for ProgramPattern {
    fn covers_all_of(&self, allow: &Self) -> bool {
        let is_same = allow.path.as_ref().map_or(self.path.is_none(), |path| self.names(path));
        let args = match self.exact {
            true => allow.exact && self.args == allow.args,
            false => allow.args.starts_with(&self.args),
        };
        is_same && args
    }
}

impl Judged for Exec {
    /// What the name alone decides comes first: whether there is such a file, and where it leads, is told only to who may
    /// run it.
    fn judge(self, policy: &Policy, principal: &Principal, facts: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        let search = search(policy, principal);
        let asked = |path, real| Asked { path, real, args: &self.args, own_folders: facts.own_folders };
        let refusal = match search.judge(&asked(&self.path, None)) {
            Ok(_) => {
                let rule = search.judge(&asked(&self.path, self.real.as_ref()))?;
                return Ok((self, rule));
            }
            Err(refusal) => refusal,
        };
        let (Reason::NoRule, Some(real)) = (&refusal.reason, &self.real) else { return Err(refusal) };
        let rule = search.judge(&asked(real, None)).map_err(|_| refusal)?;
        Ok((Self { path: real.clone(), real: None, args: self.args }, rule))
    }
}

/// Whether some rule might let `principal` run a file with the arguments of `exec`, whatever file it turns out to be. Where
/// none might, no file need be looked for.
///
/// # Errors
/// The [`Refusal`] of `exec` by its name, which says nothing of the file.
///
/// ```
/// use capuchin::{policy::*, proto::DeviceId};
/// let policy = "[[allow]]\nwho = \"ana\"\nexec = [{ path = \"/usr/bin/git\", args = [\"status\"] }]";
/// let policy = Policy::parse(policy, "policy.toml")?;
/// let ana = Principal { user: "ana".parse()?, device: DeviceId::from_digest(&[0; 32]) };
/// let link = |argument: &str| Exec::new(LenderPath::parse("/opt/link")?, None, [argument.into()]);
///
/// assert!(may_run(&policy, &ana, &link("status")?, &Facts::default()).is_ok(), "it may lead to git");
/// assert!(may_run(&policy, &ana, &link("push")?, &Facts::default()).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn may_run(policy: &Policy, principal: &Principal, exec: &Exec, facts: &Facts<'_>) -> Result<(), Refusal> {
    let search = search(policy, principal);
    let asked = Asked { path: &exec.path, real: None, args: &exec.args, own_folders: facts.own_folders };
    if search.allows().any(|entry| asked.has_args_of(&entry.value)) {
        return Ok(());
    }
    search.judge(&asked).map(drop)
}

fn search<'a>(policy: &'a Policy, principal: &'a Principal) -> Search<'a, ProgramPattern> {
    Search { policy, user: &principal.user, kind: Kind::Exec, select: |patterns| &patterns.exec }
}

impl Judged for Shell {
    fn judge(self, policy: &Policy, principal: &Principal, _: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        let rule = judge_whole(policy, principal, Kind::Shell, |patterns| &patterns.shell)?;
        Ok((self, rule))
    }
}

impl Judged for Python {
    fn judge(self, policy: &Policy, principal: &Principal, _: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        let rule = judge_whole(policy, principal, Kind::Python, |patterns| &patterns.python)?;
        Ok((self, rule))
    }
}

/// Judges what is allowed as a whole or not at all.
fn judge_whole(policy: &Policy, principal: &Principal, kind: Kind, select: Select<()>) -> Result<RuleRef, Refusal> {
    Search { policy, user: &principal.user, kind, select }.judge(&Whole)
}

/// How much of the arguments stands in a text, in bytes: more than a refusal or a line of the log has room for. There may be
/// megabytes of them, and to quote all of those, only to cut them off behind it, would take a lender seconds.
const SHOWN_BYTES_MAX: usize = 8 * 1024;
const _: () = assert!(SHOWN_BYTES_MAX > REFUSAL_TEXT_MAX);

fn command_line_of(path: &LenderPath, args: &[Vec<u8>]) -> String {
    let path = path.to_string();
    let args = shown(args);
    command_line::join(std::iter::once(path.as_str()).chain(args.iter().map(AsRef::as_ref)))
}

/// The arguments as text, up to [`SHOWN_BYTES_MAX`]; what is cut off there ends in dots.
fn shown(args: &[Vec<u8>]) -> Vec<Cow<'_, str>> {
    let (mut shown, mut left) = (Vec::new(), SHOWN_BYTES_MAX);
    for arg in args {
        let Some(after) = left.checked_sub(arg.len() + 1) else {
            shown.push(String::from_utf8_lossy(arg.get(..left).unwrap_or(arg)) + "…");
            break;
        };
        shown.push(String::from_utf8_lossy(arg));
        left = after;
    }
    shown
}

struct Asked<'a> {
    path: &'a LenderPath,
    real: Option<&'a LenderPath>,
    args: &'a [Vec<u8>],
    own_folders: &'a [LenderPath],
}

impl Asked<'_> {
    fn paths(&self) -> impl Iterator<Item = &LenderPath> {
        std::iter::once(self.path).chain(self.real)
    }

    fn has_args_of(&self, pattern: &ProgramPattern) -> bool {
        let begins = pattern.args.iter().map(String::as_bytes).eq(self.args.iter().take(pattern.args.len()));
        begins && (!pattern.exact || self.args.len() == pattern.args.len())
    }
}

impl Wanted<ProgramPattern> for Asked<'_> {
    fn target(&self) -> String {
        command_line_of(self.path, self.args)
    }

    fn remedy(&self) -> Remedy {
        let is_shown = self.args.iter().map(|arg| arg.len() + 1).sum::<usize>() <= SHOWN_BYTES_MAX;
        if is_shown { Remedy::Add(self.target()) } else { Remedy::AddProgram }
    }

    fn never(&self) -> Option<Reason> {
        let is_own = |folder: &&LenderPath| self.paths().any(|path| path.is_within(folder));
        let own = self.own_folders.iter().find(is_own)?;
        Some(Reason::OwnFolder { folder: own.clone() })
    }

    fn is_denied_by(&self, pattern: &ProgramPattern) -> bool {
        self.paths().any(|asked| pattern.names(asked)) && self.has_args_of(pattern)
    }

    fn is_covered_by(&self, pattern: &ProgramPattern) -> bool {
        pattern.path.as_ref().is_none_or(|path| path == self.path) && self.has_args_of(pattern)
    }

    /// The same program with other arguments.
    fn closeness(&self, pattern: &ProgramPattern) -> usize {
        usize::from(pattern.path.as_ref().is_none_or(|path| path == self.path))
    }
}

struct Whole;

impl Wanted<()> for Whole {
    fn target(&self) -> String {
        String::new()
    }

    fn is_covered_by(&self, (): &()) -> bool {
        true
    }

    fn closeness(&self, (): &()) -> usize {
        0
    }
}

/// The path of a program, or `*` for any.
fn parse_program(text: &str) -> Result<Option<LenderPath>, PathError> {
    match text {
        "*" => Ok(None),
        _ if text.contains('*') => Err(PathError::Star(text.to_owned())),
        _ => LenderPath::parse(text).map(Some),
    }
}

fn parse_argument(text: &str) -> Result<String, ProgramError> {
    if text.contains('\0') { Err(ProgramError::Nul) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests;
