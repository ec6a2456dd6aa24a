//! A policy.toml that changes while it is in force, in every way that an editor, an admin or a mount may change it: what it
//! does not allow any more is not lent for long, and of one that is broken or half written nothing is in force.

use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use rustix::process::Signal;

use crate::{
    revocation::{connection, is_cut, still_works, target},
    support::{Daemon, Home, LOOPBACK, Lab, PASSWORD, as_user, capuchind, fails, json, run, text},
};

/// No port that a test has.
const NARROWED: &str = "[[allow]]\nwho = \"alice\"\nconnect = \"127.0.0.1:1\"\n";

/// How many lines of the log tell of this.
fn count(lab: &Lab, event: &str) -> usize {
    lab.audit().iter().filter(|line| line["event"] == event).count()
}

/// The lab with another daemon, which says what it does.
fn served_by(mut lab: Lab, serve: &mut Command) -> Lab {
    lab.daemon.kill();
    let daemon = Daemon::spawn(serve.env("CAPUCHIN_LOG", "info"));
    let said = daemon.wait_for_line("listens on");
    Lab { address: said.rsplit(' ').next().unwrap().parse().unwrap(), daemon, ..lab }
}

/// The lab with a daemon in namespaces of its own, which begins with this script.
fn served_behind(lab: Lab, script: &str, file: &Path) -> Lab {
    let mut serve = Command::new("unshare");
    serve.args(["--map-root-user", "--mount", "sh", "-ec", &format!("{script}; shift; exec \"$@\""), "sh"]);
    serve.arg(file).arg(capuchind(lab.dir()).get_program()).arg("serve").env("CAPUCHIND_DIR", lab.dir());
    served_by(lab, &mut serve)
}

/// What this file says is in force, after what is written to it, and what it does not allow any more ends.
fn is_followed(lab: &Lab, home: &Home, file: &Path) {
    let (address, target) = target();
    let (_forward, local) = home.forward(&[&format!("0:{address}")]);
    let lent = connection(local[0], &target);
    std::fs::write(file, NARROWED).unwrap();
    let loaded = lab.wait_for_audit("the other policy", |line| line["event"] == "policy-loaded");
    assert_eq!(loaded["why"], "1 handles were taken back");
    is_cut(lent);
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
    assert_eq!(count(&lab, "policy-kept"), 2);
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

#[test]
fn a_policy_in_a_folder_that_was_replaced_is_in_force() {
    let mut lab = Lab::start(LOOPBACK);
    lab.daemon.kill();
    let top = tempfile::tempdir().unwrap();
    let (folder, other) = (top.path().join("lab"), top.path().join("new"));
    std::fs::rename(lab.dir(), &folder).unwrap();
    std::fs::create_dir(lab.dir()).unwrap();
    let lab = served_by(lab, capuchind(&folder).arg("serve"));
    run(Command::new("cp").arg("-a").args([&folder, &other]));

    let home = Home::new();
    let line = text(run(capuchind(&folder).args(["invite", "alice"])).stdout);
    run(home.capuchin().args(["join", line.trim(), "--password-file"]).arg(home.password_file(PASSWORD)));
    let (address, target) = target();
    let (_forward, local) = home.forward(&[&format!("0:{address}")]);
    let kept = connection(local[0], &target);
    std::fs::write(other.join("policy.toml"), "[[allow]]\nwho = \"bob\"\nconnect = \"*:*\"\n").unwrap();
    std::fs::rename(&folder, top.path().join("old")).unwrap();
    std::fs::rename(&other, &folder).unwrap();
    is_cut(kept);
    // And from then on that folder is watched.
    std::fs::write(folder.join("policy.toml"), LOOPBACK).unwrap();
    lab.daemon.wait_for_line("policy.toml is in force");
    lab.daemon.wait_for_line("policy.toml is in force");
    connection(local[0], &target);
}

#[test]
fn attack_67_a_broken_policy_on_reload() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (address, target) = target();
    let (forward, local) = home.forward(&[&format!("0:{address}")]);
    let mut lent = connection(local[0], &target);
    let policy = lab.dir().join("policy.toml");

    std::fs::write(&policy, "[[allow]]\nwho = [\"alice\"]\nconnnect = [\"*:*\"]\n").unwrap();
    let kept = lab.wait_for_audit("the broken file", |line| line["event"] == "policy-kept");
    assert!(kept["why"].as_str().unwrap().contains("connnect"), "{kept}");
    still_works(&mut lent);
    let another = connection(local[0], &target);

    // SIGHUP reads it again, which is no better; the daemon goes on.
    let before = count(&lab, "policy-kept");
    lab.daemon.signal(Signal::HUP);
    lab.wait_for_audit("the broken file, once more", |_| count(&lab, "policy-kept") > before);
    still_works(&mut lent);

    // By renaming, as editors do; and what is no longer allowed ends.
    let new = lab.dir().join("policy.new");
    std::fs::write(&new, NARROWED).unwrap();
    std::fs::rename(&new, &policy).unwrap();
    let loaded = lab.wait_for_audit("the new file", |line| line["event"] == "policy-loaded");
    assert_eq!(loaded["why"], "2 handles were taken back");
    is_cut(lent);
    is_cut(another);
    forward.wait_for_line(&format!("{address} was taken back: its policy does not allow it any more"));
    lab.wait_for_audit("a handle taken back", |line| {
        line["event"] == "tcp-closed" && line["why"].as_str().is_some_and(|why| why.contains("the policy has changed"))
    });
    fails(home.capuchin().args(["check", "lab", "connect", &address.to_string()]), 1);

    // SIGHUP reads it again, changed or not.
    let before = count(&lab, "policy-loaded");
    lab.daemon.signal(Signal::HUP);
    lab.wait_for_audit("SIGHUP", |_| count(&lab, "policy-loaded") > before);
}

