//! Borrowed connections and forwards, against a lender whose answers the test makes up.

use std::{future::poll_fn, io, net::SocketAddr, task::Poll};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream as Socket,
    sync::mpsc,
};

use super::*;
use crate::{
    Profiles, TcpStream,
    borrow::access::{Access, Entered},
    proto::{
        Answer, Ask, Errno, ErrorKind, Refusal, Request, SessionId, TcpConnected, Verdict, WireAddr, message, mux,
    },
    session::{Session, Stream, both_ends},
};

fn pair() -> (Borrower, Session) {
    let [session, lender] = both_ends(&mux::Config::default());
    let (name, user) = ("lab".parse().unwrap(), "ana".parse().unwrap());
    let id = SessionId([0; 16]);
    let entered = Entered { session, id, lender: name, user, ca: None, renewal: None, is_shared: false };
    // Never asked: the session is there already.
    let nowhere = Profiles::at("/nonexistent".as_ref(), "/nonexistent".as_ref());
    (Borrower::new(entered, Access::with(&nowhere, "lab").unwrap()), lender)
}

/// The next stream at the lender, and what it asks for.
async fn asked(lender: &Session) -> (Stream, Request) {
    let stream = lender.accept().await.unwrap();
    let request = stream.read_message_bytes("request").await.unwrap();
    (stream, Request::decode(&request).unwrap().unwrap())
}

async fn grant(stream: &Stream) {
    let address = |text: &str| WireAddr(text.parse().unwrap());
    let connected = TcpConnected { peer: address("10.0.0.1:80"), local: address("10.0.0.2:1025") };
    stream.write_message(&Answer::Granted(connected)).await.unwrap();
}

fn down() -> Answer<TcpConnected> {
    let text = "10.0.0.1:80: Connection refused (os error 111)";
    Answer::Refused(Refusal::new(ErrorKind::Target, text).with_errno(Some(Errno::ECONNREFUSED)))
}

async fn connect(borrower: &Borrower, lender: &Session) -> (TcpStream, Stream) {
    tokio::join!(async { borrower.tcp_connect("web:80").await.unwrap() }, async {
        let (stream, request) = asked(lender).await;
        assert_eq!(request, Request::TcpConnect("web:80".parse().unwrap()));
        grant(&stream).await;
        stream
    })
}

/// Such as those that a timeout ends together. More at once, and the lender would end the session.
#[tokio::test]
async fn a_thousand_connections_that_are_given_up_at_once_cost_nobody_the_session() {
    let (borrower, lender) = pair();
    let mut dials: Vec<_> = (0..1100).map(|_| Box::pin(borrower.tcp_connect("web:80"))).collect();
    for dial in &mut dials {
        let is_pending = poll_fn(|cx| Poll::Ready(dial.as_mut().poll(cx).is_pending()));
        assert!(is_pending.await);
    }
    let mut heard = Vec::new();
    for _ in 0..dials.len() {
        heard.push(asked(&lender).await.0);
    }
    drop(dials);
    for stream in heard {
        stream.given_up().await;
    }
    assert_eq!((lender.over(), lender.peer_streams()), (None, 0));
    connect(&borrower, &lender).await;
}

#[tokio::test]
async fn a_granted_connection_carries_bytes_and_each_half_ends_alone() {
    let (borrower, lender) = pair();
    let (mut ours, mut theirs) = connect(&borrower, &lender).await;
    assert_eq!(ours.peer_addr().to_string(), "10.0.0.1:80");
    assert_eq!(ours.local_addr().to_string(), "10.0.0.2:1025");
    ours.write_all(b"question").await.unwrap();
    ours.shutdown().await.unwrap();
    let mut got = String::new();
    theirs.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "question");
    theirs.write_all(b"answer after the end").await.unwrap();
    theirs.finish();
    got.clear();
    ours.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "answer after the end");
}

#[tokio::test]
async fn a_connection_that_is_dropped_delivers_what_was_written() {
    let (borrower, lender) = pair();
    let (mut ours, mut theirs) = connect(&borrower, &lender).await;
    ours.write_all(b"last words").await.unwrap();
    drop(ours);
    let mut got = String::new();
    theirs.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "last words");
}

