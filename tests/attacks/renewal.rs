//! Certificates that renew themselves over a live session, and what such a renewal refuses.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use capuchin::{
    proto::{
        Answer, ErrorKind, Frame, FromLender, IssuedTicket, Kind, RenewedCertificate, Request, Target, TcpConnected,
        message,
    },
    trust::{
        UnixTime,
        authority::{Authority, LEAF_LIFETIME},
        identity::{identity_of, not_after},
        keyfile, pem,
        request::{SubjectKey, new_device_key, request_for},
        store::Store,
        tls::Purpose,
    },
};
use rustls::pki_types::CertificateDer;

use crate::{
    still_serves,
    support::{
        Home, LOOPBACK, Lab, PATIENCE,
        clock::Clock,
        fails,
        peer::{Credentials, HONEST, Peer, frame, saved_ticket, ticket_login},
        run, run_with,
    },
};

/// The certificate of alice's device, made so long ago.
pub fn made_before(lab: &Lab, home: &Home, age: Duration) -> CertificateDer<'static> {
    let ca = pem::certificates(&std::fs::read(lab.dir().join("ca.crt")).unwrap()).unwrap().remove(0);
    let authority = Authority::load(&keyfile::read_secret(&lab.dir().join("ca.key")).unwrap(), ca).unwrap();
    let key = SubjectKey::of_key(&Credentials::of(home, "alice").key_pem).unwrap();
    authority.issue_client(&"alice".parse().unwrap(), &key, UnixTime::now().minus(age)).unwrap()
}

/// A lender with this clock, and devices of alice whose newest certificates were made so long ago, with a ticket each.
pub fn aged<const N: usize>(clock: &Clock, age: Duration) -> (Lab, [Home; N]) {
    let mut lab = Lab::start(LOOPBACK);
    let homes = std::array::from_fn(|_| lab.join("alice"));
    lab.daemon.kill();
    let store = Store::open(&lab.dir().join("state.redb")).unwrap();
    for home in &homes {
        let certificate = made_before(&lab, home, age);
        store.add_device(&identity_of(&certificate).unwrap(), UnixTime::now()).unwrap();
        keep_certificate(home, &certificate);
    }
    drop(store);
    let lab = clock.serve(lab);
    for home in &homes {
        run(home.capuchin().args(["hosts", "set", "lab", &lab.address.to_string()]));
    }
    (lab, homes)
}

pub fn certificate_of(home: &Home) -> CertificateDer<'static> {
    Credentials::of(home, "alice").chain.remove(0)
}

pub fn keep_certificate(home: &Home, certificate: &CertificateDer<'_>) {
    let path = home.profile().join("alice/client.crt");
    keyfile::write(&path, pem::certificate_pem(certificate).as_bytes(), keyfile::PUBLIC_MODE).unwrap();
}

/// What the lender answers to this request for a certificate.
async fn ask(peer: &mut Peer, stream: u64, csr: Vec<u8>) -> Answer<RenewedCertificate> {
    answer_to(peer, stream, &Request::RenewCertificate(csr)).await
}

async fn answer_to<A: for<'a> minicbor::Decode<'a, ()>>(peer: &mut Peer, stream: u64, request: &Request) -> Answer<A> {
    let request = message::encode_prefixed(request);
    peer.send(&frame(stream, Kind::Data, true, false, &request)).await;
    let mut answer = Vec::new();
    loop {
        if let [a, b, c, d, body @ ..] = &answer[..]
            && body.len() >= u32::from_be_bytes([*a, *b, *c, *d]) as usize
        {
            return message::decode("answer", body).unwrap();
        }
        match peer.hear().await.expect("an answer") {
            Frame::Data { payload, .. } => answer.extend_from_slice(&payload),
            Frame::Goaway(goaway) => panic!("{}", goaway.text),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_past_two_thirds_renews_itself() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let young = certificate_of(&home);
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]));
    assert_eq!(certificate_of(&home), young, "nothing is due yet");

    let old = made_before(&lab, &home, LEAF_LIFETIME * 2 / 3 + Duration::from_secs(60));
    keep_certificate(&home, &old);
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]));
    let new = certificate_of(&home);
    assert!(not_after(&new).unwrap() > not_after(&old).unwrap());
    let serial = identity_of(&new).unwrap().serial;
    lab.wait_for_audit("the renewal", |line| {
        line["event"] == "certificate-renewed" && line["serial"] == serial.as_str() && line["user"] == "alice"
    });
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]));
    still_serves(&lab, &home).await;
}

