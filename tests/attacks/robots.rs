//! Users whom the policy asks for no password: their certificate logs them in, and nobody else's does.

use std::time::Duration;

use capuchin::{
    proto::{ErrorKind, FromLender, Login, LoginMethod},
    trust::{authority::LEAF_LIFETIME, tls::Purpose},
};

use crate::{
    renewal::{keep_certificate, made_before},
    support::{
        Daemon, Home, LOOPBACK, Lab, PASSWORD, fails,
        peer::{Credentials, HONEST, Peer, saved_ticket, ticket_login},
        run, text,
    },
};

/// Alice is a robot; bob is not.
const ROBOT: &str = "[[allow]]\nwho = [\"alice\", \"bob\"]\nconnect = [\"127.0.0.0/8:*\"]\n\
                     [[allow]]\nwho = \"alice\"\npassword = false\n";

fn by_certificate() -> Login {
    Login::by(LoginMethod::Certificate)
}

/// A home in which alice has joined without any password.
fn robot(lab: &Lab) -> Home {
    let home = Home::new();
    run(home.capuchin().args(["join", lab.invite("alice").trim()]));
    home
}

fn forget_ticket(home: &Home) {
    std::fs::remove_file(home.folder.path().join("state/capuchin/tickets/lab/alice")).unwrap();
}

async fn log_in(lab: &Lab, home: &Home, user: &str, login: impl FnOnce(&Peer) -> Login) -> FromLender {
    let config = Credentials::of(home, user).config();
    let mut peer = Peer::dial_from(HONEST, lab.address, config, "lab").await.unwrap();
    let login = login(&peer);
    peer.log_in_with(login).await
}

#[test]
fn a_robot_joins_and_logs_in_without_a_password_and_has_a_ticket() {
    let lab = Lab::start(ROBOT);
    let home = robot(&lab);
    let line = lab.wait_for_verdict("login", "granted");
    assert_eq!((&line["user"], &line["method"]), (&"alice".into(), &"certificate".into()));
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]));
    lab.wait_for_audit("a ticket", |line| line["event"] == "login" && line["method"] == "ticket");
    // Nobody need be there when its ticket is over.
    forget_ticket(&home);
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]));
    forget_ticket(&home);
    let said = text(run(home.capuchin().args(["login", "lab"])).stdout);
    assert!(said.contains("Logged in at lab as alice"), "{said}");
    saved_ticket(&home, "alice");
    run(lab.admin().args(["logout", "alice"]));
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]));
    // A revoked one is out, ticket or not.
    run(lab.admin().args(["revoke", "--user", "alice"]));
    forget_ticket(&home);
    let said = fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]), 2);
    assert!(said.starts_with("error[revoked]"), "{said}");
}

#[test]
fn a_robot_whose_certificate_has_ended_has_nothing_to_renew_it_by() {
    let lab = Lab::start(ROBOT);
    let home = robot(&lab);
    keep_certificate(&home, &made_before(&lab, &home, LEAF_LIFETIME + Duration::from_secs(86_400)));
    let mut login = home.capuchin();
    let said = fails(login.args(["login", "lab", "--password-file"]).arg(home.password_file(PASSWORD)), 255);
    assert!(said.starts_with("error[identity]") && said.contains("alice has no password"), "{said}");
    lab.wait_for_audit("the refusal", |line| {
        line["event"] == "certificate-renewed" && line["why"].as_str().is_some_and(|why| why.contains("no password"))
    });
    // With a new line it is back.
    run(home.capuchin().args(["join", lab.invite("alice").trim()]));
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_alone_logs_in_nobody_whom_the_policy_does_not_name() {
    let lab = Lab::start(ROBOT);
    let home = lab.join("bob");
    let FromLender::Refusal(refusal) = log_in(&lab, &home, "bob", |_| by_certificate()).await else {
        panic!("bob is in without his password");
    };
    assert_eq!(refusal.kind(), ErrorKind::Login);
    assert!(refusal.text().contains("the policy asks bob for a password"), "{}", refusal.text());
    let line = lab.wait_for_verdict("login", "refused");
    assert_eq!((&line["user"], &line["method"]), (&"bob".into(), &"certificate".into()));
    // Without a ticket the command says what to do, and does not ask.
    std::fs::remove_file(home.folder.path().join("state/capuchin/tickets/lab/bob")).unwrap();
    let said = fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]), 2);
    assert!(said.starts_with("error[login]: bob is not logged in at lab"), "{said}");
    run(home.capuchin().args(["login", "lab", "--password-file"]).arg(home.password_file(PASSWORD)));
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_asks_for_a_password_again_ends_what_was_logged_in_without() {
    let lab = Lab::start(ROBOT);
    let home = robot(&lab);
    let target = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut forward, local): (Daemon, _) = home.forward(&[&format!("0:{}", target.local_addr().unwrap())]);
    let _held = std::net::TcpStream::connect(local[0]).unwrap();
    lab.wait_for_audit("the connection", |line| line["event"] == "tcp-connect" && line["verdict"] == "granted");
    let old = saved_ticket(&home, "alice");

    std::fs::write(lab.dir().join("policy.toml"), LOOPBACK).unwrap();
    forward.wait_for_line("the policy asks for a password now");
    forward.wait();
    lab.wait_for_audit("the end", |line| {
        line["event"] == "session-ended" && line["why"].as_str().unwrap().starts_with("login: ")
    });
    // The ticket that it earned is worth no more than it was.
    let login = |peer: &Peer| ticket_login(&old, peer.exporter(Purpose::Login));
    let FromLender::Refusal(refusal) = log_in(&lab, &home, "alice", login).await else { panic!("the ticket is taken") };
    assert!(refusal.text().contains("asks alice for a password"), "{}", refusal.text());
    let FromLender::Refusal(_) = log_in(&lab, &home, "alice", |_| by_certificate()).await else { panic!("logged in") };
}
