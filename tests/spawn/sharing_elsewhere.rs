//! One session for many commands, where the command that shares it and the others do not see the same machine alike.

use std::process::Command;

use crate::{
    lab,
    support::{Home, borrowing::borrowing, fails, run, starts, text},
};

/// `capuchin …` of a home that has a runtime folder of its own.
fn outside(home: &Home, args: &[&str]) -> Command {
    let mut command = home.capuchin();
    command.env("XDG_RUNTIME_DIR", home.runtime()).args(args);
    command
}

/// As some build systems make them: an address of the kernel's has room for 107 bytes.
#[test]
fn a_session_is_shared_in_a_runtime_folder_of_a_long_name() {
    let (_lab, home) = lab();
    let runtime = home.folder.path().join("long".repeat(30));
    let capuchin = |args: &[&str]| {
        let mut command = home.capuchin();
        command.env("XDG_RUNTIME_DIR", &runtime).args(args);
        command
    };
    run(&mut capuchin(&["connect", "lab"]));
    let listed = borrowing(capuchin(&[]));
    let again = run(&mut capuchin(&["connect", "lab"]));
    run(&mut capuchin(&["connect", "--stop", "lab"]));
    assert_eq!(text(again.stdout), "lab is connected already\n");
    assert_eq!(listed[0]["command"], "connect", "{listed}");
}

/// As in a container that has its user's home: there the kernel has no number for who shares.
#[test]
fn a_session_of_another_pid_namespace_is_used_and_ended_where_it_runs() {
    let (_lab, home) = lab();
    run(&mut outside(&home, &["connect", "lab"]));
    let inside = |args: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-current-user", "--pid", "--fork"]);
        starts(&mut command, &outside(&home, args));
        command
    };
    run(&mut inside(&["exec", "lab", "true"]));
    let known = text(run(&mut inside(&["doctor", "lab"])).stdout);
    let said = fails(&mut inside(&["connect", "--stop", "lab"]), 255);
    run(&mut outside(&home, &["connect", "--stop", "lab"]));
    assert!(known.contains("`capuchin connect` (outside of this PID namespace), as alice"), "{known}");
    assert!(said.contains("the session with lab is outside of this PID namespace"), "{said}");
}
