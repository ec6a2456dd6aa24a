//! At the login: passwords, tickets, replays, impatience.

use std::net::Ipv4Addr;

use capuchin::{
    proto::{ErrorKind, FromBorrower, FromLender, Kind},
    trust::{store::Store, tls::Purpose},
};

use crate::{
    audit::everything_is_written,
    still_serves,
    support::{
        LOOPBACK, Lab, PASSWORD,
        costs::memory_kib,
        fails,
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

/// What each of so many logins with this password is answered, all at once and each from an address of its own.
async fn at_once(lab: &Lab, homes: &[&crate::support::Home], count: u8, password: &'static [u8]) -> Vec<FromLender> {
    let mut peers = Vec::new();
    for number in 0..count {
        let home = homes[usize::from(number) % homes.len()];
        let source = Ipv4Addr::new(127, 0, 21, number + 1);
        let config = Credentials::of(home, "alice").config();
        peers.push(Peer::dial_from(source, lab.address, config, "lab").await.unwrap());
    }
    let logins =
        peers.into_iter().map(|mut peer| tokio::spawn(async move { peer.log_in_with(password_login(password)).await }));
    let mut answers = Vec::new();
    for login in logins.collect::<Vec<_>>() {
        answers.push(login.await.unwrap());
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_21_a_hundred_wrong_passwords() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let answers = at_once(&lab, &[&home], 100, b"not the password").await;
    let texts: Vec<_> = answers.into_iter().map(refusal).collect();
    let wrong = |texts: &[(ErrorKind, String)]| texts.iter().filter(|(_, text)| text == "wrong password").count();
    let mut judged = wrong(&texts);
    assert!((1..=5).contains(&judged), "of guesses at once, as many are judged as lock: {texts:?}");
    // On a busy machine the hash of one may not have had its turn in time; it was no guess, then.
    for _ in 0..20 {
        let more = at_once(&lab, &[&home], (5 - judged) as u8, b"not the password").await;
        judged += wrong(&more.into_iter().map(refusal).collect::<Vec<_>>());
    }
    assert_eq!(judged, 5);
    let told = |(kind, text): &&(ErrorKind, String)| match kind {
        ErrorKind::Login => text == "wrong password" || text.contains("too many wrong passwords"),
        kind => *kind == ErrorKind::Busy && text.contains("try again in a moment"),
    };
    assert_eq!(texts.iter().filter(told).count(), 100, "{texts:?}");
    // One after the other they are locked out, the right one too.
    for password in [&b"one more"[..], PASSWORD.as_bytes()] {
        let (kind, text) = refusal(dial(&lab, &home, "alice").await.log_in_with(password_login(password)).await);
        assert!(kind == ErrorKind::Login && text.contains("too many wrong passwords"), "{text}");
    }
    lab.wait_for_audit("the lock", |line| {
        line["event"] == "login" && line["why"].as_str().is_some_and(|why| why.contains("too many wrong passwords"))
    });
    // Another device of hers is not, and no ticket is.
    still_serves(&lab, &lab.join("alice")).await;
    still_serves(&lab, &home).await;
}

/// What is started here sees a machine of two cores, and hashes one password at a time: how many logins are too many at once
/// follows the cores.
fn on_two_cores<T: Send + 'static>(start: impl FnOnce() -> T + Send + 'static) -> T {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    // In a thread of its own, whose cores are those of whatever it starts.
    let started = std::thread::spawn(|| {
        let (all, mut two) = (sched_getaffinity(None).unwrap(), CpuSet::new());
        (0..CpuSet::MAX_CPU).filter(|core| all.is_set(*core)).take(2).for_each(|core| two.set(core));
        sched_setaffinity(None, &two).unwrap();
        start()
    });
    started.join().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_22_sixty_four_logins_at_once() {
    let lab = on_two_cores(|| Lab::start(LOOPBACK));
    let homes: Vec<_> = (0..4).map(|_| lab.join("alice")).collect();
    // A hash has been computed by now, so its memory is in the peak already.
    let before = memory_kib(lab.daemon.child.id(), "VmHWM");
    let answers = at_once(&lab, &homes.iter().collect::<Vec<_>>(), 64, PASSWORD.as_bytes()).await;
    let welcome = answers.iter().filter(|answer| matches!(answer, FromLender::Welcome(_))).count();
    let refused: Vec<_> =
        answers.into_iter().filter(|answer| !matches!(answer, FromLender::Welcome(_))).map(refusal).collect();
    assert!(welcome > 0 && refused.iter().all(|(kind, _)| *kind == ErrorKind::Busy), "{welcome}, {refused:?}");
    assert!(!refused.is_empty(), "all 64 were judged");
    let peak = memory_kib(lab.daemon.child.id(), "VmHWM");
    assert!(peak < before + 32 * 1024, "{before} KiB before, {peak} KiB at most: two were hashed at once");
    lab.wait_for_audit("busy", |line| {
        line["event"] == "login" && line["why"].as_str().is_some_and(|why| why.contains("try again in a moment"))
    });
    // None of them was wrong, so none is held against anybody.
    let mut peer = dial(&lab, &homes[0], "alice").await;
    assert!(matches!(peer.log_in_with(password_login(PASSWORD.as_bytes())).await, FromLender::Welcome(_)));
    still_serves(&lab, &homes[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_24_a_stored_hash_that_asks_for_4_gib() {
    let mut lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    lab.daemon.kill();
    let costly = "$argon2id$v=19$m=4194304,t=3,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    Store::open(&lab.dir().join("state.redb")).unwrap().set_password(&"alice".parse().unwrap(), costly).unwrap();
    let lab = Lab::serve(lab.folder);
    let mut peer = dial(&lab, &home, "alice").await;
    let (kind, text) = refusal(peer.log_in_with(password_login(PASSWORD.as_bytes())).await);
    assert!(kind == ErrorKind::Login && text.contains("not within 19 to 256 MiB"), "{text}");
    let peak = memory_kib(lab.daemon.child.id(), "VmHWM");
    assert!(peak < 64 * 1024, "{peak} KiB: it was refused before it was computed");
    let line = lab.wait_for_verdict("login", "refused");
    assert!(line["why"].as_str().unwrap().contains("set the password again"), "{line}");
    // What the message says mends it.
    let changed = run_with(lab.admin().args(["passwd", "alice", "--password-file", "-"]), PASSWORD);
    assert!(changed.status.success(), "{changed:?}");
    let mut peer = dial(&lab, &home, "alice").await;
    let FromLender::Welcome(welcome) = peer.log_in_with(password_login(PASSWORD.as_bytes())).await else {
        panic!("the new hash is as good as the password");
    };
    assert!(welcome.ticket.is_some());
    let home = lab.join("alice");
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_23_a_password_of_a_mebibyte() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    // As large as a frame may be here, and larger.
    let mut peer = dial(&lab, &home, "alice").await;
    let (kind, text) = refusal(peer.log_in_with(password_login(&[b'x'; 2000])).await);
    assert!(kind == ErrorKind::Login && text.contains("more than 1024 bytes"), "{text}");
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

#[test]
fn a_login_whose_line_cannot_be_written_fails_and_hands_out_no_ticket() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let password = home.password_file(PASSWORD);
    let before = saved_ticket(&home, "alice");
    everything_is_written(&lab);
    let log = lab.dir().join("audit/audit.jsonl");
    let kept = lab.dir().join("kept.jsonl");
    std::fs::rename(&log, &kept).unwrap();
    std::fs::create_dir(&log).unwrap();
    let stderr = fails(home.capuchin().args(["login", "lab", "--password-file"]).arg(&password), 255);
    assert!(stderr.starts_with("error[busy]") && stderr.contains("cannot write its audit log"), "{stderr}");
    assert!(saved_ticket(&home, "alice").ticket.as_bytes() == before.ticket.as_bytes(), "it has a new ticket");
    std::fs::remove_dir(&log).unwrap();
    std::fs::rename(&kept, &log).unwrap();
    run(home.capuchin().args(["login", "lab", "--password-file"]).arg(&password));
    assert!(saved_ticket(&home, "alice").ticket.as_bytes() != before.ticket.as_bytes());
}
