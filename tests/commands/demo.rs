//! `capuchin demo`: what it shows, to whom, and what is left of it.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::Signal;

use crate::support::{Daemon, as_user, own_uid, run, text};

/// Runs a command for a test, and ends with its status once nothing that the command started is left: what nobody has waited
/// for comes to this program, and what stays ends it badly.
const REAPER: &str = r#"
import ctypes, os, signal, subprocess, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
command = subprocess.Popen(sys.argv[1:])
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: command.send_signal(number))
status = command.wait()
signal.alarm(30)
try:
    while True:
        os.waitpid(-1, 0)
except ChildProcessError:
    sys.exit(status)
"#;

fn demo(folder: &Path) -> Command {
    demo_of(env!("CARGO_BIN_EXE_capuchin").as_ref(), folder)
}

fn demo_of(command: &Path, folder: &Path) -> Command {
    let mut demo = Command::new("python3");
    demo.args(["-c", REAPER]).arg(command).arg("demo").env("TMPDIR", folder).stdin(Stdio::null());
    demo
}

#[test]
fn a_demo_that_is_interrupted_leaves_no_keys_and_no_process_behind() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let folder = tempfile::tempdir().unwrap();
        let mut demo = Daemon::spawn(&mut demo(folder.path()));
        demo.wait_for_line("Without capuchin");
        demo.signal(signal);
        assert_eq!(demo.wait().code(), Some(code));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "the demo's folder is gone");
    }
}

#[test]
fn the_demo_shows_the_main_job_and_cleans_up() {
    let folder = tempfile::tempdir().unwrap();
    shows_the_main_job(&mut demo(folder.path()), folder.path());
}

/// A user with no rights of his own; on Debian it is nobody.
const ANYBODY: u32 = 65534;

#[test]
fn the_demo_is_for_anybody() {
    let folder = tempfile::tempdir().unwrap();
    // The folder of the build may be out of his reach. Another process copies it: a program that this one has open for writing
    // when a thread forks is busy.
    let command = folder.path().join("capuchin");
    run(Command::new("cp").arg(env!("CARGO_BIN_EXE_capuchin")).arg(&command));
    fs::set_permissions(&command, PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let own = folder.path().join("own");
    fs::create_dir(&own).unwrap();
    let uid = if own_uid() == 0 { ANYBODY } else { own_uid() };
    std::os::unix::fs::chown(&own, Some(uid), None).unwrap();
    let mut demo = demo_of(&command, &own);
    as_user(demo.current_dir("/").env("HOME", &own), uid);
    shows_the_main_job(&mut demo, &own);
}

fn shows_the_main_job(demo: &mut Command, folder: &Path) {
    let output = run(demo);
    let (shown, aside) = (text(output.stdout), text(output.stderr));
    assert!(!aside.contains("listens on"), "the lender speaks amid what curl says: {aside}");
    for part in [
        "Could not resolve host",
        "$ capuchin run lab -- curl http://wiki.internal/\nHello from a web server that only the lender can reach.",
        "curl: (7) ",
        "capuchin: lab: connect 10.77.0.1:22 is refused: no rule allows it; \
         to send to the lender's admin: capuchind allow demo connect 10.77.0.1:22 --for 1h\n",
        "denied: connect wiki.internal:22",
        "capuchind allow demo connect wiki.internal:22 --for 1h",
        "lab$ curl http://10.77.0.1:8000/hello.txt\nHello from a web server of the borrower's, met at the lender's address.\n10.77.0.1 - - [",
    ] {
        assert!(shown.contains(part), "{part:?} is missing: {shown}");
    }
    assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "the demo's folder is gone");
}
