//! Decides what a principal may borrow: `policy.toml`, parsed and applied.
//!
//! Pure and total: same policy, same principal, same request, same decision. Everything not allowed is refused, a deny
//! beats every allow, and a key that nobody knows is an error and not a rule that silently does nothing.
//!
//! A connection is decided in two steps, because a refused name must not even cause a DNS query: [`may_match`] before
//! the lender resolves the name, [`decide`] with what it resolved to. Only `decide` makes a [`Granted`], and whoever
//! acts for the borrower accepts nothing else.
//!
//! Invariant: a name is matched as the borrower wrote it *and* by each address it resolved to, in every form that such
//! an address has, so that a name pointing at 127.0.0.1 cannot slip past an address rule.
//!
//! The whole grammar is checked; only `connect` is decided yet. Requests of every other kind are refused.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod address;
mod connect;
mod decide;
mod expectation;
mod file;
mod grammar;
mod host;
mod pattern;
mod problem;
mod reader;
mod refusal;
mod rule;
mod template;
mod undecided;

pub use connect::{ADDRESSES_MAX, Connect, may_match};
pub use decide::{Facts, Granted, Principal, Request, decide};
pub use file::{POLICY_BYTES_MAX, Policy};
pub use host::{HOST_NAME_MAX, Host, HostError, HostName};
pub use problem::{PolicyError, Problem};
pub use reader::PATTERNS_MAX;
pub use refusal::{Reason, Refusal, RuleRef};
pub use template::{for_owner, starter};
pub use undecided::Undecided;
