//! Commands that a test runs: as whom, within what, and how they end.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use super::text;

/// The OS user who runs the tests.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Makes a command run as this OS user.
pub fn as_user(command: &mut Command, uid: u32) {
    use std::os::unix::process::CommandExt;
    if uid != own_uid() {
        assert_eq!(own_uid(), 0, "this test starts programs of several users: run it as root");
        command.uid(uid).gid(uid);
    }
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?} gave {output:#?}");
    output
}

/// Runs a command that must fail with this exit status, and gives its stderr.
pub fn fails(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let stderr = text(output.stderr);
    assert_eq!(output.status.code(), Some(code), "{command:?} said {stderr:?} and {:?}", text(output.stdout));
    stderr
}

/// Runs a command with this standard input.
pub fn run_with(command: &mut Command, stdin: impl AsRef<[u8]>) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that does not read its input to the end is no failure of the test.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_ref());
    child.wait_with_output().unwrap()
}

/// Makes `command` one that starts `inner`, as `sh -c 'exec "$@"' sh` or unshare(1) do with what stands behind them, in the
/// environment of that.
pub fn starts<'a>(command: &'a mut Command, inner: &Command) -> &'a mut Command {
    in_environment_of(command.arg(inner.get_program()).args(inner.get_args()), inner)
}

/// Gives `command` what `other` has been given of its environment, and takes from it what has been taken from that.
pub fn in_environment_of<'a>(command: &'a mut Command, other: &Command) -> &'a mut Command {
    for (name, value) in other.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}
