//! What strangers may cost: half-open connections by the thousand, descriptors that run out, chains that are too long.

use std::{
    io::Read,
    net::{Ipv4Addr, SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    process::Command,
    time::{Duration, Instant},
};

use capuchin::{
    lend::owner_name,
    proto::{
        Answer, ErrorKind, Frame, FromBorrower, FromLender, Kind, Listening, Request, Target, TcpListen, UdpBind,
        message,
    },
    trust::tls,
};

use crate::{
    still_serves,
    support::{
        Daemon, LOOPBACK, Lab, PATIENCE,
        clock::Clock,
        costs::{descriptors, memory_kib},
        half_open::{HALF_OPEN, SOURCES, connect_from, half_open, raise_descriptors},
        peer::{ATTACKER, Credentials, HONEST, Peer, frame, password_login, peer_login, saved_ticket, ticket_login},
        run, wait_until,
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

/// Of a daemon with so many descriptors twenty are lent: it keeps the others for itself, and for strangers and admins.
const LENDS_TWENTY: u32 = 548;

/// A lender whose daemon may open so many descriptors.
fn with_descriptors(folder: tempfile::TempDir, most: u32) -> Lab {
    let mut limited = Command::new("sh");
    limited.args(["-c", &format!("ulimit -n {most} && exec \"$0\" serve"), env!("CARGO_BIN_EXE_capuchind")]);
    let daemon = Daemon::spawn(limited.env("CAPUCHIND_DIR", folder.path()));
    let said = daemon.wait_for_line("listens on");
    Lab { address: said.rsplit(' ').next().unwrap().parse().unwrap(), folder, daemon }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_borrower_with_every_socket_there_is_keeps_no_admin_out() {
    let mut lab = Lab::start(LOOPBACK);
    lab.daemon.kill();
    let lab = with_descriptors(lab.folder, LENDS_TWENTY);
    let greedy = lab.join("alice");
    let target = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (forward, local) = greedy.forward(&[&format!("0:{}", target.local_addr().unwrap())]);
    let held: Vec<_> = (0..60).map(|_| std::net::TcpStream::connect(local[0]).unwrap()).collect();
    forward.wait_for_line("as many sockets as it can open");
    lab.wait_for_audit("a connection too many", |line| line["event"] == "tcp-busy");
    // All that it got is still held.
    run(lab.admin().args(["revoke", "--user", "alice"]));
    forward.wait_for_line("error[revoked]");
    drop(held);
    let honest = lab.join("bob");
    run(honest.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
}

/// They wait for the log, which has no room for so many lines, and with each of them a socket would.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_at_once_open_no_sockets_that_are_not_lent() {
    const REQUESTS: u64 = 4_000;
    let policy = format!("{LOOPBACK}udp = \"127.0.0.1:1-65535\"\nlisten = \"127.0.0.1:1024-65535\"\n");
    let mut lab = Lab::start(&policy);
    let home = lab.join("alice");
    lab.daemon.kill();
    let lab = with_descriptors(lab.folder, LENDS_TWENTY);
    let address = "127.0.0.1:0".parse().unwrap();
    let wanted = [
        Request::UdpBind(UdpBind { address, listen: false, v6_only: false }),
        Request::TcpListen(TcpListen { address, backlog: None, v6_only: false, reuse_address: false }),
    ];
    for request in wanted {
        let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
        let request = message::encode_prefixed(&request);
        let requests: Vec<u8> =
            (0..REQUESTS).flat_map(|number| frame(2 * number + 1, Kind::Data, true, false, &request)).collect();
        peer.send(&requests).await;
        let mut lent = 0;
        for _ in 0..REQUESTS {
            let answer = loop {
                if let Frame::Data { payload, .. } = peer.hear().await.expect("an answer")
                    && !payload.is_empty()
                {
                    break payload;
                }
            };
            match message::decode("answer", &answer[4..]).unwrap() {
                Answer::Granted(Listening { .. }) => lent += 1,
                Answer::Refused(refusal) => assert_eq!(refusal.kind(), ErrorKind::Busy, "{}", refusal.text()),
            }
        }
        assert!((15..20).contains(&lent), "{lent}");
    }
    still_serves(&lab, &home).await;
}

/// Begins sessions until the lender has no room for one more; `enter` gives what it answered.
async fn sessions_until_busy<P>(mut enter: impl AsyncFnMut() -> (P, FromLender)) -> Vec<P> {
    let mut held = Vec::new();
    loop {
        match enter().await {
            (peer, FromLender::Welcome(_)) => held.push(peer),
            (_, FromLender::Refusal(refusal)) => {
                assert_eq!(refusal.kind(), ErrorKind::Busy, "{}", refusal.text());
                assert!(refusal.text().contains("as many sockets as it can open"), "{}", refusal.text());
                return held;
            }
            (_, other) => panic!("a welcome or a refusal was expected, not a {}", other.name()),
        }
        assert!(held.len() < LENDS_TWENTY as usize, "{} sessions", held.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_borrower_with_every_session_there_is_keeps_no_admin_out() {
    let mut lab = Lab::start(LOOPBACK);
    lab.daemon.kill();
    let lab = with_descriptors(lab.folder, LENDS_TWENTY);
    let greedy = lab.join("alice");
    let held = sessions_until_busy(async || {
        let config = Credentials::of(&greedy, "alice").config();
        let mut peer = Peer::dial_from(HONEST, lab.address, config, "lab").await.unwrap();
        let login = ticket_login(&saved_ticket(&greedy, "alice"), peer.exporter(tls::Purpose::Login));
        let answer = peer.log_in_with(login).await;
        (peer, answer)
    })
    .await;
    assert!((15..=20).contains(&held.len()), "{} sessions", held.len());
    let line = lab.wait_for_verdict("login", "refused");
    assert!(line["why"].as_str().unwrap().contains("as many sockets"), "{line}");
    // Beside all that is held, as many strangers as are heard or may wait, on both ways in.
    let strangers: Vec<_> =
        (1..=200).map(|number| connect_from(Ipv4Addr::new(127, 0, 29, number), lab.address)).collect();
    let visitors: Vec<_> = (0..100).filter_map(|_| UnixStream::connect(lab.door()).ok()).collect();
    run(lab.admin().args(["user", "list"]));
    run(lab.admin().args(["revoke", "--user", "alice"]));
    for mut peer in held {
        assert_eq!(peer.hear_goaway().await.kind, ErrorKind::Revoked);
    }
    drop((strangers, visitors));
    let honest = lab.join("bob");
    run(honest.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
}

/// Whom no rule names has sessions all the same, with nothing in them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_of_this_machine_with_every_session_there_is_keeps_no_admin_out() {
    let mut lab = Lab::start(LOOPBACK);
    lab.daemon.kill();
    let lab = with_descriptors(lab.folder, LENDS_TWENTY);
    let held = sessions_until_busy(async || {
        let mut peer = Peer::knock(&lab.door()).await;
        let answer = peer.log_in_with(peer_login(None)).await;
        (peer, answer)
    })
    .await;
    assert!((15..=20).contains(&held.len()), "{} sessions", held.len());
    run(lab.admin().args(["revoke", "--user", owner_name().0.as_str()]));
    for mut peer in held {
        assert_eq!(peer.hear_goaway().await.kind, ErrorKind::Revoked);
    }
    let honest = lab.join("bob");
    run(honest.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
}

/// How many connections wait in the kernel's queue of who listens there (proc_net_tcp(5): of a listener, `rx_queue`).
fn queued(address: SocketAddr) -> usize {
    let SocketAddr::V4(address) = address else { panic!("an IPv4 address") };
    let local = format!("{:08X}:{:04X}", u32::from(*address.ip()).swap_bytes(), address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let fields = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listener = fields.into_iter().find(|fields| fields.get(1) == Some(&local.as_str()) && fields[3] == "0A");
    listener.map_or(0, |fields| usize::from_str_radix(fields[4].rsplit(':').next().unwrap(), 16).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn visitors_of_a_listener_wait_in_the_kernel_once_all_that_is_lent_is_taken() {
    const VISITORS: usize = 100;
    let policy = format!("{LOOPBACK}listen = \"127.0.0.1:1024-65535\"\n");
    let mut lab = Lab::start(&policy);
    lab.daemon.kill();
    let lab = with_descriptors(lab.folder, LENDS_TWENTY);
    let home = lab.join("alice");
    let before = descriptors(lab.daemon.child.id());
    let target = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let forward = format!("127.0.0.1:0:{}", target.local_addr().unwrap());
    let forward = Daemon::spawn(home.capuchin().args(["forward", "lab", "-N", "-R", &forward]));
    let line = forward.wait_for_line("Forwarding ");
    let at: SocketAddr = line.split(' ').nth(1).unwrap().parse().unwrap();
    let visitors: Vec<_> = (0..VISITORS).map(|_| connect_from(ATTACKER, at)).collect();
    wait_until("those without a descriptor wait in the kernel", || queued(at) >= VISITORS - 20);
    let more = descriptors(lab.daemon.child.id()).saturating_sub(before);
    assert!(more <= 20, "{more} descriptors for a session, a listener and its visitors");
    // Strangers are heard, and told why there is no room; the admin has his way in.
    let said = crate::support::fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]), 2);
    assert!(said.contains("as many sockets as it can open"), "{said}");
    run(lab.admin().args(["revoke", "--user", "alice"]));
    forward.wait_for_line("error[revoked]");
    drop(visitors);
    let honest = lab.join("bob");
    run(honest.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_27_no_descriptor_left_to_accept_with() {
    let mut lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    lab.daemon.kill();
    // Room for some forty connections beside what the daemon has open anyhow.
    let lab = with_descriptors(lab.folder, 64);
    still_serves(&lab, &home).await;

    // Each from elsewhere, so that none waits for its share.
    let sources = (1..=90).map(|number| Ipv4Addr::new(127, 0, 27, number));
    let flood: Vec<_> = sources.map(|source| connect_from(source, lab.address)).collect();
    let line = lab.wait_for_audit("the full table", |line| line["event"] == "accept-failed");
    assert!(line["why"].as_str().unwrap().contains("Too many open files"), "{line}");
    drop(flood);
    still_serves(&lab, &home).await;
    run(lab.admin().args(["user", "list"]));
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
