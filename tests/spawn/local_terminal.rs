//! This side's terminal: as before however a command on it ends, and never flooded for long behind an interrupt.

use std::{
    fs,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::{
    lab,
    support::{Daemon, Home, Lab, PATIENCE, pty::Pty, wait_until},
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
    nohup.envs(capuchin.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut command = Daemon::spawn(&mut nohup);
    command.wait_for_line("ready");
    command.signal(Signal::HUP);
    command.signal(Signal::INT);
    drop(command.stdin.take());
    assert_eq!(command.wait().code(), Some(7));
}

/// The number of the program that has this file open.
fn reader_of(file: &fs::File) -> Option<(u32, String)> {
    use std::os::unix::fs::MetadataExt;
    let wanted = file.metadata().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find_map(|pid| {
        if pid == std::process::id() {
            return None;
        }
        let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        let mut it = open.filter(|fd| {
            fd.path().metadata().is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
        });
        Some((pid, it.next()?.file_name().to_str()?.to_owned()))
    })
}

/// How far a program has read a file.
fn position((pid, number): &(u32, String)) -> u64 {
    let about = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
    about.lines().find_map(|line| line.strip_prefix("pos:")).and_then(|at| at.trim().parse().ok()).unwrap_or(0)
}

#[test]
fn an_interrupt_ends_a_file_of_a_hundred_megabytes_even_where_nobody_reads_the_terminal() {
    let (lab, home) = lab();
    let path = lab.dir().join("flood");
    let file = fs::File::create(&path).unwrap();
    file.set_len(FLOOD_BYTES).unwrap();
    let mut pty = Pty::open();
    let mut child = pty.start(&mut on_terminal(&home, &["cat", path.to_str().unwrap()]));
    pty.read_exactly(1 << 20);
    // Everything on the way has filled up by then: no more comes at an interrupt than now.
    let reader = reader_of(&file).expect("it reads");
    let mut last = (position(&reader), std::time::Instant::now());
    let end = last.1 + PATIENCE;
    while last.1.elapsed().as_millis() < 500 {
        let now = position(&reader);
        if now != last.0 {
            last = (now, std::time::Instant::now());
        }
        assert!(std::time::Instant::now() < end, "it reads on, to {now}");
        std::thread::yield_now();
    }
    assert!(last.0 < FLOOD_BYTES / 2, "it was held back at {}", last.0);
    pty.types(b"\x07");
    let behind = pty.read_to_hang_up();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(behind <= BEHIND_BYTES_MAX, "{behind} bytes came behind the interrupt");
}

#[test]
fn an_interrupt_ends_a_flood_without_end_and_little_comes_behind_it() {
    let (_lab, home) = lab();
    let mut pty = Pty::open();
    let mut child = pty.start(&mut on_terminal(&home, &["sh", "-c", "echo I am $$; exec yes"]));
    let said = pty.wait_for("y\r\n");
    let yes = said.lines().next().and_then(|line| line.strip_prefix("I am ")?.parse().ok()).and_then(Pid::from_raw);
    let yes = yes.unwrap_or_else(|| panic!("{said}"));
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
