//! Before the login: certificates, versions, protocols, garbage.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use capuchin::{
    proto::{ErrorKind, FromLender},
    trust::{UnixTime, authority::Authority, request::SubjectKey, request::new_key, tls},
};
use rustls::pki_types::CertificateDer;

use crate::{
    still_serves,
    support::{
        Home, LOOPBACK, Lab, PATIENCE,
        clock::Clock,
        half_open::connect_from,
        peer::{Credentials, Peer},
        run, text, wait_until,
    },
};

const DAY: Duration = Duration::from_secs(86400);

/// The lender's own CA, as only the lender has it.
fn authority(lab: &Lab) -> Authority {
    let ca = capuchin::trust::pem::certificates(&std::fs::read(lab.dir().join("ca.crt")).unwrap()).unwrap().remove(0);
    Authority::load(&std::fs::read(lab.dir().join("ca.key")).unwrap(), ca).unwrap()
}

/// A client certificate for alice of this authority and time.
fn certificate(authority: &Authority, at: UnixTime) -> (Vec<CertificateDer<'static>>, String) {
    let key = new_key().unwrap();
    let subject = SubjectKey::of_key(key.as_bytes()).unwrap();
    (vec![authority.issue_client(&"alice".parse().unwrap(), &subject, at).unwrap()], key.to_string())
}

