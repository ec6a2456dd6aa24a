//! The hosts that a machine has joined: one that it wants no more is gone with all that it had.

use std::{fs, os::unix::fs::symlink, process::Command};

use super::one_line;
use crate::support::{LOOPBACK, Lab, fails, json, run, starts, text, wait_until};

#[test]
fn a_host_is_removed_with_its_keys_and_logins_and_can_be_joined_again() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let hosts = || json(&run(home.capuchin().args(["hosts", "--json"])).stdout)["hosts"].clone();
    let tickets = home.folder.path().join("state/capuchin/tickets/lab");
    assert!(home.profile().exists() && tickets.exists() && hosts()[0]["alias"] == "lab");

    lab.join_at("bob", &home);
    let removed = run(home.capuchin().args(["hosts", "remove", "lab"]));
    assert_eq!(text(removed.stdout), "lab is removed\n");
    let stderr = text(removed.stderr);
    let known = lab.audit();
    for (line, user) in stderr.lines().zip(["alice", "bob"]) {
        let login = known.iter().find(|line| line["event"] == "login" && line["user"] == user).unwrap();
        let device = login["device"].as_str().unwrap();
        assert!(line.contains(user) && line.ends_with(&format!("capuchind revoke --device {device}")), "{stderr}");
    }
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    assert!(!home.profile().exists() && !tickets.exists() && hosts() == json(b"[]"));
    let stderr = fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]), 2);
    one_line(&stderr, "config", "lab");
    one_line(&fails(home.capuchin().args(["hosts", "remove", "lab"]), 255), "config", "has joined no host yet");

    lab.join_at("alice", &home);
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
}

#[test]
fn a_host_that_cannot_be_read_can_be_removed_and_a_link_leads_nowhere() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    fs::write(home.profile().join("lender.toml"), "no TOML").unwrap();
    fs::write(home.profile().join("alice/client.crt"), "no certificate").unwrap();
    let elsewhere = home.folder.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("kept"), "").unwrap();
    symlink(&elsewhere, home.profile().join("link")).unwrap();
    symlink(&elsewhere, home.profile().with_file_name("other")).unwrap();
    for alias in ["lab", "other"] {
        run(home.capuchin().args(["hosts", "remove", alias]));
    }
    assert!(!home.profile().exists() && home.profile().with_file_name("other").symlink_metadata().is_err());
    assert!(elsewhere.join("kept").exists(), "what a link leads to is nobody's to remove");
}

#[test]
fn a_host_whose_session_is_shared_stays_until_that_has_ended() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    for host in ["lab".to_owned(), format!("alice@lab:{}", lab.address.port())] {
        run(home.capuchin().args(["connect", &host]));
        let stderr = fails(home.capuchin().args(["hosts", "remove", "lab"]), 255);
        one_line(&stderr, "usage", &format!("capuchin connect --stop {host}\n"));
        assert!(home.profile().exists());
        run(home.capuchin().args(["connect", "--stop", &host]));
        wait_until("its session has ended", || {
            text(run(home.capuchin().arg("status")).stdout).lines().all(|line| !line.contains("connect"))
        });
    }
    run(home.capuchin().args(["hosts", "remove", "lab"]));
}

/// By default a signal ends who writes beyond the limit, without a word.
#[test]
fn where_files_may_not_grow_a_command_says_so_and_leaves_nothing_behind() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let listed = || run(Command::new("find").arg(home.folder.path())).stdout;
    let before = listed();
    let address = lab.address.to_string();
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -f 0; exec \"$@\"", "sh"]);
    starts(&mut limited, home.capuchin().args(["hosts", "set", "lab", &address]));
    one_line(&fails(&mut limited, 255), "config", "lender.toml: File too large");
    assert_eq!(listed(), before);
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
}
