//! Ends that are confirmed: `close().await` of a connection and of a session.

use std::{future::poll_fn, io::Read, net::TcpListener, pin::Pin, sync::mpsc, task::Poll, time::Duration};

use capuchin::{Borrower, TcpStream, proto::ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::{
    echo, origin, pattern,
    support::{LOOPBACK, Lab, PATIENCE, clock::Clock},
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
    let mut idle = borrower.tcp_connect(server.to_string()).await.unwrap();
    let mut stream = borrower.tcp_connect(server.to_string()).await.unwrap();
    stream.write_all(&[7; 100_000]).await.unwrap();
    stream.shutdown().await.unwrap();
    borrower.close().await.unwrap();
    let got = [(); 2].map(|()| got_rx.recv_timeout(PATIENCE).unwrap());
    assert_eq!(got.iter().sum::<usize>(), 100_000);
    assert!(idle.read(&mut [0]).await.is_err());
    // It is over for the other handle, and does not come back.
    let error = clone.tcp_connect(server.to_string()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Lost, "{error}");
    assert_eq!(clone.close().await.unwrap_err().kind(), ErrorKind::Lost);
}

async fn goes_there_and_back(stream: &mut TcpStream) {
    stream.write_all(b"?").await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
}

/// A connection to a target that reads nothing, with as much in it as is taken of that; `beside` is another one. Closed, as its
/// session: gives the target's end, and how much was sent.
async fn closed_behind_a_stalled_target(borrower: Borrower, beside: &mut TcpStream) -> (std::net::TcpStream, usize) {
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = borrower.tcp_connect(target.local_addr().unwrap().to_string()).await.unwrap();
    let (socket, _) = target.accept().unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    // Each trip on the other one gives this one all the time that it needs to move.
    let (mut sent, mut trips) = (0, 0);
    while trips < 200 {
        match poll_fn(|cx| Poll::Ready(Pin::new(&mut stream).poll_write(cx, &[7; 16 * 1024]))).await {
            Poll::Ready(length) => (sent, trips) = (sent + length.unwrap(), 0),
            Poll::Pending => {
                trips += 1;
                goes_there_and_back(beside).await;
            }
        }
    }
    stream.close().await.unwrap();
    borrower.close().await.unwrap();
    (socket, sent)
}

/// Who closed was told that all of it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_target_reads_long_after_the_session_was_closed_is_all_that_was_sent() {
    let clock = Clock::new();
    let lab = clock.serve(Lab::start(LOOPBACK));
    let (alice, bob) = (lab.join("alice"), lab.join("bob"));
    let (borrower, another) = (alice.connect().await, bob.connect().await);
    let mut beside = another.tcp_connect(origin(echo).to_string()).await.unwrap();
    let (mut socket, sent) = closed_behind_a_stalled_target(borrower, &mut beside).await;
    for _ in 0..3 {
        clock.pass(Duration::from_secs(3), async || goes_there_and_back(&mut beside).await).await;
    }
    let mut got = Vec::new();
    let end = socket.read_to_end(&mut got).map_err(|error| error.kind());
    assert!(got.len() == sent, "{} of {sent} bytes, and then {end:?}", got.len());
    let line = lab.wait_for_audit("the end", |line| line["event"] == "tcp-closed" && line["user"] == "alice");
    assert!(line["bytes_in"] == sent && line["why"].is_null(), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_waits_for_a_target_alone_leaves_its_place_to_the_next_of_its_user() {
    let clock = Clock::new();
    let lab = clock.serve(Lab::start(&format!("{LOOPBACK}limits = {{ sessions = 1 }}\n")));
    let (alice, bob) = (lab.join("alice"), lab.join("bob"));
    let (borrower, another) = (alice.connect().await, bob.connect().await);
    let mut beside = another.tcp_connect(origin(echo).to_string()).await.unwrap();
    let (_socket, _) = closed_behind_a_stalled_target(borrower, &mut beside).await;
    clock.pass(Duration::from_secs(3), async || goes_there_and_back(&mut beside).await).await;
    alice.connect().await.close().await.unwrap();
    let line = lab.wait_for_audit("the end", |line| line["event"] == "tcp-closed" && line["user"] == "alice");
    assert_eq!(line["why"], "the session has ended", "{line}");
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
