//! Time that passes, and clocks that are set, for a lender that runs: nothing lasts longer than it was promised.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use capuchin::{
    lend::verify_audit,
    trust::{UnixTime, authority::LEAF_LIFETIME},
};
use serde_json::json;

use crate::{
    audit::everything_is_written,
    names::{EVERY_NAME, addresses, reach, refused},
    renewal::{certificate_of, keep_certificate, made_before},
    still_serves,
    support::{Daemon, LOOPBACK, Lab, PASSWORD, PATIENCE, clock::Clock, fails, named::NamedLab, run},
};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_session_was_answered_opens_an_address_for_ten_minutes_or_its_ttl() {
    let clock = Clock::new();
    let zone =
        json!({ "short.test A": [["short.test 0 A 10.77.0.1"]], "long.test A": [["long.test 1800 A 10.77.0.2"]] });
    let named = NamedLab::start_with(EVERY_NAME, &zone, &clock.environment());
    let borrower = named.lab.join("alice").connect().await;
    assert_eq!(borrower.lookup("short.test").await.unwrap(), addresses(&["10.77.0.1"]));
    assert_eq!(borrower.lookup("long.test").await.unwrap(), addresses(&["10.77.0.2"]));
    let busy = async || drop(borrower.check("connect", "10.77.0.9:80").await.unwrap_err());
    clock.pass(8 * MINUTE, busy).await;
    assert_eq!(reach(&borrower, "10.77.0.1:80").await.unwrap(), "10.77.0.1");
    clock.pass(3 * MINUTE, busy).await;
    refused(&named.lab, &borrower, "10.77.0.1:80", "no rule allows it").await;
    // Asked again it holds again.
    assert_eq!(borrower.lookup("short.test").await.unwrap(), addresses(&["10.77.0.1"]));
    assert_eq!(reach(&borrower, "10.77.0.1:80").await.unwrap(), "10.77.0.1");
    clock.pass(15 * MINUTE, busy).await;
    assert_eq!(reach(&borrower, "10.77.0.2:80").await.unwrap(), "10.77.0.2");
    clock.pass(5 * MINUTE, busy).await;
    refused(&named.lab, &borrower, "10.77.0.2:80", "no rule allows it").await;
}

