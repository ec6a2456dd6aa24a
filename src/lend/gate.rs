//! The one gate: every request meets the policy here, before it has any effect, and every decision is logged.

use super::{Lender, audit::Event, borrower::Borrower, resolve::resolve};
use crate::{
    policy::{self, Connect, Facts, Granted, Host, Principal},
    proto::{Errno, ErrorKind, Refusal, Target},
};

/// Asks for a connection to `target`. A name that no rule could allow is not even resolved; a name that could be is
/// resolved once, and the grant holds the very addresses that were judged.
pub(super) async fn connect(
    borrower: &Borrower,
    target: &Target,
    event: &'static str,
) -> Result<Granted<Connect>, Refusal> {
    let decision = decide(&borrower.lender, &borrower.principal, target).await;
    let (verdict, rule, why) = match &decision {
        Ok(grant) => ("granted", Some(grant.rule().to_string()), None),
        Err(refusal) => ("refused", None, Some(refusal.text().to_owned())),
    };
    tracing::info!(session = %borrower.session_id, user = %borrower.principal.user, %target, verdict, rule, why, "decision");
    let event = Event { target: Some(target.to_string()), verdict: Some(verdict), rule, why, ..borrower.event(event) };
    borrower.lender.shared.audit.log(event).await;
    decision
}

/// The decision alone, for `check`: the same function as the gate, without its event.
pub(super) async fn decide(lender: &Lender, who: &Principal, target: &Target) -> Result<Granted<Connect>, Refusal> {
    let policy = &lender.policy();
    let host =
        Host::parse(&target.host).map_err(|error| refusal(&policy::Refusal::bad_host(&target.to_string(), error)))?;
    policy::may_match(policy, who, &host, target.port).map_err(|no| refusal(&no))?;
    let addresses = resolve(&host).await?;
    let own = lender.own_listeners(&addresses, target.port);
    let request = Connect { host, port: target.port, addresses };
    policy::decide(policy, who, request, &Facts { own: &own }).map_err(|no| refusal(&no))
}

/// Judges a connection that was granted once more, by the policy of now and the very addresses of then.
pub(super) fn still(borrower: &Borrower, request: &Connect) -> Result<(), Refusal> {
    let lender = &borrower.lender;
    let own = lender.own_listeners(&request.addresses, request.port);
    let facts = Facts { own: &own };
    policy::decide(&lender.policy(), &borrower.principal, request.clone(), &facts).map(drop).map_err(|no| refusal(&no))
}

fn refusal(no: &policy::Refusal) -> Refusal {
    // The first line of the explanation is the refusal itself.
    Refusal::new(ErrorKind::Policy, no.to_string())
        .with_errno(Some(Errno::EACCES))
        .with_notes(no.explain().into_iter().skip(1))
}
