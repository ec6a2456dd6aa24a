//! The commands as people meet them: each mistake has its own message, and leaves nothing half-made.

#[path = "../support/mod.rs"]
mod support;

mod apparmor;
mod covered_rules;
mod demo;
mod descriptors;
mod folders;
mod homeless;
mod hosts;
mod joins;
mod json_errors;
mod late;
mod listed;
mod passed_sockets;
mod prompts;
mod threads;
mod units;

use std::{fs, net::TcpListener, process::Command};

use support::{Home, LOOPBACK, Lab, PASSWORD, capuchind, fails, json, ports::ClosedPort, run, run_with, text};

fn one_line(stderr: &str, kind: &str, what: &str) {
    assert!(stderr.starts_with(&format!("error[{kind}]: ")), "{stderr}");
    assert!(stderr.contains(what), "{what:?} is missing: {stderr}");
    let more = stderr.lines().skip(1).filter(|line| !line.starts_with("  "));
    assert_eq!(more.count(), 0, "one line and its notes: {stderr}");
}

#[test]
fn wrong_lines_and_wrong_passwords_leave_no_profile() {
    let lab = Lab::start(LOOPBACK);
    let first = lab.join("alice");
    let home = Home::new();
    let join = |line: &str, password: &str| {
        let mut command = home.capuchin();
        command.args(["join", line, "--password-file"]).arg(home.password_file(password));
        command
    };
    one_line(&fails(&mut join("hello", PASSWORD), 255), "usage", "not a join line");
    let line = lab.invite("alice");
    let cut = &line.trim()[..line.trim().len() - 3];
    one_line(&fails(&mut join(cut, PASSWORD), 255), "usage", "damaged or cut off");
    one_line(&fails(&mut join(line.trim(), "not her password"), 255), "login", "wrong password");
    assert!(!home.profile().exists());
    // The line has survived the slip.
    run(&mut join(line.trim(), PASSWORD));
    assert!(home.profile().join("alice/client.key").exists());
    run(first.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
}

#[test]
fn a_first_password_that_is_too_short_costs_nothing() {
    let lab = Lab::start(LOOPBACK);
    let home = Home::new();
    let line = lab.invite("alice");
    let stderr = text(run_with(home.capuchin().args(["join", line.trim(), "--password-file", "-"]), "short").stderr);
    assert!(stderr.contains("at least 8 characters"), "{stderr}");
    assert!(!home.profile().exists());
    let joined = run_with(home.capuchin().args(["join", "-", "--password-file", "-"]), format!("{line}{PASSWORD}\n"));
    assert!(joined.status.success(), "{joined:?}");
}

#[test]
fn a_wrong_password_at_login_keeps_the_old_ticket() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let login = run_with(home.capuchin().args(["login", "lab", "--password-file", "-"]), "not the password");
    assert_eq!(login.status.code(), Some(255));
    one_line(&text(login.stderr), "login", "wrong password");
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
}

#[test]
fn an_unknown_host_says_which_are_known() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let stderr = fails(home.capuchin().args(["forward", "lap", "-L", "0:127.0.0.1:1"]), 255);
    assert!(stderr.starts_with("error[") && stderr.contains("lap") && stderr.contains("lab"), "{stderr}");
    let hosts = json(&run(home.capuchin().args(["hosts", "--json"])).stdout);
    assert!(hosts.to_string().contains("alice"), "{hosts}");
}

#[test]
fn an_answer_that_cannot_be_written_is_none() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let full = || fs::File::create("/dev/full").unwrap();
    let asked = "check lab connect 127.0.0.1:1".split(' ');
    for json in [None, Some("--json")] {
        let stderr = fails(home.capuchin().args(asked.clone()).args(json).stdout(full()), 2);
        one_line(&stderr, "local", "cannot write to stdout");
        let asked = "check alice connect 127.0.0.1:1".split(' ');
        one_line(&fails(lab.admin().args(asked).args(json).stdout(full()), 2), "local", "cannot write to stdout");
        one_line(&fails(lab.admin().args(["audit", "verify"]).args(json).stdout(full()), 2), "local", "cannot write");
    }
    one_line(&fails(home.capuchin().arg("hosts").stdout(full()), 255), "local", "cannot write to stdout");
}

#[test]
fn a_taken_local_port_opens_no_forward_at_all() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mut command = home.capuchin();
    command.args(["forward", "lab", "-L", "0:127.0.0.1:1", "-L", &format!("{port}:127.0.0.1:1")]);
    let output = command.output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(255), 0));
    one_line(&text(output.stderr), "local", "in use");
}

#[test]
fn a_lender_that_is_down_is_named_with_its_address() {
    let mut lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    lab.daemon.kill();
    // Its own may be anybody's by now.
    let down = ClosedPort::new();
    run(home.capuchin().args(["hosts", "set", "lab", &down.address.to_string()]));
    let stderr = fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]), 2);
    one_line(&stderr, "unreachable", &down.address.to_string());
}

