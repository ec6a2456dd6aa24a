//! The log as an admin reads it, and what it says of the admin's own commands.

use std::{fs, process::Command};

use capuchin::lend::verify_audit;
use serde_json::Value;

use crate::{
    audit::everything_is_written,
    support::{Daemon, LOOPBACK, Lab, PASSWORD, fails, json, run, run_with, text},
};

/// Each variable that is asked for is a line; so many of so long a name are 16 MiB after some hundred requests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_file_begins_another_and_nothing_is_missed_between_them() {
    const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
    let lab = Lab::start("[[allow]]\nwho = \"alice\"\nconnect = \"127.0.0.1:9\"\nenv.read = \"*\"\n");
    let home = lab.join("alice");
    let borrower = home.connect().await;
    let follow = Daemon::spawn(lab.admin().args(["audit", "--follow"]));
    follow.wait_for_line("alice");
    let names: Vec<String> = (0..64).map(|number| format!("V{number:0>254}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let files = || {
        let files = fs::read_dir(lab.dir().join("audit")).unwrap().map(|file| file.unwrap().path());
        let of_lines = |path: &std::path::PathBuf| path.extension().is_some_and(|it| it == "jsonl");
        files.filter(of_lines).collect::<Vec<_>>()
    };
    let mut asked = 0;
    while files().len() < 2 {
        borrower.profile(&names).await.unwrap();
        asked += names.len();
        assert!(asked < 100_000, "no line is shorter than its target");
    }
    run(lab.admin().args(["user", "add", "carol"]));
    follow.wait_for_line("carol");
    let full = files().into_iter().find(|path| !path.ends_with("audit.jsonl")).unwrap();
    let bytes = fs::metadata(full).unwrap().len();
    assert!((FILE_BYTES_MAX - 4096..=FILE_BYTES_MAX).contains(&bytes), "{bytes} bytes");
    let proof = json(&run(lab.admin().args(["audit", "verify", "--json"])).stdout);
    assert_eq!(proof["whole"], true, "{proof}");
    let lines = text(run(lab.admin().args(["audit", "--json"])).stdout);
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().filter(|line| line["event"] == "env.read").count(), asked, "each is there");
    assert!(lines.windows(2).all(|pair| pair[0]["seq"].as_u64().unwrap() + 1 == pair[1]["seq"].as_u64().unwrap()));
}

#[test]
fn an_admins_commands_are_in_the_log_with_who_gave_them_and_what_came_of_it() {
    let mut lab = Lab::start(LOOPBACK);
    for running in [true, false] {
        let before = lab.audit().len();
        let user = if running { "carol" } else { "dave" };
        run(lab.admin().args(["user", "add", user]));
        fails(lab.admin().args(["user", "add", user]), 255);
        run_with(lab.admin().args(["passwd", user, "--password-file", "-"]), PASSWORD);
        run(lab.admin().args(["check", "alice", "connect", "127.0.0.1:1"]));
        run(lab.admin().args(["user", "remove", user]));
        // Each is answered once it is written: no need to wait.
        let lines = lab.audit().split_off(before);
        let told = |line: &Value| {
            [&line["command"], &line["user"], &line["verdict"]].map(|text| text.as_str().unwrap().to_owned())
        };
        let told: Vec<_> = lines.iter().map(told).collect();
        assert_eq!(
            told,
            [
                ["user add", user, "done"],
                ["user add", user, "failed"],
                ["passwd", user, "done"],
                ["check", "alice", "done"],
                ["user remove", user, "done"],
            ]
        );
        let uid = rustix::process::getuid().as_raw();
        assert!(lines.iter().all(|line| line["event"] == "admin" && line["uid"] == uid));
        assert!(lines[1]["why"].as_str().unwrap().contains("exists") && lines[3]["target"] == "connect 127.0.0.1:1");
        lab.daemon.kill();
    }
}

