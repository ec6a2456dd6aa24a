//! This side's terminal: as before however a command on it ends, and never flooded for long behind an interrupt.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::{
    lab,
    support::{Daemon, Home, Lab, in_environment_of, pty::Pty, wait_until},
};

/// What may still come behind an interrupt, in bytes: as much as OpenSSH lets be under way on a channel.
const BEHIND_BYTES_MAX: usize = 2 << 20;
/// Of a flood that nothing would end before.
const FLOOD_BYTES: u64 = 100_000_000;

fn on_terminal(home: &Home, argv: &[&str]) -> Command {
    let mut command = home.capuchin();
    command.env("TERM", "xterm").args(["exec", "-t", "lab", "--"]).args(argv);
    command
}

#[test]
fn the_terminal_is_as_before_after_every_signal_that_ends_the_command() {
    let (lab, home) = lab();
    for (signal, code) in [(Signal::HUP, 129), (Signal::INT, 130), (Signal::QUIT, 131), (Signal::TERM, 143)] {
        let mut pty = Pty::open();
        let before = pty.modes();
        let mut child = pty.start(&mut on_terminal(&home, &["sh", "-c", "echo ready $((6*7)); exec sleep 300"]));
        pty.wait_for("ready 42");
        assert_ne!(pty.modes(), before, "every key is passed on");
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert_eq!(pty.modes(), before, "{signal:?}");
    }
    let ended = |lab: &Lab| lab.audit().iter().filter(|line| line["event"] == "spawn-ended").count();
    wait_until("the programs have ended", || ended(&lab) == 4);
}

#[test]
fn the_terminal_is_as_before_after_an_end_in_good_order_and_after_the_keys_for_one() {
    let (_lab, home) = lab();
    for (keys, said, code) in [("\n", "", 5), ("~.", "~.\r\nConnection to lab closed.", 255)] {
        let mut pty = Pty::open();
        let before = pty.modes();
        let mut child = pty.start(&mut on_terminal(&home, &["sh", "-c", "echo ready $((6*7)); read key; exit 5"]));
        pty.wait_for("ready 42");
        assert_ne!(pty.modes(), before);
        pty.types(keys.as_bytes());
        pty.wait_for(said);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert_eq!(pty.modes(), before, "{keys:?}");
    }
}

#[test]
fn the_terminal_is_as_before_when_the_lender_is_lost_and_when_the_user_is_revoked() {
    for dies in [true, false] {
        let (mut lab, home) = lab();
        let mut pty = Pty::open();
        let before = pty.modes();
        let mut child = pty.start(&mut on_terminal(&home, &["sh", "-c", "echo ready $((6*7)); exec sleep 300"]));
        pty.wait_for("ready 42");
        assert_ne!(pty.modes(), before);
        match dies {
            true => lab.daemon.kill(),
            false => drop(crate::support::run(lab.admin().args(["revoke", "--user", "alice"]))),
        }
        pty.wait_for(if dies { "error[lost]" } else { "error[revoked]" });
        assert_eq!(child.wait().unwrap().code(), Some(255));
        assert_eq!(pty.modes(), before);
    }
}

/// Whether a process is stopped.
fn is_stopped(child: &Child) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
}

#[test]
fn the_terminal_is_as_before_while_the_command_is_stopped_and_every_key_is_the_programs_when_it_goes_on() {
    let (_lab, home) = lab();
    for stop in [Signal::TSTP, Signal::STOP] {
        let mut pty = Pty::open();
        let before = pty.modes();
        let mut command = on_terminal(&home, &["sh", "-c", "echo ready $((6*7)); read key; echo again $key; read key"]);
        // In a group that somebody else could continue; in no other does SIGTSTP stop anybody.
        let mut child = pty.start(command.process_group(0));
        let pid = Pid::from_child(&child);
        pty.wait_for("ready 42");
        let raw = pty.modes();
        for round in 0..2 {
            kill_process(pid, stop).unwrap();
            wait_until("it has stopped", || is_stopped(&child));
            match stop {
                Signal::TSTP => assert_eq!(pty.modes(), before, "round {round}"),
                // Nobody hears this one; it is the shell that has its terminal as it wants it.
                _ => pty.set_modes(&before),
            }
            kill_process(pid, Signal::CONT).unwrap();
            wait_until("every key is passed on", || pty.modes() == raw);
        }
        pty.types(b"x\r");
        pty.wait_for("again x");
        kill_process(pid, Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(143));
        assert_eq!(pty.modes(), before);
    }
}

