//! What a home borrows: a session of the library's, and what `capuchin status` lists.

use std::process::Command;

use capuchin::{Borrower, Profiles};
use serde_json::Value;

use super::{Home, json, run, wait_until};

impl Home {
    /// Where the library finds what was joined here.
    pub fn profiles(&self) -> Profiles {
        let folder = self.folder.path();
        Profiles::at(&folder.join("config"), &folder.join("state"))
    }

    /// A session with `lab`, of the library's.
    pub async fn connect(&self) -> Borrower {
        Borrower::connect_with(&self.profiles(), "lab").await.unwrap()
    }
}

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
