//! A UDP socket in the hands of somebody who sends where he may not, and what he may not.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use bytes::BytesMut;
use capuchin::proto::{Answer, ErrorKind, Frame, Kind, Listening, Request, UdpBind, UdpBody, UdpMessage, message};

use crate::{
    still_serves,
    support::{
        Home, Lab, PATIENCE,
        peer::{Peer, frame},
        ports::ListedUdpSocket,
        wait_until,
    },
};

/// Names open nothing special; one address of loopback does.
fn policy(server: SocketAddr) -> String {
    format!("[[allow]]\nwho = \"alice\"\nudp = [\"*:*\", \"{server}\"]\n")
}

fn server() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A socket of IPv4 and IPv6 on stream 1 of a session of its own, and its port.
async fn bound(lab: &Lab, home: &Home) -> (Peer, u16) {
    bound_at(lab, home, "[::]:0", false).await
}

async fn bound_at(lab: &Lab, home: &Home, address: &str, listen: bool) -> (Peer, u16) {
    let mut peer = Peer::logged_in(lab.address, home, "alice").await;
    let request = Request::UdpBind(UdpBind { address: address.parse().unwrap(), listen, v6_only: false });
    peer.send(&frame(1, Kind::Data, true, false, &message::encode_prefixed(&request))).await;
    match message::decode("answer", &payload(&mut peer).await[4..]).unwrap() {
        Answer::Granted(Listening { local }) => (peer, local.0.port()),
        Answer::Refused(refusal) => panic!("{}", refusal.text()),
    }
}

async fn payload(peer: &mut Peer) -> Vec<u8> {
    loop {
        if let Frame::Data { payload, .. } = peer.hear().await.expect("something of the socket") {
            return payload.to_vec();
        }
    }
}

