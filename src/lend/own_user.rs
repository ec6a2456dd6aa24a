//! As whom the lender acts: what belongs to a user of its machine is lent as the user that the policy says, or not at all.
//!
//! The daemon of a user is that user. The daemon of root becomes whom `run_as` names, through the worker, and acts as root
//! only where the policy says `allow_root`.

use super::{
    Lender, by_terms,
    os_user::{Account, owner_name},
    spawn::account,
};
use crate::{
    policy::Terms,
    proto::{Refusal, UserName},
};

/// As whom something is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Actor {
    /// As the daemon.
    Daemon,
    /// As another user, through the worker.
    Other(Account),
}

/// As whom the daemon acts for `user`. `wanted` names what for.
///
/// # Errors
/// The refusal: by the policy there is nobody, or the machine does not know him.
pub(super) async fn actor(lender: &Lender, user: &UserName, wanted: &str) -> Result<Actor, Refusal> {
    let terms = lender.policy().terms(user);
    let is_root = rustix::process::geteuid().is_root();
    if terms.run_as.is_none() {
        return match is_root && !terms.allow_root {
            false => Ok(Actor::Daemon),
            true => {
                let why = format!(
                    "{wanted} is refused: this lender is root, and no rule for {user} says run_as or allow_root = true"
                );
                Err(by_terms::refusal(user, why, RUN_AS))
            }
        };
    }
    // It reads the system's list of users, which is a file.
    let asked = (user.clone(), terms);
    let found = lender.shared.look_ups.run(user, move || of_run_as(&asked.0, &asked.1, is_root)).await;
    found.map_err(|why| why.refusal("the lender cannot look up the user that it is to act as"))?
}

fn of_run_as(user: &UserName, terms: &Terms, is_root: bool) -> Result<Actor, Refusal> {
    if !is_root && terms.run_as.as_ref() == Some(&owner_name().0) {
        return Ok(Actor::Daemon);
    }
    let account = account(user, terms)?;
    let own = account.uid == rustix::process::geteuid().as_raw();
    Ok(if own { Actor::Daemon } else { Actor::Other(account) })
}

/// Judges again, by the terms of now, as whom something is done; what the machine calls him is not asked again.
///
/// # Errors
/// The refusal: it would be done as somebody else, or by nobody.
pub(super) fn still_acts(lender: &Lender, user: &UserName, actor: &Actor) -> Result<(), Refusal> {
    let terms = lender.policy().terms(user);
    let own = rustix::process::geteuid();
    let same = match (actor, &terms.run_as) {
        (Actor::Other(account), Some(name)) => account.name == name.as_str(),
        (Actor::Other(_), None) => false,
        (Actor::Daemon, None) => !own.is_root() || terms.allow_root,
        (Actor::Daemon, Some(name)) => match own.is_root() {
            // Of several names for it only the usual one is known without a look.
            true => name.as_str() == "root" && terms.allow_root,
            false => owner_name().0 == *name,
        },
    };
    if same {
        return Ok(());
    }
    let line = match actor {
        Actor::Other(account) => run_as(&account.name),
        Actor::Daemon if own.is_root() => ALLOW_ROOT.to_owned(),
        Actor::Daemon => run_as(owner_name().0.as_str()),
    };
    Err(by_terms::refusal(user, "the user of this machine that it is done as has changed", &line))
}

/// The term that makes `name` the user.
pub(super) fn run_as(name: &str) -> String {
    format!("run_as = \"{name}\"")
}

/// The term that is missing where any user of the machine would do.
pub(super) const RUN_AS: &str = "run_as = \"NAME\"";
/// The term without which nothing is done as root.
pub(super) const ALLOW_ROOT: &str = "allow_root = true";
