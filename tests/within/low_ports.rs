//! Ports below 1024: the policy's to allow, and the lender's kernel's to give.

use std::{
    net::TcpListener,
    os::{fd::OwnedFd, unix::fs::chown},
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    machine::{Machine, Within, users},
    support::{Daemon, Home, Lab, PASSWORD, as_user, fails, run, text},
};

const POLICY: &str =
    "[[allow]]\nwho = [\"alice\"]\nconnect = [\"10.77.0.1:*\"]\nlisten = [\"*:80\", \"*:8000-8999\"]\n";

/// Makes a network of its own, and becomes the lender there: by then a user with no privilege at all.
const PLAIN: &str = r#"
set -e
exec 3<&0 </dev/null
ip link set lo up
ip address add 10.77.0.1/32 dev lo
exec setpriv --ambient-caps=-all --inh-caps=-all --bounding-set=-all "$1" serve
"#;

/// A lender that `uid` runs, whose policy lets alice have port 80; and alice's home.
fn plain_lender(uid: u32) -> (Machine, Home) {
    let (folder, home) = (tempfile::tempdir().unwrap(), Home::new());
    let (dir, program) = (folder.path(), home.folder.path().join("capuchind"));
    // The target folder may be out of that user's reach.
    run(Command::new("cp").arg(env!("CARGO_BIN_EXE_capuchind")).arg(&program));
    for path in [dir, home.folder.path(), &program] {
        chown(path, Some(uid), Some(uid)).unwrap();
    }
    let of_user = |program: &Path, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).env("CAPUCHIND_DIR", dir).stdin(Stdio::null()).current_dir(dir);
        as_user(&mut command, uid);
        command
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let advertise = address.to_string();
    run(&mut of_user(&program, &["init", "--name", "lab", "--listen", "fd:3", "--advertise", &advertise]));
    std::fs::write(dir.join("policy.toml"), POLICY).unwrap();
    run(&mut of_user(&program, &["user", "add", "alice"]));
    let words = ["--user", "--map-current-user", "--keep-caps", "--net", "sh", "-c", PLAIN, "sh"];
    let mut serve = of_user("unshare".as_ref(), &words);
    let daemon = Daemon::spawn(serve.arg(&program).stdin(OwnedFd::from(listener)));
    daemon.wait_for_line("listens on");
    let line = text(run(&mut of_user(&program, &["invite", "alice"])).stdout);
    let password = home.password_file(PASSWORD);
    chown(&password, Some(uid), Some(uid)).unwrap();
    let mut join = home.capuchin();
    join.args(["join", line.trim(), "--password-file"]).arg(password);
    run(&mut join);
    (Machine::of(Lab { folder, daemon, address }), home)
}

#[test]
fn a_low_port_that_the_policy_allows_is_refused_by_the_kernel_of_a_lender_without_privilege() {
    let uid = users().pop().unwrap();
    let (machine, home) = plain_lender(uid);
    let mut within = Within::at_home(home, uid, Vec::new());
    for (round, published) in ["8080", "8081"].into_iter().enumerate() {
        let serve = |options: &[&str]| {
            within.run_with(options, &["python3", "-u", "-m", "http.server", "--bind", "0.0.0.0", "80"])
        };
        let said = fails(&mut serve(&[]), 1);
        assert!(said.contains("PermissionError: [Errno 13] Permission denied"), "{said}");
        let failed = |line: &serde_json::Value| line["event"] == "listen-failed" && line["target"] == "0.0.0.0:80";
        let failed = machine.lab.wait_for_audits("the kernel's no", round + 1, failed);
        assert!(failed["why"].as_str().unwrap().contains("Permission denied"), "{failed}");
        assert!(machine.lab.audit().iter().all(|line| line["verdict"] != "refused"), "the policy allows it");
        // Inside it is the program's to have, and under another number the lender's to give.
        let mut server = Daemon::spawn(&mut serve(&["--publish", &format!("{published}:80")]));
        server.wait_for_line("Serving HTTP on 0.0.0.0 port 80");
        let page = ["curl", "-sS", "--fail", "--noproxy", "*", &format!("http://10.77.0.1:{published}/")];
        assert!(text(run(&mut machine.there(&page)).stdout).contains("Directory listing"));
        server.kill();
        within = within.over_tun();
    }
}
