//! A disk that hangs, as one of a network does: whoever needs nothing of it goes on, and nobody is blamed for waiting on it.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Stdio},
};

use capuchin::{BorrowError, proto::ErrorKind};

use crate::{
    still_serves,
    support::{
        Home, LOOPBACK, Lab, PASSWORD, PATIENCE,
        disk::Disk,
        ends, fails,
        peer::{Credentials, Peer, saved_ticket, ticket_login},
        run, text, wait_until,
    },
};

/// While somebody's write to the store hangs, it is read all the same: all of it is in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_hangs_turns_nobody_away_who_has_a_ticket_and_tells_the_others_to_come_again() {
    let disk = Disk::new();
    let lab = disk.serve(Lab::start(LOOPBACK), "state.redb");
    let home = lab.join("alice");
    let line = lab.invite("bob");
    disk.hang();
    let mut adding = lab.admin().args(["user", "add", "carol"]).spawn().unwrap();
    disk.wait_for_a_call();

    // A login, and what is done in its session.
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
    still_serves(&lab, &home).await;
    // Another policy, which the grants belong to.
    std::fs::write(lab.dir().join("policy.toml"), "").unwrap();
    lab.wait_for_audits("the other policy", 1, |line| line["event"] == "policy-loaded");
    let (login, joining) = (log_in(&home), join(line.trim()));
    for (refused, what) in [(login, "login"), (joining, "join")] {
        let said = text(refused.stderr);
        assert!(said.starts_with("error[busy]") && said.contains("does not answer in time"), "{said}");
        lab.wait_for_verdict(what, "refused");
    }
    assert!(adding.try_wait().unwrap().is_none(), "it hangs still");
    assert!(!lab.audit().iter().any(|line| line["event"] == "source-penalised"), "{:#?}", lab.audit());

    disk.work_again();
    assert!(adding.wait().unwrap().success());
    assert!(log_in(&home).status.success());
    // What was begun has come to its end: the line is used.
    assert!(text(join(line.trim()).stderr).starts_with("error[identity]"));
    assert!(join(lab.invite("bob").trim()).status.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_is_out_while_the_store_hangs_and_stays_out() {
    let disk = Disk::new();
    let lab = disk.serve(Lab::start(LOOPBACK), "state.redb");
    let home = lab.join("alice");
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    disk.hang();
    let mut revoking = lab.admin().args(["revoke", "--user", "alice"]).spawn().unwrap();
    let goaway = peer.hear_goaway().await;
    assert_eq!((goaway.kind, goaway.text.as_str()), (ErrorKind::Revoked, "the user alice was revoked"));
    assert!(revoking.try_wait().unwrap().is_none(), "it says so when it lasts");

    disk.work_again();
    assert!(revoking.wait().unwrap().success());
    let refused = home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]).output().unwrap();
    assert!(text(refused.stderr).starts_with("error[revoked]"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_a_grant_allowed_is_out_while_the_store_hangs_that_is_to_forget_it() {
    let disk = Disk::new();
    let lab = disk.serve(Lab::start(""), "state.redb");
    let home = lab.join("alice");
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = target.local_addr().unwrap().to_string();
    run(lab.admin().args(["allow", "alice", "connect", &address, "--for", "1h"]));
    let (_forward, local) = home.forward(&[&format!("0:{address}")]);
    let near = TcpStream::connect(local[0]).unwrap();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut far, _) = target.accept().unwrap();
    far.write_all(b"!").unwrap();
    (&near).read_exact(&mut [0]).unwrap();
    disk.hang();
    let mut removing = lab.admin().args(["grants", "remove", "1"]).spawn().unwrap();
    assert!(ends(&near), "its connection goes with it");
    assert_eq!(text(run(lab.admin().arg("grants")).stdout), "");
    // Another policy does not bring it back.
    std::fs::write(lab.dir().join("policy.toml"), "# another\n").unwrap();
    lab.wait_for_audits("the other policy", 1, |line| line["event"] == "policy-loaded");
    fails(home.capuchin().args(["check", "lab", "connect", &address]), 1);
    assert!(removing.try_wait().unwrap().is_none(), "it says so when it lasts");

    disk.work_again();
    assert!(removing.wait().unwrap().success());
    fails(home.capuchin().args(["check", "lab", "connect", &address]), 1);
    // The next has another number, and is in force.
    assert_eq!(text(run(lab.admin().args(["allow", "alice", "connect", &address, "--for", "1h"])).stdout), "2\n");
    run(home.capuchin().args(["check", "lab", "connect", &address]));
}

/// redb answers nobody while its file is made larger, not even those who only read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_hangs_while_it_grows_keeps_waiting_only_those_who_need_it() {
    let disk = Disk::new();
    let lab = disk.serve(Lab::start(LOOPBACK), "state.redb");
    let home = lab.join("alice");
    let session = home.connect().await;
    let asks = || async { session.tcp_connect("127.0.0.1:1").await.map(drop).unwrap_err() };
    // Whoever is served has nothing more at the store.
    asks().await;
    disk.hang_from_growth();
    let mut adding = grow(&disk, &lab);
    // More of them than the lender has workers on a machine of a few cores.
    let begin = || home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]).stderr(Stdio::piped()).spawn();
    let logins: Vec<_> = (0..12).map(|_| begin().unwrap()).collect();
    for login in logins {
        let error = asks().await;
        assert!(matches!(error, BorrowError::Dial { .. }), "{error:?}");
        let said = text(login.wait_with_output().unwrap().stderr);
        assert!(said.starts_with("error[busy]") && said.contains("does not answer in time"), "{said}");
    }
    assert!(adding.try_wait().unwrap().is_none(), "it hangs still");

    disk.work_again();
    assert!(adding.wait().unwrap().success());
    still_serves(&lab, &home).await;
}

