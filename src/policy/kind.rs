//! The kinds of thing that a rule can allow, each with the one name that files, command lines and the wire use.

use std::{fmt, str::FromStr};

use super::program::Exec;

/// What a request is about. Its name is its key in `policy.toml`, with a dot where the key is inside a table.
///
/// ```
/// use capuchin::policy::Kind;
/// assert_eq!("env.send".parse(), Ok(Kind::EnvSend));
/// assert_eq!(Kind::UnixListen.to_string(), "unix_listen");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// A TCP connection: `host:port`.
    Connect,
    /// Datagrams to a peer: `host:port`.
    Udp,
    /// A port to listen on: `address:port`, and `/udp` for datagrams; port 0 is any.
    Listen,
    /// A Unix socket to connect to: its path.
    Unix,
    /// A Unix socket to create: its path.
    UnixListen,
    /// A name to look up.
    Resolve,
    /// A file or folder to read: its path.
    Read,
    /// A file or folder to write: its path.
    Write,
    /// A program to run: its path and arguments as a shell takes them.
    Exec,
    /// A login shell.
    Shell,
    /// A Python interpreter.
    Python,
    /// A variable to set for programs at the lender: its name.
    EnvSend,
    /// A variable of the lender to read: its name.
    EnvRead,
    /// A service to offer to other borrowers: its name.
    ServiceOffer,
    /// A service to use: its name.
    ServiceUse,
    /// Addresses, routes and resolver of the lender. No key of its own: what brings names along brings it too.
    Profile,
}

/// Why a text is not a kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a kind of request: use one of {}", Kind::ALL.map(Kind::name).join(", "))]
pub struct UnknownKind {
    /// What was given, cut at 64 characters.
    pub text: String,
}

impl Kind {
    /// Every kind, in the order of the policy's grammar.
    pub const ALL: [Self; 16] = [
        Self::Connect,
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
        Self::EnvSend,
        Self::EnvRead,
        Self::ServiceOffer,
        Self::ServiceUse,
        Self::Profile,
    ];

    /// Its name, on the wire too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
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
            Self::EnvSend => "env.send",
            Self::EnvRead => "env.read",
            Self::ServiceOffer => "services.offer",
            Self::ServiceUse => "services.use",
            Self::Profile => "profile",
        }
    }

    /// What is asked, for a person to read: a target with control characters, or blanks at its ends, stands in quotes, so
    /// that it is not taken for another one.
    ///
    /// ```
    /// use capuchin::policy::Kind;
    /// assert_eq!(Kind::Unix.asked("/run/a b"), "unix /run/a b");
    /// assert_eq!(Kind::Unix.asked("/run/a\n"), r#"unix "/run/a\n""#);
    /// assert_eq!(Kind::Shell.asked(""), "shell");
    /// ```
    pub fn asked(self, target: &str) -> String {
        match target {
            "" => self.to_string(),
            plain if plain.trim() == plain && !plain.contains(char::is_control) => format!("{self} {plain}"),
            quoted => format!("{self} {quoted:?}"),
        }
    }

    /// The line of a rule that allows `pattern`, as a policy has it.
    pub(super) fn rule(self, pattern: &str) -> String {
        match self {
            Self::Shell | Self::Python => format!("{self} = true"),
            Self::Exec => match Exec::parse(pattern) {
                Ok(exec) => format!("{self} = [{}]", exec.into_pattern().written()),
                Err(_) => format!("{self} = [{pattern:?}]"),
            },
            _ => format!("{self} = [{pattern:?}]"),
        }
    }

    /// Whether a request of this kind names what it wants; a shell is a shell.
    pub const fn takes_target(self) -> bool {
        !matches!(self, Self::Shell | Self::Python | Self::Profile)
    }
}

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == text);
        kind.ok_or_else(|| UnknownKind { text: text.chars().take(KIND_SHOWN_MAX).collect() })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much of an unknown kind is shown, in characters: more than the longest known one.
const KIND_SHOWN_MAX: usize = 64;