#[test]
fn a_policy_that_is_put_in_place_without_being_written_is_read() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (address, target) = target();
    let (_forward, local) = home.forward(&[&format!("0:{address}")]);
    let mut lent = connection(local[0], &target);
    let (policy, elsewhere) = (lab.dir().join("policy.toml"), tempfile::tempdir_in(lab.dir()).unwrap());
    let next = elsewhere.path().join("next.toml");

    // Whatever stands there instead: the old policy is kept, which is said.
    let put: [(&str, &dyn Fn()); 4] = [
        ("nothing", &|| {}),
        ("a folder", &|| std::fs::create_dir(&policy).unwrap()),
        ("a link", &|| std::os::unix::fs::symlink(&next, &policy).unwrap()),
        ("a pipe", &|| {
            run(Command::new("mkfifo").args(["-m", "600"]).arg(&policy));
        }),
    ];
    std::fs::copy(&policy, &next).unwrap();
    for (what, put) in put {
        let before = count(&lab, "policy-kept");
        match std::fs::symlink_metadata(&policy) {
            Ok(is) if is.is_dir() => std::fs::remove_dir(&policy).unwrap(),
            Ok(_) => std::fs::remove_file(&policy).unwrap(),
            Err(_) => {}
        }
        put();
        lab.wait_for_audit(what, |_| count(&lab, "policy-kept") > before);
        still_works(&mut lent);
    }
    assert_eq!(count(&lab, "policy-loaded"), 0);

    // And a whole file by link(2), which is all that is seen of it.
    std::fs::write(&next, NARROWED).unwrap();
    std::fs::remove_file(&policy).unwrap();
    std::fs::hard_link(&next, &policy).unwrap();
    let loaded = lab.wait_for_audit("the file that was linked", |line| line["event"] == "policy-loaded");
    assert_eq!(loaded["why"], "1 handles were taken back");
    is_cut(lent);

    // As an editor does that removes the file and writes another.
    std::fs::remove_file(&policy).unwrap();
    std::fs::write(&policy, LOOPBACK).unwrap();
    lab.wait_for_audit("the file that was written anew", |_| count(&lab, "policy-loaded") > 1);
    connection(local[0], &target);
}

/// Makes policy.toml anew, and not whole: its first half allows what the second denies.
fn half_a_policy(lab: &Lab) -> File {
    let policy = lab.dir().join("policy.toml");
    std::fs::remove_file(&policy).unwrap();
    let mut writer = File::create(&policy).unwrap();
    writer.write_all(b"[[allow]]\nwho = \"alice\"\nconnect = \"*:*\"\nlisten = \"127.0.0.1:*\"\n").unwrap();
    lab.daemon.wait_for_line("policy.toml is being written");
    writer
}

/// The first half was not in force, and the whole is when it is written.
fn is_read_as_a_whole(lab: &Lab, home: &Home, mut writer: File) {
    writer.write_all(b"# to be continued\n").unwrap();
    lab.daemon.wait_for_line("policy.toml is being written");
    fails(home.capuchin().args(["check", "lab", "listen", "127.0.0.1:9000"]), 1);
    assert_eq!(count(lab, "policy-loaded"), 0);
    writer.write_all(b"[[deny]]\nwho = \"alice\"\nlisten = \"127.0.0.1:9000\"\n").unwrap();
    drop(writer);
    lab.daemon.wait_for_line("policy.toml is in force");
    run(home.capuchin().args(["check", "lab", "listen", "127.0.0.1:9001"]));
    fails(home.capuchin().args(["check", "lab", "listen", "127.0.0.1:9000"]), 1);
    assert_eq!(count(lab, "policy-loaded"), 1);
}

#[test]
fn a_policy_is_not_read_while_somebody_writes_it_however_long_he_pauses() {
    let lab = Lab::start(LOOPBACK);
    let mut serve = capuchind(lab.dir());
    let lab = served_by(lab, serve.arg("serve"));
    let home = lab.join("alice");
    let writer = half_a_policy(&lab);
    // Something else in the folder is finished meanwhile, which says nothing about this file.
    std::fs::write(lab.dir().join("other"), "x").unwrap();
    is_read_as_a_whole(&lab, &home, writer);
}

/// Whether somebody writes a file the kernel says to its owner only, and to root.
#[test]
fn roots_policy_is_not_read_half_written_by_a_daemon_that_is_not_root() {
    const NOBODY: u32 = 65534;
    let lab = Lab::start(LOOPBACK);
    let policy = lab.dir().join("policy.toml");
    run(Command::new("chown").args(["-R", &NOBODY.to_string()]).arg(lab.dir()));
    run(Command::new("chown").arg("0").arg(&policy));
    let mut serve = capuchind(lab.dir());
    as_user(serve.arg("serve"), NOBODY);
    let lab = served_by(lab, &mut serve);
    let home = lab.join("alice");
    let mut old = File::options().append(true).open(&policy).unwrap();
    let writer = half_a_policy(&lab);
    // None of this is its end: another file is written, the file of before is closed, this one's mode is set.
    std::fs::write(lab.dir().join("other"), "x").unwrap();
    old.write_all(b"# gone\n").unwrap();
    drop(old);
    std::fs::set_permissions(&policy, std::os::unix::fs::PermissionsExt::from_mode(0o604)).unwrap();
    lab.daemon.wait_for_line("policy.toml is being written");
    is_read_as_a_whole(&lab, &home, writer);
}
