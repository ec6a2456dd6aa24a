//! Invitations: used twice, raced, expired, guessed, of another lender, with hostile requests.

use std::{net::Ipv4Addr, time::Duration};

use capuchin::{
    proto::{ErrorKind, FromBorrower, FromLender, JoinQuestion, JoinRequest},
    trust::{
        UnixTime,
        join_line::JoinLine,
        proof::JoinKeys,
        request::new_device_key,
        tls::{self, Purpose},
    },
};

use crate::{
    still_serves,
    support::{
        Home, LOOPBACK, Lab, PASSWORD,
        clock::Clock,
        fails,
        peer::{ATTACKER, Peer},
        run, text, wait_until,
    },
};

async fn dial(lab: &Lab, line: &JoinLine) -> Peer {
    dial_from(ATTACKER, lab, line).await
}

async fn dial_from(source: Ipv4Addr, lab: &Lab, line: &JoinLine) -> Peer {
    let config = tls::join_client_config(&line.ca_key).unwrap();
    Peer::dial_from(source, lab.address, config, line.lender.as_str()).await.unwrap()
}

fn parsed(line: &str) -> JoinLine {
    line.trim().parse().unwrap()
}

/// A join over this connection; `keys` need not be those of the line.
fn request(peer: &Peer, line: &JoinLine, keys: &JoinKeys, csr: &[u8]) -> FromBorrower {
    let proof = keys.client_proof(&peer.exporter(Purpose::Join), csr);
    let question = JoinQuestion { id: line.id.0, csr: csr.to_vec(), proof };
    FromBorrower::JoinRequest(JoinRequest { question, password: PASSWORD.as_bytes().to_vec() })
}

