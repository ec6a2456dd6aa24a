//! What listens at the lender, against those who ask for more than they may, and those who do not keep to the protocol.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
};

use capuchin::proto::{
    Accepted, Answer, ErrorKind, Frame, Kind, Listening, Ready, Refusal, Request, StreamId, TcpListen, message,
};

use crate::support::{
    Home, Lab, PATIENCE,
    peer::{Peer, frame},
    ports::wait_for_close,
    wait_until,
};

fn request(address: &str) -> Request {
    let address = address.parse().unwrap();
    Request::TcpListen(TcpListen { address, backlog: Some(16), v6_only: false, reuse_address: true })
}

/// Asks on stream 1 of a session of its own.
async fn ask(lab: &Lab, home: &Home, request: &Request) -> (Peer, Answer<Listening>) {
    let mut peer = Peer::logged_in(lab.address, home, "alice").await;
    peer.send(&frame(1, Kind::Data, true, false, &message::encode_prefixed(request))).await;
    loop {
        if let Frame::Data { payload, .. } = peer.hear().await.expect("an answer") {
            return (peer, message::decode("answer", &payload[4..]).unwrap());
        }
    }
}

async fn listening(lab: &Lab, home: &Home) -> (Peer, SocketAddr) {
    match ask(lab, home, &request("127.0.0.1:0")).await {
        (peer, Answer::Granted(Listening { local })) => (peer, local.0),
        (_, Answer::Refused(refusal)) => panic!("{}", refusal.text()),
    }
}

async fn refused(lab: &Lab, home: &Home, address: &str) -> Refusal {
    match ask(lab, home, &request(address)).await {
        (_, Answer::Refused(refusal)) => refusal,
        (_, Answer::Granted(listening)) => panic!("{address} listens at {listening:?}"),
    }
}

/// The next stream that the lender opens, and what it says first.
async fn announced(peer: &mut Peer) -> (StreamId, Accepted) {
    loop {
        if let Frame::Data { stream, syn: true, payload, .. } = peer.hear().await.expect("a connection") {
            let accepted = Accepted::decode(&payload[4..]).unwrap();
            assert_eq!((stream.number() % 2, accepted.listener), (0, 1));
            return (stream, accepted);
        }
    }
}

fn visit(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_50_ports_and_addresses_that_no_rule_spells_out() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let range = (free.saturating_sub(2).max(1024), free);
    let lab = Lab::start(&format!(
        "[[allow]]\nwho = \"alice\"\nlisten = [\"127.0.0.1:*\", \"[::1]:{}-{}\", \"127.0.0.7:{}-{}\"]\n",
        range.0, range.1, range.0, range.1
    ));
    let home = lab.join("alice");
    let own = lab.address.to_string();
    for address in [
        "127.0.0.1:80",
        "127.0.0.1:1023",
        "0.0.0.0:8080",
        "[::]:8080",
        "[::ffff:0.0.0.0]:8080",
        "0.0.0.0:0",
        "[::]:0",
        &own,
    ] {
        let refusal = refused(&lab, &home, address).await;
        assert_eq!(
            (refusal.kind(), refusal.errno().map(|errno| errno.0)),
            (ErrorKind::Policy, Some(13)),
            "{address}: {}",
            refusal.text()
        );
    }
    // Port 0 is one of the range, however often it is asked for, and then there is none left.
    for ip in ["127.0.0.7", "[::1]"] {
        let mut held = Vec::new();
        loop {
            let (peer, answer) = ask(&lab, &home, &request(&format!("{ip}:0"))).await;
            match answer {
                Answer::Granted(Listening { local }) => {
                    assert!((range.0..=range.1).contains(&local.0.port()), "{local:?} is outside {range:?}");
                    visit(local.0);
                    held.push(peer);
                }
                Answer::Refused(refusal) => {
                    assert_eq!((refusal.kind(), refusal.errno().map(|errno| errno.0)), (ErrorKind::Target, Some(98)));
                    break;
                }
            }
            assert!(held.len() <= 3, "more ports than the range has");
        }
        assert!(!held.is_empty() || range.0 == range.1, "no port of {range:?} was given");
    }
    lab.wait_for_verdict("tcp-listen", "refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_nobody_accepts_are_bounded() {
    let lab = Lab::start(LISTEN);
    let home = lab.join("alice");
    let (mut peer, address) = listening(&lab, &home).await;
    let visitors: Vec<_> = (0..140).map(|_| visit(address)).collect();
    let mut streams = Vec::new();
    for _ in 0..128 {
        streams.push(announced(&mut peer).await.0);
    }
    // The next is announced only once one of them was answered; an answer that is none counts as a no.
    peer.send(&frame(streams[0].number(), Kind::Data, false, false, b"\x00\x00\x00\x01x")).await;
    announced(&mut peer).await;
    peer.send(&frame(streams[1].number(), Kind::Rst, false, false, &[0; 4])).await;
    announced(&mut peer).await;
    let is_reset = |visitor: &TcpStream| {
        visitor.set_nonblocking(true).unwrap();
        let read = Read::read(&mut &*visitor, &mut [0]);
        read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    };
    wait_until("who was refused sees it", || visitors.iter().any(is_reset));
    drop(peer);
    // A port does not outlive its session.
    wait_for_close(address);
}

const LISTEN: &str = "[[allow]]\nwho = \"alice\"\nlisten = \"127.0.0.1:1024-65535\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_a_listeners_stream_breaks_the_protocol_and_closes_its_port() {
    let lab = Lab::start(LISTEN);
    let home = lab.join("alice");
    for garbage in [&b"\xff\xff\xff\xff"[..], b"\x00\x00\x00\x01\xff", b"\x00\x00\x00\x00"] {
        let (mut peer, address) = listening(&lab, &home).await;
        peer.send(&frame(1, Kind::Data, false, false, garbage)).await;
        assert_eq!(peer.hear_goaway().await.kind, ErrorKind::Protocol, "{garbage:?}");
        wait_for_close(address);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_word_and_then_the_end_closes_the_port_and_nothing_else() {
    let lab = Lab::start(LISTEN);
    let home = lab.join("alice");
    let (mut peer, address) = listening(&lab, &home).await;
    let mut visitor = visit(address);
    let (stream, accepted) = announced(&mut peer).await;
    assert_eq!(accepted.peer.unwrap().0, visitor.local_addr().unwrap());
    let yes = message::encode_prefixed(&Answer::Granted(Ready {}));
    peer.send(&frame(stream.number(), Kind::Data, false, false, &yes)).await;
    peer.send(&frame(stream.number(), Kind::Data, false, false, b"hello")).await;
    peer.send(&frame(1, Kind::Data, false, true, b"\x00\x00")).await;
    wait_for_close(address);
    let mut said = [0; 5];
    visitor.read_exact(&mut said).unwrap();
    visitor.write_all(b"?").unwrap();
    assert_eq!(&said, b"hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_borrower_that_is_killed_leaves_nothing_listening() {
    let lab = Lab::start(LISTEN);
    let home = lab.join("alice");
    let (peer, address) = listening(&lab, &home).await;
    let visitor = visit(address);
    // No good-bye, as when a process dies: the kernel closes its sockets.
    drop(peer);
    wait_for_close(address);
    assert!(crate::support::ends(&visitor));
    lab.wait_for_audit("the end", |line| line["event"] == "listen-closed");
}
