//! Ends in the middle: a lender that goes, a policy that changes, a user who is revoked.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    process::{Child, Stdio},
};

use capuchin::proto::mux::PING_PERIOD;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    exec, lab,
    support::{Daemon, Home, Lab, PASSWORD, PATIENCE, run, wait_until},
};

/// What a program has between HUP and KILL whose daemon or borrower has gone, in nanoseconds.
const HANGUP_MAX_NS: i128 = 5_000_000_000;

/// A program that ignores every wish to end, with a child in a session of its own that does so, too, one of nohup(1), and a
/// daemon whose parents have ended. Each notes when it lives, again and again.
pub struct Stubborn {
    pub command: Child,
    pids: [Pid; 4],
    notes: tempfile::TempDir,
}

impl Stubborn {
    pub fn start(home: &Home) -> Self {
        let notes = tempfile::tempdir().unwrap();
        // Whoever they run as.
        std::fs::set_permissions(notes.path(), PermissionsExt::from_mode(0o777)).unwrap();
        let lives = format!("echo $$; while :; do date +%s%N >> {}/$$; sleep 0.02; done", notes.path().display());
        let script = format!(
            "trap '' HUP INT TERM; setsid sh -c '{lives}' & nohup sh -c '{lives}' 2>/dev/null & \
             (setsid sh -c '(sh -c \"{}\") & exit') & {lives}",
            lives.replace('$', "\\$")
        );
        let mut command = exec(home, &["sh", "-c", &script]);
        let mut command = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(command.stdout.take().unwrap()).lines();
        let pids = [(); 4].map(|()| Pid::from_raw(lines.next().unwrap().unwrap().parse().unwrap()).unwrap());
        let stubborn = Self { command, pids, notes };
        wait_until("each notes that it lives", || stubborn.pids.iter().all(|pid| stubborn.last_note(*pid).is_some()));
        stubborn
    }

    /// When it lived for sure, in nanoseconds since 1970.
    fn last_note(&self, pid: Pid) -> Option<i128> {
        let text = std::fs::read_to_string(self.notes.path().join(pid.as_raw_nonzero().to_string())).ok()?;
        let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).next_back();
        whole.map(|line| line.parse().unwrap())
    }

    /// Waits until all are gone.
    pub fn are_gone(&self) {
        for pid in self.pids {
            let Ok(watch) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
            let timeout = rustix::event::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
            let mut watched = [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)];
            assert_eq!(rustix::event::poll(&mut watched, Some(&timeout)), Ok(1), "{pid:?} lives on");
        }
    }

    /// They are gone, and lived behind the command of the admin's for less than the [`HANGUP_MAX_NS`] that a program has which is not
    /// taken back: that it is a second on a machine that does nothing else is for `benches/revoke` to say.
    pub fn were_taken_back_at_once(&self, lab: &Lab) {
        self.are_gone();
        let revoked = lab.wait_for_audit("the command", |line| line["command"] == "revoke --user");
        let time = revoked["time"].as_str().unwrap();
        let revoked = OffsetDateTime::parse(time, &Rfc3339).unwrap().unix_timestamp_nanos();
        for pid in self.pids {
            let after = self.last_note(pid).unwrap() - revoked;
            assert!(after < HANGUP_MAX_NS - 1_000_000_000, "{pid:?} lived {} ms behind it", after / 1_000_000);
        }
    }
}

/// Attack 14.
#[test]
fn attack_14_a_revoked_users_processes_are_gone_before_a_hangup_would_end_them() {
    let (lab, home) = lab();
    let stubborn = Stubborn::start(&home);
    run(lab.admin().args(["revoke", "--user", "alice"]));
    stubborn.were_taken_back_at_once(&lab);
    let output = stubborn.command.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("error[revoked]"));
}

#[test]
fn a_program_that_the_policy_no_longer_allows_is_taken_back() {
    let (lab, home) = lab();
    let stubborn = Stubborn::start(&home);
    std::fs::write(lab.dir().join("policy.toml"), "[[allow]]\nwho = \"alice\"\nconnect = \"10.0.0.1:1\"\n").unwrap();
    stubborn.are_gone();
    let line = lab.wait_for_audit("the end", |line| line["event"] == "spawn-ended");
    assert!(line["why"].as_str().unwrap().contains("the policy has changed"), "{line}");
    let output = stubborn.command.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(255), "{output:?}");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error[policy]") && stderr.contains("was taken back: its policy"), "{stderr}");
}