/// The lender must not greet this client, and must say in its log why.
async fn refused_certificate(lab: &Lab, home: &Home, chain: Vec<CertificateDer<'static>>, key: &str, why: &str) {
    let ca = Credentials::of(home, "alice").ca;
    let config = tls::borrower_config(&ca, chain, key.as_bytes()).unwrap();
    if let Ok(mut peer) = Peer::dial(lab.address, config, "lab").await {
        assert_eq!(peer.hear().await, None, "a greeting would mean that the certificate was accepted");
    }
    lab.wait_for_audit(why, |line| line["event"] == "handshake-refused" && line["why"].as_str().unwrap().contains(why));
    still_serves(lab, home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_01_no_certificate() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(Credentials::of(&home, "alice").ca).unwrap();
    // Two providers are built in, so none is the process's own.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![tls::ALPN.to_vec()];
    if let Ok(mut peer) = Peer::dial(lab.address, config, "lab").await {
        assert_eq!(peer.hear().await, None);
    }
    lab.wait_for_audit("no certificate", |line| {
        line["event"] == "handshake-refused" && line["why"].as_str().unwrap().contains("no certificates")
    });
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_02_another_ca_with_the_same_name() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (chain, key) = certificate(&Authority::create(UnixTime::now()).unwrap(), UnixTime::now());
    refused_certificate(&lab, &home, chain, &key, "BadSignature").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_03_an_expired_certificate() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (chain, key) = certificate(&authority(&lab), UnixTime::now().minus(100 * DAY));
    refused_certificate(&lab, &home, chain, &key, "expired").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_04_a_certificate_that_is_not_yet_valid() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (chain, key) = certificate(&authority(&lab), UnixTime::now().plus(DAY));
    refused_certificate(&lab, &home, chain, &key, "not valid yet").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_05_a_server_certificate_used_by_a_client() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let read = |name| std::fs::read(lab.dir().join(name)).unwrap();
    let chain = capuchin::trust::pem::certificates(&read("server.crt")).unwrap();
    let key = text(read("server.key"));
    refused_certificate(&lab, &home, chain, &key, "extended key usage").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_06_a_client_certificate_used_by_a_lender() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (chain, key) = certificate(&authority(&lab), UnixTime::now());
    imposter(&home, chain, key.as_bytes(), "does not allow extended key usage for server authentication").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_07_a_lender_of_another_name() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let key = new_key().unwrap();
    let subject = SubjectKey::of_key(key.as_bytes()).unwrap();
    let chain = vec![authority(&lab).issue_server(&"other".parse().unwrap(), &subject, UnixTime::now()).unwrap()];
    imposter(&home, chain, key.as_bytes(), "not valid for name").await;
}

/// Serves with this certificate in the lender's place: the borrower's command must break off in the handshake, and say this about it.
async fn imposter(home: &Home, chain: Vec<CertificateDer<'static>>, key: &[u8], why: &str) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = tls::join_config(chain, key).unwrap();
    let mut config = rustls::ServerConfig::clone(&config);
    config.alpn_protocols = vec![tls::ALPN.to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (met_tx, met_rx) = std::sync::mpsc::channel();
    let server = tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            met_tx.send(acceptor.accept(socket).await.is_ok()).unwrap();
        }
    });
    let settings = home.profile().join("lender.toml");
    let old = std::fs::read_to_string(&settings).unwrap();
    let lines = old.lines().map(|line| match line.starts_with("addresses") {
        true => format!("addresses = [\"{address}\"]"),
        false => line.to_owned(),
    });
    std::fs::write(&settings, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let mut command = home.capuchin();
    command.args(["check", "lab", "connect", "127.0.0.1:1"]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = text(output.stderr);
    assert!(stderr.starts_with("error[identity]") && stderr.contains(why), "{stderr}");
    assert!(!met_rx.recv_timeout(PATIENCE).unwrap(), "the handshake was not broken off");
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_08_tls_1_2() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let output = Command::new("openssl")
        .args(["s_client", "-tls1_2", "-alpn", "capuchin/1", "-connect", &lab.address.to_string()])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = text([output.stdout, output.stderr].concat());
    assert!(!output.status.success() && said.contains("alert protocol version"), "{said}");
    lab.wait_for_audit("TLS 1.2", |line| line["event"] == "handshake-refused");
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_09_no_or_a_wrong_alpn() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    for (protocols, why) in [(vec![], "no protocol"), (vec![b"h2".to_vec()], "any known protocol")] {
        let mut config = Credentials::of(&home, "alice").config();
        config.alpn_protocols = protocols;
        if let Ok(mut peer) = Peer::dial(lab.address, config, "lab").await {
            assert_eq!(peer.hear().await, None, "greeted without the protocol");
        }
        lab.wait_for_audit(why, |line| {
            line["event"] == "handshake-refused" && line["why"].as_str().unwrap().to_lowercase().contains(why)
        });
    }
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_10_http_ssh_and_garbage() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let garbage: Vec<u8> = (0..2000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let hellos: [&[u8]; 3] = [b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", &garbage];
    for (count, hello) in hellos.iter().enumerate() {
        // Each from elsewhere: two of them from one address close the door to it.
        let mut socket = connect_from(Ipv4Addr::new(127, 0, 10, count as u8 + 1), lab.address);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(hello).unwrap();
        let mut answer = Vec::new();
        // Either an orderly end or a reset; what was sent back is at most a TLS alert.
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.len() <= 7, "{answer:?}");
        lab.wait_for_audit("garbage", |_| {
            lab.audit().iter().filter(|line| line["event"] == "handshake-refused").count() > count
        });
    }
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_11_renegotiation() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    // A second ClientHello in an established connection is what a renegotiation would be: an alert, and the end.
    let mut peer = Peer::dial(lab.address, Credentials::of(&home, "alice").config(), "lab").await.unwrap();
    peer.hear().await.expect("the greeting");
    let (socket, _) = peer.tls.get_mut();
    let mut hello = rustls::ClientConnection::new(
        Arc::new(Credentials::of(&home, "alice").config()),
        tls::server_name(&"lab".parse().unwrap()),
    )
    .unwrap();
    let mut raw = Vec::new();
    hello.write_tls(&mut raw).unwrap();
    tokio::io::AsyncWriteExt::write_all(socket, &raw).await.unwrap();
    assert_eq!(peer.hear().await, None, "the connection must end");
    let line = lab.wait_for_verdict("login", "refused");
    assert_eq!(line["user"], "alice", "{line}");
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_11_key_updates_without_end() {
    // What is left of renegotiation in TLS 1.3: each update asks for one in return, and costs both ends a key.
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let mut peer = Peer::dial(lab.address, Credentials::of(&home, "alice").config(), "lab").await.unwrap();
    peer.hear().await.expect("the greeting");
    for _ in 0..200 {
        peer.tls.get_mut().1.refresh_traffic_keys().unwrap();
    }
    peer.send(b"").await;
    assert_eq!(peer.hear().await, None, "the connection must end");
    let line = lab.wait_for_verdict("login", "refused");
    assert!(line["why"].as_str().unwrap().contains("KeyUpdate"), "{line}");
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_13_resumption_after_a_revocation() {
    let lab = Lab::start(LOOPBACK);
    let (alice, bob) = (lab.join("alice"), lab.join("bob"));
    let mut config = Credentials::of(&bob, "bob").config();
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    // Cloned, the memory is shared: the second handshake would resume what the first one left.
    let mut peer = Peer::dial(lab.address, config.clone(), "lab").await.unwrap();
    peer.hear_message().await.expect("the greeting");
    run(lab.admin().args(["user", "remove", "bob"]));
    let mut peer = Peer::dial(lab.address, config, "lab").await.unwrap();
    let Some(FromLender::Refusal(refusal)) = peer.hear_message().await else { panic!("a refusal") };
    assert_eq!(refusal.kind(), ErrorKind::Revoked, "{}", refusal.text());
    assert_eq!(peer.tls.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Full));
    let line = lab.wait_for_verdict("login", "refused");
    assert_eq!(line["user"], "bob");
    still_serves(&lab, &alice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_12_early_data() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let mut config = Credentials::of(&home, "alice").config();
    config.enable_early_data = true;
    config.resumption = rustls::client::Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    for _ in 0..2 {
        let mut peer = Peer::dial(lab.address, rustls::ClientConfig::clone(&config), "lab").await.unwrap();
        peer.hear().await.expect("the greeting");
        let session = peer.tls.get_ref().1;
        assert!(!session.is_early_data_accepted());
        assert_eq!(session.tls13_tickets_received(), 0, "without tickets there is nothing to resume or to send early");
        assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
    still_serves(&lab, &home).await;
}

/// Whether the lender has closed it; nothing is waited for.
fn is_closed(mut socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    !matches!(socket.read(&mut [0; 64]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_25_a_slow_handshake() {
    let clock = Clock::new();
    let lab = clock.serve(Lab::start(LOOPBACK));
    let home = lab.join("alice");
    clock.stop();
    // As many as one source has places, and more that wait for one.
    let mut slow: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(lab.address).unwrap()).collect();
    for socket in &mut slow {
        socket.write_all(&[0x16, 0x03, 0x01]).unwrap();
    }
    // Others are served meanwhile.
    still_serves(&lab, &home).await;
    clock.pass(Duration::from_secs(4), async || still_serves(&lab, &home).await).await;
    assert!(!slow.iter().any(is_closed), "each has five seconds");
    clock.pass(Duration::from_secs(2), async || still_serves(&lab, &home).await).await;
    wait_until("those that had a place are cut", || slow[..8].iter().all(is_closed));
    // Those that got a place by that have five seconds, too.
    clock.go_on();
    wait_until("the others are cut", || slow.iter().all(is_closed));
    lab.wait_for_audit("slow", |line| {
        line["event"] == "handshake-refused" && line["why"].as_str().unwrap().contains("took too long")
    });
    run(lab.admin().args(["user", "list"]));
}

/// A socket for both families has the kernel tell of `::ffff:127.0.0.1`.
#[test]
fn an_ipv4_peer_is_told_as_one_where_the_lender_listens_for_both_families() {
    let mut lab = Lab::start(LOOPBACK);
    lab.daemon.kill();
    let settings = lab.dir().join("lender.toml");
    let both = std::fs::read_to_string(&settings).unwrap().replace("127.0.0.1:0", "[::]:0");
    std::fs::write(&settings, both).unwrap();
    let lab = Lab::serve(lab.folder);
    let mut stranger = TcpStream::connect((Ipv4Addr::LOCALHOST, lab.address.port())).unwrap();
    stranger.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let line = lab.wait_for_audit("the handshake", |line| line["event"] == "handshake-refused");
    assert_eq!(line["peer"], stranger.local_addr().unwrap().to_string());
}
