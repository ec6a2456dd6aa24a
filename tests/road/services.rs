//! Services: what one borrower offers reaches another through the lender, and goes with its handle and its session.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
    time::Duration,
};

use capuchin::{BorrowError, Borrower, ServiceStream, proto::ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    pattern,
    support::{Home, Lab, PATIENCE, fails, run, text},
};

/// Alice offers, bob uses, and neither does the other's.
const POLICY: &str = "\
    [[allow]]\nwho = \"alice\"\nservices = { offer = [\"pay*\"] }\n\
    [[allow]]\nwho = \"bob\"\nservices = { use = [\"payroll\", \"paymaster\"] }\n";

struct Two {
    lab: Lab,
    alice: Home,
    bob: Home,
}

impl Two {
    fn meet(policy: &str) -> Self {
        let lab = Lab::start(policy);
        let (alice, bob) = (lab.join("alice"), lab.join("bob"));
        Self { lab, alice, bob }
    }

    async fn sessions(&self) -> (Borrower, Borrower) {
        (self.alice.connect().await, self.bob.connect().await)
    }
}

fn errno(error: &BorrowError) -> Option<u16> {
    error.errno().map(|errno| errno.0)
}

async fn whole(stream: &mut ServiceStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("its end").unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_writes_the_other_reads_and_each_half_ends_alone() {
    let two = Two::meet(POLICY);
    let (alice, bob) = two.sessions().await;
    let offer = alice.offer("payroll", None).await.unwrap();
    let (near, far) = tokio::join!(bob.stdio("payroll"), offer.accept());
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    let (question, answer) = (pattern(3_000_000, 1), pattern(2_000_000, 2));
    let asking = async {
        near.write_all(&question).await.unwrap();
        near.shutdown().await.unwrap();
        whole(&mut near).await
    };
    let answering = async {
        let heard = whole(&mut far).await;
        far.write_all(&answer).await.unwrap();
        far.close().await.unwrap();
        heard
    };
    let (said, heard) = tokio::join!(asking, answering);
    assert!(heard == question && said == answer, "{} and {} bytes", heard.len(), said.len());
    drop(near);
    let closed = two.lab.wait_for_audit("its end", |line| line["event"] == "service-closed");
    assert_eq!(
        (&closed["user"], &closed["bytes_in"], &closed["bytes_out"]),
        (&"bob".into(), &3_000_000.into(), &2_000_000.into())
    );
    let closed = two.lab.wait_for_audit("its end", |line| line["event"] == "accepted-closed");
    assert_eq!((&closed["user"], &closed["target"]), (&"alice".into(), &"user bob at service payroll".into()));
    // A name that is given back is free, and accepted connections go on without it.
    let (near, far) = tokio::join!(bob.stdio("payroll"), offer.accept());
    let (mut near, mut far) = (near.unwrap(), far.unwrap());
    offer.close().await.unwrap();
    let _again = alice.offer("payroll", None).await.unwrap();
    far.write_all(b"still").await.unwrap();
    far.shutdown().await.unwrap();
    assert_eq!(whole(&mut near).await, b"still");
    for event in ["service-listen", "service-connect"] {
        two.lab.wait_for_verdict(event, "granted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_at_a_time_has_it_and_a_name_is_one_sessions() {
    let two = Two::meet(POLICY);
    let (alice, bob) = two.sessions().await;
    let error = bob.stdio("payroll").await.err().unwrap();
    assert_eq!((error.kind(), errno(&error)), (ErrorKind::Target, Some(111)), "{error}");
    assert!(error.to_string().contains("service payroll: nobody offers it now"), "{error}");
    let offer = alice.offer("payroll", Some(1)).await.unwrap();
    let other = two.alice.connect().await;
    let error = other.offer("payroll", None).await.err().unwrap();
    assert_eq!((error.kind(), errno(&error)), (ErrorKind::Target, Some(98)), "{error}");
    assert!(error.to_string().contains("service payroll is in use: another session offers it"), "{error}");
    assert!(error.notes().join("\n").contains("choose another name"), "{:?}", error.notes());
    other.offer("paymaster", None).await.unwrap();

    let (first, accepted) = tokio::join!(bob.stdio("payroll"), offer.accept());
    let (first, mut accepted) = (first.unwrap(), accepted.unwrap());
    let error = bob.stdio("payroll").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(error.to_string().contains("is taken"), "{error}");
    drop(first);
    assert_eq!(whole(&mut accepted).await, b"");
    drop(accepted);
    two.lab.wait_for_audit("its end", |line| line["event"] == "service-closed");
    let (next, accepted) = tokio::join!(bob.stdio("payroll"), offer.accept());
    next.unwrap();
    accepted.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_is_refused_and_learns_nothing() {
    let two = Two::meet(POLICY);
    let (alice, bob) = two.sessions().await;
    let offer = alice.offer("paytest", None).await.unwrap();
    let refused = |error: BorrowError, what: &str| {
        assert_eq!((error.kind(), errno(&error)), (ErrorKind::Policy, Some(13)), "{error}");
        assert!(error.to_string().ends_with(&format!("{what} is refused: no rule allows it")), "{error}");
        assert!(error.notes().last().unwrap().contains("capuchind allow"), "{:?}", error.notes());
    };
    refused(alice.offer("calc", None).await.err().unwrap(), "services.offer calc");
    refused(bob.offer("payroll", None).await.err().unwrap(), "services.offer payroll");
    // Whether it is offered or not, the words are the same.
    refused(bob.stdio("paytest").await.err().unwrap(), "services.use paytest");
    refused(bob.stdio("payless").await.err().unwrap(), "services.use payless");
    let error = bob.stdio("no such/name").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    assert_eq!(bob.stdio("").await.err().unwrap().kind(), ErrorKind::Usage);
    for event in ["service-listen", "service-connect"] {
        two.lab.wait_for_verdict(event, "refused");
    }
    assert!(tokio::time::timeout(Duration::from_millis(50), offer.accept()).await.is_err(), "somebody came");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_policy_takes_back_either_end() {
    let two = Two::meet(POLICY);
    let (alice, bob) = two.sessions().await;
    let (payroll, paymaster) =
        (alice.offer("payroll", None).await.unwrap(), alice.offer("paymaster", None).await.unwrap());
    let (used, _accepted) = tokio::join!(bob.stdio("payroll"), payroll.accept());
    let (offered, _kept) = tokio::join!(bob.stdio("paymaster"), paymaster.accept());
    let (mut used, mut offered) = (used.unwrap(), offered.unwrap());
    let narrowed = POLICY.replace("\"payroll\", ", "").replace("pay*", "payroll");
    std::fs::write(two.lab.dir().join("policy.toml"), narrowed).unwrap();
    let error = used.read_u8().await.unwrap_err();
    let taken = capuchin::session::TakenBack::of(&error).map(|taken| taken.0);
    assert_eq!(taken, Some(ErrorKind::Policy), "bob may not use it any more: {error}");
    assert!(offered.read_u8().await.is_err(), "alice may not offer it any more");
    assert_eq!(errno(&paymaster.accept().await.err().unwrap()), Some(13));
    two.lab.wait_for_audit("its end", |line| {
        line["event"] == "service-closed"
            && line["why"].as_str().is_some_and(|why| why.contains("the policy has changed"))
    });
    assert_eq!(errno(&bob.stdio("paymaster").await.err().unwrap()), Some(111), "its name is free");
}

/// `capuchin offer lab NAME stdio …`, once it is offered.
fn offer(home: &Home, arguments: &[&str]) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut command: Command = home.capuchin();
    command.args(["offer", "lab"]).args(arguments).env("CAPUCHIN_LOG", "capuchin::cli::offer=debug");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    wait_for_line(&mut stderr, "Offering service ");
    (child, stderr)
}

/// Reads up to the line that contains `what`.
fn wait_for_line(stderr: &mut impl BufRead, what: &str) {
    let mut lines = stderr.lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains(what)), "no line with {what:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stdin_and_stdout_are_offered_to_one_after_the_other() {
    let two = Two::meet(POLICY);
    let bob = two.bob.connect().await;
    let (mut child, _stderr) = offer(&two.alice, &["payroll", "stdio"]);
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    for round in [b"one", b"two"] {
        let mut stream = bob.stdio("payroll").await.unwrap();
        stdin.write_all(round).unwrap();
        let mut heard = [0; 3];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, round);
        stream.write_all(round).await.unwrap();
        stdout.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, round);
        let ended = two.lab.audit().iter().filter(|line| line["event"] == "service-closed").count();
        stream.close().await.unwrap();
        two.lab.wait_for_audits("its end", ended + 1, |line| line["event"] == "service-closed");
    }
    // Our end is everybody's: the last one reads it, and the service is over.
    let mut stream = bob.stdio("payroll").await.unwrap();
    stdin.write_all(b"the last").unwrap();
    drop(stdin);
    assert_eq!(whole(&mut stream).await, b"the last");
    stream.close().await.unwrap();
    assert!(child.wait().unwrap().success());
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"");
    assert_eq!(errno(&bob.stdio("payroll").await.err().unwrap()), Some(111));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_whose_stdin_ends_between_two_ends_unless_there_is_something_for_the_next() {
    let two = Two::meet(POLICY);
    let bob = two.bob.connect().await;
    for last in [&b""[..], b"for the next"] {
        let (mut child, mut stderr) = offer(&two.alice, &["payroll", "stdio"]);
        bob.stdio("payroll").await.unwrap().close().await.unwrap();
        // What is read of stdin before the command itself knows that he has gone would be lost with him.
        wait_for_line(&mut stderr, "who was connected has gone");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(last).unwrap();
        drop(stdin);
        if !last.is_empty() {
            let mut stream = bob.stdio("payroll").await.unwrap();
            assert_eq!(whole(&mut stream).await, last);
            stream.close().await.unwrap();
        }
        assert!(child.wait().unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn once_is_one_connection_whose_halves_end_as_those_of_a_pipe() {
    let two = Two::meet(POLICY);
    let bob = two.bob.connect().await;
    let (mut child, _stderr) = offer(&two.alice, &["payroll", "stdio", "--once"]);
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut stream = bob.stdio("payroll").await.unwrap();
    let sent = pattern(1_000_000, 3);
    let (question, answering) = (
        sent.clone(),
        std::thread::spawn(move || {
            let mut heard = Vec::new();
            stdout.read_to_end(&mut heard).unwrap();
            // Its end was seen, and the other half is open still.
            stdin.write_all(&heard.len().to_be_bytes()).unwrap();
            heard
        }),
    );
    stream.write_all(&question).await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(whole(&mut stream).await, 1_000_000_usize.to_be_bytes());
    assert!(answering.join().unwrap() == sent);
    assert!(child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_broke_off_is_no_end_to_who_offers_once() {
    let two = Two::meet(POLICY);
    for orderly in [true, false] {
        let bob = two.bob.connect().await;
        let (mut child, mut stderr) = offer(&two.alice, &["payroll", "stdio", "--once"]);
        let mut stdout = child.stdout.take().unwrap();
        let mut stream = bob.stdio("payroll").await.unwrap();
        stream.write_all(b"part").await.unwrap();
        let mut heard = [0; 4];
        stdout.read_exact(&mut heard).unwrap();
        match orderly {
            true => stream.close().await.unwrap(),
            false => drop(run(two.lab.admin().args(["cut", &bob.session_id().to_string()]))),
        }
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(if orderly { 0 } else { 255 }), "{said}");
        assert_eq!(said.contains("has gone before the end"), !orderly, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stdin_that_fails_is_no_end_to_who_is_connected() {
    let two = Two::meet(POLICY);
    let bob = two.bob.connect().await;
    // A socket reads as reset once its peer has gone with something unread: not before somebody is connected.
    let (mut stdin, peer) = std::os::unix::net::UnixStream::pair().unwrap();
    stdin.write_all(b"unread").unwrap();
    let mut command = two.alice.capuchin();
    let command = command.args(["offer", "lab", "payroll", "stdio"]).stdin(std::os::fd::OwnedFd::from(stdin));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    wait_for_line(&mut stderr, "Offering service ");
    let mut stream = bob.stdio("payroll").await.unwrap();
    drop(peer);
    assert!(stream.read_u8().await.is_err_and(|error| error.kind() != std::io::ErrorKind::UnexpectedEof));
    wait_for_line(&mut stderr, "error[local]: cannot read stdin: Connection reset by peer");
    assert_eq!(child.wait().unwrap().code(), Some(255));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_ends_with_the_session_that_offers_it() {
    let two = Two::meet(POLICY);
    let bob = two.bob.connect().await;
    let (mut child, _stderr) = offer(&two.alice, &["payroll", "stdio"]);
    let mut stream = bob.stdio("payroll").await.unwrap();
    let sessions = text(run(two.lab.admin().args(["sessions", "--json"])).stdout);
    for kind in ["service-listen", "service-connect", "accepted"] {
        assert!(sessions.contains(kind), "{sessions}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(stream.read_u8().await.is_err(), "its other end is gone");
    two.lab.wait_for_audit("the end", |line| line["event"] == "listen-closed");
    assert_eq!(errno(&bob.stdio("payroll").await.err().unwrap()), Some(111));
    // A lender that goes ends the command, and says so.
    let (mut child, mut stderr) = offer(&two.alice, &["payroll", "stdio"]);
    run(two.lab.admin().args(["revoke", "--user", "alice"]));
    assert_eq!(child.wait().unwrap().code(), Some(255));
    let mut said = String::new();
    stderr.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("error[revoked]"), "{said}");
}

#[test]
fn a_name_that_is_in_use_and_one_that_is_none_are_said_in_a_line() {
    let two = Two::meet(POLICY);
    let (_child, _stderr) = offer(&two.alice, &["payroll", "stdio"]);
    let said = fails(two.alice.capuchin().args(["offer", "lab", "payroll", "stdio"]), 255);
    assert!(
        said.starts_with("error[target]: lab cannot listen on service:payroll: service payroll is in use"),
        "{said}"
    );
    let said = fails(two.alice.capuchin().args(["offer", "lab", "pay/roll", "stdio"]), 255);
    assert!(said.starts_with("error[usage]"), "{said}");
    let said = fails(two.alice.capuchin().args(["offer", "lab", "payroll", "tcp:localhost:80"]), 255);
    assert!(said.starts_with("error[usage]") && said.contains("stdio"), "{said}");
}

/// Else half of what was offered would look like all of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_that_a_signal_ends_breaks_off_and_has_no_end() {
    let two = Two::meet(POLICY);
    let bob = two.bob.connect().await;
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::INT, rustix::process::Signal::KILL] {
        let (mut child, _stderr) = offer(&two.alice, &["payroll", "stdio"]);
        let mut stream = bob.stdio("payroll").await.unwrap();
        child.stdin.as_mut().unwrap().write_all(b"half of it").unwrap();
        let mut heard = [0; 10];
        stream.read_exact(&mut heard).await.unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), signal).unwrap();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("its end");
        assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "{signal:?}");
        child.wait().unwrap();
        drop(stream);
        let gone = async {
            while errno(&bob.stdio("payroll").await.err().unwrap()) != Some(111) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("nobody offers it any more");
    }
}
