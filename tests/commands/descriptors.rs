//! Commands that may open only a few files.

use std::process::Command;

use crate::{
    one_line,
    support::{Home, text},
};

#[test]
fn a_command_that_may_open_too_few_files_says_so() {
    let home = Home::new();
    // The status of `check` is an answer, and 2 is none.
    for (few, command, status) in [
        ("5", "exec lab true", 255),
        ("6", "exec lab true", 255),
        ("7", "exec lab true", 255),
        ("15", "exec lab true", 255),
        ("15", "check lab connect 127.0.0.1:1", 2),
    ] {
        let capuchin = home.capuchin();
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("ulimit -n {few}; exec \"$0\" {command}")]);
        let refused = limited.arg(capuchin.get_program()).output().unwrap();
        assert_eq!(refused.status.code(), Some(status), "{command}");
        one_line(&text(refused.stderr), "local", &format!("cannot start with {few} open files"));
    }
}
