//! The environment of a program: what its user has at a login, and what the policy lets the borrower add.
//!
//! Nothing of the daemon's own comes through.

use crate::lend::os_user::Account;

/// Where programs are looked for, and what `PATH` says to them.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Every variable as `NAME=value`; what was sent is behind, and of two of a name the last counts.
pub(super) fn variables(account: &Account, term: Option<&str>, sent: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let own = [
        ("HOME", account.home.as_os_str().as_encoded_bytes()),
        ("USER", account.name.as_bytes()),
        ("LOGNAME", account.name.as_bytes()),
        ("SHELL", account.shell.as_os_str().as_encoded_bytes()),
        ("PATH", PATH.as_bytes()),
    ];
    let own = own.into_iter().chain(term.map(|term| ("TERM", term.as_bytes())));
    own.map(|(name, value)| [name.as_bytes(), b"=", value].concat()).chain(sent).collect()
}
