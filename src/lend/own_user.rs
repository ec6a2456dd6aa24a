//! As whom the lender acts: what belongs to a user of its machine is lent as the user that the policy says, or not at all.
//!
//! Until something acts as another user, the daemon acts as its own; root only where the policy says `allow_root`.

use super::{Lender, os_user::owner_name};
use crate::proto::{Errno, ErrorKind, Refusal, UserName};

/// Whether the daemon may act for `user` as the user that it runs as itself. `wanted` names what for.
///
/// # Errors
/// The refusal.
pub(super) fn may_act(lender: &Lender, user: &UserName, wanted: &str) -> Result<(), Refusal> {
    let terms = lender.policy().terms(user);
    let is_root = rustix::process::geteuid().is_root();
    let note = match terms.run_as {
        None if !is_root || terms.allow_root => return Ok(()),
        None => format!("help: let {user} act as root with `allow_root = true`, or run the lender as another user"),
        // Asked last: it reads the system's list of users.
        Some(run_as) if !is_root && owner_name().0 == run_as => return Ok(()),
        Some(run_as) => format!(
            "help: this lender acts as its own user only, and the policy says `run_as = \"{run_as}\"`: run the lender as {run_as}"
        ),
    };
    Err(Refusal::new(ErrorKind::Policy, format!("{wanted} is refused: no rule says as which user of this machine"))
        .with_errno(Some(Errno::EACCES))
        .with_notes([note]))
}
