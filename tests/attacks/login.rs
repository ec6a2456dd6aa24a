//! At the login: passwords, tickets, replays, impatience.

use capuchin::{
    proto::{ErrorKind, FromBorrower, FromLender, Kind},
    trust::tls::Purpose,
};

use crate::{
    still_serves,
    support::{
        LOOPBACK, Lab, PASSWORD,
        peer::{Credentials, Peer, frame, password_login, saved_ticket, ticket_login},
        run, run_with,
    },
};

fn refusal(answer: FromLender) -> (ErrorKind, String) {
    match answer {
        FromLender::Refusal(refusal) => (refusal.kind(), refusal.text().to_owned()),
        other => panic!("a refusal was expected, not a {}", other.name()),
    }
}

async fn dial(lab: &Lab, home: &crate::support::Home, user: &str) -> Peer {
    Peer::dial(lab.address, Credentials::of(home, user).config(), "lab").await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_16_alices_certificate_with_bobs_password() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let bobs = "the password of bob";
    let output = run_with(lab.admin().args(["passwd", "bob", "--password-file", "-"]), bobs);
    assert!(output.status.success(), "{output:?}");
    let mut peer = dial(&lab, &home, "alice").await;
    let (kind, text) = refusal(peer.log_in_with(password_login(bobs.as_bytes())).await);
    assert_eq!((kind, text.as_str()), (ErrorKind::Login, "wrong password"));
    let line = lab.wait_for_verdict("login", "refused");
    assert_eq!((&line["user"], &line["why"]), (&"alice".into(), &"wrong password".into()));
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_17_a_replayed_login() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let ticket = saved_ticket(&home, "alice");
    let mut first = dial(&lab, &home, "alice").await;
    let recorded = ticket_login(&ticket, first.exporter(Purpose::Login));
    let replayed = recorded.clone();
    assert!(matches!(first.log_in_with(recorded).await, FromLender::Welcome(_)));
    let mut second = dial(&lab, &home, "alice").await;
    let (kind, text) = refusal(second.log_in_with(replayed).await);
    assert!(kind == ErrorKind::Login && text.contains("its proof is wrong"), "{text}");
    lab.wait_for_verdict("login", "refused");
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_18_a_ticket_with_another_certificate() {
    let lab = Lab::start(LOOPBACK);
    let (alice, bob) = (lab.join("alice"), lab.join("bob"));
    let mut peer = dial(&lab, &bob, "bob").await;
    let login = ticket_login(&saved_ticket(&alice, "alice"), peer.exporter(Purpose::Login));
    let (kind, text) = refusal(peer.log_in_with(login).await);
    assert!(kind == ErrorKind::Login && text.contains("belongs to another device"), "{text}");
    let line = lab.wait_for_verdict("login", "refused");
    assert_eq!(line["user"], "bob");
    still_serves(&lab, &alice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_19_a_ticket_after_a_password_change() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let changed = run_with(lab.admin().args(["passwd", "alice", "--password-file", "-"]), "another password");
    assert!(changed.status.success(), "{changed:?}");
    let mut peer = dial(&lab, &home, "alice").await;
    let login = ticket_login(&saved_ticket(&home, "alice"), peer.exporter(Purpose::Login));
    let (kind, text) = refusal(peer.log_in_with(login).await);
    assert!(kind == ErrorKind::Login && text.contains("withdrawn"), "{text}");
    lab.wait_for_verdict("login", "refused");
    // With the new password alice is back.
    run(home.capuchin().args(["login", "lab", "--password-file"]).arg(home.password_file("another password")));
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_20_streams_before_the_login() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    for greeted in [false, true] {
        let mut peer = dial(&lab, &home, "alice").await;
        if greeted {
            peer.greet().await;
        }
        peer.send(&frame(1, Kind::Data, true, false, b"\x00\x00\x00\x01\xa0")).await;
        let goaway = peer.hear_goaway().await;
        assert_eq!(goaway.kind, ErrorKind::Protocol);
        assert!(goaway.text.contains("log in first"), "{}", goaway.text);
    }
    let line = lab.wait_for_verdict("login", "refused");
    assert!(line["why"].as_str().unwrap().contains("log in first"));
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_23_a_password_of_a_mebibyte() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    // As large as a frame may be here, and larger.
    let mut peer = dial(&lab, &home, "alice").await;
    let (kind, text) = refusal(peer.log_in_with(password_login(&[b'x'; 2000])).await);
    assert!(kind == ErrorKind::Login && text.contains("limit is 1024"), "{text}");
    let mut peer = dial(&lab, &home, "alice").await;
    peer.greet().await;
    let body = capuchin::proto::message::encode(&FromBorrower::Login(password_login(&[b'x'; 1 << 20])));
    let mut header = frame(0, Kind::Data, false, false, b"");
    header[6..8].copy_from_slice(&[0xff, 0xff]);
    peer.send(&[&header[..], &body].concat()).await;
    let goaway = peer.hear_goaway().await;
    assert!(goaway.kind == ErrorKind::Protocol && goaway.text.contains("the limit is 4096"), "{}", goaway.text);
    lab.wait_for_verdict("login", "refused");
    run(home.capuchin().args(["login", "lab", "--password-file"]).arg(home.password_file(PASSWORD)));
    still_serves(&lab, &home).await;
}
