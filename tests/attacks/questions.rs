//! Raw DNS questions: what the lender's machine knows of them, and what comes of hostile ones and of floods.

use std::collections::BTreeSet;

use capuchin::proto::{
    Answer, ErrorKind, Frame, Kind, Request, Reset, Resolving,
    dns::{self, Rcode},
    message,
};
use serde_json::json;

use crate::{
    names::{EVERY_NAME, addresses, query, reach, reply},
    support::{
        Home, Lab,
        named::NamedLab,
        peer::{Peer, frame},
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_questions_are_answered_as_the_lenders_machine_knows_them() {
    let zone = json!({
        "www.test A": [["www.test 60 A 10.77.0.1"]],
        "long.test TXT": ["long"],
        "lies.test A": ["lies"],
        "broken.test A": ["servfail"],
    });
    let named = NamedLab::start(EVERY_NAME, &zone);
    let borrower = named.lab.join("alice").connect().await;
    // As it was spelled, with its own number.
    let answer = borrower.resolve(&query(0xbeef, "wWw.TeSt", dns::A)).await.unwrap();
    assert_eq!(answer[..2], [0xbe, 0xef]);
    assert_eq!(&answer[12..22], b"\x03wWw\x04TeSt\0");
    assert_eq!(reply(answer, 0xbeef, "www.test", dns::A).addresses, [("10.77.0.1".parse().unwrap(), 60)]);
    // What does not fit into a datagram comes over TCP.
    let answer = borrower.resolve(&query(1, "long.test", 16)).await.unwrap();
    assert!(answer.len() > 50_000, "{} bytes", answer.len());
    assert!(named.asked().contains(&"tcp long.test TXT".to_owned()));
    // Datagrams that answer something else are not taken.
    assert_eq!(borrower.lookup("lies.test").await.unwrap(), addresses(&["10.77.0.1"]));
    let error = borrower.lookup("broken.test").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Target, "{error}");
    assert!(borrower.lookup("nobody.test").await.unwrap().is_empty());
    // The lender's own files come first, and nobody else hears of what stands there.
    assert_eq!(borrower.lookup("own.test").await.unwrap(), addresses(&["10.77.0.2"]));
    assert_eq!(reach(&borrower, "10.77.0.2:80").await.unwrap(), "10.77.0.2");
    assert_eq!(borrower.lookup("localhost").await.unwrap(), addresses(&["127.0.0.1"]));
    assert!(!named.asked().iter().any(|asked| asked.contains("own") || asked.contains("localhost")));
}

/// A raw session with one stream of questions, which the lender has granted.
struct Questions {
    peer: Peer,
    heard: Vec<u8>,
}

impl Questions {
    async fn open(lab: &Lab, home: &Home, user: &str) -> Self {
        let mut questions = Self { peer: Peer::logged_in(lab.address, home, user).await, heard: Vec::new() };
        questions.send(true, &message::encode_prefixed(&Request::Resolve)).await;
        let granted = message::encode_prefixed(&Answer::Granted(Resolving {}));
        assert_eq!(questions.hear(granted.len()).await, Ok(granted.to_vec()));
        questions
    }

    async fn send(&mut self, syn: bool, bytes: &[u8]) {
        self.peer.send(&frame(1, Kind::Data, syn, false, bytes)).await;
    }

    async fn ask(&mut self, message: &[u8]) {
        self.send(false, &[&(message.len() as u16).to_be_bytes(), message].concat()).await;
    }

    /// The next bytes of the stream, or how it was reset.
    async fn hear(&mut self, count: usize) -> Result<Vec<u8>, Reset> {
        while self.heard.len() < count {
            match self.peer.hear().await.expect("a session") {
                Frame::Data { payload, .. } => self.heard.extend_from_slice(&payload),
                Frame::Rst { reset, .. } => return Err(reset),
                Frame::Goaway(goaway) => panic!("{goaway:?}"),
                _ => {}
            }
        }
        Ok(self.heard.drain(..count).collect())
    }

    async fn answer(&mut self) -> Result<Vec<u8>, Reset> {
        let length = self.hear(2).await?;
        self.hear(u16::from_be_bytes([length[0], length[1]]).into()).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_questions_are_answered_each_and_a_slow_one_holds_up_nobody() {
    let zone = json!({ "www.test A": [["www.test 60 A 10.77.0.1"]] });
    let named = NamedLab::start(EVERY_NAME, &zone);
    let mut questions = Questions::open(&named.lab, &named.lab.join("alice"), "alice").await;
    questions.ask(&query(1000, "silent.test", dns::A)).await;
    for id in 0..200 {
        questions.ask(&query(id, "www.test", dns::A)).await;
    }
    let mut ids = Vec::new();
    for _ in 0..200 {
        let answer = questions.answer().await.unwrap();
        ids.push(u16::from_be_bytes([answer[0], answer[1]]));
        assert_eq!(reply(answer, *ids.last().unwrap(), "www.test", dns::A).addresses.len(), 1);
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..200).collect::<Vec<_>>());
    let answer = questions.answer().await.unwrap();
    assert!(reply(answer, 1000, "silent.test", dns::A).is(Rcode::ServFail), "after its time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_questions_are_answered_as_such_or_end_their_stream_alone() {
    let named = NamedLab::start(EVERY_NAME, &json!({ "www.test A": [["www.test 60 A 10.77.0.1"]] }));
    let home = named.lab.join("alice");
    let mut questions = Questions::open(&named.lab, &home, "alice").await;
    let good = query(9, "www.test", dns::A);
    let transfer = query(9, "www.test", 252);
    let garbage: Vec<u8> = (0..300_u32).map(|n| (n * 7919 % 251) as u8).collect();
    let update = [&[0, 9, 0x28, 0][..], &good[4..]].concat();
    let two = [&good[..4], &[0, 2], &good[6..], &good[12..]].concat();
    for (message, rcode) in
        [(garbage, None), (transfer, Some(4)), (update, Some(4)), (two, Some(1)), (good[..20].to_vec(), Some(1))]
    {
        questions.ask(&message).await;
        let answer = questions.answer().await.unwrap();
        assert_eq!(answer[..2], message[..2], "its number");
        assert!(answer[3] & 0xf != 0 && rcode.is_none_or(|rcode| rcode == answer[3] & 0xf), "{answer:?}");
    }
    for name in ["127.1", "2130706433", "a..b"] {
        // Labels as they stand; the empty one ends the name, and what follows is left over.
        let mut message = good[..12].to_vec();
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend_from_slice(label.as_bytes());
        }
        message.extend_from_slice(&[0, 0, 1, 0, 1]);
        questions.ask(&message).await;
        let answer = questions.answer().await.unwrap();
        assert_eq!(answer[3] & 0xf, if name == "a..b" { 1 } else { 5 }, "{name}");
    }
    named.lab.wait_for_audit("a number", |line| line["target"] == "2130706433" && line["verdict"] == "refused");
    assert_eq!(named.asked(), Vec::<String>::new(), "nobody was asked any of this");
    questions.ask(&good).await;
    assert_eq!(reply(questions.answer().await.unwrap(), 9, "www.test", dns::A).addresses.len(), 1);
    for length in [0_u16, 11, 513, u16::MAX] {
        let mut questions = Questions::open(&named.lab, &home, "alice").await;
        questions.send(false, &[&length.to_be_bytes()[..], &[0; 600]].concat()).await;
        assert_eq!(questions.hear(1).await, Err(Reset::Failed(90)), "EMSGSIZE for {length} bytes");
        // The session goes on.
        let check = message::encode_prefixed(&Request::Resolve);
        questions.peer.send(&frame(3, Kind::Data, true, false, &check)).await;
        questions.hear(7).await.unwrap();
    }
}

/// Who asks without end and reads nothing holds up himself; who goes leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_questions_is_bounded_and_ends_with_its_stream() {
    let named = NamedLab::start(EVERY_NAME, &json!({ "www.test A": [["www.test 60 A 10.77.0.1"]] }));
    std::fs::write(named.file("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    let (alice, bob) = (named.lab.join("alice"), named.lab.join("bob"));
    let bob = bob.connect().await;
    let mut flood = Questions::open(&named.lab, &alice, "alice").await;
    for id in 0..500 {
        flood.ask(&query(id, &format!("silent-{id}.test"), dns::A)).await;
    }
    for _ in 0..IN_FLIGHT {
        named.lab.daemon.wait_for_line("asked udp silent-");
    }
    assert_eq!(bob.lookup("www.test").await.unwrap(), addresses(&["10.77.0.1"]));
    flood.peer.send(&frame(1, Kind::Rst, false, false, &[0, 0, 0, 0])).await;
    // In the same session, and so in places that the flood has given back; else the 65th of it would come first.
    flood.peer.send(&frame(3, Kind::Data, true, false, &message::encode_prefixed(&Request::Resolve))).await;
    let good = query(9, "www.test", dns::A);
    let good = [&(good.len() as u16).to_be_bytes(), &good[..]].concat();
    flood.peer.send(&frame(3, Kind::Data, false, false, &good)).await;
    flood.hear(message::encode_prefixed(&Answer::Granted(Resolving {})).len()).await.unwrap();
    assert_eq!(reply(flood.answer().await.unwrap(), 9, "www.test", dns::A).addresses.len(), 1);
    let silent = named.asked().into_iter().filter(|asked| asked.contains("silent")).collect::<BTreeSet<_>>();
    assert_eq!(silent.len(), IN_FLIGHT, "so many at once, and no more after the end");
}

/// Questions of one session at once.
const IN_FLIGHT: usize = 64;