async fn refused(peer: &mut Peer) -> (ErrorKind, String) {
    match peer.hear_message().await {
        Some(FromLender::Refusal(refusal)) => (refusal.kind(), refusal.text().to_owned()),
        Some(other) => panic!("a refusal was expected, not a {}", other.name()),
        None => panic!("closed without an answer"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_60_an_invitation_used_twice() {
    let lab = Lab::start(LOOPBACK);
    let line = lab.invite("alice");
    let (first, second) = (Home::new(), Home::new());
    let join = |home: &Home, password: &str| {
        let mut command = home.capuchin();
        command.args(["join", line.trim(), "--password-file"]).arg(home.password_file(password));
        command
    };
    run(&mut join(&first, PASSWORD));
    // Whether a password would be right is not for who comes too late.
    for password in [PASSWORD, "not her password"] {
        let stderr = fails(&mut join(&second, password), 255);
        assert!(stderr.starts_with("error[identity]") && stderr.contains("the invitation was used"), "{stderr}");
        assert!(!second.profile().exists(), "a half-made profile was left");
    }
    let refused = lab.wait_for_verdict("join", "refused");
    assert_eq!(refused["user"], "alice", "whose line somebody else has found");
    still_serves(&lab, &first).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_61_two_racing_joins_get_one_certificate() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let line = parsed(&lab.invite("alice"));
    let keys = JoinKeys::derive(&line.secret);
    let mut peers = Vec::new();
    for _ in 0..8 {
        let peer = dial(&lab, &line).await;
        let (_, csr) = new_device_key().unwrap();
        let request = request(&peer, &line, &keys, &csr);
        peers.push((peer, request));
    }
    let answers = peers.into_iter().map(|(mut peer, request)| {
        tokio::spawn(async move {
            peer.say(&request).await;
            matches!(peer.hear_message().await, Some(FromLender::JoinAnswer(_)))
        })
    });
    let mut certificates = 0;
    for answer in answers.collect::<Vec<_>>() {
        certificates += usize::from(answer.await.unwrap());
    }
    assert_eq!(certificates, 1);
    let joins =
        |verdict: &str| lab.audit().iter().filter(|line| line["event"] == "join" && line["verdict"] == verdict).count();
    lab.wait_for_audit("the seven who came too late", |_| joins("refused") == 7);
    assert_eq!(joins("granted"), 2, "the first device and one more");
    let users = crate::support::json(&run(lab.admin().args(["user", "list", "--json"])).stdout);
    assert_eq!(users["users"][0]["devices"].as_array().unwrap().len(), 2, "the first device and one more: {users}");
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_62_an_expired_invitation() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    // Another invitation keeps the join protocol open; the one that follows must not be swept away for it.
    lab.invite("alice");
    let mut line = parsed(&text(run(lab.admin().args(["invite", "alice", "--ttl", "1s"])).stdout));
    // The borrower sees it by itself …
    line.expires = UnixTime::now().minus(Duration::from_secs(1));
    let other = Home::new();
    let password = other.password_file(PASSWORD);
    let expired = line.encode().unwrap();
    let stderr = fails(other.capuchin().args(["join", &expired, "--password-file"]).arg(&password), 255);
    assert!(stderr.contains("expired"), "{stderr}");
    // … and the lender does not take a borrower's word for the time.
    let issued = UnixTime::now();
    wait_until("it has expired", || UnixTime::now() > issued.plus(Duration::from_secs(1)));
    let mut peer = dial(&lab, &line).await;
    let (_, csr) = new_device_key().unwrap();
    let request = request(&peer, &line, &JoinKeys::derive(&line.secret), &csr);
    peer.say(&request).await;
    let (kind, text) = refused(&mut peer).await;
    assert!(kind == ErrorKind::Identity && text.contains("expired"), "{text}");
    lab.wait_for_verdict("join", "refused");
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_63_five_wrong_proofs_use_the_invitation_up() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let line = parsed(&lab.invite("alice"));
    let other = parsed(&lab.invite("alice"));
    let (_, csr) = new_device_key().unwrap();
    for guess in 1..=5 {
        // Each from elsewhere: three wrong proofs from one address close the door to it.
        let mut peer = dial_from(Ipv4Addr::new(127, 0, 1, guess), &lab, &line).await;
        let wrong = request(&peer, &line, &JoinKeys::derive(&other.secret), &csr);
        peer.say(&wrong).await;
        let (kind, text) = refused(&mut peer).await;
        assert!(kind == ErrorKind::Identity && text.contains("proof of the join line is wrong"), "{text}");
        assert_eq!(text.contains("used up"), guess == 5, "{text}");
    }
    // Now the right proof comes too late.
    let mut peer = dial(&lab, &line).await;
    let right = request(&peer, &line, &JoinKeys::derive(&line.secret), &csr);
    peer.say(&right).await;
    assert_eq!(refused(&mut peer).await.0, ErrorKind::Identity);
    lab.wait_for_verdict("join", "refused");
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_64_an_invitation_of_another_lender() {
    let (lab, other) = (Lab::start(LOOPBACK), Lab::start(LOOPBACK));
    let home = lab.join("alice");
    // Both are open for a join, and both are called lab: only the key in the line tells them apart.
    let mut line = parsed(&other.invite("alice"));
    lab.invite("alice");
    line.addresses = vec![lab.address.to_string()];
    let victim = Home::new();
    let password = victim.password_file(PASSWORD);
    let forged = line.encode().unwrap();
    let stderr = fails(victim.capuchin().args(["join", &forged, "--password-file"]).arg(password), 255);
    assert!(stderr.starts_with("error[identity]"), "{stderr}");
    assert!(!victim.profile().exists());
    // It stopped in the handshake: no join was even asked about.
    lab.wait_for_audit("the broken handshake", |line| line["event"] == "handshake-refused");
    assert!(!lab.audit().iter().any(|line| line["event"] == "join" && line["peer"].is_null()));
    let asked = lab.audit().iter().filter(|line| line["event"] == "join").count();
    assert_eq!(asked, 2, "only the honest join's question and request: {:#?}", lab.audit());
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_65_hostile_certificate_requests() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let line = parsed(&lab.invite("alice"));
    let keys = JoinKeys::derive(&line.secret);
    // RSA: refused by its kind; the size plays no part, so a small one is enough to make here.
    let rsa = {
        let folder = tempfile::tempdir().unwrap();
        let (key, csr) = (folder.path().join("key"), folder.path().join("csr"));
        let mut openssl = std::process::Command::new("openssl");
        openssl.args(["req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-outform", "DER", "-keyout"]);
        run(openssl.arg(key).arg("-out").arg(&csr));
        std::fs::read(csr).unwrap()
    };
    for (hostile, why) in
        [(rsa, "key"), (vec![0x30; 100], "certificate request"), (vec![0x30, 0x84, 0x7f], "certificate request")]
    {
        let mut peer = dial(&lab, &line).await;
        let request = request(&peer, &line, &keys, &hostile);
        peer.say(&request).await;
        let (kind, text) = refused(&mut peer).await;
        assert!(kind == ErrorKind::Identity && text.contains(why), "{text}");
        let line = lab.wait_for_audit("it", |line| line["event"] == "join" && line["why"] == text.as_str());
        assert_eq!(
            (&line["verdict"], &line["user"], line["device"].is_null()),
            (&"refused".into(), &"alice".into(), true)
        );
    }
    // A mebibyte does not fit into a frame before the login.
    let mut peer = dial(&lab, &line).await;
    let mut header = crate::support::peer::frame(0, capuchin::proto::Kind::Data, false, false, b"");
    header[6..8].copy_from_slice(&[0xff, 0xff]);
    peer.send(&header).await;
    let goaway = peer.hear_goaway().await;
    assert_eq!(goaway.kind, ErrorKind::Protocol);
    lab.wait_for_audit("the frame", |line| line["event"] == "join" && line["why"] == goaway.text.as_str());

    // What a request wishes for is not what it gets.
    let (_, wishes) = wishful_request();
    let mut peer = dial(&lab, &line).await;
    let request = request(&peer, &line, &keys, &wishes);
    peer.say(&request).await;
    let Some(FromLender::JoinAnswer(answer)) = peer.hear_message().await else { panic!("the join is honest enough") };
    let (_, certificate) = x509_parser::parse_x509_certificate(&answer.certificate).unwrap();
    assert!(!certificate.is_ca());
    let identity = capuchin::trust::identity::identity_of(&answer.certificate.clone().into()).unwrap();
    assert_eq!(identity.user.as_str(), "alice");
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_joins_leave_the_places_of_members_alone() {
    let clock = Clock::new();
    let lab = clock.serve(Lab::start(LOOPBACK));
    let home = lab.join("alice");
    let line = parsed(&lab.invite("alice"));
    // While the lender's clock stands still, none of them has been silent for too long, however slowly they come.
    clock.stop();
    let mut silent = Vec::new();
    for number in 0..40 {
        silent.push(dial_from(Ipv4Addr::new(127, 0, 60, number + 1), &lab, &line).await);
    }
    // Those beyond the share of joins are told so at once.
    let busy = silent.last_mut().unwrap().hear_goaway().await;
    assert!(busy.kind == ErrorKind::Busy && busy.text.contains("try again"), "{}", busy.text);
    still_serves(&lab, &home).await;
    clock.go_on();
    lab.wait_for_audit("busy", |line| {
        line["event"] == "join" && line["why"].as_str().is_some_and(|why| why.contains("other joins"))
    });
    // With them gone, the invitation still stands.
    drop(silent);
    let other = Home::new();
    let password = other.password_file(PASSWORD);
    run(other.capuchin().args(["join", &line.encode().unwrap(), "--password-file"]).arg(password));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_first_devices_the_late_one_keeps_its_invitation() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    // bob has no password yet, and two lines.
    let lines = [parsed(&lab.invite("bob")), parsed(&lab.invite("bob"))];
    let mut racers = Vec::new();
    for line in lines {
        let (peer, (_, csr)) = (dial(&lab, &line).await, new_device_key().unwrap());
        let request = request(&peer, &line, &JoinKeys::derive(&line.secret), &csr);
        racers.push((peer, request, line, csr));
    }
    // Both say it before either is answered.
    for (peer, request, ..) in &mut racers {
        peer.say(request).await;
    }
    for (mut peer, _, line, csr) in racers {
        match peer.hear_message().await {
            Some(FromLender::JoinAnswer(_)) => {}
            Some(FromLender::Refusal(refusal)) => {
                assert_eq!(refusal.kind(), ErrorKind::Login);
                assert!(refusal.text().contains("has a password: give it"), "{}", refusal.text());
                let mut peer = dial(&lab, &line).await;
                let again = request(&peer, &line, &JoinKeys::derive(&line.secret), &csr);
                peer.say(&again).await;
                assert!(matches!(peer.hear_message().await, Some(FromLender::JoinAnswer(_))), "it still stands");
            }
            other => panic!("neither an answer nor a refusal: {:?}", other.map(|other| other.name())),
        }
    }
    let users = crate::support::json(&run(lab.admin().args(["user", "list", "--json"])).stdout);
    assert_eq!(users["users"][1]["devices"].as_array().unwrap().len(), 2, "{users}");
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_guessed_at_once_with_one_line_are_five() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let line = parsed(&lab.invite("alice"));
    let keys = JoinKeys::derive(&line.secret);
    let mut guesses = Vec::new();
    for number in 0..20 {
        let mut peer = dial_from(Ipv4Addr::new(127, 0, 61, number + 1), &lab, &line).await;
        let (_, csr) = new_device_key().unwrap();
        let FromBorrower::JoinRequest(mut guess) = request(&peer, &line, &keys, &csr) else { unreachable!() };
        guess.password = b"not the password".to_vec();
        guesses.push(tokio::spawn(async move {
            peer.say(&FromBorrower::JoinRequest(guess)).await;
            refused(&mut peer).await.1
        }));
    }
    let mut texts = Vec::new();
    for guess in guesses {
        texts.push(guess.await.unwrap());
    }
    let told = |what: &str| texts.iter().filter(|text| text.contains(what)).count();
    // On a busy machine the hash of one may not have had its turn in time; it was no guess, then.
    let (wrong, late) = (told("wrong password"), told("busy with other logins"));
    assert!(wrong <= 5 && wrong + late >= 5, "{texts:?}");
    assert_eq!(told("no such invitation"), 20 - wrong - late, "{texts:?}");
    lab.wait_for_verdict("join", "refused");
    still_serves(&lab, &home).await;
}

/// A request for a CA certificate in bob's name.
fn wishful_request() -> (rcgen::KeyPair, Vec<u8>) {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut wishes = rcgen::CertificateParams::default();
    wishes.subject_alt_names = vec![rcgen::SanType::URI("capuchin://user/bob".try_into().unwrap())];
    wishes.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = wishes.serialize_request(&key).unwrap().der().to_vec();
    (key, csr)
}
