//! The admin's commands beside a daemon that hangs, stops or has stopped.

use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    process::Command,
};

use rustix::process::Signal;

use crate::{
    one_line,
    support::{Daemon, LOOPBACK, Lab, PATIENCE, capuchind, fails, json, run, starts, text},
};

/// A request at the admin's socket, as a command sends it.
fn asked(lab: &Lab, request: &str) -> UnixStream {
    let mut asker = UnixStream::connect(lab.dir().join("admin.sock")).unwrap();
    asker.set_read_timeout(Some(PATIENCE)).unwrap();
    asker.write_all(format!("{request}\n").as_bytes()).unwrap();
    asker
}

#[test]
fn a_daemon_that_does_not_answer_is_told_of_once_and_waited_for() {
    let lab = Lab::start(LOOPBACK);
    lab.daemon.signal(Signal::STOP);
    let mut list = Daemon::spawn(lab.admin().args(["user", "list"]));
    let line = list.wait_for_line("does not answer yet");
    assert!(line.starts_with(&format!("capuchind (pid {}) ", lab.daemon.child.id())), "{line}");
    lab.daemon.signal(Signal::CONT);
    assert!(list.wait_for_line("").starts_with("alice"), "it is said once");
    assert_eq!(list.wait().code(), Some(0));
}

/// As in a container that has the lender's folder.
#[test]
fn a_daemon_outside_of_the_pid_namespace_has_no_number_there() {
    let lab = Lab::start(LOOPBACK);
    let inside = |args: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-current-user", "--pid", "--fork"]);
        starts(&mut command, lab.admin().args(args));
        command
    };
    let said = fails(&mut inside(&["serve"]), 255);
    assert!(said.contains("in use by a running capuchind (outside of this PID namespace): stop"), "{said}");
    lab.daemon.signal(Signal::STOP);
    let mut list = Daemon::spawn(&mut inside(&["user", "list"]));
    let line = list.wait_for_line("does not answer yet");
    lab.daemon.signal(Signal::CONT);
    assert!(line.starts_with("capuchind (outside of this PID namespace) does not"), "{line}");
    assert!(list.wait().success());
}

#[test]
fn what_gives_something_is_not_done_for_who_has_gone_and_what_takes_away_is() {
    let lab = Lab::start(LOOPBACK);
    lab.daemon.signal(Signal::STOP);
    let allow = r#"{"ask":"allow","user":"alice","kind":"connect","target":"9.9.9.9:9","seconds":3600}"#;
    for request in [
        allow,
        r#"{"ask":"invite","user":"alice","ttl_seconds":900}"#,
        r#"{"ask":"passwd","user":"alice","password":"correct horse battery"}"#,
        r#"{"ask":"user-add","user":"carol"}"#,
        r#"{"ask":"user-remove","user":"bob"}"#,
    ] {
        drop(asked(&lab, request));
    }
    // This one still listens, and only says that it has no more to ask.
    let mut waits = asked(&lab, &allow.replace("9.9.9.9", "9.9.9.8"));
    waits.shutdown(Shutdown::Write).unwrap();
    lab.daemon.signal(Signal::CONT);
    let mut answer = String::new();
    waits.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("granted"), "{answer}");
    for command in ["allow", "invite", "passwd", "user add"] {
        let undone = |line: &serde_json::Value| line["command"] == command && line["verdict"] == "failed";
        let line = lab.wait_for_audit(command, undone);
        assert_eq!(line["why"], "its asker hung up before it was begun");
    }
    lab.wait_for_audit("bob", |line| line["command"] == "user remove" && line["verdict"] == "done");
    let grants = json(&run(lab.admin().args(["grants", "--json"])).stdout);
    let targets: Vec<_> = grants["grants"].as_array().unwrap().iter().map(|grant| &grant["target"]).collect();
    assert_eq!(targets, ["9.9.9.8:9"]);
    let users = text(run(lab.admin().args(["user", "list"])).stdout);
    assert_eq!(users.trim(), "alice  (no password yet)");
}

#[test]
fn a_daemon_that_hangs_up_leaves_no_doubt_whether_a_command_was_done() {
    let mut lab = Lab::start(LOOPBACK);
    lab.daemon.kill();
    let path = lab.dir().join("admin.sock");
    std::fs::remove_file(&path).unwrap();
    let stopping = UnixListener::bind(&path).unwrap();
    for (reads, what) in [(false, "nothing was done"), (true, "whether this was done is not known")] {
        let command = lab.admin().args(["user", "add", "carol"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let (mut asked, _) = stopping.accept().unwrap();
        // What is sent is there, read or not.
        let mut watched = [rustix::event::PollFd::new(&asked, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut watched, None).unwrap();
        if reads {
            asked.read_exact(&mut [0; b"{'ask':'user-add','user':'carol'}\n".len()]).unwrap();
        }
        drop(asked);
        let output = command.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(255));
        one_line(&text(output.stderr), "local", what);
    }
}

#[test]
fn without_a_daemon_there_is_no_session_to_cut() {
    let mut lab = Lab::start(LOOPBACK);
    lab.daemon.kill();
    for command in [&["cut", "abcd"][..], &["cut", "a/1"], &["revoke", "--session", "abcd"]] {
        one_line(&fails(lab.admin().args(command), 255), "usage", "capuchind does not run");
    }
}

#[test]
fn a_daemon_that_stops_makes_room_for_the_next() {
    let lab = Lab::start(LOOPBACK);
    // As in `kill PID; capuchind serve`.
    lab.daemon.signal(Signal::TERM);
    Daemon::spawn(capuchind(lab.dir()).arg("serve")).wait_for_line("listens on");
}
