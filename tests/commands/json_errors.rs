//! What a script hears of a command that fails.

use std::{fs, process::Command};

use crate::{
    one_line,
    support::{Home, capuchind, json, text},
};

/// Fails, and says the same to a person and to a script.
fn says_both(command: &mut Command, kind: &str) {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{command:?} gave {output:?}");
    let said = text(output.stderr);
    one_line(&said, kind, "");
    let document = json(&output.stdout);
    let error = &document["error"];
    assert_eq!(error["kind"], kind, "{document}");
    let first = format!("error[{kind}]: {}", error["text"].as_str().unwrap());
    assert_eq!(said.lines().next(), Some(first.as_str()));
    assert_eq!(error["notes"].as_array().unwrap().len(), said.lines().count() - 1, "{document}");
}

#[test]
fn every_failure_of_a_command_that_writes_json_is_json_to_a_script() {
    let home = Home::new();
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("none");
    for args in [&["user", "list"][..], &["sessions"], &["grants"], &["audit"]] {
        says_both(capuchind(&none).args(args).arg("--json"), "config");
    }
    says_both(capuchind(&none).args(["audit", "verify", "--json"]), "config");
    says_both(capuchind(&none).args(["grants", "--json", "remove", "1"]), "usage");
    says_both(capuchind(&none).args(["sessions", "--json", "--nonsense"]), "usage");
    says_both(home.capuchin().args(["doctor", "--json", "--nonsense"]), "usage");
    // Files where folders should be.
    fs::create_dir_all(home.profile().parent().unwrap().parent().unwrap()).unwrap();
    fs::write(home.profile().parent().unwrap(), "").unwrap();
    fs::create_dir_all(home.runtime().join("capuchin")).unwrap();
    fs::write(home.runtime().join("capuchin/borrowing"), "").unwrap();
    says_both(home.capuchin().args(["hosts", "--json"]), "local");
    says_both(home.capuchin().args(["status", "--json"]), "local");
    // A word of the program's that was to run.
    let output = home.capuchin().args(["exec", "lab", "ls", "--json"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(255), 0));
}
