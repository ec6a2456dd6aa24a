//! The program as a process, and where namespaces are forbidden.

use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::*;
use crate::{
    confined::passes_on,
    support::{PATIENCE, starts},
};

#[test]
fn a_program_dies_with_capuchin_and_reaches_nothing_meanwhile() {
    let machine = Machine::start();
    let outside = Outside::new();
    let program = format!(
        r#"
import os, socket
print("pid", os.getpid(), flush=True)
while True:
    try:
        socket.socket().connect(("127.0.0.1", {port}))
    except OSError:
        pass
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", {port}))
    except OSError:
        pass
"#,
        port = outside.port()
    );
    for within in machine.borrowers() {
        let mut running = Daemon::spawn(&mut within.bare_python(&program));
        let line = running.wait_for_line("pid ");
        let pid = Pid::from_raw(line.split(' ').nth(1).unwrap().parse().unwrap()).unwrap();
        let watch = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        running.kill();
        let timeout = rustix::event::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let mut fds = [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(1), "as {}", within.uid);
        outside.has_seen_nobody();
    }
}

#[test]
fn a_program_that_kills_who_looks_after_it_dies() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let mut program = Daemon::spawn(&mut within.bare(&["sh", "-c", "echo $PPID; sleep 1000"]));
        let inner = loop {
            if let Ok(pid) = program.wait_for_line("").parse() {
                break Pid::from_raw(pid).unwrap();
            }
        };
        kill_process(inner, Signal::KILL).unwrap();
        program.wait_for_line("error[local]: the half of capuchin that looked after the program is gone");
        assert_eq!(program.wait().code(), Some(255));
    }
}

#[test]
fn the_program_is_a_process_as_in_the_other_mode() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        fails(&mut within.bare(&["sh", "-c", "exit 7"]), 7);
        fails(&mut within.bare(&["sh", "-c", "kill -TERM $$"]), 128 + 15);
        assert!(
            fails(&mut within.bare(&["/no/such/program"]), 127).contains("error[local]: cannot run /no/such/program")
        );
        assert_eq!(says(&mut within.bare(&["id", "-u"])).trim(), within.uid.to_string());
        passes_on(&within, &["--no-netns"]);
        let trap = "trap 'exit 3' TERM; echo ready; while :; do sleep 60 & wait; done";
        let mut program = Daemon::spawn(&mut within.bare(&["sh", "-c", trap]));
        program.wait_for_line("ready");
        program.signal(Signal::TERM);
        assert_eq!(program.wait().code(), Some(3));
    }
}

/// The limit belongs to the user namespace that is made here, and forbids any more below it.
#[test]
fn where_namespaces_are_forbidden_it_is_named_and_works() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let forbidden = |command: &Command| {
            let mut shell = Command::new("unshare");
            let forbid =
                "echo 0 > /proc/sys/user/max_user_namespaces; echo 0 > /proc/sys/user/max_net_namespaces; exec \"$@\"";
            // As somebody in it who is not its root.
            shell.args(["--user", "--map-current-user", "--keep-caps", "sh", "-c", forbid, "sh"]);
            shell.args(["setpriv", "--ambient-caps=-all", "--inh-caps=-all", "--bounding-set=-all"]);
            starts(&mut shell, command).stdin(Stdio::null()).current_dir(within.home.folder.path());
            crate::support::as_user(&mut shell, within.uid);
            shell
        };
        let said = fails(&mut forbidden(&within.run(&["true"])), 255);
        assert!(said.contains("error[local]: cannot make a network") && said.contains("--no-netns"), "{said}");
        let page = ["curl", "-sS", "--fail", "--noproxy", "*", "--max-time", "20", "http://10.77.0.1/"];
        assert!(!says(&mut forbidden(&within.bare(&page))).is_empty());
        let mut doctor = within.capuchin();
        let output = forbidden(doctor.args(["doctor", "--", "sh"])).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        let said = text(output.stdout);
        assert!(said.contains("warn  mode") && said.contains("it would run with --no-netns alone"), "{said}");
        assert!(Path::new("/proc/sys/user/max_user_namespaces").exists());
    }
}
