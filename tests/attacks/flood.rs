//! What strangers may cost: half-open connections by the thousand, chains that are too long, wrong passwords.

use std::{
    io::Read,
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use capuchin::{
    proto::{ErrorKind, Frame, FromBorrower, FromLender, Kind, Request, Target, message},
    trust::tls,
};

use crate::{
    still_serves,
    support::{
        LOOPBACK, Lab, PATIENCE,
        clock::Clock,
        costs::{descriptors, memory_kib},
        half_open::{HALF_OPEN, SOURCES, connect_from, half_open, raise_descriptors},
        peer::{ATTACKER, Credentials, HONEST, Peer, frame, password_login, saved_ticket, ticket_login},
        run,
    },
};

/// Whether the lender closes it without a word.
fn hears_an_end(mut socket: TcpStream) -> bool {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    match socket.read(&mut [0; 64]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// What the lender holds of the flood: the share of each source, and 64 that wait, one descriptor each. The rest is for the
/// honest, and for what a look-up or a file needs for a moment.
const DESCRIPTORS_IN_FLOOD: usize = SOURCES as usize * 8 + 64 + 16;
/// What it may hold more after a flood than before, in KiB: the allocator keeps what some hundred handshakes needed.
const MEMORY_AFTER_KIB: u64 = 16 * 1024;

/// While the lender's clock stands still, nothing that the flood holds can end by itself, and nothing at the lender can wait
/// for a time: who is served is served beside it, and after 0 s of that clock. How long that is by a real one says
/// `cargo bench --bench flood`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_26_ten_thousand_half_open_connections() {
    raise_descriptors();
    let clock = Clock::new();
    let lab = clock.serve(Lab::start(LOOPBACK));
    let home = lab.join("alice");
    // Twice, so that what the first login allocates is not taken for a leak.
    still_serves(&lab, &home).await;
    still_serves(&lab, &home).await;
    let (descriptors_before, memory_before) =
        (descriptors(lab.daemon.child.id()), memory_kib(lab.daemon.child.id(), "VmRSS"));
    clock.stop();

    let mut open = Vec::with_capacity(HALF_OPEN);
    for number in 0..HALF_OPEN {
        open.push(half_open(number, lab.address));
        if number % 500 == 499 {
            still_serves(&lab, &home).await;
        }
    }
    // With each of them open, and again.
    assert_eq!(open.len(), HALF_OPEN);
    for _ in 0..3 {
        still_serves(&lab, &home).await;
    }
    let more = descriptors(lab.daemon.child.id()) - descriptors_before;
    let expected = usize::from(SOURCES)..=DESCRIPTORS_IN_FLOOD;
    assert!(expected.contains(&more), "{more} descriptors more: each source still has its share, and no more");
    let memory = memory_kib(lab.daemon.child.id(), "VmHWM");
    assert!(memory < memory_before + 32 * 1024, "{memory} KiB in the flood, {memory_before} KiB before");

    // Those that got a place are cut after five seconds, and then their source is not heard at all.
    clock.go_on();
    clock.pass(Duration::from_secs(6), async || still_serves(&lab, &home).await).await;
    lab.wait_for_audit("the deadline", |line| {
        line["event"] == "handshake-refused" && line["why"].as_str().unwrap().contains("took too long")
    });
    let line = lab.wait_for_audit("the penalty", |line| line["event"] == "source-penalised");
    let penalised = line["peer"].as_str().unwrap().strip_suffix("/32").unwrap().parse::<Ipv4Addr>().unwrap();
    assert!(penalised.octets().starts_with(&[127, 0, 26]), "{line}");
    assert!(hears_an_end(connect_from(penalised, lab.address)));
    lab.wait_for_audit("the closed ones", |line| line["event"] == "connections-closed");
    drop(open);

    let end = Instant::now() + PATIENCE;
    while descriptors(lab.daemon.child.id()) > descriptors_before {
        assert!(
            Instant::now() < end,
            "{} descriptors, {descriptors_before} before",
            descriptors(lab.daemon.child.id())
        );
        still_serves(&lab, &home).await;
    }
    let memory = memory_kib(lab.daemon.child.id(), "VmRSS");
    assert!(memory < memory_before + MEMORY_AFTER_KIB, "{memory} KiB, {memory_before} KiB before");
    let lines = lab.audit().len();
    assert!(lines < 1000, "a flood of 10,000 gave {lines} audit lines");
    still_serves(&lab, &home).await;
}

/// While the clock stands still, the log waits for more lines before it writes the first, as it would for a disk that hangs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_written_holds_up_nobody_who_comes() {
    /// More than wait for the log at once, at two lines each.
    const REQUESTS: u64 = 1_200;
    let clock = Clock::new();
    let lab = clock.serve(Lab::start(LOOPBACK));
    let home = lab.join("alice");
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    clock.stop();
    let nobody = Request::TcpConnect(Target { host: "127.0.0.1".into(), port: 1 });
    let request = message::encode_prefixed(&nobody);
    for number in 0..REQUESTS {
        peer.send(&frame(2 * number + 1, Kind::Data, true, true, &request)).await;
    }
    // As many as have an answer have room in the log, and the others wait for it.
    for _ in 0..500 {
        while !matches!(peer.hear().await.expect("a live session"), Frame::Data { .. }) {}
    }
    let strangers: Vec<_> = (0..300).map(|_| connect_from(Ipv4Addr::new(127, 0, 0, 9), lab.address)).collect();
    // Heard at once, and let in once their lines are in the log.
    let mut honest = Vec::new();
    for _ in 0..3 {
        let config = Credentials::of(&home, "alice").config();
        let mut peer = Peer::dial_from(HONEST, lab.address, config, "lab").await.unwrap();
        let login = ticket_login(&saved_ticket(&home, "alice"), peer.exporter(tls::Purpose::Login));
        peer.greet().await;
        assert!(matches!(peer.hear_message().await, Some(FromLender::Greeting(_))), "it is not heard");
        peer.say(&FromBorrower::Login(login)).await;
        honest.push(peer);
    }
    drop(strangers);
    assert!(!lab.audit().iter().any(|line| line["event"] == "connections-closed"), "it has not been written");
    clock.go_on();
    for peer in &mut honest {
        assert!(matches!(peer.hear_message().await, Some(FromLender::Welcome(_))), "it is not let in");
    }
    let closed = lab.wait_for_audit("those who were not heard", |line| line["event"] == "connections-closed");
    assert!(closed["count"].as_u64().is_some_and(|count| count > 0), "{closed}");
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_28_a_certificate_chain_of_64_kib() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let own = Credentials::of(&home, "alice");
    let chain_of = |bytes: usize| {
        let mut chain = own.chain.clone();
        chain.resize(1 + bytes / own.ca.len(), own.ca.clone());
        tls::borrower_config(&own.ca, chain, &own.key_pem).unwrap()
    };
    // Below the limit the same certificate is good, however it is padded.
    let mut peer = Peer::dial(lab.address, chain_of(12 * 1024), "lab").await.unwrap();
    peer.hear_message().await.expect("the greeting");
    // Above it the lender says so; above what TLS takes, the handshake ends.
    let mut peer = Peer::dial(lab.address, chain_of(20 * 1024), "lab").await.unwrap();
    let goaway = peer.hear_goaway().await;
    assert_eq!(goaway.kind, ErrorKind::Protocol);
    assert!(goaway.text.contains("the limit is 16384"), "{}", goaway.text);
    let line = lab.wait_for_verdict("login", "refused");
    assert!(line["why"].as_str().unwrap().contains("certificate chain"), "{line}");
    if let Ok(mut peer) = Peer::dial(lab.address, chain_of(64 * 1024 + own.ca.len()), "lab").await {
        assert_eq!(peer.hear().await, None, "a greeting would mean that the chain was accepted");
    }
    lab.wait_for_audit("the handshake", |line| line["event"] == "handshake-refused");
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_passwords_close_the_door_to_their_address_and_to_no_other() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let config = || Credentials::of(&home, "alice").config();
    for _ in 0..4 {
        let mut peer = Peer::dial(lab.address, config(), "lab").await.unwrap();
        peer.log_in_with(password_login(b"a wrong password")).await;
    }
    let line = lab.wait_for_audit("the penalty", |line| line["event"] == "source-penalised");
    assert_eq!(line["peer"], "127.0.0.1/32");
    let why = line["why"].as_str().unwrap();
    assert!(why.ends_with("it came with a wrong certificate, password, ticket or join line"), "{why}");
    assert!(Peer::dial(lab.address, config(), "lab").await.is_err(), "it is closed before it is heard");
    // The command says what may be the matter.
    let stderr = crate::support::fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]), 2);
    assert!(stderr.contains("error[unreachable]") && stderr.contains("failed logins"), "{stderr}");
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_reset_or_end_after_a_good_certificate_cost_nothing() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    for _ in 0..20 {
        drop(connect_from(ATTACKER, lab.address));
        let mut peer = Peer::dial(lab.address, Credentials::of(&home, "alice").config(), "lab").await.unwrap();
        peer.hear_message().await.expect("the greeting");
    }
    // From the same address.
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
    assert!(!lab.audit().iter().any(|line| line["event"] == "source-penalised"));
}
