//! Refusals that no grant mends: a term of the policy is missing, or is less than what was asked for, and the admin is to
//! write it.

use crate::proto::{Errno, ErrorKind, Refusal, UserName};

/// Refuses what `why` says. `line`: what would allow it, as it stands in policy.toml.
pub(super) fn refusal(user: &UserName, why: impl Into<String>, line: &str) -> Refusal {
    Refusal::new(ErrorKind::Policy, why).with_errno(Some(Errno::EACCES)).with_notes(notes(user, line))
}

/// What to send to the admin; the line itself is the last, and alone.
pub(super) fn notes(user: &UserName, line: &str) -> [String; 2] {
    let help =
        format!("  help: ask the lender's admin to write this in an [[allow]] of policy.toml that names {user}:");
    [help, format!("  {line}")]
}
