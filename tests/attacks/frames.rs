//! After the login: frames and requests that no honest borrower sends.

use capuchin::proto::{ErrorKind, Kind, Request, Target, message};

use crate::{
    still_serves,
    support::{
        LOOPBACK, Lab,
        peer::{Peer, frame},
    },
};

/// Logs in, sends these bytes, and expects the session to end with this text, here and in the audit log.
async fn breaks_the_protocol(bytes: Vec<u8>, why: &str) {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    peer.send(&bytes).await;
    let goaway = peer.hear_goaway().await;
    assert_eq!(goaway.kind, ErrorKind::Protocol, "{}", goaway.text);
    assert!(goaway.text.contains(why), "{}", goaway.text);
    lab.wait_for_audit(why, |line| line["event"] == "session-ended" && line["why"].as_str().unwrap().contains(why));
    still_serves(&lab, &home).await;
}

/// A request for a connection to this port of the lender's loopback.
fn request(port: u16) -> Vec<u8> {
    message::encode_prefixed(&Request::TcpConnect(Target { host: "127.0.0.1".into(), port })).to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_29_a_frame_of_0xffff_bytes() {
    breaks_the_protocol(vec![0, 0, 0, 0, 1, 0x10, 0xff, 0xff], "the limit is 32760").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_30_truncated_unknown_and_duplicate_frames() {
    breaks_the_protocol(vec![0, 0, 0, 0, 1, 0x0f, 0, 0], "unknown frame kind").await;
    breaks_the_protocol(vec![0, 0, 0, 0, 1, 0x90, 0, 0], "flags").await;
    let twice = [frame(1, Kind::Data, true, false, b""), frame(1, Kind::Data, true, false, b"")].concat();
    breaks_the_protocol(twice, "was used before").await;
    breaks_the_protocol(frame(2, Kind::Data, true, false, b""), "parity").await;

    // Cut off in the middle of a frame: the session ends, and others go on.
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    peer.send(&frame(1, Kind::Data, true, false, &request(1))[..20]).await;
    drop(peer);
    lab.wait_for_audit("a cut frame", |line| line["event"] == "session-ended");
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_30_requests_that_cannot_be_read_or_are_unknown() {
    let malformed = frame(1, Kind::Data, true, false, b"\x00\x00\x00\x03\xff\xff\xff");
    breaks_the_protocol(malformed, "request cannot be read").await;
    let endless = frame(1, Kind::Data, true, false, b"\xff\xff\xff\xff");
    breaks_the_protocol(endless, "the limit is 61440").await;

    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    peer.send(&frame(1, Kind::Data, true, false, b"\x00\x00\x00\x08\xa1\x00\x65teleA")).await;
    let line = lab
        .wait_for_audit("an unreadable request", |line| line["event"] == "session-ended" || line["target"] == "tele");
    assert_eq!(line["event"], "session-ended", "a byte behind the message is an error");
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    peer.send(&frame(1, Kind::Data, true, false, b"\x00\x00\x00\x08\xa1\x00\x65teles")).await;
    drop(peer);
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    peer.send(&frame(1, Kind::Data, true, false, b"\x00\x00\x00\x07\xa1\x00\x64tele")).await;
    lab.wait_for_audit("an unknown request", |line| {
        line["event"] == "request" && line["target"] == "tele" && line["verdict"] == "refused"
    });
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_31_a_hundred_thousand_opens() {
    let opens: Vec<u8> = (0..100_000).flat_map(|n| frame(2 * n + 1, Kind::Data, true, false, b"")).collect();
    breaks_the_protocol(opens, "more than 4096 streams at once").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_32_an_open_reset_storm() {
    let storm: Vec<u8> = (0..100_000)
        .flat_map(|n| {
            [frame(2 * n + 1, Kind::Data, true, false, b""), frame(2 * n + 1, Kind::Rst, false, false, &[0; 4])]
        })
        .flatten()
        .collect();
    breaks_the_protocol(storm, "too many streams reset before their answer").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_33_window_overflow() {
    let open = frame(1, Kind::Data, true, false, b"");
    let window = frame(1, Kind::Window, false, false, &u32::MAX.to_be_bytes());
    breaks_the_protocol([open, window].concat(), "WINDOW of 4294967295").await;

    // Whoever reads the stream gives credit back: the target must be one that reads nothing.
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let target = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    peer.send(&frame(1, Kind::Data, true, false, &request(target.local_addr().unwrap().port()))).await;
    let overrun: Vec<u8> = frame(1, Kind::Data, false, false, &[0; 32_000]).repeat(2000);
    peer.send(&overrun).await;
    let goaway = peer.hear_goaway().await;
    assert_eq!(goaway.kind, ErrorKind::Protocol, "{}", goaway.text);
    assert!(goaway.text.contains("its credit is"), "{}", goaway.text);
    lab.wait_for_audit("the overrun", |line| {
        line["event"] == "session-ended" && line["why"].as_str().unwrap().contains("its credit is")
    });
    still_serves(&lab, &home).await;
}

/// A borrower that grants no credit stops its own target's bytes, and nobody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_33_a_zero_window_for_ever() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let source = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = source.local_addr().unwrap().port();
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    peer.send(&frame(1, Kind::Data, true, false, &request(port))).await;
    let (mut socket, _) = source.accept().await.unwrap();
    // More than every buffer on the way can hold, unless it were taken without credit.
    let pour = tokio::io::AsyncWriteExt::write_all(&mut socket, &[7; 64 << 20]);
    let mut came = 0;
    tokio::select! {
        poured = pour => panic!("64 MiB went into a stream without credit: {poured:?}"),
        () = async {
            while came < 64 * 1024 {
                if let Some(capuchin::proto::Frame::Data { payload, .. }) = peer.hear().await {
                    came += payload.len();
                }
            }
        } => {}
    }
    assert!(came <= 64 * 1024, "{came} bytes came with credit for 65536");
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_34_data_on_a_closed_or_foreign_stream() {
    breaks_the_protocol(frame(7, Kind::Data, false, false, b"x"), "stream 7, which is not open").await;
    breaks_the_protocol(frame(2, Kind::Data, false, false, b"x"), "stream 2, which is not open").await;
    let finished = frame(1, Kind::Data, true, true, b"");
    let more = frame(1, Kind::Data, false, false, b"x");
    breaks_the_protocol([finished, more].concat(), "stream 1, which is not open").await;
}
