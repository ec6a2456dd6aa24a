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
//! One file for each idea: `connect`, `datagram`, `listen`, `socket`, `files`, `program`, `variable`, `service` and
//! `lookup` hold the requests, and `search` the one walk over the rules that decides all of them.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic))]

mod address;
mod any;
mod command_line;
mod connect;
mod covered;
mod datagram;
mod decide;
mod expectation;
mod file;
mod files;
mod grant;
mod host;
mod kind;
mod listen;
mod lookup;
mod moot;
mod own;
mod path;
mod pattern;
mod problem;
mod program;
mod reach;
mod reader;
mod refusal;
mod rule;
mod search;
mod service;
mod socket;
mod template;
mod terms;
mod variable;
mod word;

pub use any::{AnyRequest, TargetError, Why};
pub use command_line::CommandLineError;
pub use connect::Connect;
pub use datagram::{Datagram, DatagramSocket, may_answer};
pub use decide::{Answered, Facts, Granted, Principal, Request, decide};
pub use file::{POLICY_BYTES_MAX, Policy};
pub use files::{ReadPath, WritePath};
pub use grant::Grant;
pub use host::{HOST_NAME_MAX, Host, HostError, HostName};
pub use kind::{Kind, UnknownKind};
pub use listen::Listen;
pub use lookup::{Profile, Resolve};
pub use path::{LenderPath, PATH_BYTES_MAX, PathError};
pub use problem::{PolicyError, Problem};
pub use program::{Exec, ProgramError, Python, Shell, may_run};
pub use reach::{ADDRESSES_MAX, Transport, may_be_denied_by_alias, may_match};
pub use reader::PATTERNS_MAX;
pub use refusal::{Origin, Reason, Refusal, RuleRef};
pub use service::{OfferService, UseService};
pub use socket::{UnixConnect, UnixListen};
pub use template::{for_owner, starter};
pub use terms::{Limits, Terms};
pub use variable::{ReadVariable, SendVariable};
pub use word::{NAME_BYTES_MAX, WordError};
