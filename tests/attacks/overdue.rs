//! Certificates that have ended: the password renews one with the same key for a while, and nothing else comes of it.

use std::{net::Ipv4Addr, time::Duration};

use capuchin::{
    proto::{ErrorKind, FromBorrower, FromLender, Renewal},
    trust::{
        UnixTime,
        authority::LEAF_LIFETIME,
        identity::{identity_of, not_after},
        overdue::RENEWABLE,
        tls,
    },
};

use crate::{
    renewal::{certificate_of, keep_certificate, made_before},
    still_serves,
    support::{
        Home, LOOPBACK, Lab, PASSWORD, fails,
        peer::{Credentials, HONEST, Peer, password_login, saved_ticket, ticket_login},
        run,
    },
};

const DAY: Duration = Duration::from_secs(86_400);

/// A lender, and alice's home, whose certificate ended so long ago.
fn ended(ago: Duration) -> (Lab, Home) {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    keep_certificate(&home, &made_before(&lab, &home, LEAF_LIFETIME + ago));
    (lab, home)
}

/// A connection of the protocol that renews.
async fn renewing(lab: &Lab, own: &Credentials) -> std::io::Result<Peer> {
    renewing_from(HONEST, lab, own).await
}

async fn renewing_from(source: Ipv4Addr, lab: &Lab, own: &Credentials) -> std::io::Result<Peer> {
    let config = tls::renewal_client_config(&own.ca, own.chain.clone(), &own.key_pem).unwrap();
    Peer::dial_from(source, lab.address, config, "lab").await
}

fn renewal(password: &str) -> FromBorrower {
    FromBorrower::Renewal(Renewal { password: password.as_bytes().to_vec() })
}

fn log_in(home: &Home, password: &str) -> std::process::Command {
    let mut command = home.capuchin();
    command.args(["login", "lab", "--password-file"]).arg(home.password_file(password));
    command
}