/// Adds long grants until the store must grow for one, and gives the command that waits for it.
fn grow(disk: &Disk, lab: &Lab) -> Child {
    let path = format!("/{}", "long".repeat(500));
    for _ in 0..200 {
        let mut allow = lab.admin();
        let mut adding =
            allow.args(["allow", "alice", "read", &path, "--for", "1h"]).stdout(Stdio::null()).spawn().unwrap();
        wait_until("added, or waiting", || adding.try_wait().unwrap().is_some() || disk.has_a_call());
        if adding.try_wait().unwrap().is_none() {
            return adding;
        }
    }
    panic!("400 KB are in the store, and it has not grown");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_hangs_gives_nobody_anything_and_names_the_session_that_was_none() {
    let disk = Disk::new();
    let lab = disk.serve(Lab::start(LOOPBACK), "audit.jsonl");
    let home = lab.join("alice");
    let line = lab.invite("bob");
    let mut peer = Peer::dial(lab.address, Credentials::of(&home, "alice").config(), "lab").await.unwrap();
    disk.hang();
    let login = ticket_login(&saved_ticket(&home, "alice"), peer.exporter(capuchin::trust::tls::Purpose::Login));
    let goaway = {
        peer.greet().await;
        peer.hear_message().await.expect("the greeting");
        peer.say(&capuchin::proto::FromBorrower::Login(login)).await;
        peer.hear_goaway().await
    };
    assert_eq!(goaway.kind, ErrorKind::Busy, "{}", goaway.text);
    let joined = join(line.trim());
    let said = text(joined.stderr);
    assert!(said.starts_with("error[busy]") && said.contains("cannot write its audit log"), "{said}");

    disk.work_again();
    let refused = lab.wait_for_verdict("login", "refused");
    let of_session = |line: &serde_json::Value| line["event"] == "login" && line["session"] == refused["session"];
    let lines: Vec<_> = lab.audit().into_iter().filter(of_session).collect();
    let verdicts: Vec<_> = lines.iter().map(|line| line["verdict"].as_str().unwrap()).collect();
    assert!(refused["session"].is_string() && verdicts == ["granted", "refused"], "{lines:#?}");
    assert!(!lab.audit().iter().any(|line| line["event"] == "source-penalised"), "{:#?}", lab.audit());
    // Nobody has used the line yet.
    assert!(join(line.trim()).status.success());
    still_serves(&lab, &home).await;
}

fn log_in(home: &Home) -> std::process::Output {
    let password = home.password_file(PASSWORD);
    home.capuchin().args(["login", "lab", "--password-file"]).arg(password).output().unwrap()
}

fn join(line: &str) -> std::process::Output {
    let home = Home::new();
    let password = home.password_file(PASSWORD);
    home.capuchin().args(["join", line, "--password-file"]).arg(password).output().unwrap()
}
