//! The library as a program uses it: `Borrower`, `tcp_connect`, `TcpStream`.

use std::{
    io::{Read, Write},
    net::TcpListener,
};

use capuchin::{BorrowError, Borrower, proto::ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    echo, origin,
    support::{
        LOOPBACK, Lab, PATIENCE, json,
        ports::{ClosedPort, FullListener},
        run, wait_until,
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_borrowed_stream_reads_writes_splits_and_closes_its_halves() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let server = origin(|mut socket| {
        let mut question = Vec::new();
        socket.read_to_end(&mut question).unwrap();
        socket.write_all(&question).unwrap();
    });
    let borrower = home.connect().await;
    assert_eq!((borrower.lender().as_str(), borrower.user().as_str()), ("lab", "alice"));
    let stream = borrower.tcp_connect(server.to_string()).await.unwrap();
    assert_eq!(stream.peer_addr(), server);
    assert!(stream.local_addr().ip().is_loopback() && stream.local_addr().port() != 0);
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(&[7; 300_000]).await.unwrap();
    // Dropping the writing half is the end that the server waits for.
    drop(writer);
    let mut answer = Vec::new();
    reader.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, vec![7; 300_000]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errnos_of_the_lender_arrive_as_they_are() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let borrower = home.connect().await;
    let gone = ClosedPort::new();
    let error = borrower.tcp_connect(gone.address.to_string()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Target, "{error}");
    assert_eq!(error.errno().map(|errno| errno.0), Some(111), "ECONNREFUSED: {error}");
    let error = borrower.tcp_connect("nobody.invalid:80").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Target, "{error}");
    assert_eq!(error.errno().map(|errno| errno.0), Some(113), "EHOSTUNREACH: {error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_stream_closes_the_targets_connection() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let borrower = home.connect().await;
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = borrower.tcp_connect(target.local_addr().unwrap().to_string()).await.unwrap();
    let (mut socket, _) = target.accept().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"last words").await.unwrap();
    drop(stream);
    let mut heard = String::new();
    socket.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "last words");
}

/// A dial that nobody waits for any more must not go on: its target would see a connection for nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_future_before_the_grant_ends_the_dial_and_frees_the_stream() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let borrower = home.connect().await;
    let full = FullListener::new();
    let dials = || {
        let listed = json(&run(lab.admin().args(["sessions", "--json"])).stdout);
        listed["sessions"][0]["streams"].as_array().unwrap().len()
    };
    for _ in 0..5 {
        let (borrower, target) = (borrower.clone(), full.address.to_string());
        let dial = tokio::spawn(async move { borrower.tcp_connect(target).await.map(drop) });
        wait_until("the lender dials", || dials() == 1);
        dial.abort();
        assert!(dial.await.unwrap_err().is_cancelled(), "the target must not answer");
        wait_until("the dial has ended", || dials() == 0);
    }
    let server = origin(echo);
    let mut stream = borrower.tcp_connect(server.to_string()).await.unwrap();
    stream.write_all(b"others are served").await.unwrap();
    let mut answer = [0; 17];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(!lab.audit().iter().any(|line| line["event"] == "tcp-closed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lender_that_goes_fails_every_stream_and_the_next_connect_says_unreachable() {
    let mut lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let borrower = home.connect().await;
    let server = origin(echo);
    let mut stream = borrower.tcp_connect(server.to_string()).await.unwrap();
    lab.daemon.kill();
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(borrower.ended().await.kind(), ErrorKind::Lost);
    let error = Borrower::connect_with(&home.profiles(), "lab").await.err().unwrap();
    assert!(matches!(error, BorrowError::Unreachable { .. }), "{error}");
}

#[test]
fn the_example_runs() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let web = origin(|mut socket| {
        let _ = socket.read(&mut [0; 1024]);
        let _ = socket.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello from the example");
    });
    let mut fetch = std::process::Command::new(env!("CARGO"));
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    fetch.args(["run", "--quiet", "--manifest-path", manifest, "--example", "fetch", "--", "lab", &web.to_string()]);
    let config = home.folder.path().join("config");
    fetch.env("XDG_CONFIG_HOME", config).env("XDG_STATE_HOME", home.folder.path().join("state"));
    let output = run(&mut fetch);
    assert!(String::from_utf8(output.stdout).unwrap().ends_with("hello from the example"));
}
