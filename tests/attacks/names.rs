//! Names that the lender answers: what they open, what they do not, and what comes of hostile answers.

use std::{net::IpAddr, path::PathBuf};

use capuchin::{
    BorrowError, Borrower,
    proto::{
        ErrorKind,
        dns::{self, Question, Rcode, Reply},
    },
};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Lab, named::NamedLab, run};

/// Alice may reach every name on port 80, and no address as such.
pub const EVERY_NAME: &str = "[[allow]]\nwho = [\"alice\", \"bob\"]\nconnect = [\"*.test:80\"]\n";

/// Alice may reach what is there on port 53: connections that stay open until they are used.
const RESOLVER: &str = "[[allow]]\nwho = \"alice\"\nconnect = [\"*.test:53\"]\n";

pub fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Connects, and gives the address where the web server was reached.
pub async fn reach(borrower: &Borrower, target: &str) -> Result<String, BorrowError> {
    let mut stream = borrower.tcp_connect(target).await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    assert_eq!(page, stream.peer_addr().ip().to_string());
    Ok(page)
}

/// The gate refuses the connection, and the audit says so.
pub async fn refused(lab: &Lab, borrower: &Borrower, target: &str, why: &str) {
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

pub fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    dns::ask(id, &Question { name: name.into(), kind }).unwrap()
}

