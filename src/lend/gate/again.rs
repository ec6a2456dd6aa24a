//! What was granted, judged once more by the policy of now, for handles that live. Nothing is logged: a handle that goes says
//! why itself.

use std::net::IpAddr;

use super::refusal;
use crate::{
    lend::{
        borrower::Borrower,
        own_user::{self, Actor},
    },
    policy::{self, Connect, Facts, Granted, Listen},
    proto::Refusal,
};

/// Judges a connection that was granted once more, by the policy of now: of the addresses of then the one that it
/// `reached`, and all of them while it has reached none.
pub(in crate::lend) fn still(
    borrower: &Borrower,
    grant: &Granted<Connect>,
    reached: Option<IpAddr>,
) -> Result<(), Refusal> {
    let lender = &borrower.lender;
    let part = reached.and_then(|address| grant.clone().at_address(address));
    let grant = part.as_ref().unwrap_or(grant);
    let own = lender.own_listeners(&grant.request().addresses, grant.request().port);
    let facts = Facts { own: &own, ..Facts::default() };
    grant.again(&lender.policy(), &borrower.principal, &facts).map(drop).map_err(|no| refusal(&no))
}

/// As [`still`], for a port to listen on.
pub(in crate::lend) fn still_listens(borrower: &Borrower, grant: &Granted<Listen>) -> Result<(), Refusal> {
    let lender = &borrower.lender;
    let facts = Facts { own: lender.addresses(), ..Facts::default() };
    grant.again(&lender.policy(), &borrower.principal, &facts).map(drop).map_err(|no| refusal(&no))
}

/// As [`still`], for what the rules alone decide: a UDP port or socket, a destination of datagrams, either end of a
/// service, the profile.
pub(in crate::lend) fn still_by_rules<R: policy::Request>(
    borrower: &Borrower,
    grant: &Granted<R>,
) -> Result<(), Refusal> {
    let policy = borrower.lender.policy();
    grant.again(&policy, &borrower.principal, &Facts::default()).map(drop).map_err(|no| refusal(&no))
}

/// As [`still`], for a Unix socket, which `actor` connects or listens with.
pub(in crate::lend) fn still_unix<R: policy::Request>(
    borrower: &Borrower,
    grant: &Granted<R>,
    actor: &Actor,
) -> Result<(), Refusal> {
    let facts = Facts { own_folders: borrower.lender.own_folders(), ..Facts::default() };
    grant.again(&borrower.lender.policy(), &borrower.principal, &facts).map_err(|no| refusal(&no))?;
    own_user::still_acts(&borrower.lender, &borrower.principal.user, actor)
}
