//! One lender of root, two users: each runs as somebody else, and neither sees, signals or reads the other.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use crate::{
    exec,
    support::{Daemon, Home, Lab, capuchind, fails, own_uid, run, text},
};

/// Numbers that nobody has.
const ANA: u32 = 54_321;
const BOB: u32 = 54_322;
const POLICY: &str = "\
    [[allow]]\nwho = \"alice\"\nexec = [{ path = \"*\" }]\nshell = true\nrun_as = \"test-ana\"\n\
    [[allow]]\nwho = \"bob\"\nexec = [{ path = \"*\" }]\nrun_as = \"test-bob\"\n";

/// A lender of root whose machine has two more users.
fn lab_of_root(policy: &str) -> (Lab, Home, Home) {
    assert_eq!(own_uid(), 0, "this test becomes other users: run it as root");
    let mut lab = Lab::start(policy);
    lab.daemon.kill();
    let folder = lab.folder;
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let users = format!("test-ana:x:{ANA}:{ANA}::/tmp:/bin/sh\ntest-bob:x:{BOB}:{BOB}::/tmp:/bin/sh\n");
    let file = folder.path().join("passwd");
    std::fs::write(&file, passwd + &users).unwrap();
    let program = capuchind(folder.path()).get_program().to_owned();
    let mut serve = Command::new("unshare");
    serve.args(["--mount", "sh", "-c", "mount --bind \"$1\" /etc/passwd && shift && exec \"$@\"", "sh"]);
    serve.arg(&file).arg(program).arg("serve").env("CAPUCHIND_DIR", folder.path());
    let daemon = Daemon::spawn(&mut serve);
    let address = daemon.wait_for_line("listens on").rsplit(' ').next().unwrap().parse().unwrap();
    let lab = Lab { folder, daemon, address };
    let (alice, bob) = (lab.join("alice"), lab.join("bob"));
    (lab, alice, bob)
}

#[test]
fn programs_run_as_their_user_and_have_given_up_everything_else() {
    let (_lab, alice, bob) = lab_of_root(POLICY);
    let said = text(run(&mut exec(&alice, &["sh", "-c", "id -u; id -g; id -G; echo $USER $HOME; ulimit -c"])).stdout);
    assert_eq!(said, format!("{ANA}\n{ANA}\n{ANA}\ntest-ana /tmp\n0\n"));
    assert_eq!(text(run(&mut exec(&bob, &["id", "-u"])).stdout), format!("{BOB}\n"));
    let status = text(run(&mut exec(&alice, &["cat", "/proc/self/status"])).stdout);
    for line in ["NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert!(status.contains(&format!("Uid:\t{ANA}\t{ANA}\t{ANA}\t{ANA}")), "{status}");
    let mut terminal = alice.capuchin();
    let output = run(terminal.args(["exec", "-t", "lab", "sh", "-c", "stat -c '%u %a' $(tty)"]));
    assert_eq!(text(output.stdout), format!("{ANA} 600\r\n"));
    let mut shell = alice.capuchin();
    let output = crate::support::run_with(shell.args(["shell", "-T", "lab"]), "id -u\n");
    assert_eq!(text(output.stdout), format!("{ANA}\n"));
}

#[test]
fn two_users_cannot_see_signal_or_read_each_other() {
    let (_lab, alice, bob) = lab_of_root(POLICY);
    let secret = tempfile::tempdir().unwrap();
    std::fs::set_permissions(secret.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let file = secret.path().join("secret");
    let script = format!("umask 077; echo hidden > {}; echo $$; exec sleep 300", file.display());
    let mut sleeper = exec(&alice, &["sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut pid = String::new();
    BufReader::new(sleeper.stdout.take().unwrap()).read_line(&mut pid).unwrap();
    let pid = pid.trim();
    let fails_for_bob = |script: &str| {
        let output = exec(&bob, &["sh", "-c", script]).output().unwrap();
        assert!(!output.status.success(), "{script}: {output:?}");
    };
    fails_for_bob(&format!("kill -0 {pid}"));
    fails_for_bob(&format!("kill -9 {pid}"));
    fails_for_bob(&format!("cat {}", file.display()));
    fails_for_bob(&format!("cat /proc/{pid}/cmdline"));
    fails_for_bob("ps -e -o args | grep 'sleep 30[0]'");
    let seen = exec(&alice, &["sh", "-c", &format!("kill -0 {pid} && cat /proc/{pid}/comm && cat {}", file.display())]);
    assert_eq!(text(run(&mut { seen }).stdout), "sleep\nhidden\n", "her own she has");
    // Nor can a program end its supervisor, which is root's.
    fails_for_bob("kill -9 $PPID");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

#[test]
fn root_is_refused_unless_a_rule_says_so_twice() {
    let nobody = "[[allow]]\nwho = [\"alice\", \"bob\"]\nexec = [{ path = \"*\" }]\n";
    let (lab, alice, _) = lab_of_root(&(nobody.to_owned() + "[[allow]]\nwho = \"bob\"\nrun_as = \"root\"\n"));
    let stderr = fails(&mut exec(&alice, &["id"]), 255);
    assert!(stderr.contains("run_as or allow_root = true"), "{stderr}");
    lab.wait_for_verdict("spawn", "refused");
}
