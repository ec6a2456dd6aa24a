//! Which file a program is: of those that the user may run, the first that is there.
//!
//! # Security
//! The policy comes first. Where no rule could let the user run anything with these arguments nothing is looked at, and a
//! file that may not be run is refused in the same words whether it exists or not. What is looked at waits on a thread of
//! its own, and has no more of them than one user's names.

use std::{path::Path, sync::Arc};

use super::{
    environment::PATH,
    find::{Candidates, Seen, look},
};
use crate::{
    lend::{Lender, borrower::Borrower, gate},
    policy::{self, Exec, Facts, Granted, LenderPath, Policy, Principal, Reason, may_run},
    proto::{Errno, ErrorKind, Refusal},
};

/// The program that `arguments` name, from `folder` on, as the policy grants it.
///
/// As `execvp` goes on to the next folder of PATH where it may not execute a file, so does this.
///
/// # Errors
/// The policy refuses all that it may be, or what it allows is not there.
pub(super) async fn choose(
    borrower: &Borrower,
    policy: &Policy,
    arguments: &[Vec<u8>],
    folder: &Path,
) -> Result<Granted<Exec>, Refusal> {
    let (name, rest) = arguments.split_first().map_or((&[][..], &[][..]), |(name, rest)| (name, rest));
    let Some(candidates) = Candidates::of(name, folder) else { return Err(missing(name, "no file can be called so")) };
    let choice = Choice { borrower, policy, rest: rest.into() };
    let by_name = choice.judge_names(&candidates)?;
    let paths = candidates.paths.clone();
    let seen = borrower
        .lender
        .shared
        .look_ups
        .run(&borrower.principal.user, move || paths.iter().map(look).collect::<Vec<_>>());
    let shown = String::from_utf8_lossy(name);
    let seen = seen.await.map_err(|why| why.refusal(&format!("{shown}: the lender cannot look for it")))?;
    choice.of_seen(name, candidates, by_name, seen)
}

/// A program with where its file really is, for who asks about it and runs nothing.
///
/// # Errors
/// The policy refuses it wherever it leads, or the lender cannot look.
pub(in crate::lend) async fn followed(lender: &Lender, who: &Principal, exec: Exec) -> Result<Exec, Refusal> {
    let policy = lender.policy();
    let facts = Facts { own_folders: lender.own_folders(), ..Facts::default() };
    if let Err(no) = policy::decide(&policy, who, exec.clone(), &facts) {
        may_run(&policy, who, &exec, &facts).map_err(|_| gate::refusal(&no))?;
    }
    let path = exec.path.clone();
    let seen = lender.shared.look_ups.run(&who.user, move || look(&path)).await;
    let seen = seen.map_err(|why| why.refusal(&format!("{}: the lender cannot look for it", exec.path)))?;
    Ok(Exec { real: seen.real, ..exec })
}

struct Choice<'a> {
    borrower: &'a Borrower,
    policy: &'a Policy,
    /// The arguments behind the name.
    rest: Arc<[Vec<u8>]>,
}

/// What the policy says of the names alone.
struct ByName {
    /// Of each candidate, whether it may be run.
    allowed: Vec<bool>,
    /// What is said if nothing else may be.
    refusal: Option<Refusal>,
    /// It is that of a deny, which says more than that nothing of the name is where it might be run.
    is_denied: bool,
}

impl Choice<'_> {
    /// Judges the candidates by what they are called.
    ///
    /// # Errors
    /// The refusal, where no file could be allowed.
    fn judge_names(&self, candidates: &Candidates) -> Result<ByName, Refusal> {
        let mut refusals = Vec::new();
        let mut allowed = Vec::new();
        for path in &candidates.paths {
            let judged = self.decide(path, None)?;
            allowed.push(judged.is_ok());
            refusals.push(judged.err());
        }
        // A rule that says something of one of them is worth more to the user than that the others have none.
        let says = |no: &policy::Refusal| no.reason != Reason::NoRule || no.nearest.is_some();
        let told = refusals.iter().position(|no| no.as_ref().is_some_and(says)).unwrap_or(candidates.usual);
        let no = refusals.get_mut(told).and_then(Option::take);
        let is_denied = no.as_ref().is_some_and(|no| no.reason == Reason::Denied);
        let refusal = no.map(|no| gate::refusal(&no));
        if let (Some(refusal), Some(path)) = (&refusal, candidates.paths.get(told)) {
            let exec = self.exec(path, None)?;
            may_run(self.policy, &self.borrower.principal, &exec, &self.facts()).map_err(|_| refusal.clone())?;
        }
        Ok(ByName { allowed, refusal, is_denied })
    }

    /// Decides between the candidates, now that it is known what lies there.
    fn of_seen(
        &self,
        name: &[u8],
        candidates: Candidates,
        by_name: ByName,
        seen: Vec<Seen>,
    ) -> Result<Granted<Exec>, Refusal> {
        let mut denied = None;
        for ((path, seen), allowed) in candidates.paths.iter().zip(seen).zip(&by_name.allowed) {
            match self.decide(path, seen.real)? {
                Ok(grant) if candidates.is_path || seen.is_program => return Ok(grant),
                Ok(_) => {}
                // He may run what is called so, and so may know that it leads to what is denied.
                Err(no) if *allowed => denied = denied.or(Some(no)),
                Err(_) => {}
            }
        }
        Err(match (denied, by_name.refusal) {
            (Some(no), _) => gate::refusal(&no),
            (None, Some(refusal)) if by_name.is_denied || !by_name.allowed.contains(&true) => refusal,
            (None, _) => missing(name, &format!("there is no such program in {PATH}")),
        })
    }

    fn decide(
        &self,
        path: &LenderPath,
        real: Option<LenderPath>,
    ) -> Result<Result<Granted<Exec>, policy::Refusal>, Refusal> {
        let exec = self.exec(path, real)?;
        Ok(policy::decide(self.policy, &self.borrower.principal, exec, &self.facts()))
    }

    fn exec(&self, path: &LenderPath, real: Option<LenderPath>) -> Result<Exec, Refusal> {
        let exec = Exec::new(path.clone(), real, self.rest.clone());
        exec.map_err(|error| Refusal::new(ErrorKind::Usage, error.to_string()))
    }

    fn facts(&self) -> Facts<'_> {
        Facts { own_folders: self.borrower.lender.own_folders(), ..Facts::default() }
    }
}

fn missing(name: &[u8], why: &str) -> Refusal {
    let text = format!("{}: {why}", String::from_utf8_lossy(name));
    Refusal::new(ErrorKind::Target, text).with_errno(Some(Errno::ENOENT))
}
