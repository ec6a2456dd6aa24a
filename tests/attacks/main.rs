//! The attack list of the first slice: a real daemon, hostile bytes. Each asserts the error, the audit line, and that
//! the next honest borrower is served.

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod audit_commands;
mod clock;
mod dials;
mod door;
mod flood;
mod frames;
mod full_disk;
mod grants;
mod handshake;
mod hung_disk;
mod join;
mod key_files;
mod listen;
mod login;
mod memory;
mod names;
mod overdue;
mod own_rules;
mod policy;
mod profile;
mod programs;
mod questions;
mod reload;
mod renewal;
mod revocation;
mod robots;
mod services;
mod terminal;
mod udp;
mod unix;

use support::{Home, Lab, peer::Peer};

/// Whatever the attack was, the next honest borrower is served.
async fn still_serves(lab: &Lab, home: &Home) {
    Peer::logged_in(lab.address, home, "alice").await;
}
