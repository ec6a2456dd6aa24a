//! Nothing that a program started outlives its handle, however it tries.

use std::{
    fs,
    io::BufRead,
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::{
    EVERYTHING, exec, lab,
    support::{Lab, PATIENCE, fails, run},
};

/// A child in the background, a daemon that forks twice in a session of its own, one that nohup started, and one that
/// ignores what can be ignored; each says its number.
const FAMILY: &str = "\
    (sh -c 'echo $$; exec sleep 300') & \
    (setsid sh -c '(sh -c \"echo \\$\\$; exec sleep 300\") & exit') & \
    (nohup sh -c 'echo $$; exec sleep 300' 2>/dev/null) & \
    (trap '' HUP INT TERM; setsid sh -c 'echo $$; exec sleep 300') &";

/// Waits until a process has ended, and says after how long.
fn wait_for_end(pid: Pid) -> Duration {
    let began = Instant::now();
    if let Ok(watch) = pidfd_open(pid, PidfdFlags::empty()) {
        let timeout = rustix::event::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let mut watched = [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut watched, Some(&timeout)), Ok(1), "{pid:?} lives on");
    }
    began.elapsed()
}

fn ended(pids: Vec<Pid>) {
    for pid in pids {
        wait_for_end(pid);
    }
}

fn pids(lines: impl Iterator<Item = String>) -> Vec<Pid> {
    let pids: Vec<_> = lines.take(4).map(|line| Pid::from_raw(line.trim().parse().unwrap()).unwrap()).collect();
    assert_eq!(pids.len(), 4);
    for pid in &pids {
        assert!(fs::metadata(format!("/proc/{}", pid.as_raw_nonzero())).is_ok(), "{pid:?} runs");
    }
    pids
}

/// Starts the family and a program that stays with it.
fn family(command: &mut std::process::Command) -> (std::process::Child, Vec<Pid>) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    (child, pids(lines))
}

#[test]
fn what_a_program_leaves_behind_ends_with_it() {
    let (_lab, home) = lab();
    // Its output is held open by all of them, and the command comes back nevertheless.
    let output = run(&mut exec(&home, &["sh", "-c", &format!("{FAMILY} sleep 0.3")]));
    let said = String::from_utf8(output.stdout).unwrap();
    for pid in said.lines().map(|line| Pid::from_raw(line.parse().unwrap()).unwrap()) {
        assert!(wait_for_end(pid) < Duration::from_secs(8));
    }
    assert_eq!(said.lines().count(), 4);
}

#[test]
fn a_command_that_is_killed_takes_its_programs_with_it() {
    let (lab, home) = lab();
    let (mut child, pids) = family(&mut exec(&home, &["sh", "-c", &format!("{FAMILY} sleep 300")]));
    child.kill().unwrap();
    child.wait().unwrap();
    ended(pids);
    lab.wait_for_audit("the end", |line| line["event"] == "spawn-ended");
}

#[test]
fn a_daemon_that_is_killed_takes_its_programs_with_it() {
    let (mut lab, home) = lab();
    let (mut child, pids) = family(&mut exec(&home, &["sh", "-c", &format!("{FAMILY} sleep 300")]));
    lab.daemon.kill();
    ended(pids);
    assert_eq!(child.wait().unwrap().code(), Some(255));
}

#[test]
fn a_supervisor_that_is_killed_leaves_no_one_to_nobody() {
    let (_lab, home) = lab();
    let (mut child, pids) = family(&mut exec(&home, &["sh", "-c", &format!("{FAMILY} sleep 300")]));
    // The nearest supervisor above is the parent of the program, whose own parent its children know.
    let parent = |pid: Pid| {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
        let fields = stat.rsplit(')').next().unwrap().split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
        Pid::from_raw(fields).unwrap()
    };
    let name = |pid: Pid| fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap();
    let mut supervisor = pids[0];
    while !name(supervisor).starts_with("exe") && !name(supervisor).starts_with("capuchin") {
        supervisor = parent(supervisor);
    }
    rustix::process::kill_process(supervisor, Signal::KILL).unwrap();
    ended(pids);
    assert_eq!(child.wait().unwrap().code(), Some(137));
}

#[test]
fn what_is_detached_lives_on_where_the_policy_says_so() {
    let lab = Lab::start(&(EVERYTHING.to_owned() + "detach = true\n"));
    let home = lab.join("alice");
    let mut command = home.capuchin();
    let output = run(command.args(["exec", "--detach", "lab", "sleep", "300"]));
    let pid = Pid::from_raw(String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()).unwrap();
    lab.wait_for_audit("the session's end", |line| line["event"] == "session-ended");
    rustix::process::kill_process(pid, Signal::TERM).expect("it lives on");
    wait_for_end(pid);

    let (lab, home) = crate::lab();
    let stderr = fails(home.capuchin().args(["exec", "--detach", "lab", "sleep", "300"]), 255);
    assert!(stderr.contains("detach = true"), "{stderr}");
    lab.wait_for_verdict("spawn", "refused");
}
