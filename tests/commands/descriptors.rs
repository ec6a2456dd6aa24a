//! Commands that may open only a few files.

use std::process::Command;

use crate::{
    one_line,
    support::{Home, text},
};

#[test]
fn a_command_that_may_open_too_few_files_says_so() {
    let home = Home::new();
    for few in ["5", "6", "7", "15"] {
        let capuchin = home.capuchin();
        let mut limited = Command::new("sh");
        limited.args(["-c", &format!("ulimit -n {few}; exec \"$0\" check lab connect 127.0.0.1:1")]);
        let refused = limited.arg(capuchin.get_program()).output().unwrap();
        assert_eq!(refused.status.code(), Some(255));
        one_line(&text(refused.stderr), "local", &format!("cannot start with {few} open files"));
    }
}
