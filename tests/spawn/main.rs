//! Programs at the lender, as a person and as a library user run them: real daemons, real programs.

#[path = "../support/mod.rs"]
mod support;

mod bytes;
mod ends;
mod lenders_terminal;
mod library;
mod local_terminal;
mod offered;
mod places;
mod sharing;
mod sharing_elsewhere;
mod stands_in;
mod status;
mod survivors;
mod terminal;
mod under_the_unit;
mod users;

use std::process::Command;

use support::{Home, Lab};

/// What lets alice run everything, whoever runs the tests.
const EVERYTHING: &str = "[[allow]]\nwho = \"alice\"\nexec = [{ path = \"*\" }]\nshell = true\nallow_root = true\n";

/// A lender for programs, and alice who has joined it.
fn lab() -> (Lab, Home) {
    let lab = Lab::start(EVERYTHING);
    let home = lab.join("alice");
    (lab, home)
}

/// `capuchin exec lab -- …`
fn exec(home: &Home, argv: &[&str]) -> Command {
    let mut command = home.capuchin();
    command.args(["exec", "lab", "--"]).args(argv);
    command
}
