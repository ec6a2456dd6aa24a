//! A policy.toml that changes where the kernel tells nobody of it, and one that is mended from outside: what the admin took
//! out is not lent for long.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{Daemon, Home, LOOPBACK, Lab, capuchind, ends, fails, json};

/// No port that a test has.
const NARROWED: &str = "[[allow]]\nwho = \"alice\"\nconnect = \"127.0.0.1:1\"\n";

/// The lab with a daemon in namespaces of its own, which begins with this script.
fn served_behind(mut lab: Lab, script: &str, file: &Path) -> Lab {
    lab.daemon.kill();
    let mut serve = Command::new("unshare");
    serve.args(["--map-root-user", "--mount", "sh", "-ec", &format!("{script}; shift; exec \"$@\""), "sh"]);
    serve.arg(file).arg(capuchind(lab.dir()).get_program()).arg("serve").env("CAPUCHIND_DIR", lab.dir());
    let daemon = Daemon::spawn(&mut serve);
    let address = daemon.wait_for_line("listens on").rsplit(' ').next().unwrap().parse().unwrap();
    Lab { address, daemon, ..lab }
}

/// What this file says is in force, after what is written to it, and what it does not allow any more ends.
fn is_followed(lab: &Lab, home: &Home, file: &Path) {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = target.local_addr().unwrap();
    let (_forward, local) = home.forward(&[&format!("0:{address}")]);
    let lent = std::net::TcpStream::connect(local[0]).unwrap();
    let (far, _) = target.accept().unwrap();
    far.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    std::fs::write(file, NARROWED).unwrap();
    let loaded = lab.wait_for_audit("the other policy", |line| line["event"] == "policy-loaded");
    assert_eq!(loaded["why"], "1 handles were taken back");
    assert!(ends(far));
    drop(lent);
    fails(home.capuchin().args(["check", "lab", "connect", &address.to_string()]), 1);
}

fn elsewhere() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.toml");
    (folder, file)
}

#[test]
fn a_policy_that_is_a_mount_of_its_own_is_followed() {
    let lab = Lab::start(LOOPBACK);
    let (_folder, file) = elsewhere();
    std::fs::copy(lab.dir().join("policy.toml"), &file).unwrap();
    let lab = served_behind(lab, "mount --bind \"$1\" \"$CAPUCHIND_DIR\"/policy.toml", &file);
    let home = lab.join("alice");
    is_followed(&lab, &home, &file);
}

#[test]
fn a_policy_that_is_written_by_another_of_its_names_is_followed() {
    let lab = Lab::start(LOOPBACK);
    let (_folder, file) = elsewhere();
    std::fs::hard_link(lab.dir().join("policy.toml"), &file).unwrap();
    // The link was a change, too.
    let lab = lab.restart();
    let home = lab.join("alice");
    is_followed(&lab, &home, &file);
}

#[test]
fn a_policy_whose_folder_cannot_be_watched_is_followed() {
    let lab = Lab::start(LOOPBACK);
    let file = lab.dir().join("policy.toml");
    let lab = served_behind(lab, "echo 0 >/proc/sys/user/max_inotify_instances", &file);
    lab.daemon.wait_for_line("its folder cannot be watched");
    let home = lab.join("alice");
    is_followed(&lab, &home, &file);
}

/// What `chmod` says to mend is mended by it, and the file need not change.
#[test]
fn a_policy_that_was_too_open_is_read_once_its_folder_is_mended() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let set_mode = |mode| {
        std::fs::set_permissions(lab.dir(), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    let count = |event: &str| lab.audit().iter().filter(|line| line["event"] == event).count();
    set_mode(0o777);
    std::fs::write(lab.dir().join("policy.toml"), NARROWED).unwrap();
    let kept = lab.wait_for_audit("the open folder", |line| line["event"] == "policy-kept");
    assert!(kept["why"].as_str().unwrap().contains("mode 0777"), "{kept}");
    // Another reason is told, the same is not.
    set_mode(0o722);
    let kept = lab.wait_for_audits("the folder that is still open", 2, |line| line["event"] == "policy-kept");
    assert!(kept["why"].as_str().unwrap().contains("mode 0722"), "{kept}");
    std::fs::write(lab.dir().join("other"), "").unwrap();
    set_mode(0o700);
    lab.wait_for_audit("the mended folder", |line| line["event"] == "policy-loaded");
    assert_eq!(count("policy-kept"), 2);
    fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:2"]), 1);
}

#[test]
fn a_check_says_that_the_policy_is_broken_and_the_journal_that_it_is_mended() {
    let lab = Lab::start(LOOPBACK);
    let policy = lab.dir().join("policy.toml");
    let check = || lab.admin().args(["check", "alice", "connect", "127.0.0.1:1", "--json"]).output().unwrap();
    let warnings = || json(&check().stdout)["warnings"].clone();
    assert_eq!(warnings(), serde_json::json!([]));

    std::fs::write(&policy, "[[allow]]\nwho = \"alice\"\nconnnect = \"*:*\"\n").unwrap();
    lab.daemon.wait_for_line("policy.toml is broken");
    assert_eq!(check().status.code(), Some(0), "the policy of before is in force");
    let said = warnings();
    let said = said[0].as_str().unwrap();
    let wrong = format!("{}:3: unknown key \"connnect\"", policy.display());
    assert!(said.contains("the policy of before stays in force") && said.contains(&wrong), "{said}");

    std::fs::write(&policy, LOOPBACK).unwrap();
    lab.daemon.wait_for_line("policy.toml is in force");
    assert_eq!(warnings(), serde_json::json!([]));
}
