//! Ends in the middle: a lender that goes, a policy that changes, a user who is revoked.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::{
    exec, lab,
    support::{Home, PATIENCE, run},
};

/// A program that ignores every wish to end, with a child in a session of its own that does so, too, one of nohup(1), and a
/// daemon whose parents have ended.
pub fn stubborn(home: &Home) -> (Child, [Pid; 4]) {
    const WAITS: &str = "echo $$; while :; do sleep 300; done";
    let script = format!(
        "trap '' HUP INT TERM; setsid sh -c '{WAITS}' & nohup sh -c '{WAITS}' 2>/dev/null & \
         (setsid sh -c '(sh -c \"{}\") & exit') & {WAITS}",
        WAITS.replace('$', "\\$")
    );
    let script = script.as_str();
    let mut child = exec(home, &["sh", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let pids = [(); 4].map(|()| Pid::from_raw(lines.next().unwrap().unwrap().parse().unwrap()).unwrap());
    (child, pids)
}

pub fn gone_within(pid: Pid, most: Duration, since: Instant) {
    if let Ok(watch) = pidfd_open(pid, PidfdFlags::empty()) {
        let timeout = rustix::event::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let mut watched = [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut watched, Some(&timeout)), Ok(1), "{pid:?} lives on");
    }
    assert!(since.elapsed() < most, "{pid:?} took {:?}", since.elapsed());
}

/// Attack 14.
#[test]
fn attack_14_a_revoked_users_processes_are_gone_in_a_second() {
    let (lab, home) = lab();
    let (child, pids) = stubborn(&home);
    run(lab.admin().args(["revoke", "--user", "alice"]));
    let since = Instant::now();
    pids.into_iter().for_each(|pid| gone_within(pid, Duration::from_secs(1), since));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("error[revoked]"));
}

#[test]
fn a_program_that_the_policy_no_longer_allows_is_taken_back() {
    let (lab, home) = lab();
    let (child, pids) = stubborn(&home);
    std::fs::write(lab.dir().join("policy.toml"), "[[allow]]\nwho = \"alice\"\nconnect = \"10.0.0.1:1\"\n").unwrap();
    pids.into_iter().for_each(|pid| gone_within(pid, PATIENCE, Instant::now()));
    let line = lab.wait_for_audit("the end", |line| line["event"] == "spawn-ended");
    assert!(line["why"].as_str().unwrap().contains("the policy has changed"), "{line}");
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(255), "{output:?}");
}

#[test]
fn signals_go_to_the_program_and_the_second_of_a_kind_ends_the_command() {
    let (_lab, home) = lab();
    let script = "trap 'echo heard' TERM; echo ready; while :; do sleep 0.05; done";
    let mut child = exec(&home, &["sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let pid = Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "heard");
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
}

#[test]
fn a_reader_who_goes_ends_the_command_as_sigpipe_would() {
    let (_lab, home) = lab();
    let mut child = exec(&home, &["yes"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!((first.as_str(), child.wait().unwrap().code()), ("y\n", Some(141)));
}

#[test]
fn the_audit_says_what_ran_and_how_it_ended() {
    let (lab, home) = lab();
    let output = exec(&home, &["sh", "-c", "exit 9"]).output().unwrap();
    assert_eq!(output.status.code(), Some(9));
    let granted = lab.wait_for_verdict("spawn", "granted");
    assert!(granted["target"].as_str().unwrap().ends_with("sh -c 'exit 9'"), "{granted}");
    let ended = lab.wait_for_audit("the end", |line| line["event"] == "spawn-ended");
    assert_eq!(ended["why"], "it exited with status 9");
}
