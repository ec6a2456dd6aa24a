//! Why a request was refused, as a person who may want to change that reads it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use super::{Policy, host::HostError, reader::Entry, undecided::Undecided};

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
    /// The deny that decided, or the allow that covers the request and may not open the address.
    pub rule: Option<Box<RuleRef>>,
    /// The user's own rule that comes closest to allowing it.
    pub nearest: Option<Box<RuleRef>>,
    /// What to do about it.
    pub help: String,
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
    /// It names no host.
    #[error(transparent)]
    BadHost(#[from] HostError),
    /// The name is allowed, and has no address.
    #[error("the lender's resolver gives it no address")]
    NothingResolved,
    /// Its kind is not decided yet.
    #[error("this version of the lender refuses every `{kind}`, whatever the policy says")]
    KindNotDecided {
        /// The kind.
        kind: Undecided,
    },
}

/// One pattern of a rule and where it stands: `policy.toml:12 connect = "db.internal:5432"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleRef {
    /// The file as the lender names it.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// Key and pattern as they are written.
    pub text: String,
}

impl Refusal {
    /// A refusal of `text`, which names no host.
    pub fn bad_host(text: &str, error: HostError) -> Self {
        let shown: String = text.chars().take(SHOWN_MAX).collect();
        let help = "write the name as DNS knows it, or the address".to_owned();
        Self { request: format!("connect {shown:?}"), reason: error.into(), rule: None, nearest: None, help }
    }

    /// The whole story, line by line: what and why, the rule that decided, the nearest one, and what to do.
    pub fn explain(&self) -> Vec<String> {
        let label = |name: &str, rule: &Option<Box<RuleRef>>| rule.as_ref().map(|rule| format!("  {name}: {rule}"));
        let mut lines = vec![self.to_string()];
        lines.extend(label("rule", &self.rule));
        lines.extend(label("nearest", &self.nearest));
        lines.push(format!("  help: {}", self.help));
        lines
    }
}

impl RuleRef {
    pub(super) fn new<T>(policy: &Policy, key: &str, entry: &Entry<T>) -> Self {
        Self { file: policy.file.clone(), line: entry.line, text: format!("{key} = {:?}", entry.text) }
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{} {}", self.file, self.line, self.text)
    }
}

/// How much of a text that is no host is shown, in characters.
const SHOWN_MAX: usize = 80;
