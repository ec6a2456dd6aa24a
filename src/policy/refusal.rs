//! Why a request was refused, as a person who may want to change that reads it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use super::{Policy, command_line::shell_word, host::HostError, kind::Kind, path::LenderPath, reader::Entry};
use crate::proto::{REFUSAL_TEXT_MAX, UserName};

/// A request that is not granted. It shows only rules that name its user. As one line: what, and why;
/// [`explain`](Self::explain) says the rest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{request} is refused: {reason}")]
pub struct Refusal {
    /// What was asked, e.g. `connect db.internal:22`.
    pub request: String,
    /// Why it is refused.
    pub reason: Reason,
    /// The deny that decided, or the allow that covers the request and may not open it.
    pub rule: Option<Box<RuleRef>>,
    /// The user's own rule that comes closest to allowing it.
    pub nearest: Option<Box<RuleRef>>,
    /// What to do about it.
    pub help: String,
    /// The command to send to the lender's admin, where the admin can do something: a grant for an hour, or, where no
    /// grant helps, the question that shows the admin why.
    pub send: Option<Box<str>>,
}

/// Why a request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// Nothing allows it, and what is not allowed is refused.
    #[error("no rule allows it")]
    NoRule,
    /// A `[[deny]]` covers it.
    #[error("a rule denies it")]
    Denied,
    /// It leads into a range that only an address rule opens.
    #[error("{address} is {what}, which a rule must name by its address")]
    SpecialRange {
        /// The address.
        address: IpAddr,
        /// What its range is, e.g. `loopback`.
        what: &'static str,
    },
    /// It leads to the lender itself.
    #[error("{address} is the lender's own listener, which a rule must name by address and port")]
    OwnListener {
        /// The address and port.
        address: SocketAddr,
    },
    /// The lender itself listens there.
    #[error("the lender itself listens on {address}")]
    OwnPort {
        /// Where it listens.
        address: SocketAddr,
    },
    /// It lies in a folder of the lender itself.
    #[error("{folder} is the lender's own, and never lent")]
    OwnFolder {
        /// The folder.
        folder: LenderPath,
    },
    /// It lies in a tree that only a rule inside it opens.
    #[error("{tree} is no part of \"/\": a rule must name it")]
    SpecialTree {
        /// The tree, e.g. `/proc`.
        tree: &'static str,
    },
    /// It is allowed by its name, and links lead from there to what is not.
    #[error("links lead from there to what is not allowed")]
    LedElsewhere,
    /// It listens where only privileged programs of Unix may.
    #[error("ports below 1024 are no part of `*`: a rule must name them")]
    PrivilegedPort,
    /// It decides what a program does.
    #[error("it steers programs, and a rule must spell it out without `*`")]
    SteeringVariable,
    /// It names no host.
    #[error(transparent)]
    BadHost(#[from] HostError),
    /// The name is allowed, and has no address.
    #[error("the lender's resolver gives it no address")]
    NothingResolved,
}

/// What a refused borrower can do.
pub(super) enum Remedy {
    /// Have this pattern added.
    Add(String),
    /// Have a rule for the program added; what it is to be run with is too long to be shown.
    AddProgram,
    /// Have the deny narrowed.
    Narrow,
    /// Nothing by a rule.
    Ask,
    CheckName,
}

/// One pattern of a rule and where it stands: `policy.toml:12 connect = "db.internal:5432"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// Where it stands.
    pub origin: Origin,
    /// Key and pattern as they are written.
    pub text: String,
}

/// Where a rule stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// In a policy file.
    File {
        /// The file, as the lender names it.
        file: Arc<str>,
        /// The line, from 1.
        line: u32,
    },
    /// In the lender's store: a timed grant, by the label that it was given, e.g. `grant 7`.
    Grant(String),
}

impl Refusal {
    /// A refusal of `target`, which names no host.
    pub fn bad_host(kind: Kind, target: &str, error: HostError) -> Self {
        let shown: String = target.chars().take(SHOWN_MAX).collect();
        let help = "write the name as DNS knows it, or the address".to_owned();
        let request = format!("{kind} {shown:?}");
        Self { request, reason: error.into(), rule: None, nearest: None, help, send: None }
    }

    /// With the line that shows the lender's admin why; for what no rule can mend.
    #[must_use]
    pub fn shown_to_admin(self, user: &UserName, kind: Kind, target: &str) -> Self {
        let (help, send) = sendable(
            self.help + "; this shows the lender's admin why:",
            admin_command("check", user, kind, target, ""),
        );
        Self { help, send, ..self }
    }

