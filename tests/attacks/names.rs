//! Names that the lender answers: what they open, what they do not, and what comes of hostile questions and answers.

use std::{collections::BTreeSet, net::IpAddr};

use capuchin::{
    BorrowError, Borrower, Profiles,
    proto::{
        Answer, ErrorKind, Frame, Kind, Request, Reset, Resolving,
        dns::{self, Question, Rcode, Reply},
        message,
    },
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    Home, Lab,
    named::NamedLab,
    peer::{Peer, frame},
};

/// Alice may reach every name on port 80, and no address as such.
const EVERY_NAME: &str = "[[allow]]\nwho = [\"alice\", \"bob\"]\nconnect = [\"*.test:80\"]\n";

/// Alice may reach what is there on port 53: connections that stay open until they are used.
const RESOLVER: &str = "[[allow]]\nwho = \"alice\"\nconnect = [\"*.test:53\"]\n";

async fn borrower(home: &Home) -> Borrower {
    let folder = home.folder.path();
    let profiles = Profiles::at(&folder.join("config"), &folder.join("state"));
    Borrower::connect_with(&profiles, "lab").await.unwrap()
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Connects, and gives the address where the web server was reached.
async fn reach(borrower: &Borrower, target: &str) -> Result<String, BorrowError> {
    let mut stream = borrower.tcp_connect(target).await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    assert_eq!(page, stream.peer_addr().ip().to_string());
    Ok(page)
}

/// The gate refuses the connection, and the audit says so.
async fn refused(lab: &Lab, borrower: &Borrower, target: &str, why: &str) {
    let error = reach(borrower, target).await.unwrap_err();
    let said = error.to_string();
    assert_eq!((error.kind(), error.errno().map(|errno| errno.0)), (ErrorKind::Policy, Some(13)), "{said}");
    assert!(said.contains(why), "{said}");
    let session = borrower.session_id().to_string();
    lab.wait_for_audit(target, |line| {
        let fits = (&line["event"], &line["verdict"]) == (&"tcp-connect".into(), &"refused".into());
        fits && line["session"] == session && line["target"] == target && line["why"].as_str().unwrap().contains(why)
    });
}

fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    dns::ask(id, &Question { name: name.into(), kind }).unwrap()
}

