//! Services, against borrowers who do not keep to the protocol, on either side, and those who are gone.

use capuchin::proto::{Accepted, Answer, ErrorKind, Frame, Kind, Ready, Request, ServiceListen, StreamId, message};

use crate::{
    still_serves,
    support::{
        Home, Lab,
        peer::{Peer, frame},
    },
};

const POLICY: &str = "[[allow]]\nwho = [\"alice\", \"bob\"]\nservices = { offer = [\"*\"], use = [\"*\"] }\n";

fn listen(name: &str, at_once: Option<u32>) -> Request {
    Request::ServiceListen(ServiceListen { name: name.to_owned(), at_once })
}

async fn open(peer: &mut Peer, stream: u64, request: &Request) {
    peer.send(&frame(stream, Kind::Data, true, false, &message::encode_prefixed(request))).await;
}

/// The lender's answer on a stream of ours.
async fn answer(peer: &mut Peer, stream: u64) -> Answer<Ready> {
    loop {
        match peer.hear().await.expect("an answer") {
            Frame::Data { stream: id, payload, .. } if id.number() == stream => {
                // Bytes of the other end may come with it.
                let length = u32::from_be_bytes(*payload.first_chunk().unwrap()) as usize;
                return message::decode("answer", &payload[4..4 + length]).unwrap();
            }
            _ => {}
        }
    }
}

/// The next connection that is announced to who offers.
async fn announced(peer: &mut Peer) -> StreamId {
    loop {
        if let Frame::Data { stream, syn: true, payload, .. } = peer.hear().await.expect("a connection") {
            let accepted = Accepted::decode(&payload[4..]).unwrap();
            assert_eq!((stream.number() % 2, accepted.listener, accepted.peer), (0, 1, None));
            return stream;
        }
    }
}

async fn offering(lab: &Lab, home: &Home, at_once: Option<u32>) -> Peer {
    let mut peer = Peer::logged_in(lab.address, home, "alice").await;
    open(&mut peer, 1, &listen("calc", at_once)).await;
    assert!(matches!(answer(&mut peer, 1).await, Answer::Granted(Ready {})));
    peer
}

fn kind(answer: Answer<Ready>) -> Option<(ErrorKind, u16)> {
    match answer {
        Answer::Granted(Ready {}) => None,
        Answer::Refused(refusal) => Some((refusal.kind(), refusal.errno().map_or(0, |errno| errno.0))),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_none_are_refused_and_requests_that_are_none_break_the_protocol() {
    let lab = Lab::start(POLICY);
    let home = lab.join("alice");
    for name in ["*", "a b", "a/b", "../a", "a\0", "a\n", "\u{1b}[2J", "é", "calc*"] {
        for request in [listen(name, None), Request::ServiceConnect(name.to_owned())] {
            let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
            open(&mut peer, 1, &request).await;
            assert_eq!(kind(answer(&mut peer, 1).await), Some((ErrorKind::Usage, 22)), "{name:?}");
        }
    }
    for request in [
        listen("", None),
        listen(&"x".repeat(256), None),
        listen("calc", Some(0)),
        Request::ServiceConnect(String::new()),
        Request::ServiceConnect("x".repeat(5000)),
    ] {
        let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
        open(&mut peer, 1, &request).await;
        assert_eq!(peer.hear_goaway().await.kind, ErrorKind::Protocol, "{request:?}");
    }
    lab.wait_for_verdict("service-listen", "refused");
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_and_goes_ends_no_session_but_his_own() {
    let lab = Lab::start(POLICY);
    let (alice, bob) = (lab.join("alice"), lab.join("bob"));
    let mut owner = offering(&lab, &alice, None).await;
    // As many as the owner is told of without having answered, and more.
    let mut visitor = Peer::logged_in(lab.address, &bob, "bob").await;
    for number in 0..400 {
        open(&mut visitor, 2 * number + 1, &Request::ServiceConnect("calc".to_owned())).await;
        if number % 2 == 0 {
            visitor.send(&frame(2 * number + 1, Kind::Rst, false, false, &[0; 4])).await;
        }
    }
    let mut streams = Vec::new();
    for _ in 0..128 {
        streams.push(announced(&mut owner).await);
    }
    // The visitor's connection dies, and nobody is reset before the answer.
    drop(visitor);
    // The join had a session of its own, which ended before.
    let logged_in = |line: &serde_json::Value| line["event"] == "login" && line["user"] == "bob";
    let session = lab.audit().into_iter().rfind(logged_in).unwrap()["session"].clone();
    lab.wait_for_audit("his end", |line| line["event"] == "session-ended" && line["session"] == session);
    let yes = message::encode_prefixed(&Answer::Granted(Ready {}));
    for stream in &streams {
        owner.send(&frame(stream.number(), Kind::Data, false, false, &yes)).await;
    }
    let mut over = 0;
    while over < 128 {
        match owner.hear().await.expect("frames, and no end of the session") {
            Frame::Rst { stream, .. } if streams.contains(&stream) => over += 1,
            Frame::Data { stream, fin: true, .. } if streams.contains(&stream) => over += 1,
            Frame::Goaway(goaway) => panic!("{goaway:?}"),
            _ => {}
        }
    }
    // Who comes next is served.
    let mut visitor = Peer::logged_in(lab.address, &bob, "bob").await;
    open(&mut visitor, 1, &Request::ServiceConnect("calc".to_owned())).await;
    let stream = announced(&mut owner).await;
    owner.send(&frame(stream.number(), Kind::Data, false, false, &[&yes[..], b"hello"].concat())).await;
    assert_eq!(kind(answer(&mut visitor, 1).await), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_who_answers_with_garbage_or_dies_refuses_the_visitor() {
    let lab = Lab::start(POLICY);
    let (alice, bob) = (lab.join("alice"), lab.join("bob"));
    let refused = Some((ErrorKind::Target, 111));
    for (round, garbage) in [&b"\x00\x00\x00\x01\xff"[..], b"\xff\xff\xff\xff", b""].into_iter().enumerate() {
        let mut owner = offering(&lab, &alice, Some(1)).await;
        let mut visitor = Peer::logged_in(lab.address, &bob, "bob").await;
        open(&mut visitor, 1, &Request::ServiceConnect("calc".to_owned())).await;
        let stream = announced(&mut owner).await;
        // It is taken, answered or not.
        open(&mut visitor, 3, &Request::ServiceConnect("calc".to_owned())).await;
        assert_eq!(kind(answer(&mut visitor, 3).await), Some((ErrorKind::Busy, 11)));
        match garbage {
            b"" => drop(owner),
            garbage => {
                owner.send(&frame(stream.number(), Kind::Data, false, false, garbage)).await;
                assert_eq!(kind(answer(&mut visitor, 1).await), refused, "{garbage:?}");
                // The name goes with its session.
                drop(owner);
                lab.wait_for_audits("the end", round + 1, |line| line["event"] == "listen-closed");
                continue;
            }
        }
        assert_eq!(kind(answer(&mut visitor, 1).await), refused, "it died");
    }
    still_serves(&lab, &alice).await;
}
