//! Programs to run: by path and arguments, and the two that can do anything, a shell and Python.

use super::{
    Policy,
    command_line::{self, CommandLineError},
    decide::{Facts, Judged, Principal},
    kind::Kind,
    path::{LenderPath, PathError},
    problem::PolicyError,
    reader::{Entry, Reader, Value},
    refusal::{Reason, Refusal, RuleRef},
    search::{Search, Select, Wanted},
};

/// A program with its arguments, each handed over as it stands: no shell reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exec {
    /// The program file, where it really is.
    pub path: LenderPath,
    /// The arguments, without the program's own name.
    pub args: Vec<String>,
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
        let args: Vec<String> = words.collect();
        if args.iter().any(|arg| arg.contains('\0')) { Err(ProgramError::Nul) } else { Ok(Self { path, args }) }
    }

    /// The pattern that is this program with these arguments alone.
    pub(super) fn into_pattern(self) -> ProgramPattern {
        ProgramPattern { path: Some(self.path), args: self.args, exact: true }
    }
}

impl ProgramPattern {
    /// An entry as it is written in a rule.
    pub fn written(&self) -> String {
        let path = self.path.as_ref().map_or_else(|| "*".to_owned(), ToString::to_string);
        let args = if self.args.is_empty() { String::new() } else { format!(", args = {:?}", self.args) };
        format!("{{ path = {path:?}{args}{} }}", if self.exact { ", exact = true" } else { "" })
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
        let mut pattern = Self { path: None, args: Vec::new(), exact: false };
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

impl Judged for Exec {
    fn judge(self, policy: &Policy, principal: &Principal, facts: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        let search = Search { policy, user: &principal.user, kind: Kind::Exec, select: |patterns| &patterns.exec };
        let rule = search.judge(&Asked { exec: &self, own_folders: facts.own_folders })?;
        Ok((self, rule))
    }
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

struct Asked<'a> {
    exec: &'a Exec,
    own_folders: &'a [LenderPath],
}

impl Wanted<ProgramPattern> for Asked<'_> {
    fn target(&self) -> String {
        let path = self.exec.path.to_string();
        command_line::join(std::iter::once(path.as_str()).chain(self.exec.args.iter().map(String::as_str)))
    }

    fn never(&self) -> Option<Reason> {
        let own = self.own_folders.iter().find(|folder| self.exec.path.is_within(folder))?;
        Some(Reason::OwnFolder { folder: own.clone() })
    }

    fn is_allowed_by(&self, pattern: &ProgramPattern) -> bool {
        let by_path = pattern.path.as_ref().is_none_or(|path| *path == self.exec.path);
        by_path
            && self.exec.args.starts_with(&pattern.args)
            && (!pattern.exact || self.exec.args.len() == pattern.args.len())
    }

    /// The same program with other arguments.
    fn closeness(&self, pattern: &ProgramPattern) -> usize {
        usize::from(pattern.path.as_ref().is_none_or(|path| *path == self.exec.path))
    }
}

struct Whole;

impl Wanted<()> for Whole {
    fn target(&self) -> String {
        String::new()
    }

    fn is_allowed_by(&self, (): &()) -> bool {
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
