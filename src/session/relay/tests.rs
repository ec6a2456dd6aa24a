use std::{future::pending, sync::Arc};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader, duplex},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use super::*;
use crate::{
    proto::mux::{Config, Role},
    session::{Session, both_ends_of_a_stream},
};

async fn socket_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

#[tokio::test]
async fn what_the_peer_sent_before_it_closed_still_arrives() {
    let [(_borrower, ours), (_lender, theirs)] = both_ends_of_a_stream().await;
    let (mut near, far) = socket_pair().await;
    let sent = vec![7; 60_000];
    theirs.write_bytes(sent.clone().into());
    // The whole stream is closed at the other end, not only its sending half, before a byte was relayed.
    drop(theirs);
    ours.write_closed().await;
    let relay = tokio::spawn(async move {
        let meter = Meter::default();
        relay(far, &ours, &meter).await;
        meter.from_stream()
    });
    let mut got = Vec::new();
    near.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, sent);
    assert_eq!(relay.await.unwrap(), 60_000);
}

/// A server that computes for a client who has gone would not hear of it before it writes, and then lose what it writes.
#[tokio::test]
async fn a_socket_that_has_ended_its_half_and_breaks_off_ends_the_stream_unasked() {
    let [(_borrower, ours), (_lender, theirs)] = both_ends_of_a_stream().await;
    let (near, far) = socket_pair().await;
    let relay = tokio::spawn(async move { relay(far, &ours, &Meter::default()).await });
    rustix::net::shutdown(&near, rustix::net::Shutdown::Write).unwrap();
    assert!(!theirs.read_batch(&mut Batch::default(), 1).await.unwrap());
    near.set_zero_linger().unwrap();
    drop(near);
    soon(theirs.write_closed()).await;
    relay.await.unwrap();
}

