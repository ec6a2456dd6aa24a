//! Commands without HOME, as cron and systemd start them.

use std::{fs, os::unix::fs::chown, process::Command};

use crate::support::{LOOPBACK, Lab, PASSWORD, as_user, own_uid, run, run_with, text};

/// A number that nobody has.
const STRANGER: u32 = 54_327;

#[test]
fn without_home_a_user_is_at_home_where_the_list_of_users_says() {
    assert_eq!(own_uid(), 0, "this test becomes another user: run it as root");
    let lab = Lab::start(LOOPBACK);
    let folder = tempfile::tempdir().unwrap();
    let (home, passwd) = (folder.path().join("home"), folder.path().join("passwd"));
    fs::create_dir(&home).unwrap();
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    chown(&home, Some(STRANGER), Some(STRANGER)).unwrap();
    let entry = format!("\ntest-cy:x:{STRANGER}:{STRANGER}::{}:/bin/sh\n", home.display());
    fs::write(&passwd, fs::read_to_string("/etc/passwd").unwrap() + &entry).unwrap();
    let homeless = |program: &str, args: &[&str]| {
        let mut command = Command::new("unshare");
        let script = "mount --bind \"$0\" /etc/passwd && exec setpriv --reuid=$1 --regid=$1 --clear-groups \"${@:2}\"";
        command.args(["--mount", "bash", "-c", script]).arg(&passwd).arg(STRANGER.to_string()).arg(program).args(args);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).current_dir("/");
        command
    };
    let line = lab.invite("alice");
    let mut join = homeless(env!("CARGO_BIN_EXE_capuchin"), &["join", line.trim(), "--password-file", "-"]);
    let joined = run_with(&mut join, PASSWORD);
    assert!(joined.status.success(), "{joined:?}");
    assert!(home.join(".config/capuchin/hosts/lab/lender.toml").exists());
    assert!(home.join(".local/state/capuchin/tickets/lab/alice").exists());
    // XDG variables go first.
    let mut elsewhere = homeless(env!("CARGO_BIN_EXE_capuchin"), &["hosts"]);
    assert_eq!(text(run(elsewhere.env("XDG_CONFIG_HOME", "/proc/nonexistent")).stdout), "");
    run(&mut homeless(env!("CARGO_BIN_EXE_capuchind"), &["init", "--name", "mine", "--listen", "127.0.0.1:0"]));
    assert!(home.join(".config/capuchin/lender/lender.toml").exists());
    let mut known = Command::new(env!("CARGO_BIN_EXE_capuchin"));
    as_user(known.arg("hosts").env_clear().env("HOME", &home).current_dir("/"), STRANGER);
    assert!(text(run(&mut known).stdout).contains("lab"), "the same as with HOME");
}