    /// A refusal of `target`, by no rule yet.
    pub(super) fn new(
        policy: &Policy,
        user: &UserName,
        kind: Kind,
        target: &str,
        reason: Reason,
        remedy: &Remedy,
    ) -> Self {
        let file = &policy.file;
        let request = kind.asked(target);
        let (help, send) = match remedy {
            Remedy::Add(pattern) => (
                format!(
                    "ask the lender's admin to add `{}` to an [[allow]] of {file}, or to allow it for an hour:",
                    kind.rule(pattern)
                ),
                admin_command("allow", user, kind, pattern, " --for 1h"),
            ),
            Remedy::AddProgram => (
                format!("ask the lender's admin for a rule of this program in an [[allow]] of {file}; this shows it:"),
                admin_command("check", user, kind, target, ""),
            ),
            Remedy::Narrow => (
                format!("a deny beats every allow: ask the lender's admin to narrow it in {file}; this shows it:"),
                admin_command("check", user, kind, target, ""),
            ),
            Remedy::Ask => (
                "no rule can allow it; this shows the lender's admin why:".to_owned(),
                admin_command("check", user, kind, target, ""),
            ),
            Remedy::CheckName => (
                "check the name: it is resolved at the lender, where its admin can try it:".to_owned(),
                admin_command("check", user, kind, target, ""),
            ),
        };
        let (help, send) = sendable(help, send);
        Self { request, reason, rule: None, nearest: None, help, send }
    }

    /// A refusal of what `path` leads to, without a word of what that is.
    pub fn led_elsewhere(policy: &Policy, user: &UserName, kind: Kind, path: &LenderPath) -> Self {
        let refusal = Self::new(policy, user, kind, &path.to_string(), Reason::LedElsewhere, &Remedy::Ask);
        let help = "this shows the lender's admin where they lead:".to_owned();
        // Where the line is too long, the help says so.
        if refusal.send.is_some() { Self { help, ..refusal } } else { refusal }
    }

    /// A refusal of the network profile, which no rule allows by itself.
    pub(super) fn no_profile(policy: &Policy, user: &UserName) -> Self {
        let help = format!(
            "a connect, udp, resolve, listen or services.use rule of {} brings it along; this shows the lender's admin:",
            policy.file
        );
        let refusal = Self::new(policy, user, Kind::Profile, "", Reason::NoRule, &Remedy::Ask);
        Self { help, ..refusal }
    }

    /// A refusal of a socket that could send nowhere.
    pub(super) fn no_datagrams(policy: &Policy, user: &UserName) -> Self {
        // Where to is said with each datagram, and not known yet.
        Self::new(policy, user, Kind::Udp, "", Reason::NoRule, &Remedy::Add("HOST:PORT".to_owned()))
    }

    /// The whole story, line by line: what and why, the rule that decided, the nearest one, what to do, and, last and
    /// alone, the line to send to the lender's admin.
    pub fn explain(&self) -> Vec<String> {
        let label =
            |name: &str, rule: &Option<Box<RuleRef>>| rule.as_ref().map(|rule| format!("{INDENT}{name}: {rule}"));
        let mut lines = vec![self.to_string()];
        lines.extend(label("rule", &self.rule));
        lines.extend(label("nearest", &self.nearest));
        lines.push(format!("{INDENT}help: {}", self.help));
        lines.extend(self.send.as_ref().map(|line| format!("{INDENT}{line}")));
        lines
    }
}

impl RuleRef {
    pub(super) fn new<T>(kind: Kind, entry: &Entry<T>) -> Self {
        Self { origin: entry.origin.clone(), text: format!("{kind} = {}", entry.text) }
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.origin, self.text)
    }
}

impl Origin {
    /// The line in the file; 0 for what stands in none.
    pub(super) fn line(&self) -> u32 {
        match self {
            Self::File { line, .. } => *line,
            Self::Grant(_) => 0,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Grant(label) => f.write_str(label),
        }
    }
}

/// What to do, and the command for it: one that is cut off would be another command.
fn sendable(help: String, send: String) -> (String, Option<Box<str>>) {
    match send.len() < REFUSAL_TEXT_MAX - INDENT.len() {
        true => (help, Some(send.into())),
        false => (help + " (a line too long to be shown)", None),
    }
}

/// A line for the lender's admin to run, whatever the target holds.
fn admin_command(command: &str, user: &UserName, kind: Kind, target: &str, options: &str) -> String {
    match target {
        "" => format!("capuchind {command} {user} {kind}{options}"),
        // A target that begins like a flag stands behind the end of the flags.
        _ if target.starts_with('-') => format!("capuchind {command} {user} {kind}{options} -- {}", shell_word(target)),
        _ => format!("capuchind {command} {user} {kind} {}{options}", shell_word(target)),
    }
}

const INDENT: &str = "  ";
/// How much of a text that is no host is shown, in characters.
const SHOWN_MAX: usize = 80;
