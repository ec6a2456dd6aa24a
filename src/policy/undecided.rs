//! The kinds of request that the grammar has and that nothing decides yet: checked in a file, refused at the gate.

use std::fmt;

use super::{
    Policy,
    decide::{Facts, Judged, Principal},
    grammar,
    pattern::{HostPattern, Target},
    problem::PolicyError,
    reader::{Reader, Value},
    refusal::{Reason, Refusal, RuleRef},
    rule::Place,
};

/// A kind of request that a policy may already name and that is refused whatever it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Undecided {
    /// Datagrams to a peer.
    Udp,
    /// A TCP or UDP port to listen on.
    Listen,
    /// A Unix socket to connect to.
    Unix,
    /// A Unix socket to create.
    UnixListen,
    /// A name to look up.
    Resolve,
    /// Files to read.
    Read,
    /// Files to write.
    Write,
    /// A program to run.
    Exec,
    /// A login shell.
    Shell,
    /// A Python interpreter.
    Python,
    /// Environment variables to set or read.
    Env,
    /// Services to offer or use.
    Services,
}

impl Undecided {
    pub(super) const ALL: [Self; 12] = [
        Self::Udp,
        Self::Listen,
        Self::Unix,
        Self::UnixListen,
        Self::Resolve,
        Self::Read,
        Self::Write,
        Self::Exec,
        Self::Shell,
        Self::Python,
        Self::Env,
        Self::Services,
    ];

    /// Its key in `policy.toml`.
    pub fn key(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Listen => "listen",
            Self::Unix => "unix",
            Self::UnixListen => "unix_listen",
            Self::Resolve => "resolve",
            Self::Read => "read",
            Self::Write => "write",
            Self::Exec => "exec",
            Self::Shell => "shell",
            Self::Python => "python",
            Self::Env => "env",
            Self::Services => "services",
        }
    }

    pub(super) fn with_key(key: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.key() == key)
    }

    /// Checks the value of its key.
    pub(super) fn check(self, reader: &mut Reader<'_>, value: &Value<'_>, place: Place) -> Result<(), PolicyError> {
        let key = self.key();
        match self {
            Self::Udp => reader.strings(value, key, Target::parse).map(drop),
            Self::Listen => reader.strings(value, key, Target::parse_listen).map(drop),
            Self::Unix | Self::UnixListen => reader.strings(value, key, grammar::socket_path).map(drop),
            Self::Resolve => reader.strings(value, key, HostPattern::parse_name).map(drop),
            Self::Read | Self::Write => reader.strings(value, key, grammar::path).map(drop),
            Self::Exec => check_exec(reader, value),
            Self::Shell | Self::Python if place != Place::Allow && !reader.flag(value, key)? => Err(reader.bad_value(
                value,
                key,
                format!("false says nothing in {place}: write true, or leave the key out"),
            )),
            Self::Shell | Self::Python => reader.flag(value, key).map(drop),
            Self::Env => check_parts(reader, value, key, ["send", "read"], grammar::variable),
            Self::Services => check_parts(reader, value, key, ["offer", "use"], grammar::service),
        }
    }
}

impl fmt::Display for Undecided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

impl Judged for Undecided {
    fn judge(self, _: &Policy, _: &Principal, _: &Facts<'_>) -> Result<(Self, RuleRef), Refusal> {
        let reason = Reason::KindNotDecided { kind: self };
        let help = "ask for connections: they are what this lender lends".to_owned();
        Err(Refusal { request: self.to_string(), reason, rule: None, nearest: None, help })
    }
}

/// A list of `{ path, args, exact }`.
fn check_exec(reader: &mut Reader<'_>, value: &Value<'_>) -> Result<(), PolicyError> {
    const PLACE: &str = "an entry of `exec`";
    let form = "write a list such as [{ path = \"/usr/bin/git\", args = [\"status\"], exact = true }]";
    let programs = value.get_ref().as_array().ok_or_else(|| reader.bad_value(value, "exec", form))?;
    for program in programs.iter() {
        let table = program.get_ref().as_table().ok_or_else(|| reader.bad_value(program, "exec", form))?;
        if !table.contains_key("path") {
            return Err(reader.missing_key(program.span(), "path", PLACE));
        }
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "path" => reader.string(value, "path", grammar::program).map(drop)?,
                "args" => reader.strings(value, "args", grammar::argument).map(drop)?,
                "exact" => reader.flag(value, "exact").map(drop)?,
                _ => return Err(reader.unknown_key(key, PLACE, ["path", "args", "exact"].into_iter())),
            }
        }
    }
    Ok(())
}

/// A table with two lists of names.
fn check_parts(
    reader: &mut Reader<'_>,
    value: &Value<'_>,
    place: &'static str,
    parts: [&'static str; 2],
    name: fn(&str) -> Result<(), grammar::ShapeError>,
) -> Result<(), PolicyError> {
    for (key, value) in reader.table(value, place)? {
        match parts.into_iter().find(|part| part == key.get_ref()) {
            Some(part) => reader.strings(value, part, name).map(drop)?,
            None => return Err(reader.unknown_key(key, place, parts.into_iter())),
        }
    }
    Ok(())
}
