//! How a program ends is how the command ends.

use std::{os::unix::process::ExitStatusExt, process::Command};

use capuchin::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{
    EVERYTHING, exec, lab,
    support::{Daemon, Lab, as_user, borrowing::borrowing, fails, run, text, wait_until},
};

/// A number that nobody has.
const STRANGER: u32 = 54_325;

/// Signals that do not end a program by default, or stop it: CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH. And 32 and 33,
/// which the C library keeps to itself.
const HARMLESS: [i32; 10] = [17, 18, 19, 20, 21, 22, 23, 28, 32, 33];

/// In one session, as 256 logins would only test those.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_exit_status_and_every_signal_arrives() {
    let (_lab, home) = lab();
    let borrower = home.connect().await;
    for status in 0..=255 {
        let ended = borrower.command("sh").args(["-c", "exit $0", &status.to_string()]).status().await.unwrap();
        assert_eq!(ended.code(), Some(status));
    }
    for number in (1..=64).filter(|number| !HARMLESS.contains(number)) {
        // No shell knows all of the real-time signals, and perl ignores one of the others.
        let ended = if number < 32 {
            borrower.command("sh").args(["-c", "kill -$0 $$; sleep 60", &number.to_string()]).status().await.unwrap()
        } else {
            borrower.command("perl").args(["-e", &format!("kill {number}, $$; sleep 60")]).status().await.unwrap()
        };
        assert_eq!(ended.signal(), Some(number), "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_begins_with_no_signal_ignored_or_held_back() {
    let (_lab, home) = lab();
    let borrower = home.connect().await;
    let output = borrower.command("grep").args(["-E", "Sig(Ign|Blk)", "/proc/self/status"]).output().await.unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(shown, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

#[test]
fn what_runs_at_a_lender_is_listed_on_both_kinds_of_session() {
    let (_lab, home) = lab();
    let mut shared = home.capuchin();
    let shared = Daemon::spawn(shared.args(["connect", "-F", "lab"]));
    shared.wait_for_line("Connected to lab");
    let mut command = exec(&home, &["sh", "-c", "echo up; read end"]);
    let program = Daemon::spawn(command.stdin(std::process::Stdio::piped()));
    program.wait_for_line("up");
    let status = borrowing(home.capuchin());
    let mut listed: Vec<_> = status.as_array().unwrap().iter().map(|one| one["command"].as_str()).collect();
    listed.sort();
    assert_eq!(listed, [Some("connect"), Some("exec")]);
}

/// Those that a borrower sends, and not only those that a program sends itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_signal_that_is_sent_arrives() {
    let (_lab, home) = lab();
    let borrower = home.connect().await;
    for number in (1..=64_u8).filter(|number| !HARMLESS.contains(&i32::from(*number))) {
        let mut sleeper = borrower.command("sleep").arg("300").spawn().await.unwrap();
        sleeper.control().signal(number).await.unwrap();
        assert_eq!(sleeper.wait().await.unwrap().signal(), Some(number.into()));
    }
    let script = "$| = 1; for (qw(CHLD CONT TSTP TTIN TTOU URG WINCH)) { $SIG{$_} = sub { print \"$_[0]\\n\" } } \
                  print \"ready\\n\"; sleep 1 while 1";
    let mut perl = borrower.command("perl").args(["-e", script]).stdout(Stdio::Piped).spawn().await.unwrap();
    let mut lines = BufReader::new(perl.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "ready");
    for (number, name) in
        [(17, "CHLD"), (18, "CONT"), (20, "TSTP"), (21, "TTIN"), (22, "TTOU"), (23, "URG"), (28, "WINCH")]
    {
        perl.control().signal(number).await.unwrap();
        assert_eq!(lines.next_line().await.unwrap().unwrap(), name);
    }
    let pid = perl.id().unwrap();
    let is = |state: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(')').next().unwrap().trim_start().starts_with(state)
    };
    perl.control().signal(19).await.unwrap();
    wait_until("it is stopped", || is("T"));
    perl.control().signal(18).await.unwrap();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "CONT");
    perl.kill().await.unwrap();
}

#[test]
fn the_command_ends_as_a_shell_says_it() {
    let (_lab, home) = lab();
    run(&mut exec(&home, &["true"]));
    for (script, code) in [("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
        let output = exec(&home, &["sh", "-c", script]).output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(code), Vec::new()), "{script}");
    }
    assert!(fails(&mut exec(&home, &["no-such-program"]), 127).contains("no-such-program"));
    assert!(fails(&mut exec(&home, &["/no/such/program"]), 127).contains("/no/such/program"));
    assert!(fails(&mut exec(&home, &["/etc/passwd"]), 126).contains("Permission denied"));
    assert!(fails(home.capuchin().args(["exec", "nowhere", "true"]), 255).starts_with("error[config]"));
}

