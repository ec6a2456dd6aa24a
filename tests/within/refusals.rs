//! Machines on which there is no network for a program: each says what forbids it and how to mend it, and nothing runs.

use std::process::Command;

use crate::{
    machine::{Machine, Within},
    support::{fails, run, text},
    under_filter::under_filter,
};

/// unshare(2) is not permitted, and a clone(2) with namespaces neither: as container runtimes have it.
const NO_UNSHARE: &str = r#"
unshare, clone = {"x86_64": (272, 56), "aarch64": (97, 220)}[platform.machine()]
# CLONE_NEWNS to CLONE_NEWNET, of the first argument.
steps = [(0x20, 0, 0, 0), (0x15, 4, 0, unshare), (0x15, 0, 4, clone), (0x20, 0, 0, 16), (0x45, 1, 2, 0x7e020000),
         (0x06, 0, 0, 0x7fff0000), (0x06, 0, 0, 0x50000 | 1), (0x06, 0, 0, 0x7fff0000)]
"#;

#[test]
fn a_seccomp_profile_is_named_with_its_mend_and_the_way_without_namespaces_works() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let mark = within.home.folder.path().join("ran");
        let touch = within.run(&["touch", mark.to_str().unwrap()]);
        let said = fails(&mut under_filter(&within, NO_UNSHARE, &touch), 255);
        assert!(
            said.starts_with("error[local]: cannot make a network for the program: Operation not permitted"),
            "{said}"
        );
        assert!(said.contains("a seccomp profile, perhaps of a container, forbids namespaces"), "{said}");
        assert!(said.contains("--security-opt seccomp=unconfined") && said.contains("--no-netns"), "{said}");
        assert!(!mark.exists(), "nothing runs unprotected");
        // The mend that the message names.
        let page = ["curl", "-sS", "--noproxy", "*", "-m", "20", "http://10.77.0.1/"];
        let fetched = run(&mut under_filter(&within, NO_UNSHARE, &within.run_with(&["--no-netns"], &page)));
        assert_eq!(text(fetched.stdout), "::ffff:10.77.0.1", "as {}", within.uid);
    }
}

/// Becomes the command in its arguments in a user namespace where only so many namespaces of a kind may be made; who is root
/// neither outside nor inside can do that to himself.
const LIMITED: &str = r#"
import ctypes, os, sys
kind, most = sys.argv[1:3]
uid, gid = os.getuid(), os.getgid()
assert ctypes.CDLL(None).unshare(0x10000000) == 0
for file, text in ("uid_map", f"{uid} {uid} 1"), ("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1"):
    with open("/proc/self/" + file, "w") as opened:
        opened.write(text)
with open(f"/proc/sys/user/max_{kind}_namespaces", "w") as opened:
    opened.write(most)
os.execvp(sys.argv[3], sys.argv[3:])
"#;

fn limited(within: &Within, kind: &str, most: &str, words: &[&str], command: &Command) -> Command {
    let mut limited = within.beside("python3");
    limited.args(["-c", LIMITED, kind, most]).args(words).arg(command.get_program()).args(command.get_args());
    limited
}

#[test]
fn exhausted_namespaces_are_named_with_the_numbers_that_mend_it() {
    let machine = Machine::start();
    let within = machine.unprivileged();
    let mark = within.home.folder.path().join("ran");
    let touch = within.run(&["touch", mark.to_str().unwrap()]);
    let failed = "error[local]: cannot make a network for the program: No space left on device";
    for kind in ["user", "net", "mnt"] {
        let said = fails(&mut limited(&within, kind, "0", &[], &touch), 255);
        assert!(said.starts_with(failed), "{kind}: {said}");
        assert!(said.contains(&format!("user.max_{kind}_namespaces is 0")), "{kind}: {said}");
        assert!(said.contains(&format!("sudo sysctl user.max_{kind}_namespaces=")), "{kind}: {said}");
        assert!(said.contains("--no-netns") && !mark.exists(), "{kind}: {said}");
    }
    // There may be one, and this is inside it: the number is not wrong, it is used up.
    let said = fails(&mut limited(&within, "user", "1", &["unshare", "--user", "--"], &touch), 255);
    assert!(said.starts_with(failed), "{said}");
    assert!(said.contains("as many namespaces as this machine allows are in use (lsns lists them)"), "{said}");
    assert!(!mark.exists(), "{said}");
}