#[tokio::test]
async fn a_socket_whose_other_end_reads_no_more_is_reset_once_it_has_everything() {
    let [(_borrower, ours), (_lender, theirs)] = both_ends_of_a_stream().await;
    let (mut near, far) = socket_pair().await;
    let meter = Arc::new(Meter::default());
    let counts = meter.clone();
    let relay = tokio::spawn(async move { relay(far, &ours, &counts).await });
    // The kernel takes it, and has no room for it at a peer that does not read.
    let sent = vec![7; 1 << 20];
    theirs.write_all_bytes(sent.clone().into()).await.unwrap();
    drop(theirs);
    while meter.from_stream() < sent.len() as u64 {
        turns(1).await;
    }
    let mut got = Vec::new();
    near.read_to_end(&mut got).await.unwrap();
    assert!(got == sent, "{} bytes of {}", got.len(), sent.len());
    soon(near.ready(Interest::ERROR)).await.unwrap();
    assert_eq!(near.try_write(b"for nobody").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    relay.await.unwrap();
}

#[tokio::test]
async fn bytes_go_up_before_the_answer_and_a_no_resets_the_socket() {
    let [(_borrower, ours), (_lender, theirs)] = both_ends_of_a_stream().await;
    let (mut near, far) = socket_pair().await;
    let (answer_tx, answer_rx) = oneshot::channel::<Result<(), &str>>();
    let relay = tokio::spawn(async move {
        relay_unanswered(far, &ours, &Meter::default(), async { answer_rx.await.unwrap() }, pending()).await
    });
    near.write_all(b"early").await.unwrap();
    let mut batch = Batch::default();
    assert!(theirs.read_batch(&mut batch, 16).await.unwrap());
    answer_tx.send(Err("no")).unwrap();
    assert_eq!(relay.await.unwrap(), Err("no"));
    let error = near.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_a_socket_sent_before_it_broke_off_is_read_first() {
    let (near, far) = duplex(1024);
    let borrower = Session::start(BufReader::new(near), Role::Borrower, Config::default());
    // Nobody takes anything from the connection yet, which so is busy with another stream.
    let busy = borrower.open(Bytes::new()).unwrap();
    busy.write_all_bytes(vec![7; 60_000].into()).await.unwrap();
    turns(10).await;
    let ours = borrower.open(Bytes::from_static(b"?")).unwrap();
    let (mut program, socket) = socket_pair().await;
    program.write_all(b"too large").await.unwrap();
    program.set_zero_linger().unwrap();
    drop(program);
    let relay = tokio::spawn(async move { relay(socket, &ours, &Meter::default()).await });
    // On this one thread the relay runs until nothing is left for it to do.
    turns(1000).await;
    let lender = Session::start(BufReader::new(far), Role::Lender, Config::default());
    let _busy = lender.accept().await.unwrap();
    let theirs = soon(lender.accept()).await.unwrap();
    let mut said = [0; 10];
    theirs.read_all(&mut said).await.unwrap();
    assert_eq!(&said, b"?too large");
    assert_eq!(theirs.read_all(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    relay.await.unwrap();
}

/// Whoever connects and resets must not make us open and reset streams: that is a flood to the other side.
#[tokio::test]
async fn a_socket_that_fails_before_the_answer_fails_its_stream_only_after_it_or_when_it_may_give_up() {
    for is_answered in [true, false] {
        let [(_borrower, ours), (_lender, theirs)] = both_ends_of_a_stream().await;
        let (near, far) = socket_pair().await;
        let (answer_tx, answer_rx) = oneshot::channel();
        let (give_up_tx, give_up_rx) = oneshot::channel();
        let relay = tokio::spawn(async move {
            let answer = async { answer_rx.await.unwrap() };
            relay_unanswered(far, &ours, &Meter::default(), answer, async { give_up_rx.await.unwrap() }).await
        });
        near.set_zero_linger().unwrap();
        drop(near);
        let mut batch = Batch::default();
        tokio::select! {
            biased;
            ended = theirs.read_batch(&mut batch, 1) => panic!("{ended:?} before the answer"),
            // On this one thread the relay runs until nothing is left for it to do.
            () = turns(1000) => {}
        }
        if is_answered {
            answer_tx.send(Ok::<(), &str>(())).unwrap();
            assert_eq!(
                soon(theirs.read_batch(&mut batch, 1)).await.unwrap_err().kind(),
                io::ErrorKind::ConnectionReset
            );
            assert_eq!(relay.await.unwrap(), Ok(()));
        } else {
            give_up_tx.send(()).unwrap();
            assert_eq!(
                soon(theirs.read_batch(&mut batch, 1)).await.unwrap_err().kind(),
                io::ErrorKind::ConnectionReset
            );
            answer_tx.send(Err("too late")).unwrap();
            assert_eq!(relay.await.unwrap(), Err("too late"));
        }
    }
}

/// What would else wait for ever.
async fn soon<T>(awaited: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), awaited).await.expect("not within 30 s")
}

async fn turns(count: usize) {
    for _ in 0..count {
        tokio::task::yield_now().await;
    }
}

/// Without it every question but the first would wait for 40 ms.
#[tokio::test]
async fn a_question_in_two_writes_waits_for_no_delayed_acknowledgement() {
    let [(_borrower, ours), (_lender, theirs)] = both_ends_of_a_stream().await;
    // Neither end of this connection has TCP_NODELAY.
    let (mut near, far) = socket_pair().await;
    tokio::spawn(async move { relay(far, &ours, &Meter::default()).await });
    tokio::spawn(async move {
        while theirs.read_all(&mut [0; 2]).await.is_ok() {
            theirs.write_all_bytes(Bytes::from_static(b"!")).await.unwrap();
        }
    });
    let mut fastest = Duration::MAX;
    for round in 0..20 {
        let began = std::time::Instant::now();
        near.write_all(b"1").await.unwrap();
        near.write_all(b"2").await.unwrap();
        near.read_exact(&mut [0]).await.unwrap();
        if round > 3 {
            fastest = fastest.min(began.elapsed());
        }
    }
    assert!(fastest < Duration::from_millis(30), "{fastest:?}");
}