/// The answer to a query of [`query`].
pub fn reply(answer: Vec<u8>, id: u16, name: &str, kind: u16) -> Reply {
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
    let borrower = named.lab.join("alice").connect().await;
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
    let borrower = named.lab.join("alice").connect().await;
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
        "flip.test A": [["flip.test 0 A 10.77.0.2"], ["flip.test 0 CNAME db.secret.test", "db.secret.test 0 A 10.77.0.1"]],
    });
    let policy = "[[allow]]\nwho = \"alice\"\nconnect = [\"*:80\"]\n\
                  [[deny]]\nwho = \"alice\"\nconnect = [\"*.secret.test:*\"]\nresolve = [\"hidden.test\"]\n";
    let named = NamedLab::start(policy, &zone);
    let home = named.lab.join("alice");
    let session = home.connect().await;
    refused(&named.lab, &session, "www.test:80", "a rule denies it").await;
    assert_eq!(reach(&session, "open.test:80").await.unwrap(), "10.77.0.2");
    assert_eq!(session.check("connect", "www.test:80").await.unwrap_err().kind(), ErrorKind::Policy);
    // The addresses are those of the answer whose names were judged: a second question might be answered differently.
    assert_eq!(reach(&session, "flip.test:80").await.unwrap(), "10.77.0.2");
    assert_eq!(named.asked().iter().filter(|asked| *asked == "udp flip.test A").count(), 1, "asked once");
    refused(&named.lab, &session, "flip.test:80", "a rule denies it").await;
    // A resolver that is kept from answering opens nothing.
    let unknown = reach(&session, "silent.test:80").await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Target, "{unknown}");
    assert!(unknown.to_string().contains("its resolvers do not answer"), "{unknown}");
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
    let fresh = home.connect().await;
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
    let session = home.connect().await;
    refused(&named.lab, &session, "db:80", "a rule denies it").await;
    // What the search list makes of it may be denied, whichever of its domains answers.
    refused(&named.lab, &session, "www:80", "a rule denies it").await;
    // A whole name is what it says, and is not completed.
    assert_eq!(reach(&session, "www.open.test:80").await.unwrap(), "10.77.0.2");
    let half = reach(&session, "www.open:80").await.unwrap_err();
    assert_eq!((half.kind(), half.errno().map(|errno| errno.0)), (ErrorKind::Target, Some(113)), "{half}");
    // A name that is not known is not a host without a route.
    assert!(half.to_string().contains("cannot resolve www.open: Name or service not known"), "{half}");
    let said = crate::support::fails(home.capuchin().args(["check", "lab", "connect", "www.open:80"]), 2);
    let expected = "error[target]: lab: the lender cannot resolve www.open: Name or service not known";
    assert!(said.starts_with(expected), "{said}");
    std::fs::write(named.file("resolv.conf"), "nameserver 127.0.0.1\nsearch open.test\n").unwrap();
    assert_eq!(reach(&session, "www:80").await.unwrap(), "10.77.0.2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_rests_on_an_answer_goes_with_the_rule_for_the_name() {
    let named = NamedLab::start(RESOLVER, &json!({ "www.test A": [["www.test 0 A 10.77.0.1"]] }));
    let borrower = named.lab.join("alice").connect().await;
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
async fn resolve_narrows_the_names_that_a_rule_brings_along() {
    let zone = json!({ "www.test A": [["www.test 60 A 10.77.0.1"]], "db.test A": [["db.test 60 A 10.77.0.2"]] });
    let policy = "[[allow]]\nwho = \"alice\"\nconnect = [\"*.test:80\"]\nresolve = [\"www.test\"]\n";
    let named = NamedLab::start(policy, &zone);
    let borrower = named.lab.join("alice").connect().await;
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
    let borrower = named.lab.join("alice").connect().await;
    std::fs::write(named.file("resolv.conf"), "nameserver 127.0.0.9\n").unwrap();
    assert_eq!(borrower.lookup("www.test").await.unwrap_err().kind(), ErrorKind::Target);
    let answer = borrower.resolve(&query(1, "www.test", dns::A)).await.unwrap();
    assert!(reply(answer, 1, "www.test", dns::A).is(Rcode::ServFail));
    std::fs::write(named.file("resolv.conf"), "# mended\nnameserver 127.0.0.1\n").unwrap();
    assert_eq!(borrower.lookup("www.test").await.unwrap(), addresses(&["10.77.0.1"]));
}

/// A connection by a name where a deny names hosts: the lender asks the resolvers itself, with two sockets.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn look_ups_of_connections_take_no_more_sockets_than_there_are() {
    let policy = format!("{EVERY_NAME}[[deny]]\nwho = \"alice\"\nconnect = [\"*.secret.test:*\"]\n");
    let zone = json!({ "www.test A": [["www.test 60 A 10.77.0.1"]] });
    // Of which sixteen are lent.
    let named = NamedLab::start_with(&policy, &zone, &[("DESCRIPTORS", PathBuf::from("64"))]);
    std::fs::write(named.file("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    let alice = named.lab.join("alice").connect().await;
    let mut hanging = tokio::task::JoinSet::new();
    for number in 0..60 {
        let alice = alice.clone();
        hanging.spawn(async move { alice.tcp_connect(format!("silent-{number}.test:80")).await.map(drop) });
    }
    named.lab.daemon.wait_for_line("asked udp silent-");
    run(named.lab.admin().args(["user", "list"]));
    let mut busy = 0;
    while let Some(ended) = hanging.join_next().await {
        let error = ended.unwrap().unwrap_err();
        if error.kind() == ErrorKind::Busy {
            busy += 1;
            assert_eq!(error.errno().map(|errno| errno.0), Some(24), "{error}");
            assert!(error.to_string().contains("as many sockets as it can open"), "{error}");
        }
    }
    assert!(busy > 0, "each of 60 look-ups had its sockets");
    // Each place came back.
    assert_eq!(reach(&alice, "www.test:80").await.unwrap(), "10.77.0.1");
}

/// More look-ups that hang than there are places, all of one user.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_look_ups_of_one_user_that_hang_hold_up_nobody_else() {
    let named = NamedLab::start(EVERY_NAME, &json!({ "www.test A": [["www.test 60 A 10.77.0.1"]] }));
    std::fs::write(named.file("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    let (alice, bob) = (named.lab.join("alice").connect().await, named.lab.join("bob").connect().await);
    let mut hanging = tokio::task::JoinSet::new();
    for number in 0..100 {
        let alice = alice.clone();
        hanging.spawn(async move { alice.tcp_connect(format!("silent-{number}.test:80")).await.map(drop) });
    }
    let asked = || named.asked().into_iter().filter(|asked| asked.contains("silent")).collect::<Vec<_>>();
    for number in 0..10 {
        named.lab.daemon.wait_for_line("asked udp silent-");
        assert_eq!(reach(&bob, "www.test:80").await.unwrap(), "10.77.0.1", "beside {number} of them");
    }
    let names = asked().iter().filter_map(|asked| asked.split(' ').nth(1).map(str::to_owned)).collect::<Vec<_>>();
    let names: std::collections::BTreeSet<_> = names.into_iter().collect();
    assert!(names.len() <= 16, "{} threads of one user", names.len());
    // Each of them ends in its time, those that got no place as such.
    let mut busy = 0;
    while let Some(ended) = hanging.join_next().await {
        let error = ended.unwrap().unwrap_err();
        busy += usize::from(error.kind() == ErrorKind::Busy);
    }
    assert!(busy >= 60, "{busy} were told that there is no place");
}