/// As many as 66 names with 63 addresses each: more than a session keeps, so that the first are forgotten.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_more_answers_than_a_session_keeps_the_oldest_open_nothing() {
    let named = NamedLab::start(EVERY_NAME, &json!({ "www.test A": [["www.test 60 A 10.77.0.1"]] }));
    let mut hosts = String::new();
    for name in 0..66 {
        for host in 1..=63 {
            hosts.push_str(&format!("10.99.{name}.{host} many-{name}.test\n"));
        }
    }
    std::fs::write(named.file("hosts"), hosts).unwrap();
    let borrower = named.lab.join("alice").connect().await;
    assert_eq!(borrower.lookup("www.test").await.unwrap(), addresses(&["10.77.0.1"]));
    assert_eq!(borrower.lookup("many-0.test").await.unwrap().len(), 63);
    for name in 1..64 {
        borrower.lookup(&format!("many-{name}.test")).await.unwrap();
    }
    // 4,033 of them.
    assert_eq!(reach(&borrower, "10.77.0.1:80").await.unwrap(), "10.77.0.1");
    borrower.lookup("many-64.test").await.unwrap();
    // 4,096: the place of one.
    borrower.check("connect", "10.77.0.1:80").await.unwrap();
    borrower.lookup("many-65.test").await.unwrap();
    refused(&named.lab, &borrower, "10.77.0.1:80", "no rule allows it").await;
    assert!(borrower.check("connect", "10.99.0.62:80").await.is_err(), "one of the oldest");
    borrower.check("connect", "10.99.1.1:80").await.unwrap();
    borrower.check("connect", "10.99.65.63:80").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_69_the_clock_of_a_running_lender_is_put_back_by_a_day() {
    let clock = Clock::new();
    let lab = clock.serve(Lab::start(LOOPBACK));
    let alice = lab.join("alice");
    let mut lent = Lent::open(&alice);
    clock.set_by(-(DAY.as_secs() as i64));
    lent.crosses();
    everything_is_written(&lab);
    let lines = lab.audit();
    let noted: Vec<_> = lines.iter().filter(|line| line["event"] == "clock-back").collect();
    assert_eq!(noted.len(), 1, "said once: {noted:?}");
    assert!(noted[0]["why"].as_str().unwrap().contains("put back by 86"), "{}", noted[0]);
    assert!(verify_audit(&lab.dir().join("audit")).is_ok());
    // To this clock the certificate is one of tomorrow: said so, and where to look.
    let said = fails(alice.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]), 2);
    assert!(said.starts_with("error[identity]") && said.contains("is not valid yet"), "{said}");
    assert!(said.contains("check the clock of both machines"), "{said}");
    lab.wait_for_audit("the refusal", |line| line["event"] == "handshake-refused");
    lent.crosses();
    // And when it is right again, nothing is left of it.
    clock.set_by(DAY.as_secs() as i64);
    lent.crosses();
    still_serves(&lab, &alice).await;
    run(alice.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
    assert!(verify_audit(&lab.dir().join("audit")).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_69_a_lender_starts_again_with_a_clock_that_is_a_day_behind_its_log() {
    let clock = Clock::new();
    clock.set_by(DAY.as_secs() as i64);
    let lab = clock.serve(Lab::start(LOOPBACK));
    run(lab.admin().args(["user", "add", "carol"]));
    clock.set_by(-(DAY.as_secs() as i64));
    let lab = clock.serve(lab);
    let bob = lab.join("bob");
    everything_is_written(&lab);
    let lines = lab.audit();
    assert_eq!(lines.iter().filter(|line| line["event"] == "clock-back").count(), 1, "said once");
    let numbers: Vec<u64> = lines.iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    let first = numbers[0];
    assert_eq!(numbers, (first..first + numbers.len() as u64).collect::<Vec<_>>(), "the numbers give the order");
    assert!(verify_audit(&lab.dir().join("audit")).is_ok());
    run(bob.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_is_over_after_its_hours_and_takes_a_live_session_along() {
    let clock = Clock::new();
    let policy = format!("{LOOPBACK}limits = {{ hours = 1 }}\n");
    let lab = clock.serve(Lab::start(&policy));
    let home = lab.join("alice");
    let mut lent = Lent::open(&home);
    clock.pass(HOUR - 5 * MINUTE, async || lent.crosses()).await;
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
    clock.pass(6 * MINUTE, async || _ = lent.may_cross()).await;
    lent.forward.wait_for_line("error[login]: the hours that the policy gives a login are over: log in again");
    lent.ends_cut();
    lab.wait_for_audit("the end", |line| {
        line["event"] == "session-ended" && line["why"].as_str().unwrap().contains("hours that the policy gives")
    });
    let said = fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]), 2);
    assert!(said.starts_with("error[login]"), "{said}");
    lab.wait_for_verdict("login", "refused");
    run(home.capuchin().args(["login", "lab", "--password-file"]).arg(home.password_file(PASSWORD)));
    Lent::open(&home).crosses();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hours_that_are_shortened_hold_for_a_session_that_is_open() {
    let clock = Clock::new();
    let hours = |hours: u32| format!("{LOOPBACK}limits = {{ hours = {hours} }}\n");
    let lab = clock.serve(Lab::start(&hours(8)));
    let home = lab.join("alice");
    let mut lent = Lent::open(&home);
    clock.pass(HOUR + 5 * MINUTE, async || lent.crosses()).await;
    // Time stands still: it is the new policy that ends it, and not that it is looked at once more.
    clock.stop();
    std::fs::write(lab.dir().join("policy.toml"), hours(1)).unwrap();
    lent.forward.wait_for_line("error[login]: the hours that the policy gives a login are over: log in again");
    lent.ends_cut();
    clock.go_on();
    let said = fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]), 2);
    assert!(said.starts_with("error[login]"), "{said}");
    run(home.capuchin().args(["login", "lab", "--password-file"]).arg(home.password_file(PASSWORD)));
    Lent::open(&home).crosses();
}

