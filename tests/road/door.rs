//! The lender's own machine: no join, the OS user is the user, and the rest is as over the network.

use std::{
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use capuchin::{lend::owner_name, proto::ErrorKind};
use rustix::process::Signal;

use crate::{
    dial, echo, origin, round_trip,
    support::{Daemon, Home, LOOPBACK, Lab, as_user, fails, json, own_uid, run, text},
};

/// OS users without a name, who are called `uid4242` and `uid4243`.
const SOMEBODY: u32 = 4242;
const ANOTHER: u32 = 4243;

/// What lets these users reach any port of loopback.
fn loopback_for(users: &[&str]) -> String {
    LOOPBACK.replace(r#"["alice", "bob"]"#, &format!("{users:?}"))
}

fn forward(lab: &Lab, home: &Home, uid: u32, target: &str) -> (Daemon, std::net::SocketAddr) {
    let forward = Daemon::spawn(lab.here(home, uid).args(["forward", ".", "-N", "-L", target]));
    let local = forward.wait_for_line("Forwarding ").split(' ').nth(1).unwrap().parse().unwrap();
    (forward, local)
}

#[test]
fn users_of_the_lenders_machine_borrow_without_a_join_each_as_himself() {
    let owner = owner_name().0.to_string();
    let lab = Lab::start(&loopback_for(&[&owner, "uid4242"]));
    lab.open_folder();
    let (home, server) = (Home::new(), origin(echo));
    for (uid, user) in [(own_uid(), owner.as_str()), (SOMEBODY, "uid4242")] {
        let verdict = run(lab.here(&home, uid).args(["check", ".", "connect", &server.to_string(), "--json"]));
        assert_eq!(json(&verdict.stdout)["allowed"], true);
        run(lab.here(&home, uid).args(["check", &format!("{user}@."), "connect", &server.to_string()]));
        let (mut forward, local) = forward(&lab, &home, uid, &format!("0:{server}"));
        let socket = dial(local);
        round_trip(&socket, &[7; 300_000]).unwrap();

        let listed = json(&run(lab.admin().args(["sessions", "--json"])).stdout)["sessions"].clone();
        let session = listed.as_array().unwrap().iter().find(|session| session["user"] == user).unwrap();
        assert_eq!(session["peer"], format!("uid {uid} pid {}", forward.child.id()));
        assert_eq!(session["device"], format!("{uid:016x}"));
        assert_eq!(session["streams"][0]["target"], server.to_string());
        let line = lab.wait_for_audit("the login", |line| line["event"] == "login" && line["peer"] == session["peer"]);
        assert_eq!(
            (&line["method"], &line["verdict"], &line["user"]),
            (&"peer".into(), &"granted".into(), &user.into())
        );
        assert_eq!((&line["device"], &line["session"]), (&session["device"], &session["session"]));
        assert!(line.get("serial").is_none(), "there is no certificate: {line}");

        run(lab.admin().args(["cut", session["session"].as_str().unwrap()]));
        forward.wait_for_line("error[revoked]");
        assert_eq!(forward.wait().code(), Some(255));
    }
    // Nothing was kept: there is no profile and no ticket, and the lender knows no device.
    assert!(!home.folder.path().join("config").exists() && !home.folder.path().join("state").exists());
    assert_eq!(
        json(&run(lab.admin().args(["user", "list", "--json"])).stdout)["users"][0]["devices"],
        serde_json::json!([])
    );
}

#[test]
fn who_is_not_named_by_the_policy_is_refused_and_told_what_to_ask_for() {
    let lab = Lab::start(LOOPBACK);
    let (home, user) = (Home::new(), owner_name().0);
    let denied = lab.here(&home, own_uid()).args(["check", ".", "connect", "127.0.0.1:9"]).output().unwrap();
    assert_eq!(denied.status.code(), Some(1), "{denied:?}");
    let said = text(denied.stdout);
    assert!(said.contains(&format!("capuchind allow {user} connect 127.0.0.1:9 --for 1h")), "{said}");
    let line = lab.wait_for_verdict("check", "refused");
    assert_eq!(line["user"], user.as_str());
    let stderr = fails(lab.here(&home, own_uid()).args(["forward", ".", "-N", "-L", "0:127.0.0.1:9"]), 255);
    assert!(stderr.starts_with("error[policy]"), "{stderr}");
    // What the note says works, for a user without an entry too.
    run(lab.admin().args(["allow", user.as_str(), "connect", "127.0.0.1:9", "--for", "1h"]));
    run(lab.here(&home, own_uid()).args(["check", ".", "connect", "127.0.0.1:9"]));
}

#[test]
fn the_limits_of_the_policy_hold_for_visitors_too() {
    let owner = owner_name().0.to_string();
    let lab = Lab::start(&loopback_for(&[&owner]).replace("connect =", "limits = { sessions = 1 }\nconnect ="));
    let (home, server) = (Home::new(), origin(echo));
    let (mut forward, local) = forward(&lab, &home, own_uid(), &format!("0:{server}"));
    round_trip(&dial(local), b"the only one").unwrap();
    let mut check = lab.here(&home, own_uid());
    check.args(["check", ".", "connect", &server.to_string()]);
    let stderr = fails(&mut check, 2);
    assert!(stderr.starts_with("error[busy]"), "{stderr}");
    forward.kill();
    lab.wait_for_audit("its end", |line| line["event"] == "session-ended");
    run(&mut check);
}

#[test]
fn a_login_is_neither_asked_for_nor_taken() {
    let lab = Lab::start(LOOPBACK);
    let home = Home::new();
    for args in [&["login", "."][..], &["login", "alice@."], &["join", "cap1_x", "--as", "."]] {
        let stderr = fails(lab.here(&home, own_uid()).args(args), 255);
        assert!(stderr.contains("error[usage]") && stderr.contains("no join and no login"), "{args:?}: {stderr}");
    }
}

#[test]
fn a_lender_that_dies_ends_its_visitors_and_the_next_one_replaces_the_socket() {
    let mut lab = Lab::start(&loopback_for(&[owner_name().0.as_str()]));
    let (home, server) = (Home::new(), origin(echo));
    let (mut forward_process, local) = forward(&lab, &home, own_uid(), &format!("0:{server}"));
    let socket = dial(local);
    round_trip(&socket, b"alive").unwrap();
    lab.daemon.kill();
    assert!(crate::support::ends(&socket), "nothing more comes");
    forward_process.wait_for_line("reconnecting");
    assert!(lab.door().metadata().unwrap().file_type().is_socket(), "a crash leaves it");
    let stderr = fails(lab.here(&home, own_uid()).args(["check", ".", "connect", &server.to_string()]), 2);
    assert!(stderr.starts_with("error[unreachable]") && stderr.contains("capuchind up"), "{stderr}");

    let mut lab = lab.restart();
    forward_process.wait_for_line("back after");
    round_trip(&dial(local), b"alive again").unwrap();
    forward_process.kill();
    run(lab.here(&home, own_uid()).args(["check", ".", "connect", &server.to_string()]));
    let (forward_process, local) = forward(&lab, &home, own_uid(), &format!("0:{server}"));
    round_trip(&dial(local), b"alive").unwrap();
    lab.daemon.signal(Signal::TERM);
    forward_process.wait_for_line("the lender is stopping");
    assert_eq!(lab.daemon.wait().code(), Some(0));
    assert!(!lab.door().exists(), "an end in order takes it along");
}

#[test]
fn a_visitor_that_dies_frees_what_it_borrowed() {
    let lab = Lab::start(&loopback_for(&[owner_name().0.as_str()]));
    let home = Home::new();
    let (gone_tx, gone_rx) = std::sync::mpsc::channel();
    let server = origin(move |socket| {
        echo(socket);
        gone_tx.send(()).unwrap();
    });
    let (mut dying, local) = forward(&lab, &home, own_uid(), &format!("0:{server}"));
    let socket = dial(local);
    round_trip(&socket, b"alive").unwrap();
    dying.kill();
    gone_rx.recv_timeout(crate::support::PATIENCE).expect("the target sees its connection end");
    lab.wait_for_audit("the session's end", |line| line["event"] == "session-ended");
    run(lab.here(&home, own_uid()).args(["check", ".", "connect", &server.to_string()]));
}

/// A user of a machine with the folders that a login gives him.
struct Account {
    folder: tempfile::TempDir,
    uid: u32,
}

impl Account {
    /// Root's lender would lie in /etc: root plays somebody else.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let uid = if own_uid() == 0 { SOMEBODY } else { own_uid() };
        std::fs::create_dir(folder.path().join("run")).unwrap();
        for path in [folder.path(), &folder.path().join("run")] {
            chown(path, Some(uid), Some(if own_uid() == 0 { uid } else { path.metadata().unwrap().gid() })).unwrap();
        }
        Self { folder, uid }
    }

    fn door(&self) -> PathBuf {
        self.folder.path().join("run/capuchin/door.sock")
    }

    fn command(&self, program: &str, uid: u32) -> Command {
        let mut command = Command::new(program);
        let home = self.folder.path();
        command.env("HOME", home).env("XDG_RUNTIME_DIR", home.join("run")).env_remove("CAPUCHIND_DIR");
        command.env_remove("XDG_STATE_HOME").env("USER", format!("uid{}", self.uid)).stdin(Stdio::null());
        as_user(&mut command, uid);
        command
    }

    /// One of several lenders of this user, each with settings of its own.
    fn lender(&self, name: &str) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_capuchind"), self.uid);
        command.env("XDG_CONFIG_HOME", self.folder.path().join(name));
        command
    }

    /// Starts one; gives it once it listens.
    fn up(&self, name: &str) -> Daemon {
        let daemon = Daemon::spawn(self.lender(name).args(["up", "--name", name, "--listen", "127.0.0.1:0"]));
        daemon.wait_for_line("listens on");
        daemon
    }

    /// Which lender answers at the door.
    fn answers(&self) -> String {
        let mut check = self.command(env!("CARGO_BIN_EXE_capuchin"), self.uid);
        let verdict = run(check.args(["check", ".", "connect", "127.0.0.1:9", "--json"]));
        json(&verdict.stdout)["rule"].as_str().unwrap().split(':').next().unwrap().to_owned()
    }
}

