//! Where a lender lies: `--dir` behind any subcommand, which counts more than the environment.

use std::process::Command;

use crate::support::{Daemon, PASSWORD, fails, run, run_with, text};

#[test]
fn the_folder_of_a_lender_is_named_behind_any_of_its_commands() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("lender");
    for elsewhere in [None, Some(folder.path().join("none"))] {
        let capuchind = |args: &[&str]| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_capuchind"));
            command.args(args).arg("--dir").arg(&dir).env("HOME", folder.path()).env_remove("XDG_CONFIG_HOME");
            command.env_remove("CAPUCHIND_DIR").envs(elsewhere.iter().map(|elsewhere| ("CAPUCHIND_DIR", elsewhere)));
            command
        };
        let _ = std::fs::remove_dir_all(&dir);
        run(&mut capuchind(&["init", "--name", "lab", "--listen", "127.0.0.1:0"]));
        run(&mut capuchind(&["user", "add", "ana"]));
        let set = run_with(&mut capuchind(&["passwd", "ana", "--password-file", "-"]), PASSWORD);
        assert!(set.status.success(), "{set:?}");
        fails(&mut capuchind(&["check", "ana", "connect", "127.0.0.1:1"]), 1);
        let mut daemon = Daemon::spawn(&mut capuchind(&["serve"]));
        daemon.wait_for_line("listens on");
        assert!(text(run(&mut capuchind(&["invite", "ana"])).stdout).starts_with("cap1_"));
        assert_eq!(text(run(&mut capuchind(&["user", "list"])).stdout), "ana\n");
        run(&mut capuchind(&["user", "remove", "ana"]));
        daemon.signal(rustix::process::Signal::TERM);
        assert_eq!(daemon.wait().code(), Some(0));
        assert_eq!(text(run(&mut capuchind(&["user", "list"])).stdout), "");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing lies beside it");
    }
}
