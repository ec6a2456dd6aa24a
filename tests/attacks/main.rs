//! The attack list of the first slice: a real daemon, hostile bytes. Each asserts the error, the audit line, and that
//! the next honest borrower is served.

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod audit_commands;
mod clock;
mod descriptors;
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
mod words;

use capuchin::proto::{Ask, Frame, Kind, Request, message};
use support::{
    Home, Lab,
    peer::{Peer, frame},
};

/// Whatever the attack was, the next honest borrower logs in, and what she asks is answered.
async fn still_serves(lab: &Lab, home: &Home) {
    let mut peer = Peer::logged_in(lab.address, home, "alice").await;
    let asked = Request::Check(Ask { kind: "connect".to_owned(), target: "127.0.0.1:1".to_owned() });
    peer.send(&frame(1, Kind::Data, true, true, &message::encode_prefixed(&asked))).await;
    while !matches!(peer.hear().await.expect("an answer"), Frame::Data { stream, .. } if stream.number() == 1) {}
}
