//! What `capuchin status` lists.

use std::process::Command;

use serde_json::Value;

use super::{json, run, wait_until};

/// What it lists once each command has answered: the half second that one has may be too short on a loaded machine.
pub fn borrowing(mut capuchin: Command) -> Value {
    capuchin.args(["status", "--json"]);
    let mut listed = Value::Null;
    wait_until("each command answers", || {
        listed = json(&run(&mut capuchin).stdout)["borrowing"].take();
        listed.as_array().unwrap().iter().all(|one| one["state"] != "no answer")
    });
    listed
}