#[test]
fn the_second_lender_of_a_user_goes_on_without_the_door_and_never_takes_a_live_one() {
    let account = Account::new();
    let mut first = account.up("first");
    let said = first.wait_for_line("need no join");
    assert!(said.contains(&account.door().display().to_string()), "{said}");
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&account.door()), mode(account.door().parent().unwrap())), (0o600, 0o700));
    assert!(account.answers().contains("/first/"), "{}", account.answers());

    let second = Daemon::spawn(account.lender("second").args(["up", "--name", "second", "--listen", "127.0.0.1:0"]));
    let said = second.wait_for_line("no door");
    assert!(said.contains("is taken"), "{said}");
    second.wait_for_line("listens on");
    assert!(account.answers().contains("/first/"), "it still answers");

    // Left over by a crash: the next one takes it.
    first.kill();
    assert!(account.door().exists());
    let mut third = account.up("third");
    assert!(account.answers().contains("/third/"));
    third.signal(Signal::TERM);
    third.wait();
    assert!(!account.door().exists());

    // Not ours to remove.
    std::fs::write(account.door(), "somebody's").unwrap();
    let fourth = Daemon::spawn(account.lender("fourth").args(["up", "--name", "fourth", "--listen", "127.0.0.1:0"]));
    let said = fourth.wait_for_line("no door");
    assert!(said.contains("is not a socket"), "{said}");
    fourth.wait_for_line("listens on");
    drop(fourth);
    assert_eq!(std::fs::read_to_string(account.door()).unwrap(), "somebody's");
}

