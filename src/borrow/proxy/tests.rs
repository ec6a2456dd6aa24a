//! What clients say, whole and in pieces, and what becomes of it.

use proptest::prelude::*;

use super::*;
use crate::proto::{Errno, ErrorKind, Refusal};

/// Says `bytes` in pieces of `step`; gives what is answered before the end, and the wish or the last words.
fn hear(bytes: &[u8], step: usize) -> (Vec<u8>, Result<Wish, Vec<u8>>, Vec<u8>) {
    let (mut hearing, mut heard, mut said) = (Hearing::Unknown, BytesMut::new(), Vec::new());
    let mut pieces = bytes.chunks(step);
    loop {
        match hearing.next(&mut heard) {
            Word::Connect(wish) => {
                heard.extend(pieces.flatten());
                return (said, Ok(wish), heard.to_vec());
            }
            Word::End(last) => return (said, Err(last), heard.to_vec()),
            Word::Say(reply) => said.extend(reply),
            Word::More => match pieces.next() {
                Some(piece) => heard.extend_from_slice(piece),
                None => return (said, Err(b"more".to_vec()), heard.to_vec()),
            },
        }
    }
}

fn target(bytes: &[u8]) -> String {
    hear(bytes, usize::MAX).1.map(|wish| wish.target.to_string()).unwrap_or_else(|last| format!("{last:?}"))
}

const SOCKS5_NAME: &[u8] = b"\x05\x01\x00\x05\x01\x00\x03\x0bdb.internal\x15\x38early";

#[test]
fn every_way_to_say_where_to_is_understood_in_pieces_of_any_size() {
    for (bytes, wanted, speech, before) in [
        (SOCKS5_NAME, "db.internal:5432", Speech::Socks5, &b"\x05\x00"[..]),
        (b"\x05\x02\x02\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50early", "10.0.0.1:80", Speech::Socks5, b"\x05\x00"),
        (
            b"\x05\x01\x00\x05\x01\x00\x04\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x00\x50early",
            "[fd00::1]:80",
            Speech::Socks5,
            b"\x05\x00",
        ),
        (b"\x04\x01\x00\x50\x0a\x00\x00\x01me\0early", "10.0.0.1:80", Speech::Socks4, b""),
        (b"\x04\x01\x00\x50\x00\x00\x00\x01\0db\0early", "db:80", Speech::Socks4, b""),
        (b"CONNECT [::1]:22 HTTP/1.1\r\nHost: x\r\n\r\nearly", "[::1]:22", Speech::HttpConnect, b""),
        (b"GET http://web/ HTTP/1.1\r\nHost: web\r\n\r\nearly", "web:80", Speech::HttpRequest, b""),
    ] {
        for step in 1..=bytes.len() {
            let (said, wish, rest) = hear(bytes, step);
            let wish = wish.unwrap_or_else(|last| panic!("{bytes:?} ended with {last:?}"));
            assert_eq!((wish.target.to_string().as_str(), wish.speech), (wanted, speech));
            assert_eq!((said.as_slice(), rest.as_slice()), (before, &b"early"[..]), "{wanted} in pieces of {step}");
        }
    }
}

#[test]
fn what_cannot_be_done_is_answered_in_the_clients_own_words() {
    for (bytes, last) in [
        (&b"\x05\x01\x02"[..], &b"\x05\xff"[..]),
        (b"\x05\x01\x00\x05\x02\x00\x01\x0a\x00\x00\x01\x00\x50", b"\x05\x07\x00\x01\0\0\0\0\0\0"),
        (b"\x05\x01\x00\x05\x01\x00\x09", b"\x05\x08\x00\x01\0\0\0\0\0\0"),
        (b"\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x00", b"\x05\x01\x00\x01\0\0\0\0\0\0"),
        (b"\x05\x01\x00\x05\x01\x00\x03\x02\xff\xfe\x00\x50", b"\x05\x01\x00\x01\0\0\0\0\0\0"),
        (b"\x05\x01\x00\x06", b""),
        (b"\x04\x02\x00\x50\x0a\x00\x00\x01\0", b"\x00\x5b\0\0\0\0\0\0"),
        (b"\x16\x03\x01", b""),
        (b"\x00", b""),
    ] {
        assert_eq!(hear(bytes, 1).1.err().unwrap(), last, "{bytes:?}");
    }
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("CONNECT web HTTP/1.1\r\n\r\n", "400"),
        ("CONNECT web:80\r\n\r\n", "400"),
        ("CONNECT web:0 HTTP/1.1\r\n\r\n", "400"),
        ("GET http://me:secret@web/ HTTP/1.1\r\n\r\n", "400"),
        ("GET http:///x HTTP/1.1\r\n\r\n", "400"),
        ("GET ftp://web/ HTTP/1.1\r\n\r\n", "501"),
        ("PRI * HTTP/2.0\r\n\r\n", "400"),
    ] {
        let last = String::from_utf8(hear(request.as_bytes(), 1).1.err().unwrap()).unwrap();
        assert!(last.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {last}");
    }
    let endless = [&b"\x04\x01\x00\x50\x0a\x00\x00\x01"[..], &[b'u'; 300]].concat();
    assert_eq!(hear(&endless, 1).1.err().unwrap(), socks::reply4(false));
}