#[test]
fn signals_that_are_ignored_from_the_start_end_nothing() {
    let (_lab, home) = lab();
    let capuchin = home.capuchin();
    let mut nohup = Command::new("sh");
    let line = "trap '' HUP INT; exec \"$0\" exec lab -- sh -c 'echo ready; read end; exit 7'";
    nohup.args(["-c", line]).arg(capuchin.get_program()).stdin(Stdio::piped());
    let mut command = Daemon::spawn(in_environment_of(&mut nohup, &capuchin));
    command.wait_for_line("ready");
    command.signal(Signal::HUP);
    command.signal(Signal::INT);
    drop(command.stdin.take());
    assert_eq!(command.wait().code(), Some(7));
}

/// The program that has said `I am` and its number in a line of its own.
fn who_said(said: &str) -> Pid {
    let number = said.lines().next().and_then(|line| line.strip_prefix("I am ")?.parse().ok());
    number.and_then(Pid::from_raw).unwrap_or_else(|| panic!("{said}"))
}

/// How far a program has read a file that it has open.
fn position(program: Pid, file: &Path) -> u64 {
    let about = PathBuf::from(format!("/proc/{}", program.as_raw_nonzero()));
    let mut open = fs::read_dir(about.join("fd")).unwrap().flatten();
    let it = open.find(|it| fs::read_link(it.path()).is_ok_and(|found| found == file)).expect("it has the file open");
    let said = fs::read_to_string(about.join("fdinfo").join(it.file_name())).unwrap();
    said.lines().find_map(|line| line.strip_prefix("pos:")).unwrap().trim().parse().unwrap()
}

#[test]
fn an_interrupt_ends_a_file_of_a_hundred_megabytes_even_where_nobody_reads_the_terminal() {
    let (lab, home) = lab();
    let path = lab.dir().canonicalize().unwrap().join("flood");
    fs::File::create(&path).unwrap().set_len(FLOOD_BYTES).unwrap();
    let mut pty = Pty::open();
    let script = "echo I am $$; exec cat \"$0\"";
    let mut child = pty.start(&mut on_terminal(&home, &["sh", "-c", script, path.to_str().unwrap()]));
    let cat = who_said(&pty.wait_for("\r\n"));
    pty.read_exactly(1 << 20);
    // Everything on the way has filled up by then: no more comes at an interrupt than now.
    let (mut read, mut since) = (0, Instant::now());
    wait_until("it reads no more", || {
        let now = position(cat, &path);
        if now != read {
            (read, since) = (now, Instant::now());
        }
        since.elapsed() >= Duration::from_millis(500)
    });
    assert!(read < FLOOD_BYTES / 2, "it was held back at {read}");
    pty.types(b"\x07");
    // Nothing is read until the key has ended it, as nobody reads.
    wait_until("the key has ended the program", || test_kill_process(cat).is_err());
    let behind = pty.read_to_hang_up();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(behind <= BEHIND_BYTES_MAX, "{behind} bytes came behind the interrupt");
}

#[test]
fn an_interrupt_ends_a_flood_without_end_and_little_comes_behind_it() {
    let (_lab, home) = lab();
    let mut pty = Pty::open();
    let mut child = pty.start(&mut on_terminal(&home, &["sh", "-c", "echo I am $$; exec yes"]));
    let yes = who_said(&pty.wait_for("y\r\n"));
    pty.read_exactly(8 << 20);
    pty.types(b"\x07");
    // Nothing is read until the key has ended it: how much would come by then is this machine's to say, which runs all of them.
    wait_until("the key has ended the program", || test_kill_process(yes).is_err());
    let behind = pty.read_to_hang_up();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(behind <= BEHIND_BYTES_MAX, "{behind} bytes came behind the interrupt");
}

#[test]
fn the_keys_for_an_end_are_heard_behind_a_paste_that_nobody_reads() {
    let (_lab, home) = lab();
    let mut pty = Pty::open();
    let mut child =
        pty.start(&mut on_terminal(&home, &["sh", "-c", "stty raw -echo; echo ready $((6*7)); exec sleep 300"]));
    pty.wait_for("ready 42");
    // More than what a stream takes on its way to a program that takes nothing.
    let line = [b"0".repeat(99), b"\r".to_vec()].concat();
    pty.pastes([line.repeat(10_000), b"~.".to_vec()].concat());
    pty.wait_for("Connection to lab closed.");
    assert_eq!(child.wait().unwrap().code(), Some(255));
}