#[tokio::test]
async fn a_connect_that_is_given_up_resets_its_stream() {
    let (borrower, lender) = pair();
    let mut theirs = {
        let connecting = borrower.tcp_connect("web:80");
        tokio::pin!(connecting);
        tokio::select! {
            _ = &mut connecting => panic!("nobody has answered"),
            (stream, _) = asked(&lender) => stream,
        }
    };
    assert_eq!(theirs.read(&mut [0; 1]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_target_that_is_down_gives_its_true_errno() {
    let (borrower, lender) = pair();
    let (result, ()) = tokio::join!(borrower.tcp_connect("web:80"), async {
        asked(&lender).await.0.write_message(&down()).await.unwrap();
    });
    let Err(BorrowError::Dial { source, target, .. }) = result else { panic!("it is down") };
    assert_eq!((source.kind(), target.as_str()), (io::ErrorKind::ConnectionRefused, "web:80"));
}

#[tokio::test]
async fn a_check_gives_the_rule() {
    let (borrower, lender) = pair();
    let (verdict, ()) = tokio::join!(borrower.check("connect", "web:80"), async {
        let (stream, request) = asked(&lender).await;
        assert_eq!(request, Request::Check(Ask { kind: "connect".into(), target: "web:80".into() }));
        let verdict = Verdict::new(&"policy.toml:3", []);
        stream.write_message(&Answer::Granted(verdict)).await.unwrap();
    });
    assert_eq!(verdict.unwrap().rule, "policy.toml:3");
}

#[tokio::test]
async fn what_is_no_target_is_not_even_asked_for() {
    let (borrower, _lender) = pair();
    assert_eq!(borrower.tcp_connect("web").await.err().unwrap().kind(), ErrorKind::Usage);
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_the_lenders_fault() {
    let (borrower, lender) = pair();
    let (result, ()) = tokio::join!(borrower.tcp_connect("web:80"), async {
        let (stream, _) = asked(&lender).await;
        stream.write_bytes(message::encode_prefixed(&7_u8));
    });
    assert_eq!(result.err().unwrap().kind(), ErrorKind::Protocol);
}

/// A forward that is served by a task; its failures come out of the channel.
async fn serving(borrower: &Borrower) -> (SocketAddr, mpsc::Receiver<String>, tokio::task::JoinHandle<BorrowError>) {
    let forward = {
        let local = Endpoint::Tcp("127.0.0.1:0".parse().unwrap());
        Forward::bind(borrower, local, Destination::Tcp("web:80".parse().unwrap())).await.unwrap()
    };
    let (failure_tx, failure_rx) = mpsc::channel(4);
    let Endpoint::Tcp(local) = *forward.local() else { panic!("{} is no port", forward.local()) };
    let served = forward.serve(move |error| failure_tx.try_send(error.to_string()).unwrap());
    (local, failure_rx, tokio::spawn(served))
}

#[tokio::test]
async fn a_forward_sends_before_it_is_answered_and_keeps_half_close() {
    let (borrower, lender) = pair();
    let (local, _failures, _serving) = serving(&borrower).await;
    let mut program = Socket::connect(local).await.unwrap();
    program.write_all(b"early").await.unwrap();
    program.shutdown().await.unwrap();
    let (mut theirs, _) = asked(&lender).await;
    let mut got = String::new();
    theirs.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "early");
    grant(&theirs).await;
    theirs.write_all(b"after the end").await.unwrap();
    drop(theirs);
    got.clear();
    program.read_to_string(&mut got).await.unwrap();
    assert_eq!(got, "after the end");
}

#[tokio::test]
async fn a_forward_to_a_target_that_is_down_resets_the_program_and_serves_the_next() {
    let (borrower, lender) = pair();
    let (local, mut failures, _serving) = serving(&borrower).await;
    for _ in 0..2 {
        let mut program = Socket::connect(local).await.unwrap();
        asked(&lender).await.0.write_message(&down()).await.unwrap();
        assert_eq!(program.read(&mut [0; 1]).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let failure = failures.recv().await.unwrap();
        assert_eq!(failure, "lab could not connect to web:80: Connection refused (os error 111)");
    }
}

#[tokio::test]
async fn a_forward_ends_with_its_session_and_resets_its_connections() {
    let (borrower, lender) = pair();
    let (local, _failures, serving) = serving(&borrower).await;
    let mut program = Socket::connect(local).await.unwrap();
    let (theirs, _) = asked(&lender).await;
    grant(&theirs).await;
    theirs.write_message(&1_u8).await.unwrap();
    program.read_exact(&mut [0; 5]).await.unwrap();
    lender.end(ErrorKind::Revoked, "ana was revoked");
    let end = serving.await.unwrap();
    assert_eq!(
        (end.kind(), end.to_string().as_str()),
        (ErrorKind::Revoked, "the session with lab is over: ana was revoked")
    );
    let error = program.read(&mut [0; 1]).await.expect_err("an orderly end would look like a whole answer");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}