#[test]
fn the_log_is_read_with_the_daemon_and_without_it_and_proves_itself() {
    let mut lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    // The last line until somebody comes again.
    lab.wait_for_audit("the end of the session in which she joined", |line| line["event"] == "session-ended");
    for running in [true, false] {
        let all = text(run(lab.admin().args(["audit", "--json"])).stdout);
        assert_eq!(all.lines().count(), lab.audit().len());
        let of_alice = text(run(lab.admin().args(["audit", "--json", "--since", "1h", "--user", "alice"])).stdout);
        let of_alice: Vec<Value> = of_alice.lines().map(|line| json(line.as_bytes())).collect();
        assert!(!of_alice.is_empty() && of_alice.iter().all(|line| line["user"] == "alice"));
        let none = run(lab.admin().args(["audit", "--since", "2999-01-01"]));
        assert!(none.stdout.is_empty());
        let proof = json(&run(lab.admin().args(["audit", "verify", "--json"])).stdout);
        assert!(proof["whole"] == true && proof["lines"].as_u64().unwrap() >= all.lines().count() as u64, "{proof}");
        if running {
            run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
            everything_is_written(&lab);
            lab.daemon.kill();
        }
    }
    let path = lab.dir().join("audit/audit.jsonl");
    let log = fs::read_to_string(&path).unwrap();
    fs::write(&path, log.replacen("alice", "alicf", 1)).unwrap();
    let broken = lab.admin().args(["audit", "verify"]).output().unwrap();
    let said = text(broken.stdout);
    assert_eq!(broken.status.code(), Some(1));
    assert!(said.starts_with("broken: ") && said.contains("audit.jsonl:1: its hash does not follow"), "{said}");
    // Without its end the rest is a good chain, and yet not the whole.
    let cut = log.trim_end().rsplit_once('\n').unwrap().0;
    fs::write(&path, format!("{cut}\n")).unwrap();
    let broken = lab.admin().args(["audit", "verify", "--json"]).output().unwrap();
    assert_eq!((broken.status.code(), &json(&broken.stdout)["whole"]), (Some(1), &false.into()));
    let none = fails(lab.admin().args(["audit", "verify", "--dir", "/nowhere"]), 2);
    assert!(none.starts_with("error[config]: there is no audit log in /nowhere"), "{none}");
}

#[test]
fn following_goes_on_through_a_new_file_and_ends_with_the_signal_or_the_reader() {
    let mut lab = Lab::start(LOOPBACK);
    lab.daemon.kill();
    let mut follow = Daemon::spawn(lab.admin().args(["audit", "--follow"]));
    follow.wait_for_line("bob");
    run(lab.admin().args(["user", "add", "carol"]));
    follow.wait_for_line("carol");
    // As a lender begins a file: the full one gets the number of its first line, and the next is there.
    let dir = lab.dir().join("audit");
    fs::rename(dir.join("audit.jsonl"), dir.join("audit-000000000001.jsonl")).unwrap();
    for user in ["dave", "erin"] {
        run(lab.admin().args(["user", "add", user]));
        follow.wait_for_line(user);
    }
    assert!(verify_audit(&dir).is_ok());
    follow.signal(rustix::process::Signal::INT);
    assert_eq!(follow.wait().code(), Some(130));

    // A reader that has seen enough ends it with the next line, quietly.
    let mut head = Command::new("sh");
    let script = r#"{ "$0" audit --follow; echo "$?" >&2; } | head -n 1"#;
    let mut piped =
        Daemon::spawn(head.args(["-c", script, env!("CARGO_BIN_EXE_capuchind")]).env("CAPUCHIND_DIR", lab.dir()));
    piped.wait_for_line("user add");
    run(lab.admin().args(["user", "add", "frank"]));
    piped.wait_for_line("141");
    assert!(piped.wait().success());
}

#[test]
fn following_goes_on_behind_a_folder_that_was_moved_away() {
    let lab = Lab::start(LOOPBACK);
    let follow = Daemon::spawn(lab.admin().args(["audit", "--follow"]));
    follow.wait_for_line("bob");
    // So that nobody begins another for now.
    lab.daemon.signal(rustix::process::Signal::STOP);
    fs::rename(lab.dir().join("audit"), lab.dir().join("audit.old")).unwrap();
    lab.daemon.signal(rustix::process::Signal::CONT);
    run(lab.admin().args(["user", "add", "carol"]));
    follow.wait_for_line("carol");
}

#[test]
fn a_log_that_cannot_be_written_is_told_as_what_it_means_and_its_end_as_well() {
    let mut lab = Lab::start(LOOPBACK);
    lab.daemon.kill();
    let daemon = Daemon::spawn(lab.admin().arg("serve").env("CAPUCHIN_LOG", "info"));
    daemon.wait_for_line("listens on");
    let log = lab.dir().join("audit/audit.jsonl");
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    run(lab.admin().args(["user", "add", "carol"]));
    let line = daemon.wait_for_line("the audit log cannot be written: new sessions are refused until it can");
    assert!(line.contains("ERROR"), "{line}");
    fs::remove_dir(&log).unwrap();
    run(lab.admin().args(["user", "add", "dave"]));
    let line = daemon.wait_for_line("the audit log can be written again: new sessions are let in");
    assert!(line.contains("INFO"), "{line}");
}