#[test]
fn a_users_own_door_is_closed_to_every_other_user() {
    let account = Account::new();
    let daemon = account.up("own");
    daemon.wait_for_line("need no join");
    let open = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    for folder in [account.folder.path(), &account.folder.path().join("run"), account.door().parent().unwrap()] {
        open(folder, 0o711);
    }
    let check = |uid| {
        let mut check = account.command(env!("CARGO_BIN_EXE_capuchin"), uid);
        check.args(["check", ".", "connect", "127.0.0.1:9"]);
        check
    };
    let stderr = fails(&mut check(ANOTHER), 2);
    assert!(stderr.starts_with("error[unreachable]") && stderr.contains("Permission denied"), "{stderr}");
    // Nor does a mode that somebody has opened help.
    open(&account.door(), 0o666);
    let named = |uid| {
        let mut named = check(uid);
        named.env("CAPUCHIND_DIR", account.door().parent().unwrap());
        named
    };
    let stderr = fails(&mut named(ANOTHER), 2);
    let kind = format!("error[{}]", ErrorKind::Login);
    assert!(
        stderr.starts_with(&kind) && stderr.contains(&format!("the door of uid {} alone", account.uid)),
        "{stderr}"
    );
    run(&mut named(account.uid));
    // An admin's command is answered once all before it is in the log.
    run(account.lender("own").args(["user", "list"]));
    let audit = account.lender("own").args(["audit", "--json"]).output().unwrap();
    let refused = text(audit.stdout).lines().any(|line| {
        line.contains(&format!("\"peer\":\"uid {ANOTHER} pid")) && line.contains("\"verdict\":\"refused\"")
    });
    assert!(refused, "the refusal is in the log");
}
