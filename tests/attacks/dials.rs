//! What a borrower can make the lender dial: so many sockets for so long, and none for a borrower who is gone.

use std::{
    fs,
    time::{Duration, Instant},
};

use capuchin::proto::ErrorKind;
use serde_json::json;

use crate::{
    names::{EVERY_NAME, reach},
    support::{Lab, named::NamedLab, run, wait_until},
};

/// What the lender tries at once for one connection.
const ATTEMPTS_MAX: usize = 4;

/// A lender for which void.test has six addresses, each of them silent: what is sent there reaches nobody.
fn beside_a_void() -> NamedLab {
    let void: Vec<_> = (1..=6).map(|host| format!("void.test 60 A 10.79.0.{host}")).collect();
    let zone = json!({ "void.test A": [void], "www.test A": [["www.test 60 A 10.77.0.1"]] });
    NamedLab::start(EVERY_NAME, &zone).with_a_void()
}

/// Connections of the lender that wait for an answer.
fn dialled(lab: &Lab) -> usize {
    const SYN_SENT: &str = "02";
    let table = fs::read_to_string(format!("/proc/{}/net/tcp", lab.daemon.child.id())).unwrap();
    table.lines().filter(|line| line.split_whitespace().nth(3) == Some(SYN_SENT)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_with_many_silent_addresses_is_dialled_four_at_once_and_not_for_a_borrower_who_is_gone() {
    let named = beside_a_void();
    // As long as usual: none may end by itself.
    named.there("echo 6 > /proc/sys/net/ipv4/tcp_syn_retries");
    let home = named.lab.join("alice");
    let session = home.connect().await;
    let dialling = tokio::spawn({
        let session = session.clone();
        async move { session.tcp_connect("void.test:80").await.map(drop) }
    });
    wait_until("four are tried", || dialled(&named.lab) == ATTEMPTS_MAX);
    // The others would be there after their steps of 250 ms.
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        assert!(dialled(&named.lab) <= ATTEMPTS_MAX, "{}", dialled(&named.lab));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!dialling.is_finished());
    // The borrower gives up, and its session goes on.
    dialling.abort();
    wait_until("none is tried", || dialled(&named.lab) == 0);
    assert_eq!(reach(&session, "www.test:80").await.unwrap(), "10.77.0.1");

    // The borrower is gone without a word.
    let (mut forward, local) = home.forward(&["0:void.test:80"]);
    let _waiting = std::net::TcpStream::connect(local[0]).unwrap();
    wait_until("four are tried", || dialled(&named.lab) == ATTEMPTS_MAX);
    forward.kill();
    wait_until("none is tried", || dialled(&named.lab) == 0);
    // Taken back while it is dialled.
    let dialling = session.tcp_connect("void.test:80");
    let cut = async {
        tokio::task::block_in_place(|| wait_until("four are tried", || dialled(&named.lab) == ATTEMPTS_MAX));
        run(named.lab.admin().args(["revoke", "--user", "alice"]));
    };
    let (dialled_for, ()) = tokio::join!(tokio::time::timeout(crate::support::PATIENCE, dialling), cut);
    assert_eq!(dialled_for.unwrap().map(drop).unwrap_err().kind(), ErrorKind::Revoked);
    wait_until("none is tried", || dialled(&named.lab) == 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_silent_to_the_end_fails_with_what_the_kernel_says() {
    let named = beside_a_void();
    let session = named.lab.join("alice").connect().await;
    let error = session.tcp_connect("void.test:80").await.map(drop).unwrap_err();
    assert_eq!((error.kind(), error.errno().map(|errno| errno.0)), (ErrorKind::Target, Some(110)), "{error}");
    assert_eq!(dialled(&named.lab), 0);
    named.lab.wait_for_audit("the failure", |line| line["event"] == "tcp-failed");
    assert_eq!(reach(&session, "www.test:80").await.unwrap(), "10.77.0.1");
}