#[test]
fn a_broken_policy_names_its_line_and_the_daemon_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    run(capuchind(folder.path()).args(["init", "--name", "lab", "--listen", "127.0.0.1:0"]));
    for (policy, line, what) in [
        (&b"[[allow]]\nwho = [\"alice\"]\nconect = [\"a:1\"]\n"[..], ":3", "conect"),
        (b"[[allow]]\nwho = [\"alice\"]\nconnect = [\"a\"]\n", ":3", "port"),
        (b"[[allow]\n", ":1", ""),
        (b"[[test]]\nwho = \"alice\"\nconnect = \"a:1\"\nexpect = \"allow\"\n", ":1", ""),
        (b"# Of Andr\xe9\n", ":1", "not UTF-8"),
        (b"# mine\n[groups]\ndev = [\"andr\xe9\"]\n", ":3", "not UTF-8"),
    ] {
        fs::write(folder.path().join("policy.toml"), policy).unwrap();
        let stderr = fails(capuchind(folder.path()).arg("serve"), 255);
        assert!(stderr.starts_with("error[config]"), "{stderr}");
        assert!(
            stderr.contains(&format!("policy.toml{line}: ")) && stderr.contains(what),
            "{} gave {stderr}",
            String::from_utf8_lossy(policy)
        );
    }
}

#[test]
fn admin_commands_work_with_the_daemon_and_without_it() {
    let mut lab = Lab::start(LOOPBACK);
    for running in [true, false] {
        let user = if running { "carol" } else { "dave" };
        run(lab.admin().args(["user", "add", user]));
        one_line(&fails(lab.admin().args(["user", "add", user]), 255), "usage", user);
        assert!(run_with(lab.admin().args(["passwd", user, "--password-file", "-"]), PASSWORD).status.success());
        let users = json(&run(lab.admin().args(["user", "list", "--json"])).stdout);
        let entry = users["users"].as_array().unwrap().iter().find(|entry| entry["user"] == user).cloned().unwrap();
        assert_eq!((&entry["password"], &entry["devices"]), (&true.into(), &serde_json::json!([])));
        let check = lab.admin().args(["check", "alice", "connect", "127.0.0.1:1"]).output().unwrap();
        assert_eq!(check.status.code(), Some(0), "{check:?}");
        run(lab.admin().args(["user", "remove", user]));
        if running {
            one_line(&fails(lab.admin().args(["invite", user]), 255), "usage", user);
        }
        lab.daemon.kill();
        // A port that the system would choose is not known without the daemon.
        one_line(&fails(lab.admin().args(["invite", "alice"]), 255), "config", "--advertise");
        assert!(!running || lab.dir().join("admin.sock").exists(), "killed, it left its socket behind");
    }
    let lab = Lab::serve(lab.folder);
    assert_eq!(lab.invite("alice").lines().count(), 1, "the line alone");
    let refused = fails(lab.admin().arg("serve"), 255);
    one_line(&refused, "local", &format!("in use by a running capuchind (pid {})", lab.daemon.child.id()));
    assert!(refused.contains(&lab.dir().display().to_string()), "{refused}");
}

#[test]
fn up_makes_a_lender_lets_its_owner_do_what_he_could_and_prints_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("lender");
    let mut up = support::Daemon::spawn(capuchind(&dir).args(["up", "--name", "lab", "--listen", "127.0.0.1:0"]));
    // Which of stdout and stderr is read first is open.
    let policy_toml = dir.join("policy.toml");
    let may = format!("may do over it what the user who runs it can do here: {}", policy_toml.display());
    let (mut line, mut owner) = (None, None);
    while line.is_none() || owner.is_none() {
        let said = up.wait_for_line("");
        owner = owner.or_else(|| said.strip_suffix(&may).map(|name| name.trim().to_owned()));
        line = line.or_else(|| said.starts_with("cap1_").then_some(said));
    }
    let (line, owner) = (line.unwrap(), owner.unwrap());
    assert_eq!(owner, text(run(Command::new("id").arg("-un")).stdout).trim());
    let policy = fs::read_to_string(policy_toml).unwrap();
    assert!(policy.contains(&format!("who = \"{owner}\"")) && policy.contains("connect"), "{policy}");
    let home = Home::new();
    let joined = run(home.capuchin().args(["join", &line, "--password-file"]).arg(home.password_file(PASSWORD)));
    assert!(text(joined.stdout).starts_with(&format!("Joined lab as {owner};")));
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:22"]));
    let id = run(home.capuchin().args(["exec", "lab", "--", "id", "-u"]));
    assert_eq!(text(id.stdout).trim(), support::own_uid().to_string(), "his own programs, root's too");
    up.signal(rustix::process::Signal::TERM);
    assert_eq!(up.wait().code(), Some(0));
    // What it was made with is not changed in passing.
    for other in [["--name", "other"], ["--listen", "127.0.0.1:1"], ["--advertise", "lab.example:1"]] {
        let refused = capuchind(&dir).arg("up").args(other).output().unwrap();
        assert_eq!(refused.status.code(), Some(255));
        one_line(&text(refused.stderr), "usage", "there is a lender already");
    }
    // A device has joined: no more lines.
    let again = support::Daemon::spawn(capuchind(&dir).args(["up", "--name", "lab", "--listen", "127.0.0.1:0"]));
    let said = again.wait_for_line("");
    assert!(said.contains("listens on"), "{said}");
}

