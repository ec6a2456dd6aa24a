//! Descriptors that run out: whoever has taken all of them, the daemon has its own, and so have strangers and admins.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    process::Command,
};

use capuchin::{
    lend::owner_name,
    proto::{Answer, ErrorKind, Frame, FromLender, Kind, Listening, Request, TcpListen, UdpBind, message},
    trust::tls,
};

use crate::{
    still_serves,
    support::{
        Daemon, LOOPBACK, Lab,
        costs::descriptors,
        half_open::connect_from,
        peer::{ATTACKER, Credentials, HONEST, Peer, frame, peer_login, saved_ticket, ticket_login},
        run, wait_until,
    },
};

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

/// A lender that is started anew with twenty descriptors to lend.
fn lending_twenty(policy: &str) -> Lab {
    let mut lab = Lab::start(policy);
    lab.daemon.kill();
    with_descriptors(lab.folder, LENDS_TWENTY)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_borrower_with_every_socket_there_is_keeps_no_admin_out() {
    let lab = lending_twenty(LOOPBACK);
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
    let lab = lending_twenty(&policy);
    let home = lab.join("alice");
    let address = "127.0.0.1:0".parse().unwrap();
    let wanted = [
        Request::UdpBind(UdpBind { address, listen: false, v6_only: false }),
        Request::TcpListen(TcpListen { address, backlog: None, v6_only: false, reuse_address: false }),
    ];
    for (turn, request) in (1..).zip(wanted) {
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
        drop(peer);
        // With the session's line in the log, all that it had borrowed has been given back.
        let honest = HONEST.to_string();
        lab.wait_for_audits("the end of its session", turn, |line| {
            line["event"] == "session-ended" && line["peer"].as_str().unwrap().starts_with(&honest)
        });
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
    let lab = lending_twenty(LOOPBACK);
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
    let lab = lending_twenty(LOOPBACK);
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
    let lab = lending_twenty(&policy);
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
