//! The lender: accepts borrowers, asks the policy, and lends what it grants.
//!
//! ```text
//!   accept ──▶ login ──▶ dispatch ──▶ gate ──▶ tcp, unix   connections: the road of a borrowed socket, a file for each step
//!        ├───▶ join          │          ├────▶ listen      ports, Unix sockets and names, and who connects to them
//!        └───▶ overdue       │          ├────▶ udp         datagrams, each destination judged by itself
//!                            │          ├────▶ service     names that borrowers listen as, for one another
//!                            │          ├────▶ spawn       programs, through the worker
//!                            │          ├────▶ names       DNS questions, and what a session was answered
//!                            │          ├────▶ profile     routes, resolvers, hosts, variables
//!                            │          ├───── resolve     names, once
//!                            │          └───── audit       every decision
//!                            └───▶ renew                   certificate and ticket, about which the policy says nothing
//!   door: the way in for users of this machine, over door.sock and without TLS; the rest of the road is the same
//!   admin: the admin's commands, over admin.sock while the daemon runs
//! ```

#![forbid(unsafe_code)]

mod accept;
mod admin;
mod admission;
mod at_store;
mod audit;
mod blocking;
mod borrower;
mod by_terms;
mod check;
mod config;
mod control;
mod descriptors;
mod dispatch;
mod door;
mod error;
mod file_version;
mod folder_watch;
mod gate;
mod grants;
mod guess;
mod identity;
mod in_force;
mod init;
mod join;
mod keepalive;
mod lender;
mod listen;
mod listeners;
mod live;
mod login;
mod names;
mod notify;
mod os_user;
mod overdue;
mod own_addresses;
mod own_user;
mod peer;
mod profile;
mod real_path;
mod reload;
mod renew;
mod resolve;
mod seats;
mod service;
mod shares;
mod shown_path;
mod spawn;
mod stranger;
mod tcp;
#[cfg(test)]
mod test_lender;
mod turn;
mod udp;
mod unix;
mod worker;

pub use admin::{AdminReply, AdminRequest, LateDaemon, Refused, SecretText, UserEntry, ask};
pub use audit::{
    AuditError, AuditLine, AuditProof, AuditReader, AuditWatch, ascii_json, prove as prove_audit,
    verify as verify_audit,
};
pub use check::CheckReply;
pub use config::{LenderConfig, LenderDir, Listen, check_advertised};
pub use control::{Revoked, SessionEntry, StreamEntry};
pub use error::LendError;
pub use grants::GrantEntry;
pub use init::{Setup, init};
pub use lender::Lender;
pub use listeners::Listeners;
pub use os_user::owner_name;
pub use turn::open_to_serve;
pub use worker::serve_as_worker;