#[test]
fn a_policy_without_a_variable_ends_who_asked_for_it_and_not_whom_it_was_offered() {
    let policy = |send: &str| crate::EVERYTHING.to_owned() + &format!("env = {{ send = [{send}] }}\n");
    let lab = Lab::start(&policy("\"LANG\""));
    let home = lab.join("alice");
    let start = |options: &[&str]| {
        let mut command = home.capuchin();
        command.env("LANG", "de_DE").stdin(Stdio::piped()).arg("exec").args(options);
        let program = Daemon::spawn(command.args(["lab", "sh", "-c", "echo has $LANG; read line; echo read $line"]));
        program.wait_for_line("has de_DE");
        program
    };
    let (mut asked, mut offered) = (start(&["--env", "LANG"]), start(&["-t"]));
    std::fs::write(lab.dir().join("policy.toml"), policy("\"TZ\"")).unwrap();
    let loaded = lab.wait_for_audit("the new policy", |line| line["event"] == "policy-loaded");
    assert_eq!(loaded["why"], "1 handles were taken back");
    asked.wait_for_line("was taken back: its policy");
    assert_eq!(asked.wait().code(), Some(255));
    writeln!(offered.stdin.as_mut().unwrap(), "on").unwrap();
    offered.wait_for_line("read on");
    assert_eq!(offered.wait().code(), Some(0));
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

/// As ssh has it, with a terminal here or without: on one, keys are the program's.
#[test]
fn the_first_signal_ends_a_command_whose_program_has_a_terminal() {
    let (_lab, home) = lab();
    let script = "trap '' TERM; echo ready; sleep 20";
    let mut command = home.capuchin();
    command.args(["exec", "-t", "lab", "--", "sh", "-c", script]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    rustix::process::kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(lines.next().map(Result::unwrap), None, "nothing was passed on");
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

/// The end of a program overtakes what it has said: what is read of that afterwards may not be all.
#[test]
fn output_that_breaks_off_behind_the_programs_end_is_no_success() {
    let (mut lab, home) = lab();
    // As much as finds room at the lender while nobody takes it, and more than is sent before anybody does.
    const SAID: usize = 300_000;
    let notes = tempfile::tempdir().unwrap();
    // Whoever it runs as.
    std::fs::set_permissions(notes.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let at = |name: &str| notes.path().join(name).display().to_string();
    let script =
        format!("echo $$ > {}; until test -e {}; do sleep 0.02; done; head -c {SAID} /dev/zero", at("pid"), at("go"));
    let child = exec(&home, &["sh", "-c", &script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = || std::fs::read_to_string(at("pid")).ok().filter(|pid| pid.ends_with('\n'));
    wait_until("it runs", || pid().is_some());
    let borrower = Pid::from_child(&child);
    kill_process(borrower, Signal::STOP).unwrap();
    std::fs::write(at("go"), "").unwrap();
    let process = format!("/proc/{}", pid().unwrap().trim());
    wait_until("it is over", || !std::path::Path::new(&process).exists());
    // The lender has had time to say so.
    run(&mut exec(&home, &["true"]));
    lab.daemon.kill();
    kill_process(borrower, Signal::CONT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.stdout.len() < SAID, "all of it had come");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), told.contains("error[lost]")), (Some(255), true), "{told}");
}

/// Half a file must not take the place of a whole one.
#[test]
fn input_that_breaks_off_does_not_look_like_its_end() {
    let (_lab, home) = lab();
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let at = |name: &str| folder.path().join(name);
    // As one that takes its time to end.
    let script = format!(
        "trap '' HUP; echo $$ > {}; cat > {}; touch {}",
        at("pid").display(),
        at("half").display(),
        at("whole").display()
    );
    let mut child = exec(&home, &["sh", "-c", &script]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"the first half").unwrap();
    wait_until("it has come", || std::fs::read(at("half")).is_ok_and(|half| half == b"the first half"));
    let process = format!("/proc/{}", std::fs::read_to_string(at("pid")).unwrap().trim());
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("it is ended", || !std::path::Path::new(&process).exists());
    assert!(!at("whole").exists(), "it has taken the break for the end");
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

#[test]
fn a_command_that_is_suspended_for_long_goes_on_where_it_was() {
    let (_lab, home) = lab();
    let start = || {
        let mut command = exec(&home, &["sh", "-c", "echo ready; read line; echo read $line"]);
        let program = Daemon::spawn(command.stdin(Stdio::piped()));
        program.wait_for_line("ready");
        program
    };
    let own = start();
    let shared = Daemon::spawn(home.capuchin().args(["connect", "-F", "lab"]));
    shared.wait_for_line("Connected to lab");
    let programs = [own, start()];
    programs.iter().for_each(|program| program.signal(Signal::STOP));
    // Somebody who says nothing is given up after three periods of PING at the latest. They pass for real: whether his machine
    // acknowledges what it is sent is the kernel's to say, whose clock no test moves.
    std::thread::sleep(4 * PING_PERIOD);
    for mut program in programs {
        program.signal(Signal::CONT);
        writeln!(program.stdin.as_mut().unwrap(), "on").unwrap();
        program.wait_for_line("read on");
        assert_eq!(program.wait().code(), Some(0));
    }
}

/// So that who reads the log can tell it from a connection that was lost.
#[test]
fn a_command_that_is_over_says_so_to_its_lender() {
    let (lab, home) = lab();
    let target = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let password = home.password_file(PASSWORD);
    for (args, code) in [
        (&["exec", "lab", "--", "true"][..], 0),
        (&["exec", "lab", "--", "sh", "-c", "exit 3"], 3),
        (&["exec", "lab", "--", "no-such-program"], 127),
        (&["shell", "lab"], 0),
        (&["check", "lab", "connect", &target], 1),
        (&["forward", "lab", "-W", &target], 255),
        (&["login", "lab", "--password-file", password.to_str().unwrap()], 0),
    ] {
        let said = home.capuchin().args(args).output().unwrap();
        assert_eq!(said.status.code(), Some(code), "{args:?}: {said:?}");
    }
    let mut shares = Daemon::spawn(home.capuchin().args(["connect", "-F", "lab"]));
    shares.wait_for_line("Connected");
    shares.signal(Signal::INT);
    assert_eq!(shares.wait().code(), Some(128 + 2));
    let ended = |line: &serde_json::Value| line["event"] == "session-ended";
    // That of the join, and one a command.
    lab.wait_for_audits("the ends of the sessions", 9, ended);
    for line in lab.audit().into_iter().filter(ended) {
        assert_eq!(line["why"], "the borrower ended it: lost: the borrower closed the session", "{line}");
    }
}