/// The lender refuses the handshake, and its log says why. Each from elsewhere: whoever shows a bad certificate is not
/// heard for long.
async fn is_no_way_in(source: u8, lab: &Lab, own: &Credentials, why: &str) {
    if let Ok(mut peer) = renewing_from(Ipv4Addr::new(127, 0, 4, source), lab, own).await {
        peer.say(&renewal(PASSWORD)).await;
        assert!(peer.hear_message().await.is_none(), "the certificate was taken");
    }
    lab.wait_for_audit(why, |line| line["event"] == "handshake-refused" && line["why"].as_str().unwrap().contains(why));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_has_ended_is_renewed_by_the_password() {
    let (lab, home) = ended(10 * DAY);
    let (old, ticket) = (certificate_of(&home), saved_ticket(&home, "alice").expires);
    // A command that needs a session says what to do, and does nothing.
    let said = fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]), 2);
    assert!(said.starts_with("error[login]") && said.contains("ended 10 days ago"), "{said}");
    assert!(said.contains("the password renews it: capuchin login lab"), "{said}");
    assert_eq!(certificate_of(&home), old);

    run(&mut log_in(&home, PASSWORD));
    let new = certificate_of(&home);
    let (before, after) = (identity_of(&old).unwrap(), identity_of(&new).unwrap());
    assert_eq!((before.user, before.device), (after.user, after.device), "the same user and the same key");
    assert!(after.not_after > UnixTime::now().plus(LEAF_LIFETIME - DAY));
    assert!(saved_ticket(&home, "alice").expires >= ticket, "and it is logged in");
    let line = lab.wait_for_audit("the renewal", |line| line["event"] == "certificate-renewed");
    assert_eq!((&line["verdict"], &line["method"]), (&"granted".into(), &"password".into()), "{line}");
    assert_eq!((&line["user"], &line["serial"]), (&"alice".into(), &after.serial.into()), "{line}");
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]));
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_03_a_certificate_that_ended_long_ago_or_begins_later_is_renewed_by_nothing() {
    let (lab, home) = ended(RENEWABLE + DAY);
    is_no_way_in(1, &lab, &Credentials::of(&home, "alice"), "xpired").await;
    let said = fails(&mut log_in(&home, PASSWORD), 255);
    assert!(said.starts_with("error[identity]") && said.contains("now join again"), "{said}");

    let own = |chain| Credentials { chain: vec![chain], ..Credentials::of(&home, "alice") };
    let begins = capuchin::trust::authority::Authority::load(
        &std::fs::read(lab.dir().join("ca.key")).unwrap(),
        Credentials::of(&home, "alice").ca,
    );
    let key = capuchin::trust::request::SubjectKey::of_key(&Credentials::of(&home, "alice").key_pem).unwrap();
    let alice = "alice".parse().unwrap();
    let later = begins.unwrap().issue_client(&alice, &key, UnixTime::now().plus(DAY)).unwrap();
    is_no_way_in(2, &lab, &own(later), "not valid yet").await;
    let other = capuchin::trust::authority::Authority::create(UnixTime::now()).unwrap();
    let foreign = other.issue_client(&alice, &key, UnixTime::now().minus(LEAF_LIFETIME + DAY)).unwrap();
    is_no_way_in(3, &lab, &own(foreign), "BadSignature").await;
    // One that ended yesterday has no session either.
    let ended = made_before(&lab, &home, LEAF_LIFETIME + DAY);
    let source = Ipv4Addr::new(127, 0, 4, 4);
    if let Ok(mut peer) = Peer::dial_from(source, lab.address, own(ended).config(), "lab").await {
        assert!(peer.hear().await.is_none(), "a greeting would mean that the certificate was accepted");
    }
    assert!(!lab.audit().iter().any(|line| line["event"] == "certificate-renewed"));
    still_serves(&lab, &lab.join("alice")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_leads_to_no_session_and_takes_no_other_message() {
    let (lab, home) = ended(DAY);
    let own = Credentials::of(&home, "alice");
    // Each from elsewhere: who breaks the protocol is not heard for long.
    let mut sources = (10..).map(|number| Ipv4Addr::new(127, 0, 3, number));
    let mut dial = async || renewing_from(sources.next().unwrap(), &lab, &own).await.unwrap();
    let mut peer = dial().await;
    let ticket = ticket_login(&saved_ticket(&home, "alice"), peer.exporter(tls::Purpose::Login));
    peer.say(&FromBorrower::Login(ticket)).await;
    let goaway = peer.hear_goaway().await;
    assert_eq!(goaway.kind, ErrorKind::Protocol);
    assert!(goaway.text.contains("renewal"), "{}", goaway.text);
    let mut peer = dial().await;
    peer.say(&FromBorrower::Login(password_login(PASSWORD.as_bytes()))).await;
    assert_eq!(peer.hear_goaway().await.kind, ErrorKind::Protocol);
    let mut peer = dial().await;
    peer.greet().await;
    assert_eq!(peer.hear_goaway().await.kind, ErrorKind::Protocol);
    // After its answer the connection is over.
    let mut peer = dial().await;
    peer.say(&renewal(PASSWORD)).await;
    assert!(matches!(peer.hear_message().await, Some(FromLender::Renewed(_))));
    peer.greet().await;
    peer.hear_goaway().await;
    assert_eq!(peer.hear().await, None);
    assert_eq!(lab.audit().iter().filter(|line| line["event"] == "login").count(), 1, "that of the join alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_by_password_whose_answer_is_lost_is_asked_for_again() {
    let (lab, home) = ended(DAY);
    let old = certificate_of(&home);
    let mut peer = renewing(&lab, &Credentials::of(&home, "alice")).await.unwrap();
    peer.say(&renewal(PASSWORD)).await;
    lab.wait_for_verdict("certificate-renewed", "granted");
    drop(peer);
    assert_eq!(certificate_of(&home), old);
    run(&mut log_in(&home, PASSWORD));
    assert_ne!(certificate_of(&home), old);
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_renews_nothing_and_counts() {
    let (lab, home) = ended(DAY);
    let old = certificate_of(&home);
    let said = fails(&mut log_in(&home, "a wrong password"), 255);
    assert!(said.starts_with("error[login]") && said.contains("wrong password"), "{said}");
    assert_eq!(certificate_of(&home), old);
    let own = Credentials::of(&home, "alice");
    // The fifth locks the device out, for the right one as well.
    for _ in 0..4 {
        let mut peer = renewing(&lab, &own).await.unwrap();
        peer.say(&renewal("a wrong password")).await;
        assert!(matches!(peer.hear_message().await, Some(FromLender::Refusal(_))));
    }
    let line = lab.wait_for_audit("the penalty", |line| line["event"] == "source-penalised");
    assert_eq!(line["peer"], "127.0.0.2/32");
    let mut peer = renewing_from(Ipv4Addr::new(127, 0, 0, 3), &lab, &own).await.unwrap();
    peer.say(&renewal(PASSWORD)).await;
    let Some(FromLender::Refusal(refusal)) = peer.hear_message().await else { panic!("renewed") };
    assert!(refusal.text().contains("too many wrong passwords"), "{}", refusal.text());
    lab.wait_for_audit("the lock-out", |line| {
        line["event"] == "certificate-renewed" && line["why"].as_str().is_some_and(|why| why.contains("too many"))
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_device_and_one_that_has_not_ended_are_refused_before_the_password() {
    let (lab, home) = ended(DAY);
    let young = lab.join("alice");
    let mut peer = renewing(&lab, &Credentials::of(&young, "alice")).await.unwrap();
    let Some(FromLender::Refusal(refusal)) = peer.hear_message().await else { panic!("renewed") };
    assert_eq!(refusal.kind(), ErrorKind::Identity);
    assert!(refusal.text().contains("has not ended"), "{}", refusal.text());

    let device = identity_of(&certificate_of(&home)).unwrap().device;
    run(lab.admin().args(["revoke", "--device", &device.to_string()]));
    // Nothing was sent: no password is asked for.
    let mut peer = renewing(&lab, &Credentials::of(&home, "alice")).await.unwrap();
    let Some(FromLender::Refusal(refusal)) = peer.hear_message().await else { panic!("renewed") };
    assert_eq!(refusal.kind(), ErrorKind::Revoked);
    let said = fails(&mut log_in(&home, PASSWORD), 255);
    assert!(said.starts_with("error[revoked]"), "{said}");
    assert!(not_after(&certificate_of(&home)).unwrap() < UnixTime::now());
    lab.wait_for_audit("the refusal", |line| {
        line["event"] == "certificate-renewed" && line["why"].as_str().is_some_and(|why| why.contains("revoked"))
    });
    still_serves(&lab, &young).await;
}