/// The answer to a query of [`query`].
fn reply(answer: Vec<u8>, id: u16, name: &str, kind: u16) -> Reply {
    Reply::decode(answer, id, &Question { name: name.to_lowercase(), kind }).expect("an answer to the question")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_43_dns_rebinding() {
    let first = json!(["rebind.test 0 A 10.77.0.1"]);
    let zone = json!({
        "rebind.test A": [first, ["rebind.test 0 A 127.0.0.1"]],
        "asked.test A": [["asked.test 0 A 10.77.0.1"], ["asked.test 0 A 127.0.0.1"], ["asked.test 0 A 10.77.0.2"]],
    });
    let named = NamedLab::start(EVERY_NAME, &zone);
    let borrower = borrower(&named.lab.join("alice")).await;
    // Judged and dialled is the first answer; who resolved again to dial would reach loopback.
    assert_eq!(reach(&borrower, "rebind.test:80").await.unwrap(), "10.77.0.1");
    assert_eq!(named.asked().iter().filter(|asked| *asked == "udp rebind.test A").count(), 1, "resolved once");
    refused(&named.lab, &borrower, "rebind.test:80", "loopback").await;

    // The same by a program that resolves for itself: each answer opens its own address, and loopback none.
    refused(&named.lab, &borrower, "10.77.0.1:80", "no rule allows it").await;
    assert_eq!(borrower.lookup("asked.test").await.unwrap(), addresses(&["10.77.0.1"]));
    assert_eq!(borrower.lookup("asked.test").await.unwrap(), addresses(&["127.0.0.1"]));
    refused(&named.lab, &borrower, "127.0.0.1:80", "loopback").await;
    refused(&named.lab, &borrower, "10.77.0.2:80", "no rule allows it").await;
    assert_eq!(borrower.lookup("asked.test").await.unwrap(), addresses(&["10.77.0.2"]));
    assert_eq!(reach(&borrower, "10.77.0.2:80").await.unwrap(), "10.77.0.2");
    // A TTL of 0 is ten minutes for the gate: the program may still hold the address.
    assert_eq!(reach(&borrower, "10.77.0.1:80").await.unwrap(), "10.77.0.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_44_mixed_answers_of_a_resolver() {
    let mixed = json!([[
        "mixed.test 60 A 169.254.169.254",
        "mixed.test 60 A 127.0.0.1",
        "mixed.test 60 A 10.77.0.1",
        "other.test 60 A 10.77.0.2"
    ]]);
    let bad = json!([["bad.test 60 A 169.254.169.254", "bad.test 60 A 127.0.0.1"]]);
    let named = NamedLab::start(EVERY_NAME, &json!({ "mixed.test A": mixed, "bad.test A": bad }));
    let borrower = borrower(&named.lab.join("alice")).await;
    assert_eq!(reach(&borrower, "mixed.test:80").await.unwrap(), "10.77.0.1");
    refused(&named.lab, &borrower, "bad.test:80", "which a rule must name by its address").await;

    let found = borrower.lookup("mixed.test").await.unwrap();
    assert_eq!(found, addresses(&["169.254.169.254", "127.0.0.1", "10.77.0.1"]), "of this name only");
    refused(&named.lab, &borrower, "169.254.169.254:80", "cloud metadata").await;
    refused(&named.lab, &borrower, "127.0.0.1:80", "loopback").await;
    refused(&named.lab, &borrower, "10.77.0.2:80", "no rule allows it").await;
    assert_eq!(reach(&borrower, "10.77.0.1:80").await.unwrap(), "10.77.0.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_48_an_alias_of_a_denied_name() {
    let chain = ["www.test 60 CNAME db.secret.test", "db.secret.test 60 CNAME edge.test", "edge.test 60 A 10.77.0.1"];
    let zone = json!({
        "www.test A": [chain],
        "edge.test A": [["edge.test 60 A 10.77.0.1"]],
        "open.test A": [["open.test 60 CNAME other.test", "other.test 60 A 10.77.0.2"]],
    });
    let policy = "[[allow]]\nwho = \"alice\"\nconnect = [\"*:80\"]\n\
                  [[deny]]\nwho = \"alice\"\nconnect = [\"*.secret.test:*\"]\nresolve = [\"hidden.test\"]\n";
    let named = NamedLab::start(policy, &zone);
    let home = named.lab.join("alice");
    let session = borrower(&home).await;
    refused(&named.lab, &session, "www.test:80", "a rule denies it").await;
    assert_eq!(reach(&session, "open.test:80").await.unwrap(), "10.77.0.2");
    assert_eq!(session.check("connect", "www.test:80").await.unwrap_err().kind(), ErrorKind::Policy);
    // What no answer has said of an address cannot count; what one has said does.
    assert_eq!(reach(&session, "10.77.0.1:80").await.unwrap(), "10.77.0.1");
    assert_eq!(session.lookup("WWW.test.").await.unwrap(), addresses(&["10.77.0.1"]));
    refused(&named.lab, &session, "10.77.0.1:80", "a rule denies it").await;
    assert_eq!(session.check("connect", "10.77.0.1:80").await.unwrap_err().kind(), ErrorKind::Policy);

    // Other spellings of a name that may not be looked up: nobody is asked, and the log knows what was wanted.
    for spelled in ["hidden.test", "HIDDEN.Test"] {
        let answer = session.resolve(&query(7, spelled, dns::A)).await.unwrap();
        assert!(reply(answer, 7, spelled, dns::A).is(Rcode::Refused), "{spelled}");
    }
    let error = session.lookup("Hidden.TEST.").await.unwrap_err();
    assert!(error.kind() == ErrorKind::Policy && !error.notes().is_empty(), "{error}");
    let line = named.lab.wait_for_verdict("resolve", "refused");
    assert_eq!((&line["target"], &line["user"]), (&"hidden.test".into(), &"alice".into()));
    assert!(!named.asked().iter().any(|asked| asked.contains("hidden")), "{:?}", named.asked());
    // Another session was told nothing, and is judged by its own answers.
    let fresh = borrower(&home).await;
    assert_eq!(reach(&fresh, "10.77.0.1:80").await.unwrap(), "10.77.0.1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_48_a_short_form_of_a_denied_name() {
    let zone = json!({
        "db.secret.test A": [["db.secret.test 60 A 10.77.0.1"]],
        "www.open.test A": [["www.open.test 60 A 10.77.0.2"]],
    });
    let policy = "[[allow]]\nwho = \"alice\"\nconnect = [\"*:80\"]\n\
                  [[deny]]\nwho = \"alice\"\nconnect = [\"*.secret.test:*\"]\n";
    let named = NamedLab::start(policy, &zone);
    let search = "nameserver 127.0.0.1\nsearch secret.test open.test\n";
    std::fs::write(named.file("resolv.conf"), search).unwrap();
    let home = named.lab.join("alice");
    let session = borrower(&home).await;
    refused(&named.lab, &session, "db:80", "a rule denies it").await;
    // What the search list makes of it may be denied, whichever of its domains answers.
    refused(&named.lab, &session, "www:80", "a rule denies it").await;
    // A whole name is what it says, and is not completed.
    assert_eq!(reach(&session, "www.open.test:80").await.unwrap(), "10.77.0.2");
    let half = reach(&session, "www.open:80").await.unwrap_err();
    assert_eq!(half.errno().map(|errno| errno.0), Some(113), "{half}");
    std::fs::write(named.file("resolv.conf"), "nameserver 127.0.0.1\nsearch open.test\n").unwrap();
    assert_eq!(reach(&session, "www:80").await.unwrap(), "10.77.0.2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_rests_on_an_answer_goes_with_the_rule_for_the_name() {
    let named = NamedLab::start(RESOLVER, &json!({ "www.test A": [["www.test 0 A 10.77.0.1"]] }));
    let borrower = borrower(&named.lab.join("alice")).await;
    assert_eq!(borrower.lookup("www.test").await.unwrap(), addresses(&["10.77.0.1"]));
    let mut used = borrower.tcp_connect("10.77.0.1:53").await.unwrap();
    let mut cut = borrower.tcp_connect("10.77.0.1:53").await.unwrap();

    let more = format!("{RESOLVER}[[allow]]\nwho = \"bob\"\nshell = true\n");
    std::fs::write(named.file("policy.toml"), more).unwrap();
    named.lab.wait_for_audit("a policy that still allows it", |line| line["event"] == "policy-loaded");
    let question = query(5, "www.test", dns::A);
    used.write_all(&[&[0, question.len() as u8], &question[..]].concat()).await.unwrap();
    let mut answer = Vec::new();
    used.read_to_end(&mut answer).await.unwrap();
    assert_eq!(reply(answer.split_off(2), 5, "www.test", dns::A).addresses.len(), 1);

    std::fs::write(named.file("policy.toml"), RESOLVER.replace("*.test", "*.other")).unwrap();
    assert!(!matches!(cut.read(&mut [0]).await, Ok(1..)), "nothing more comes");
    named.lab.wait_for_audit("the cut", |line| {
        line["event"] == "tcp-closed" && line["why"].as_str().is_some_and(|why| why.contains("the policy has changed"))
    });
    refused(&named.lab, &borrower, "10.77.0.1:53", "no rule allows it").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_questions_are_answered_as_the_lenders_machine_knows_them() {
    let zone = json!({
        "www.test A": [["www.test 60 A 10.77.0.1"]],
        "long.test TXT": ["long"],
        "lies.test A": ["lies"],
        "broken.test A": ["servfail"],
    });
    let named = NamedLab::start(EVERY_NAME, &zone);
    let borrower = borrower(&named.lab.join("alice")).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resolve_narrows_the_names_that_a_rule_brings_along() {
    let zone = json!({ "www.test A": [["www.test 60 A 10.77.0.1"]], "db.test A": [["db.test 60 A 10.77.0.2"]] });
    let policy = "[[allow]]\nwho = \"alice\"\nconnect = [\"*.test:80\"]\nresolve = [\"www.test\"]\n";
    let named = NamedLab::start(policy, &zone);
    let borrower = borrower(&named.lab.join("alice")).await;
    assert_eq!(borrower.lookup("www.test").await.unwrap(), addresses(&["10.77.0.1"]));
    let line = named.lab.wait_for_verdict("resolve", "granted");
    assert_eq!(line["target"], "www.test");
    assert!(line["rule"].as_str().unwrap().ends_with("resolve = \"www.test\"") && !line.to_string().contains("10.77"));
    let error = borrower.lookup("db.test").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Policy, "{error}");
    assert_eq!(error.notes().last().unwrap().trim_start(), "capuchind allow alice resolve db.test --for 1h");
    assert!(!named.asked().iter().any(|asked| asked.contains("db")), "{:?}", named.asked());
    refused(&named.lab, &borrower, "10.77.0.2:80", "no rule allows it").await;
    // A rule for the connection is another thing: the lender resolves for it.
    assert_eq!(reach(&borrower, "db.test:80").await.unwrap(), "10.77.0.2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resolvers_that_are_gone_fail_the_question_and_new_ones_are_asked_at_once() {
    let named = NamedLab::start(EVERY_NAME, &json!({ "www.test A": [["www.test 60 A 10.77.0.1"]] }));
    let borrower = borrower(&named.lab.join("alice")).await;
    std::fs::write(named.file("resolv.conf"), "nameserver 127.0.0.9\n").unwrap();
    assert_eq!(borrower.lookup("www.test").await.unwrap_err().kind(), ErrorKind::Target);
    let answer = borrower.resolve(&query(1, "www.test", dns::A)).await.unwrap();
    assert!(reply(answer, 1, "www.test", dns::A).is(Rcode::ServFail));
    std::fs::write(named.file("resolv.conf"), "# mended\nnameserver 127.0.0.1\n").unwrap();
    assert_eq!(borrower.lookup("www.test").await.unwrap(), addresses(&["10.77.0.1"]));
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
    let bob = borrower(&bob).await;
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