/// The lender's clock is so late that it thinks the certificate has most of its time before it, and renews none.
#[test]
fn a_certificate_that_ends_soon_and_is_not_renewed_is_warned_about() {
    const LEFT: Duration = Duration::from_secs(10 * 86_400);
    let clock = Clock::new();
    let lab = clock.serve(Lab::start(LOOPBACK));
    let home = lab.join("alice");
    let old = made_before(&lab, &home, LEAF_LIFETIME - LEFT - HOUR);
    keep_certificate(&home, &old);
    clock.set_by(-(40 * 86_400));
    let checked = run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
    let said = String::from_utf8(checked.stderr).unwrap();
    assert!(said.contains("the certificate of this device ends soon and was not renewed"), "{said}");
    assert!(said.contains("days=10"), "{said}");
    assert_eq!(certificate_of(&home), old);
    // With the right time it is renewed, and there is nothing to say.
    clock.set_by(40 * 86_400);
    let checked = run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
    assert_eq!(String::from_utf8(checked.stderr).unwrap(), "");
    assert_ne!(certificate_of(&home), old);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_day_begins_a_file_of_the_log_and_whoever_follows_it_misses_nothing() {
    let clock = Clock::new();
    // So that no day ends by itself.
    let today = UnixTime::now().0 % DAY.as_secs();
    clock.set_by((DAY + DAY / 2).as_secs() as i64 - today as i64);
    let lab = clock.serve(Lab::start(LOOPBACK));
    let old = || {
        let files = std::fs::read_dir(lab.dir().join("audit")).unwrap();
        files.filter(|file| file.as_ref().unwrap().file_name().to_str().unwrap().starts_with("audit-")).count()
    };
    let follow = Daemon::spawn(lab.admin().args(["audit", "--follow"]));
    follow.wait_for_line("alice");
    let before = old();
    for (number, user) in ["carol", "dave", "erin"].into_iter().enumerate() {
        clock.set_by(DAY.as_secs() as i64);
        run(lab.admin().args(["user", "add", user]));
        follow.wait_for_line(user);
        assert_eq!(old() - before, number + 1);
    }
    let proof = run(lab.admin().args(["audit", "verify", "--json"])).stdout;
    assert_eq!(crate::support::json(&proof)["whole"], true);
    let all = run(lab.admin().args(["audit", "--json"])).stdout;
    for user in ["alice", "carol", "dave", "erin"] {
        assert!(String::from_utf8_lossy(&all).contains(user), "{user} is in one of the files");
    }
}

/// A connection through a forward, which bytes cross in both directions.
pub struct Lent {
    forward: Daemon,
    near: TcpStream,
    far: TcpStream,
}

impl Lent {
    pub fn open(home: &crate::support::Home) -> Self {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let (forward, local) = home.forward(&[&format!("0:{}", target.local_addr().unwrap())]);
        let near = TcpStream::connect(local[0]).unwrap();
        let (far, _) = target.accept().unwrap();
        for socket in [&near, &far] {
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        Self { forward, near, far }
    }

    pub fn crosses(&mut self) {
        assert!(self.may_cross(), "it is cut");
    }

    /// `false`: it is cut.
    pub fn may_cross(&mut self) -> bool {
        let mut byte = [0];
        let there = self.near.write_all(b"?").and_then(|()| self.far.read_exact(&mut byte));
        there.and_then(|()| self.far.write_all(b"!")).and_then(|()| self.near.read_exact(&mut byte)).is_ok()
    }

    pub fn ends_cut(mut self) {
        for socket in [&mut self.near, &mut self.far] {
            assert!(crate::support::ends(socket), "nothing more comes");
        }
    }
}
