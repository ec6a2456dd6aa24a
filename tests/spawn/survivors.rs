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

/// Waits until a process has ended.
fn wait_for_end(pid: Pid) {
    if let Ok(watch) = pidfd_open(pid, PidfdFlags::empty()) {
        let timeout = rustix::event::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let mut watched = [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut watched, Some(&timeout)), Ok(1), "{pid:?} lives on");
    }
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
    // It ends when all of them run. Its output is held open by them, and the command comes back nevertheless.
    let mut command = exec(&home, &["sh", "-c", &format!("{FAMILY} read end")]);
    let (mut child, pids) = family(command.stdin(Stdio::piped()));
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(1), "the end of its input is that of `read`");
    ended(pids);
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

/// Says that it hears a hang-up, notes it in the file that is its argument, and goes; started by nohup(1) as well.
const HEARS: &str = r#"
$| = 1;
$SIG{HUP} = sub { print "going\n"; open(my $note, ">", $ARGV[0]); print $note "heard"; close($note); exit };
print "$$\n";
sleep 1 while 1;
"#;

/// A child in the background, one in a session of its own, one that nohup started, and a daemon that forked twice: each of
/// them hears a hang-up where it may.
fn hearing_family(lab: &Lab) -> (String, Vec<std::path::PathBuf>) {
    let script = lab.dir().join("hears.pl");
    fs::write(&script, HEARS).unwrap();
    let perl = format!("perl {}", script.display());
    let notes: Vec<_> = ["child", "session", "nohup", "daemon"].iter().map(|name| lab.dir().join(name)).collect();
    let [child, session, nohup, daemon] = [0, 1, 2, 3].map(|number| notes[number].display().to_string());
    let family = format!(
        "{perl} {child} & setsid {perl} {session} & nohup {perl} {nohup} 2>/dev/null & \
         (setsid sh -c '({perl} {daemon}) & exit') &"
    );
    (family, notes)
}

fn heard(note: &std::path::Path) -> bool {
    fs::read_to_string(note).is_ok_and(|text| text == "heard")
}

#[test]
fn everything_below_a_program_hears_a_hang_up_before_it_is_killed() {
    let (lab, home) = lab();
    let (script, notes) = hearing_family(&lab);
    for its_own_end in [true, false] {
        notes.iter().for_each(|note| drop(fs::remove_file(note)));
        // It ends by itself when all of them run, or is given up.
        let script = if its_own_end { format!("{script} read end") } else { format!("{script} exec sleep 300") };
        let mut command = exec(&home, &["sh", "-c", &script]);
        let (mut child, pids) = family(command.stdin(Stdio::piped()));
        match its_own_end {
            true => drop(child.stdin.take()),
            false => child.kill().unwrap(),
        }
        ended(pids);
        child.wait().unwrap();
        assert!(notes.iter().all(|note| heard(note)), "ended by itself: {its_own_end}");
    }
}

#[test]
fn who_does_not_heed_a_hang_up_is_killed_five_seconds_later_and_not_before() {
    let (_lab, home) = lab();
    const DEAF: &str = "trap '' HUP TERM INT; echo $$; while :; do sleep 300; done";
    let script = format!(
        "sh -c \"{0}\" & setsid sh -c \"{0}\" & nohup sh -c \"{0}\" 2>/dev/null & (setsid sh -c '(sh -c \"{0}\") & exit') & exec sleep 300",
        DEAF.replace('$', "\\$")
    );
    let (mut child, pids) = family(&mut exec(&home, &["sh", "-c", &script]));
    let began = Instant::now();
    child.kill().unwrap();
    for pid in pids {
        wait_for_end(pid);
        assert!(began.elapsed() >= Duration::from_secs(5), "{pid:?} had {:?}", began.elapsed());
    }
    child.wait().unwrap();
}

/// There is a second for all of it, so that a hang-up comes only a moment before.
#[test]
fn what_is_taken_back_hears_a_hang_up_too() {
    let (lab, home) = lab();
    let (script, notes) = hearing_family(&lab);
    // That they have the time to write it down is the machine's matter: of some who are told, one does.
    let someone_heard = (0..10).any(|_| {
        let (mut child, pids) = family(&mut exec(&home, &["sh", "-c", &format!("{script} exec sleep 300")]));
        let sessions = crate::support::json(&run(lab.admin().args(["sessions", "--json"])).stdout);
        let session = sessions["sessions"][0]["session"].as_str().unwrap_or_else(|| panic!("{sessions}")).to_owned();
        run(lab.admin().args(["cut", &session]));
        ended(pids);
        assert_eq!(child.wait().unwrap().code(), Some(255));
        notes.iter().any(|note| heard(note))
    });
    assert!(someone_heard, "nobody was told");
}