async fn say(peer: &mut Peer, to: &str, said: &[u8]) {
    let mut wire = BytesMut::new();
    UdpMessage::datagram(to.parse().unwrap(), said).encode(&mut wire);
    peer.send(&frame(1, Kind::Data, false, false, &wire)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_51_broadcast_multicast_and_what_a_wildcard_does_not_open() {
    let server = server();
    let lab = Lab::start(&policy(server.local_addr().unwrap()));
    let home = lab.join("alice");
    let (mut peer, _) = bound(&lab, &home).await;
    for to in [
        "255.255.255.255:9",
        "224.0.0.251:5353",
        "[ff02::fb]:5353",
        "[::ffff:239.1.1.1]:9",
        "127.0.0.1:9",
        "[::1]:9",
        "0.0.0.0:9",
        "169.254.169.254:80",
        "[64:ff9b::7f00:1]:9",
    ] {
        say(&mut peer, to, b"x").await;
        let told = payload(&mut peer).await;
        let told = UdpMessage::decode(&told).unwrap();
        let to: SocketAddr = to.parse().unwrap();
        assert_eq!(told.peer, SocketAddr::new(to.ip().to_canonical(), to.port()));
        let UdpBody::Refused(refusal) = told.body else { panic!("{to}: {told:?}") };
        assert_eq!((refusal.kind(), refusal.errno().map(|errno| errno.0)), (ErrorKind::Policy, Some(13)), "{to}");
        let line = lab.wait_for_audit("its line", |line| line["event"] == "udp-send" && line["why"] == refusal.text());
        assert_eq!(line["verdict"], "refused", "{to}: {line}");
    }
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_51_a_peer_never_sent_to_is_not_heard() {
    let (server, stranger) = (server(), server());
    let lab = Lab::start(&policy(server.local_addr().unwrap()));
    let home = lab.join("alice");
    let (mut peer, port) = bound(&lab, &home).await;
    say(&mut peer, &server.local_addr().unwrap().to_string(), b"question").await;
    let mut buffer = [0; 64];
    let (_, from) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(from.port(), port);
    // Both in the same kernel's queue, in this order.
    stranger.send_to(b"injected", from).unwrap();
    server.send_to(b"answer", from).unwrap();
    let told = payload(&mut peer).await;
    assert_eq!(UdpMessage::decode(&told).unwrap().body, UdpBody::Datagram(b"answer"));
}

/// Who sends what, and from where, anybody can write who can send a packet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_51_an_answer_to_who_came_by_himself_and_is_denied() {
    let (denied, visitor) = (server(), server());
    let [denied_at, visitor_at] = [&denied, &visitor].map(|socket| socket.local_addr().unwrap());
    let lab = Lab::start(&format!(
        "[[allow]]\nwho = \"alice\"\nlisten = \"127.0.0.1:1024-65535/udp\"\n\
         [[deny]]\nwho = \"alice\"\nudp = \"{denied_at}\"\n"
    ));
    let home = lab.join("alice");
    let (mut peer, port) = bound_at(&lab, &home, "127.0.0.1:0", true).await;
    for (socket, at) in [(&denied, denied_at), (&visitor, visitor_at)] {
        socket.send_to(b"question", ("127.0.0.1", port)).unwrap();
        let told = payload(&mut peer).await;
        assert_eq!(UdpMessage::decode(&told).unwrap(), UdpMessage::datagram(at, b"question"));
    }
    say(&mut peer, &denied_at.to_string(), b"answer").await;
    let told = payload(&mut peer).await;
    let told = UdpMessage::decode(&told).unwrap();
    let UdpBody::Refused(refusal) = told.body else { panic!("{told:?}") };
    assert_eq!((told.peer, refusal.kind()), (denied_at, ErrorKind::Policy));
    let line = lab.wait_for_audit("its line", |line| line["event"] == "udp-send" && line["why"] == refusal.text());
    assert_eq!(line["verdict"], "refused", "{line}");
    say(&mut peer, &visitor_at.to_string(), b"answer").await;
    assert_eq!(visitor.recv(&mut [0; 64]).unwrap(), 6);
    denied.set_nonblocking(true).unwrap();
    assert_eq!(denied.recv(&mut [0; 64]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "it was sent");
}

/// The kernel gives a socket of every address what comes for any group that somebody has joined, if it is not told otherwise.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_51_a_group_that_another_program_has_joined_is_not_heard() {
    let (group, loopback) = (Ipv4Addr::new(239, 51, 51, 51), Ipv4Addr::LOCALHOST);
    let another = UdpSocket::bind("0.0.0.0:0").unwrap();
    another.join_multicast_v4(&group, &loopback).unwrap();
    another.set_read_timeout(Some(PATIENCE)).unwrap();
    let sender = server();
    rustix::net::sockopt::set_ip_multicast_if(&sender, &loopback).unwrap();
    // The group is joined, and reached from here.
    sender.send_to(b"for the group", (group, another.local_addr().unwrap().port())).unwrap();
    another.recv(&mut [0; 64]).unwrap();
    let lab = Lab::start("[[allow]]\nwho = \"alice\"\nlisten = \"*:1024-65535/udp\"\n");
    let home = lab.join("alice");
    for address in ["0.0.0.0:0", "[::]:0"] {
        let (mut peer, port) = bound_at(&lab, &home, address, true).await;
        sender.send_to(b"for the group", (group, port)).unwrap();
        sender.send_to(b"for it", (loopback, port)).unwrap();
        let told = payload(&mut peer).await;
        assert_eq!(UdpMessage::decode(&told).unwrap().body, UdpBody::Datagram(b"for it"), "{address}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_cannot_be_read_end_the_session_and_newer_ones_are_skipped() {
    let server = server();
    let lab = Lab::start(&policy(server.local_addr().unwrap()));
    let home = lab.join("alice");
    for broken in [&b"\x00\x02\x04\x00"[..], b"\x00\x07\x05\0\x35\x7f\0\0\x01", b"\x00\x00"] {
        let (mut peer, _) = bound(&lab, &home).await;
        peer.send(&frame(1, Kind::Data, false, false, broken)).await;
        let goaway = peer.hear_goaway().await;
        assert_eq!(goaway.kind, ErrorKind::Protocol, "{}", goaway.text);
    }
    let (mut peer, _) = bound(&lab, &home).await;
    // A kind of tomorrow, an error from the wrong side, and a datagram that is cut off for ever.
    peer.send(&frame(1, Kind::Data, false, false, b"\x00\x09\x74\x00\x35\x7f\x00\x00\x01\xff\xff")).await;
    peer.send(&frame(1, Kind::Data, false, false, b"\x00\x09\x14\x00\x35\x7f\x00\x00\x01\x00\x6f")).await;
    say(&mut peer, &server.local_addr().unwrap().to_string(), b"good").await;
    let mut buffer = [0; 64];
    assert_eq!(server.recv(&mut buffer).unwrap(), 4);
    peer.send(&frame(1, Kind::Data, false, true, b"\x00\xff\x04")).await;
    lab.wait_for_audit("the end of its socket", |line| line["event"] == "udp-closed" && line["bytes_in"] == 4);
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    let address = "127.0.0.1:53".parse().unwrap();
    let fixed = Request::UdpBind(UdpBind { address, listen: false, v6_only: false });
    peer.send(&frame(1, Kind::Data, true, false, &message::encode_prefixed(&fixed))).await;
    assert_eq!(peer.hear_goaway().await.kind, ErrorKind::Protocol);
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_borrower_that_is_killed_leaves_no_port_and_others_go_on() {
    let lab = Lab::start("[[allow]]\nwho = \"alice\"\nlisten = \"127.0.0.1:1024-65535/udp\"\n");
    let home = lab.join("alice");
    let (peer, port) = bound_at(&lab, &home, "127.0.0.1:0", true).await;
    let (mut another, its_port) = bound_at(&lab, &home, "127.0.0.1:0", true).await;
    let lent = ListedUdpSocket::at((Ipv4Addr::LOCALHOST, port).into());
    // No good-bye, as when a process dies: the kernel closes its sockets.
    drop(peer);
    wait_until("its port is closed", || !lent.is_open());
    let target = format!("127.0.0.1:{port}");
    lab.wait_for_audit("the end", |line| line["event"] == "udp-closed" && line["target"] == target);
    server().send_to(b"question", (Ipv4Addr::LOCALHOST, its_port)).unwrap();
    let told = payload(&mut another).await;
    assert_eq!(UdpMessage::decode(&told).unwrap().body, UdpBody::Datagram(b"question"));
}

/// A scan has its first lines in the log and then a number; it fills neither disk nor memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_destinations_are_bounded() {
    let server = server();
    let lab = Lab::start(&format!(
        "[[allow]]\nwho = \"alice\"\nudp = [\"127.1.0.0/16:9\", \"{}\"]\n",
        server.local_addr().unwrap()
    ));
    let home = lab.join("alice");
    let (mut peer, _) = bound(&lab, &home).await;
    for number in 0..3000_u32 {
        let to = format!("127.1.{}.{}:9", number / 250, number % 250);
        say(&mut peer, &to, b"x").await;
    }
    say(&mut peer, &server.local_addr().unwrap().to_string(), b"last").await;
    let mut buffer = [0; 64];
    assert_eq!(server.recv(&mut buffer).unwrap(), 4, "the socket is still good");
    peer.send(&frame(1, Kind::Data, false, true, b"")).await;
    lab.wait_for_audit("the rest as a number", |line| line["event"] == "udp-closed" && line["count"] == 1977);
    let lines = lab.audit().into_iter().filter(|line| line["event"] == "udp-send").count();
    assert_eq!(lines, 1024);
    still_serves(&lab, &home).await;
}
