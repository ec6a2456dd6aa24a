//! UDP sockets that are lent: datagrams arrive whole and with their true addresses, errors name their destination, and what
//! the policy does not allow is neither sent nor heard.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
};

use capuchin::{BorrowError, Borrower, proto::ErrorKind};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    listen::session,
    pattern,
    support::{
        PATIENCE,
        ports::{ClosedUdpPort, ListedUdpSocket},
        run,
    },
};

/// Alice may send to any port of loopback, and be reached there.
const UDP: &str = concat!(
    "[[allow]]\nwho = [\"alice\", \"bob\"]\nudp = [\"127.0.0.0/8:1024-65535\", \"[::1]:1024-65535\"]\n",
    "listen = [\"127.0.0.1:1024-65535/udp\", \"[::1]:1024-65535/udp\"]\n"
);

/// Somebody at the lender's side, who waits for no longer than a test may.
fn there(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn heard(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_535];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(length);
    (buffer, from)
}

async fn received(socket: &capuchin::UdpSocket) -> Result<(Vec<u8>, SocketAddr), BorrowError> {
    let mut buffer = vec![0; 65_535];
    let (length, from) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.expect("a datagram")?;
    buffer.truncate(length);
    Ok((buffer, from))
}

fn errno(error: &BorrowError) -> Option<u16> {
    error.errno().map(|errno| errno.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_of_every_length_go_there_and_back_in_both_families() {
    let (lab, _home, borrower) = session(UDP).await;
    for (bind, peer) in [("0.0.0.0:0", "127.0.0.1:0"), ("[::]:0", "[::1]:0"), ("[::]:0", "127.0.0.1:0")] {
        let (socket, server) = (borrower.udp_bind(bind).await.unwrap(), there(peer));
        let server_address = server.local_addr().unwrap();
        for length in [0, 1, 1200, 9000, 65_507, 65_507] {
            let payload = pattern(length, length as u64);
            assert_eq!(socket.send_to(&payload, server_address).await.unwrap(), length);
            let (heard, from) = heard(&server);
            assert_eq!((heard == payload, from.port()), (true, socket.local_addr().port()), "{length}");
            server.send_to(&payload, from).unwrap();
            let (answer, from) = received(&socket).await.unwrap();
            assert_eq!((answer == payload, from), (true, server_address), "{length}");
        }
        let line = lab.wait_for_audit("one line for the destination", |line| {
            line["event"] == "udp-send" && line["target"] == server_address.to_string()
        });
        assert_eq!((&line["verdict"], line["rule"].is_string()), (&"granted".into(), true));
        let port = socket.local_addr().port();
        drop(socket);
        lab.wait_for_audit("its end", |line| {
            let target = line["target"].as_str().unwrap_or_default();
            line["event"] == "udp-closed" && target.ends_with(&format!(":{port}")) && line["bytes_out"] == 141_215
        });
    }
    let lines = lab.audit().into_iter().filter(|line| line["event"] == "udp-send").count();
    assert_eq!(lines, 3, "a line for each destination, and not for each datagram");
    let error = borrower.udp_bind("0.0.0.0:0").await.unwrap();
    let too_long = error.send_to(&[0; 65_508], "127.0.0.1:9".parse().unwrap()).await.unwrap_err();
    assert_eq!(errno(&too_long), Some(90), "EMSGSIZE");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_port_is_refused_by_its_address_and_the_socket_stays_good() {
    let (_lab, _home, borrower) = session(UDP).await;
    for (bind, peer) in [("0.0.0.0:0", "127.0.0.1"), ("[::]:0", "::1"), ("[::]:0", "127.0.0.1")] {
        let port = ClosedUdpPort::at(peer);
        let closed = port.address;
        let (socket, open) =
            (borrower.udp_bind(bind).await.unwrap(), there(&SocketAddr::new(closed.ip(), 0).to_string()));
        for _ in 0..3 {
            socket.send_to(b"anybody?", closed).await.unwrap();
            let error = received(&socket).await.unwrap_err();
            assert_eq!(errno(&error), Some(111), "ECONNREFUSED: {error}");
            assert!(error.to_string().contains(&closed.to_string()), "{error}");
            socket.send_to(b"you", open.local_addr().unwrap()).await.unwrap();
            assert_eq!(heard(&open).0, b"you");
        }
    }
    let socket = borrower.udp_bind("127.0.0.1:0").await.unwrap();
    socket.send_to(b"x", "[::1]:5353".parse().unwrap()).await.unwrap();
    assert_eq!(errno(&received(&socket).await.unwrap_err()), Some(97), "EAFNOSUPPORT");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_that_is_connected_to_an_address_of_ipv4_within_ipv6_hears_from_it() {
    let (_lab, _home, borrower) = session(UDP).await;
    let (socket, peer) = (borrower.udp_bind("[::]:0").await.unwrap(), there("127.0.0.1:0"));
    let SocketAddr::V4(address) = peer.local_addr().unwrap() else { panic!("IPv4") };
    socket.connect(SocketAddr::from((address.ip().to_ipv6_mapped(), address.port())));
    socket.send(b"question").await.unwrap();
    let (_, from) = heard(&peer);
    peer.send_to(b"answer", from).unwrap();
    let mut buffer = [0; 64];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    assert_eq!(&buffer[..length], b"answer");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connected_socket_hears_only_from_its_peer() {
    let (_lab, _home, borrower) = session(UDP).await;
    let (socket, peer, other) =
        (borrower.udp_bind("127.0.0.1:0").await.unwrap(), there("127.0.0.1:0"), there("127.0.0.1:0"));
    assert!(socket.peer_addr().is_err() && socket.send(b"x").await.is_err());
    socket.send_to(b"to the other", other.local_addr().unwrap()).await.unwrap();
    socket.connect(peer.local_addr().unwrap());
    assert_eq!(socket.peer_addr().unwrap(), peer.local_addr().unwrap());
    socket.send(b"to the peer").await.unwrap();
    let ((_, from), (said, _)) = (heard(&peer), heard(&other));
    assert_eq!(said, b"to the other");
    other.send_to(b"unheard", from).unwrap();
    peer.send_to(b"heard", from).unwrap();
    let mut buffer = [0; 3];
    assert_eq!(timeout(PATIENCE, socket.recv(&mut buffer)).await.unwrap().unwrap(), 3, "cut to the buffer");
    assert_eq!(&buffer, b"hea");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_listens_is_reached_by_strangers_and_answers_them() {
    let (lab, _home, borrower) = session(UDP).await;
    for loopback in ["127.0.0.1", "[::1]"] {
        let socket = borrower.udp_listen(format!("{loopback}:0")).await.unwrap();
        let stranger = there(&format!("{loopback}:0"));
        stranger.send_to(b"good day", socket.local_addr()).unwrap();
        let (said, from) = received(&socket).await.unwrap();
        assert_eq!((said.as_slice(), from), (&b"good day"[..], stranger.local_addr().unwrap()));
        socket.send_to(b"and to you", from).await.unwrap();
        assert_eq!(heard(&stranger), (b"and to you".to_vec(), socket.local_addr()));
        let again = borrower.udp_bind(socket.local_addr().to_string()).await.err().unwrap();
        assert_eq!((again.kind(), errno(&again)), (ErrorKind::Target, Some(98)), "EADDRINUSE: {again}");
    }
    lab.wait_for_verdict("udp-bind", "granted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_policy_refuses_is_not_sent_and_is_explained() {
    let allowed = there("127.0.0.1:0");
    let policy = format!("[[allow]]\nwho = \"alice\"\nudp = \"{}\"\n", allowed.local_addr().unwrap());
    let (lab, _home, borrower) = session(&policy).await;
    let (socket, denied) = (borrower.udp_bind("0.0.0.0:0").await.unwrap(), there("127.0.0.1:0"));
    let denied_address = denied.local_addr().unwrap();
    socket.send_to(b"no", denied_address).await.unwrap();
    let error = received(&socket).await.unwrap_err();
    assert_eq!((error.kind(), errno(&error)), (ErrorKind::Policy, Some(13)), "{error}");
    assert!(error.to_string().contains(&format!("udp {denied_address} is refused")), "{error}");
    assert!(error.notes().join("\n").contains("capuchind allow alice udp"), "{:?}", error.notes());
    let line = lab.wait_for_audit("the refusal", |line| line["event"] == "udp-send" && line["verdict"] == "refused");
    assert_eq!(line["target"], denied_address.to_string());
    // Told once with its reasons, afterwards by its number.
    socket.send_to(b"no", denied_address).await.unwrap();
    assert_eq!(errno(&received(&socket).await.unwrap_err()), Some(13));
    socket.send_to(b"yes", allowed.local_addr().unwrap()).await.unwrap();
    assert_eq!(heard(&allowed).0, b"yes");
    denied.set_nonblocking(true).unwrap();
    assert!(denied.recv(&mut [0; 8]).is_err(), "what came after it has arrived, and it has not");
    let error = borrower.udp_bind("127.0.0.1:5353").await.err().unwrap();
    assert_eq!((error.kind(), errno(&error)), (ErrorKind::Policy, Some(13)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_policy_takes_destinations_and_ports_and_a_cut_takes_the_socket() {
    let (lab, _home, borrower) = session(UDP).await;
    let (server, socket) = (there("127.0.0.1:0"), borrower.udp_bind("127.0.0.1:0").await.unwrap());
    let listening = borrower.udp_listen("127.0.0.1:0").await.unwrap();
    let lent = ListedUdpSocket::at(listening.local_addr());
    let server_address = server.local_addr().unwrap();
    socket.send_to(b"before", server_address).await.unwrap();
    assert_eq!(heard(&server).0, b"before");
    let other = "[[allow]]\nwho = \"alice\"\nudp = \"127.0.0.1:1\"\n";
    std::fs::write(lab.dir().join("policy.toml"), other).unwrap();
    let error = received(&listening).await.unwrap_err();
    assert_eq!(errno(&error), Some(13), "the port is taken back: {error}");
    assert!(!lent.is_open());
    // What listened went with the new policy, so that it is in force for the destination as well.
    socket.send_to(b"after", server_address).await.unwrap();
    let error = received(&socket).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Policy, "{error}");
    server.send_to(b"too late", socket.local_addr()).unwrap();
    run(lab.admin().args(["cut", &borrower.session_id().to_string()]));
    assert!(received(&socket).await.is_err(), "nothing came in from there");
    lab.wait_for_audit("its end", |line| line["event"] == "udp-closed" && line["bytes_out"] == 0);
}

/// A reader that does not read costs datagrams, and neither memory nor the session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_that_nobody_takes_are_dropped() {
    let (_lab, _home, borrower) = session(UDP).await;
    let (server, socket) = (there("127.0.0.1:0"), borrower.udp_bind("127.0.0.1:0").await.unwrap());
    socket.send_to(b"begin", server.local_addr().unwrap()).await.unwrap();
    let (_, from) = heard(&server);
    let flood = tokio::task::spawn_blocking(move || {
        for number in 0..20_000_u32 {
            server.send_to(&[&number.to_be_bytes()[..], &[0; 996]].concat(), from).unwrap();
        }
        server
    });
    let server = flood.await.unwrap();
    // Behind the flood, and again and again: as long as all room is taken it is dropped as well.
    let last = tokio::spawn(async move {
        loop {
            server.send_to(b"still here", from).unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    let mut taken = 0;
    while timeout(PATIENCE, received(&socket)).await.unwrap().unwrap().0 != b"still here" {
        taken += 1;
    }
    last.abort();
    assert!((1..2000).contains(&taken), "{taken} of 20,000 were kept for a reader that did not read");
    still_borrows(&borrower).await;
}

async fn still_borrows(borrower: &Borrower) {
    let (server, socket) = (there("127.0.0.1:0"), borrower.udp_bind("127.0.0.1:0").await.unwrap());
    socket.send_to(b"x", server.local_addr().unwrap()).await.unwrap();
    assert_eq!(heard(&server).0, b"x");
}

/// A flood of datagrams costs datagrams, and not the turns of other streams of its session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_datagrams_leaves_other_streams_their_turns() {
    let (_lab, _home, borrower) = session(&format!("{UDP}connect = \"127.0.0.0/8:*\"\n")).await;
    let server = crate::origin(crate::echo);
    let flooded = borrower.udp_listen("127.0.0.1:0").await.unwrap();
    let to = flooded.local_addr();
    let flood = Flood::start(to);
    let taking = tokio::spawn(async move { while flooded.recv(&mut [0; 1200]).await.is_ok() {} });
    let mut other = borrower.tcp_connect(server.to_string()).await.unwrap();
    let mut trips = 0;
    while trips < 50 || flood.sent() < 50_000 {
        let trip = async {
            other.write_all(&[7; 100]).await.unwrap();
            other.read_exact(&mut [0; 100]).await.unwrap();
        };
        timeout(PATIENCE, trip).await.expect("a turn");
        trips += 1;
    }
    assert!(!taking.is_finished(), "the port is still flooded");
    println!("{trips} round trips while {} datagrams were sent", flood.sent());
    // Before its port is closed: whoever has the number next would be flooded.
    drop(flood);
    taking.abort();
}

/// Datagrams to one address, as fast as they go, until it is dropped.
struct Flood {
    sent: Arc<AtomicU32>,
    is_over: Arc<AtomicBool>,
    senders: Vec<JoinHandle<()>>,
}

impl Flood {
    fn start(to: SocketAddr) -> Self {
        let (sent, is_over) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        // More than can be sent at once on this machine, so that one waits to send whenever another is being heard.
        let senders = 0..2 * thread::available_parallelism().unwrap().get();
        let spawn = |_| {
            let (sent, is_over) = (sent.clone(), is_over.clone());
            thread::spawn(move || {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                while !is_over.load(Ordering::Relaxed) && socket.send_to(&[7; 1200], to).is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let senders = senders.map(spawn).collect();
        Self { sent, is_over, senders }
    }

    fn sent(&self) -> u32 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for sender in self.senders.drain(..) {
            let _ = sender.join();
        }
    }
}