#[test]
fn a_request_goes_to_its_server_as_from_a_client_that_asks_once() {
    let request = b"POST http://web:8080/a?b HTTP/1.1\r\nHost: web:8080\r\nProxy-Connection: keep-alive\r\n\
        Proxy-Authorization: Basic x\r\nCONNECTION: keep-alive\r\nContent-Length: 4\r\n\r\nbody";
    let (_, wish, rest) = hear(request, 7);
    let wish = wish.ok().unwrap();
    assert_eq!(wish.target.to_string(), "web:8080");
    let first = std::str::from_utf8(&wish.first).unwrap();
    assert_eq!(first, "POST /a?b HTTP/1.1\r\nHost: web:8080\r\nContent-Length: 4\r\nConnection: close\r\n\r\n");
    assert_eq!(rest, b"body");
    assert_eq!(target(b"GET http://[::1]?q HTTP/1.0\r\n\r\n"), "[::1]:80");
}

#[test]
fn what_the_lender_says_becomes_the_protocols_reply() {
    let of = |kind, errno: u16| {
        let refusal = Refusal::new(kind, "no").with_errno(Some(Errno(errno)));
        let outcome = Outcome::of(&BorrowError::refused("lab", "db:1", &refusal));
        (outcome.socks5(), outcome.http().split(' ').next().unwrap())
    };
    for (kind, errno, reply) in [
        (ErrorKind::Policy, 13, (2, "403")),
        (ErrorKind::Target, 111, (5, "502")),
        (ErrorKind::Target, 101, (3, "502")),
        (ErrorKind::Target, 113, (4, "502")),
        (ErrorKind::Target, 110, (6, "504")),
        (ErrorKind::Busy, 24, (1, "503")),
        (ErrorKind::Target, 5, (1, "502")),
    ] {
        assert_eq!(of(kind, errno), reply, "{kind} {errno}");
    }
}

/// A client's socket, and ours.
async fn socket_pair() -> (TcpStream, TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (client, listener.accept().await.unwrap().0)
}

#[tokio::test]
async fn the_end_of_what_a_client_sends_leaves_it_waiting_and_its_reset_does_not() {
    let (mut client, mut ours) = socket_pair().await;
    let mut heard = BytesMut::new();
    client.write_all(b"early").await.unwrap();
    client.shutdown().await.unwrap();
    {
        let gone = waits(&mut ours, &mut heard);
        tokio::pin!(gone);
        // On this one thread it reads until nothing is left to read.
        for _ in 0..1000 {
            tokio::select! {
                biased;
                waited = &mut gone => panic!("it may wait for its answer, and is {waited:?}"),
                () = tokio::task::yield_now() => {}
            }
        }
        client.set_zero_linger().unwrap();
        drop(client);
        assert_eq!(timeout(REPLY_MAX, gone).await, Ok(Waited::Gone));
    }
    assert_eq!(heard, "early");
}

#[tokio::test]
async fn a_client_that_may_have_closed_is_not_waited_for_for_ever() {
    for sent in [0, 2 * GREETING_BYTES_MAX] {
        let (mut client, mut ours) = socket_pair().await;
        client.write_all(&vec![7; sent]).await.unwrap();
        drop(client);
        let mut heard = BytesMut::new();
        // No other timer is there: the clock goes on to the next one.
        tokio::time::pause();
        let began = tokio::time::Instant::now();
        assert_eq!(waits(&mut ours, &mut heard).await, Waited::Enough);
        assert!((ENDED_MAX..ENDED_MAX + GREETING_MAX).contains(&began.elapsed()), "{:?}", began.elapsed());
        assert_eq!(heard.len(), sent.min(GREETING_BYTES_MAX));
        tokio::time::resume();
    }
}

#[tokio::test]
async fn a_reset_is_noticed_with_no_room_for_what_a_client_sends() {
    let (mut client, mut ours) = socket_pair().await;
    let mut heard = BytesMut::zeroed(GREETING_BYTES_MAX);
    client.write_all(b"no room").await.unwrap();
    client.set_zero_linger().unwrap();
    drop(client);
    assert_eq!(timeout(REPLY_MAX, waits(&mut ours, &mut heard)).await, Ok(Waited::Gone));
    assert_eq!(heard.len(), GREETING_BYTES_MAX);
}

proptest! {
    #[test]
    fn any_bytes_are_understood_or_not_and_never_grow_without_end(
        bytes in proptest::collection::vec(any::<u8>(), 0..600), first in 0..6_u8, step in 1..50_usize,
    ) {
        let bytes = [&[first.wrapping_add(3)][..], &bytes].concat();
        let (said, _, rest) = hear(&bytes, step);
        prop_assert!(said.len() <= 2 && rest.len() <= bytes.len());
    }

    #[test]
    fn any_text_is_a_request_or_an_error(text in "(GET|CONNECT) [ -~]{0,60} HTTP/1.1\r\n([ -~]{0,40}\r\n){0,4}\r\n") {
        let _ = hear(text.as_bytes(), usize::MAX);
    }
}