/// A session of this home, by the certificate that it has now, and a connection lent in it.
pub async fn lent(lab: &Lab, home: &Home) -> (Peer, TcpStream) {
    lent_in(Peer::logged_in(lab.address, home, "alice").await).await
}

/// As [`lent`], in a session that has just begun.
async fn lent_in(mut peer: Peer) -> (Peer, TcpStream) {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = target.local_addr().unwrap().port();
    let request = Request::TcpConnect(Target { host: "127.0.0.1".into(), port });
    let answer = answer_to::<TcpConnected>(&mut peer, 1, &request).await;
    assert!(matches!(answer, Answer::Granted(_)), "{answer:?}");
    let far = target.accept().unwrap().0;
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    (peer, far)
}

pub async fn crosses(peer: &mut Peer, far: &mut TcpStream) {
    peer.send(&frame(1, Kind::Data, false, false, b"?")).await;
    far.read_exact(&mut [0]).expect("the connection is still lent");
    far.write_all(b"!").unwrap();
    while !matches!(peer.hear().await.expect("the session goes on"), Frame::Data { payload, .. } if &payload[..] == b"!")
    {
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_by_one_session_holds_for_the_others_of_its_device_and_of_no_other() {
    const LEFT: Duration = Duration::from_secs(300);
    let clock = Clock::new();
    let (lab, [home, other]) = aged(&clock, LEAF_LIFETIME - LEFT);
    let (mut long, mut long_far) = lent(&lab, &home).await;
    let (mut others, _others_far) = lent(&lab, &other).await;
    let old = certificate_of(&home);
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]));
    assert_ne!(certificate_of(&home), old, "another session renewed it");

    let busy = async || {
        others.send(&frame(1, Kind::Data, false, false, b"?")).await;
        crosses(&mut long, &mut long_far).await;
    };
    clock.pass(LEFT + Duration::from_secs(120), busy).await;
    let goaway = others.hear_goaway().await;
    assert_eq!((goaway.kind, goaway.text.as_str()), (ErrorKind::Identity, "the certificate of this device has ended"));
    crosses(&mut long, &mut long_far).await;
}

/// Its certificate was taken before the renewal, and its session begins behind it: nothing will be due on the disk any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_logs_in_by_the_old_certificate_during_a_renewal_goes_on() {
    const LEFT: Duration = Duration::from_secs(300);
    let clock = Clock::new();
    let (lab, [home]) = aged(&clock, LEAF_LIFETIME - LEFT);
    let old = Credentials::of(&home, "alice");
    // However slow this machine is, no deadline of the login comes in between.
    clock.stop();
    let mut peer = Peer::dial_from(HONEST, lab.address, old.config(), "lab").await.unwrap();
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]));
    assert_ne!(certificate_of(&home), old.chain[0], "another session renewed it");
    let login = ticket_login(&saved_ticket(&home, "alice"), peer.exporter(Purpose::Login));
    assert!(matches!(peer.log_in_with(login).await, FromLender::Welcome(_)), "logged in");
    clock.go_on();
    let (mut peer, mut far) = lent_in(peer).await;
    clock.pass(LEFT + Duration::from_secs(120), async || crosses(&mut peer, &mut far).await).await;
    crosses(&mut peer, &mut far).await;
}