/// Over one session, as so many logins would only test those; with a few of the statuses, of which some are a signal's.
#[test]
fn the_command_says_every_signal_as_a_shell_does() {
    let (_lab, home) = lab();
    run(home.capuchin().args(["connect", "lab"]));
    // The session in the background ends before what went wrong is told.
    let mut wrong = Vec::new();
    let mut says = |argv: &[&str], code: i32| {
        let output = exec(&home, argv).output().unwrap();
        if output.status.code() != Some(code) || !output.stderr.is_empty() {
            wrong.push(format!("{argv:?}: {code} was expected of {output:?}"));
        }
    };
    (0..=255).step_by(15).for_each(|status| says(&["sh", "-c", &format!("exit {status}")], status));
    for number in (1..=64).filter(|number| !HARMLESS.contains(number)) {
        // As above.
        let script =
            if number < 32 { format!("kill -{number} $$; sleep 60") } else { format!("kill {number}, $$; sleep 60") };
        let program = if number < 32 { ["sh", "-c", &script] } else { ["perl", "-e", &script] };
        says(&program, 128 + number);
    }
    run(home.capuchin().args(["connect", "--stop", "lab"]));
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_script_whose_interpreter_is_missing_says_so() {
    let (_lab, home) = lab();
    let folder = tempfile::tempdir().unwrap();
    let said = |first: &str, code| {
        let script = folder.path().join("script");
        // By another process: a program that this one has open for writing when a thread forks is busy.
        let write = ["-c", "printf %s \"$1\" > \"$2\"", "sh", first];
        run(std::process::Command::new("sh").args(write).arg(&script));
        std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        fails(&mut exec(&home, &[script.to_str().unwrap()]), code)
    };
    let missing = said("#!/no/such/python3 -u\n", 127);
    assert!(missing.contains("/script: its interpreter /no/such/python3 cannot be executed: No such"), "{missing}");
    // As an editor of another system leaves it; what ends the line is shown.
    let carriage_return = said("#!/bin/sh\r\n", 127);
    assert!(carriage_return.contains("its interpreter /bin/sh\\r cannot be executed"), "{carriage_return}");
    let no_program = said("#!/etc/passwd\n", 126);
    assert!(no_program.contains("it cannot be executed: Permission denied"), "{no_program}");
}

#[test]
fn a_login_shell_reads_what_stdin_says() {
    let (_lab, home) = lab();
    let mut command = home.capuchin();
    let output = crate::support::run_with(command.args(["shell", "lab"]), "echo $0; tty; exit 5\n");
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    let said = crate::support::text(output.stdout);
    assert!(said.starts_with('-'), "a login shell: {said}");
    assert!(said.ends_with("not a tty\n"), "stdin is none: {said}");
    let mut command = home.capuchin();
    let output = crate::support::run_with(command.args(["shell", "-t", "lab"]), "tty; exit 5\n");
    assert_eq!(output.status.code(), Some(5), "{output:?}");
    assert!(crate::support::text(output.stdout).contains("/dev/pts/"), "one that was asked for");
}

#[test]
fn a_lender_that_gets_no_process_says_so() {
    let mut lab = Lab::start(EVERYTHING);
    lab.daemon.kill();
    // The limit does not hold for root.
    let own = run(Command::new("chown").arg("-R").arg(STRANGER.to_string()).arg(lab.dir()));
    assert!(own.status.success());
    let mut serve = lab.admin();
    as_user(serve.arg("serve"), STRANGER);
    let daemon = Daemon::spawn(&mut serve);
    let address = daemon.wait_for_line("listens on").rsplit(' ').next().unwrap().parse().unwrap();
    let lab = Lab { daemon, address, ..lab };
    let home = lab.join("alice");
    run(&mut exec(&home, &["true"]));
    let daemon = lab.daemon.child.id();
    let started = text(run(Command::new("pgrep").args(["--parent", &daemon.to_string(), "capuchin-worker"])).stdout);
    for pid in [started.trim(), &daemon.to_string()] {
        let mut least = Command::new("prlimit");
        as_user(least.args(["--nproc=1", "--pid", pid]), STRANGER);
        run(&mut least);
        let refused = fails(&mut exec(&home, &["true"]), 255);
        assert!(refused.contains("the lender's machine gives no process for it"), "{refused}");
        assert!(refused.contains("Resource temporarily unavailable"), "{refused}");
    }
}
