//! Commands that may have only a few threads.

use std::process::{Command, Stdio};

use crate::{
    one_line,
    support::{LOOPBACK, Lab, as_user, fails, own_uid, starts, text},
};

/// Numbers that nobody has, and so no process: one a test.
const STRANGERS: [u32; 2] = [54_323, 54_324];
/// What a command needs to begin: itself, two that move bytes, one for what blocks, and one to spare.
const THREADS: u32 = 5;

/// The limit does not hold for root; of a plain user it counts what else runs, so that only the least is sure to be too few.
fn with_threads(stranger: u32, most: u32, program: &str, args: &str) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nproc={most}")).arg(program).args(args.split(' '));
    command.env_clear().env("HOME", "/proc/nonexistent").current_dir("/").stdin(Stdio::null());
    as_user(&mut command, if own_uid() == 0 { stranger } else { own_uid() });
    command
}

#[test]
fn a_command_that_can_have_too_few_threads_says_so() {
    let (capuchin, capuchind) = (env!("CARGO_BIN_EXE_capuchin"), env!("CARGO_BIN_EXE_capuchind"));
    let most = if own_uid() == 0 { THREADS } else { 2 };
    for few in 1..most {
        // The status of `check` is an answer, and 2 is none.
        for (program, args, status) in [
            (capuchin, "exec lab true", 255),
            (capuchin, "check lab connect 127.0.0.1:1", 2),
            (capuchind, "serve --dir /proc/nonexistent", 255),
        ] {
            let refused = with_threads(STRANGERS[0], few, program, args).output().unwrap();
            assert_eq!(refused.status.code(), Some(status), "{few}: {refused:?}");
            let said = text(refused.stderr);
            one_line(&said, "local", "cannot start a thread on this machine");
            assert!(said.contains("ulimit -u"), "{said}");
        }
    }
}

#[test]
fn a_command_that_has_just_enough_threads_goes_on() {
    if own_uid() != 0 {
        return;
    }
    let output = with_threads(STRANGERS[1], THREADS, env!("CARGO_BIN_EXE_capuchin"), "exec lab true").output().unwrap();
    one_line(&text(output.stderr), "config", "lab");
}

#[test]
fn without_proc_a_command_that_needs_a_second_process_names_it() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    for args in [&["run", "lab", "--", "true"][..], &["forward", "lab", "-f", "-L", "0:127.0.0.1:1"]] {
        let mut command = Command::new("unshare");
        command.args([
            "--user",
            "--map-root-user",
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs none /proc && exec \"$@\"",
            "sh",
        ]);
        starts(&mut command, home.capuchin().args(args));
        one_line(&fails(&mut command, 255), "local", "/proc is not mounted");
    }
}