/// The lender has signed and noted the new certificate, and the device never hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_whose_answer_is_lost_is_asked_for_again_in_another_session() {
    let clock = Clock::new();
    let (lab, [home]) = aged(&clock, LEAF_LIFETIME * 2 / 3 + Duration::from_secs(60));
    let old = certificate_of(&home);
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    let csr = request_for(&Credentials::of(&home, "alice").key_pem).unwrap();
    let request = message::encode_prefixed(&Request::RenewCertificate(csr));
    peer.send(&frame(1, Kind::Data, true, false, &request)).await;
    let lost = lab.wait_for_audit("the renewal", |line| line["event"] == "certificate-renewed");
    assert_eq!(lost["verdict"], serde_json::Value::Null, "{lost}");
    drop(peer);
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]));
    let new = certificate_of(&home);
    assert_ne!(new, old);
    assert_ne!(identity_of(&new).unwrap().serial, lost["serial"].as_str().unwrap());
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_whose_answer_came_too_late_is_asked_for_again_after_a_minute() {
    let clock = Clock::new();
    let (lab, [home]) = aged(&clock, LEAF_LIFETIME * 2 / 3 + Duration::from_secs(60));
    let (mut peer, mut far) = lent(&lab, &home).await;
    let csr = request_for(&Credentials::of(&home, "alice").key_pem).unwrap();
    assert!(matches!(ask(&mut peer, 3, csr.clone()).await, Answer::Granted(_)));
    let Answer::Refused(refusal) = ask(&mut peer, 5, csr.clone()).await else { panic!("granted again at once") };
    assert_eq!(refusal.kind(), ErrorKind::Busy);
    clock.pass(Duration::from_secs(120), async || crosses(&mut peer, &mut far).await).await;
    let Answer::Granted(renewed) = ask(&mut peer, 7, csr).await else { panic!("refused") };
    keep_certificate(&home, &renewed.certificate.into());
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewal_is_for_the_own_key_and_not_before_its_time() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    let own = request_for(&Credentials::of(&home, "alice").key_pem).unwrap();
    let (_, foreign) = new_device_key().unwrap();
    let mut forged = own.clone();
    *forged.last_mut().unwrap() ^= 1;
    let cases = [
        (own, "more than half of its time left"),
        (foreign, "for the key of its own device only"),
        (forged, "not signed by its own key"),
        (b"garbage".to_vec(), "malformed"),
        (vec![0x30; 20_000], "the limit is 4096"),
    ];
    for (stream, (csr, why)) in (0..).zip(cases) {
        let Answer::Refused(refusal) = ask(&mut peer, 2 * stream + 1, csr).await else { panic!("granted: {why}") };
        assert_eq!(refusal.kind(), ErrorKind::Identity);
        assert!(refusal.text().contains(why), "{}", refusal.text());
        lab.wait_for_audit(why, |line| {
            line["event"] == "certificate-renewed"
                && line["verdict"] == "refused"
                && line["why"].as_str().unwrap().contains(why)
        });
    }
    still_serves(&lab, &home).await;
}

#[test]
fn a_revoked_device_gets_no_session_to_renew_in() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let old = made_before(&lab, &home, LEAF_LIFETIME * 3 / 4);
    keep_certificate(&home, &old);
    run(lab.admin().args(["revoke", "--user", "alice"]));
    let said = fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]), 2);
    assert!(said.starts_with("error[revoked]"), "{said}");
    assert_eq!(certificate_of(&home), old);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_renews_once_a_minute_and_not_past_its_login() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    let Answer::Granted(ticket) = answer_to::<IssuedTicket>(&mut peer, 1, &Request::RenewTicket).await else {
        panic!("refused");
    };
    // It goes back to the same login, and so does its end.
    assert_eq!(ticket.expires, saved_ticket(&home, "alice").expires.0);
    let Answer::Refused(refusal) = answer_to::<IssuedTicket>(&mut peer, 3, &Request::RenewTicket).await else {
        panic!("granted again at once");
    };
    assert_eq!(refusal.kind(), ErrorKind::Busy);

    let mut other = Peer::logged_in(lab.address, &home, "alice").await;
    run_with(lab.admin().args(["passwd", "alice", "--password-file", "-"]), "another password");
    let Answer::Refused(refusal) = answer_to::<IssuedTicket>(&mut other, 1, &Request::RenewTicket).await else {
        panic!("a ticket for a login whose password is gone");
    };
    assert_eq!(refusal.kind(), ErrorKind::Login);
    lab.wait_for_audit("the refusal", |line| line["event"] == "ticket-renewed" && line["verdict"] == "refused");
}