#[test]
fn systemd_leaves_it_a_socket_and_hears_when_it_is_ready() {
    let mut lab = Lab::start(LOOPBACK);
    lab.daemon.kill();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let notified = lab.dir().join("notify.sock");
    let notify = std::os::unix::net::UnixDatagram::bind(&notified).unwrap();
    notify.set_read_timeout(Some(support::PATIENCE)).unwrap();
    // As sd_listen_fds(3) has it: the first is 3, and the variables are for this very process.
    let script = r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" serve 3<&0 </dev/null"#;
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(env!("CARGO_BIN_EXE_capuchind")).env("CAPUCHIND_DIR", lab.dir());
    command.env("NOTIFY_SOCKET", &notified).stdin(std::os::fd::OwnedFd::from(listener));
    let daemon = support::Daemon::spawn(&mut command);
    daemon.wait_for_line(&format!("listens on {address}"));
    let mut said = [0; 64];
    let length = notify.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"READY=1");
    drop(daemon);
    // Meant for another process, they mean nothing.
    let foreign =
        support::Daemon::spawn(capuchind(lab.dir()).arg("serve").env("LISTEN_PID", "1").env("LISTEN_FDS", "1"));
    let line = foreign.wait_for_line("listens on");
    assert!(!line.ends_with(&address.to_string()), "{line}");
}

#[test]
fn an_empty_variable_is_named() {
    for command in [&["user", "list"][..], &["serve"]] {
        let mut empty = Command::new(env!("CARGO_BIN_EXE_capuchind"));
        one_line(&fails(empty.args(command).env("CAPUCHIND_DIR", ""), 255), "usage", "unset CAPUCHIND_DIR");
    }
}

#[test]
fn what_asks_no_policy_works_beside_a_broken_one() {
    let mut lab = Lab::start(LOOPBACK);
    lab.daemon.kill();
    fs::write(lab.dir().join("policy.toml"), "[[allow]\n").unwrap();
    let users = run(lab.admin().args(["user", "list"]));
    assert!(text(users.stdout).starts_with("alice"));
    run(lab.admin().args(["user", "remove", "bob"]));
    one_line(&fails(lab.admin().args(["check", "alice", "connect", "127.0.0.1:1"]), 2), "config", "policy.toml");
}

#[test]
fn a_question_without_an_answer_is_json_to_a_script() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let asks = |command: &mut Command, kind: &str, what: &str| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        one_line(&text(output.stderr), kind, what);
        let document = json(&output.stdout);
        assert_eq!(document["error"]["kind"], kind, "{document}");
        assert!(document["error"]["text"].as_str().unwrap().contains(what), "{document}");
        document
    };
    let check = |args: &[&str]| {
        let mut command = home.capuchin();
        command.arg("check").args(args).arg("--json");
        command
    };
    asks(&mut check(&["lab", "lisen", "127.0.0.1:1"]), "usage", "lisen");
    let document = asks(&mut check(&["attic", "connect", "127.0.0.1:1"]), "config", "attic");
    assert_eq!(
        (&document["host"], &document["kind"], &document["target"]),
        (&"attic".into(), &"connect".into(), &"127.0.0.1:1".into())
    );
    asks(&mut check(&["lab", "connect", "127.0.0.1"]), "usage", "port");
    asks(lab.admin().args(["check", "alice", "nonsense", "x", "--json"]), "usage", "nonsense");
    let document = asks(lab.admin().args(["check", "alice", "connect", "127.0.0.1", "--json"]), "usage", "port");
    assert_eq!(document["user"], "alice");
    // A word behind `--` is no option.
    let output = home.capuchin().args(["check", "lab", "lisen", "--", "--json"]).output().unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
}

