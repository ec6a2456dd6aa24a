//! Ends that are confirmed: `close().await` of a connection and of a session.

use std::{io::Read, sync::mpsc};

use capuchin::proto::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    origin, pattern,
    support::{LOOPBACK, Lab, PATIENCE},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_closed_has_delivered_everything() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (got_tx, got_rx) = mpsc::channel();
    let server = origin(move |mut socket| {
        let mut got = Vec::new();
        socket.read_to_end(&mut got).unwrap();
        got_tx.send(got).unwrap();
    });
    let borrower = home.connect().await;
    let mut stream = borrower.tcp_connect(server.to_string()).await.unwrap();
    let sent = pattern(1 << 20, 7);
    stream.write_all(&sent).await.unwrap();
    stream.close().await.unwrap();
    assert!(got_rx.recv_timeout(PATIENCE).unwrap() == sent);
    let line = lab.wait_for_audit("the end", |line| line["event"] == "tcp-closed");
    assert_eq!(line["bytes_in"], sent.len());

    borrower.close().await.unwrap();
    lab.wait_for_audit("the end of the session", |line| {
        line["event"] == "session-ended" && line["why"].as_str().unwrap().contains("the borrower closed the session")
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_a_session_ends_what_was_borrowed_through_it_and_loses_nothing() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (got_tx, got_rx) = mpsc::channel();
    let server = origin(move |mut socket| {
        let mut got = Vec::new();
        let _ = socket.read_to_end(&mut got);
        got_tx.send(got.len()).unwrap();
    });
    let borrower = home.connect().await;
    borrower.keep_connected();
    let clone = borrower.clone();
    let mut stream = borrower.tcp_connect(server.to_string()).await.unwrap();
    stream.write_all(&[7; 100_000]).await.unwrap();
    borrower.close().await.unwrap();
    assert!(got_rx.recv_timeout(PATIENCE).unwrap() <= 100_000);
    assert!(stream.read(&mut [0]).await.is_err());
    // It is over for the other handle, and does not come back.
    let error = clone.tcp_connect(server.to_string()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Lost, "{error}");
    assert_eq!(clone.close().await.unwrap_err().kind(), ErrorKind::Lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_tells_when_the_lender_has_died_or_the_server_has_hung_up() {
    let mut lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let server = origin(|socket| {
        // With unread bytes: a reset.
        let _ = rustix::event::poll(
            &mut [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)],
            Some(&rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 }),
        );
    });
    let borrower = home.connect().await;
    let mut stream = borrower.tcp_connect(server.to_string()).await.unwrap();
    stream.write_all(b"never read").await.unwrap();
    // The reset has come.
    assert!(stream.read(&mut [0]).await.is_err());
    assert!(stream.close().await.is_err());

    let idle = origin(|mut socket| drop(socket.read(&mut [0])));
    let stream = borrower.tcp_connect(idle.to_string()).await.unwrap();
    lab.daemon.kill();
    assert!(stream.close().await.is_err());
    let error = borrower.close().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Lost, "{error}");
}
