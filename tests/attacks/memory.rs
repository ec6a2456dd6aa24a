//! The memory of both programs, before a process of the same unprivileged user: what it holds is not to be had from there.

use std::{
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitStatus},
};

use rustix::process::Signal;

use crate::support::{Daemon, Home, LOOPBACK, Lab, own_uid, run, starts, text};

/// Victims and attacker are this user, whom nobody else is.
const UID: u32 = 60_070;

/// A program of that user which may leave a core of any size where it runs.
fn unprivileged(program: &Command, folder: &Path) -> Command {
    assert_eq!(own_uid(), 0, "this test starts programs of another user: run it as root");
    let mut command = Command::new("sh");
    let drop = format!("ulimit -c unlimited && exec setpriv --reuid {UID} --regid {UID} --clear-groups \"$@\"");
    starts(command.args(["-c", &drop, "sh"]), program).current_dir(folder);
    command
}

fn give(folder: &Path) {
    run(Command::new("chown").args(["-R", &format!("{UID}:{UID}")]).arg(folder));
}

/// Tries to attach to a process as a debugger does, and to read its memory; says which of both went through.
fn attack(victim: &Daemon, folder: &Path) -> String {
    const ATTACH: &str = "import ctypes, os, sys
pid = int(sys.argv[1])
ptrace = ctypes.CDLL(None).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
PTRACE_ATTACH = 16
attached = ptrace(PTRACE_ATTACH, pid, None, None) == 0
try:
    os.open(f'/proc/{pid}/mem', os.O_RDONLY)
    read = True
except PermissionError:
    read = False
print('attached' if attached else 'kept out', 'read' if read else 'unread')";
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", ATTACH, &victim.child.id().to_string()]);
    text(run(&mut unprivileged(&python, folder)).stdout).trim().to_owned()
}

fn killed_by(victim: &mut Daemon, signal: Signal) -> ExitStatus {
    victim.signal(signal);
    let status = victim.wait();
    assert_eq!(status.signal(), Some(signal.as_raw()));
    status
}

fn cores(folder: &Path) -> usize {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("core")).count()
}

#[test]
fn attack_70_a_core_dump_and_a_debugger_of_the_same_user() {
    let place = tempfile::tempdir().unwrap();
    let folder = place.path();
    give(folder);
    // What would happen to any other program; where the machine forbids it to all of them there is nothing to compare.
    let mut sleeper = Command::new("sh");
    sleeper.args(["-c", "echo ready; exec sleep 1000"]);
    let plain = Daemon::spawn(&mut unprivileged(&sleeper, folder));
    plain.wait_for_line("ready");
    let restricted =
        std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").is_ok_and(|scope| scope.trim() != "0");
    if !restricted {
        assert_eq!(attack(&plain, folder), "attached read");
    }
    let mut plain = Daemon::spawn(&mut unprivileged(&sleeper, folder));
    plain.wait_for_line("ready");
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
    let dumped = killed_by(&mut plain, Signal::ABORT).core_dumped();
    if !pattern.starts_with('|') {
        assert!(dumped, "a plain program leaves a core");
    }
    let before = cores(folder);

    let lab = Lab::start(LOOPBACK);
    let home: Home = lab.join("alice");
    give(home.folder.path());
    let mut forward = home.capuchin();
    forward.args(["forward", "lab", "-N", "-L", "0:127.0.0.1:9"]);
    let mut client = Daemon::spawn(&mut unprivileged(&forward, folder));
    client.wait_for_line("Forwarding ");
    assert_eq!(attack(&client, folder), "kept out unread");

    let own = place.path().join("lender");
    let daemon = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_capuchind"));
        command.args(arguments).env("CAPUCHIND_DIR", &own);
        unprivileged(&command, folder)
    };
    run(&mut daemon(&["init", "--name", "own", "--listen", "127.0.0.1:0"]));
    let mut lender = Daemon::spawn(&mut daemon(&["serve"]));
    lender.wait_for_line("listens on");
    assert_eq!(attack(&lender, folder), "kept out unread");

    for (victim, signal) in [(&mut client, Signal::QUIT), (&mut lender, Signal::ABORT)] {
        assert!(!killed_by(victim, signal).core_dumped(), "{signal:?} left a core");
    }
    assert_eq!(cores(folder), before);
    run(lab.join("bob").capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]));
}