#[test]
fn a_lender_is_not_made_with_addresses_that_nobody_can_use() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("lab");
    for (option, values) in [
        ("--advertise", &["lab", "lab:0", "0.0.0.0:2278", "[::]:1", "*:1", "a b:1", ""][..]),
        ("--listen", &["fd:", "fd:NaN", "fd:-1", "2278", "localhost:1", "127.0.0.1:70000"]),
    ] {
        for value in values {
            let stderr = fails(capuchind(&dir).args(["init", "--name", "lab", option, value]), 255);
            one_line(&stderr, "usage", option);
            assert!(!dir.exists(), "{option} {value:?}");
        }
    }
    let many = ["a:1", "b:1", "c:1", "d:1", "e:1"].map(|address| ["--advertise", address]).concat();
    one_line(&fails(capuchind(&dir).args(["init", "--name", "lab"]).args(many), 255), "usage", "4 at most");
    assert!(!dir.exists());
}

#[test]
fn one_file_is_both_commands() {
    let folder = tempfile::tempdir().unwrap();
    let mut lender = Command::new(env!("CARGO_BIN_EXE_capuchin"));
    let made =
        run(lender.args(["lender", "init", "--name", "lab", "--listen", "127.0.0.1:0", "--dir"]).arg(folder.path()));
    let next = format!("then: capuchind serve --dir {}\n", folder.path().display());
    assert!(text(made.stderr).ends_with(&next), "what comes next finds it, too");
    let users = run(capuchind(folder.path()).args(["user", "list", "--json"]));
    assert_eq!(json(&users.stdout), serde_json::json!({ "users": [] }));
    one_line(&fails(capuchind(folder.path()).arg("init"), 255), "config", "holds a lender already");
}

#[test]
fn a_lender_that_is_told_nothing_is_at_the_usual_port_of_every_address() {
    let folder = tempfile::tempdir().unwrap();
    run(capuchind(folder.path()).args(["init", "--name", "lab"]));
    let settings = fs::read_to_string(folder.path().join("lender.toml")).unwrap();
    assert!(settings.lines().any(|line| line == "listen = \"[::]:2278\""), "{settings}");
}

#[test]
fn a_lender_that_is_begun_again_keeps_its_policy_and_its_ca() {
    let folder = tempfile::tempdir().unwrap();
    let init = || run(capuchind(folder.path()).args(["init", "--name", "lab", "--listen", "127.0.0.1:0"]));
    let kept = || ["policy.toml", "ca.key", "ca.crt"].map(|name| fs::read(folder.path().join(name)).unwrap());
    init();
    fs::write(folder.path().join("policy.toml"), "# mine\n").unwrap();
    let before = kept();
    // It is written last: without it, init was interrupted.
    fs::remove_file(folder.path().join("lender.toml")).unwrap();
    init();
    assert_eq!(kept(), before);
}

#[test]
fn a_program_without_its_separator_or_its_name_is_told_so() {
    let home = Home::new();
    let said = fails(home.capuchin().args(["run", "lab", "curl", "-s", "http://a/"]), 255);
    one_line(&said, "usage", "put -- before the program");
    one_line(&fails(home.capuchin().args(["run", "lab", "--", ""]), 127), "usage", "the program's name is empty");
    let said = fails(home.capuchin().args(["exec", "lab"]), 255);
    one_line(&said, "usage", "help: capuchin shell HOST opens a login shell there");
    let said = fails(home.capuchin().args(["forward", "lab", "-R", "1080"]), 255);
    one_line(&said, "usage", "a proxy at the lender");
}

#[test]
fn each_wrong_value_of_a_flag_of_run_is_told_before_anything_runs() {
    let home = Home::new();
    for (flags, what) in [
        (&["--publish", "80"][..], "write LENDERPORT:PORT"),
        (&["--publish", "0:80"], "between 1 and 65535"),
        (
            &["--publish", "8080:80", "--publish", "8080:81"],
            "--publish 8080:81 names a port that another --publish names",
        ),
        (
            &["--publish", "8080:80", "--publish", "8081:80"],
            "--publish 8081:80 names a port that another --publish names",
        ),
        (&["--publish", "8080:80", "--no-netns"], "cannot be used with"),
        (&["--publish-loopback", "--no-netns"], "cannot be used with"),
        (&["--publish-loopback=1"], "unexpected value"),
        (&["--local", "nowhere"], "write ADDR or ADDR:PORT"),
        (&["--local", "127.0.0.1:99999"], "write ADDR or ADDR:PORT"),
        (&["--local-unix", "/no/such.sock"], "/no/such.sock is not there"),
        (&["--keep-fd", "1"], "1 is not in 3.."),
        (&["--keep-fd", "987"], "descriptor 987, which the program is to keep, is not open"),
        (&["--stdio", "calc"], "write service:NAME"),
        (&["--env", "PGUSER=ana"], "write the NAME alone"),
        (&["--network", "other"], "write nftables or tun"),
    ] {
        let ran = home.folder.path().join("ran");
        let mut command = home.capuchin();
        command.arg("run").args(flags).args(["lab", "--", "touch"]).arg(&ran);
        one_line(&fails(&mut command, 255), "usage", what);
        assert!(!ran.exists(), "{flags:?}");
    }
}
