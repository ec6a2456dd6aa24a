//! Long words: what is only announced, and what is sent by who may run nothing, takes neither memory nor time from others.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, time::Duration};

use capuchin::proto::{
    Answer, ErrorKind, Frame, Kind, Program, Request, Reset, Spawn, Spawned, WORDS_BYTES_MAX,
    message::{self, MESSAGE_BYTES_MAX},
    mux,
};
use tokio::time::timeout;

use crate::{
    still_serves,
    support::{
        LOOPBACK, Lab,
        costs::{memory_kib, processor_time},
        fails,
        peer::{Peer, frame},
    },
};

/// Streams of a session, but for one that is asked on.
const STREAMS: u64 = 4000;

/// Requests of which no more is sent than how long they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_announced_and_do_not_come_take_no_memory() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let length = u32::try_from(MESSAGE_BYTES_MAX).unwrap().to_be_bytes();
    let announced: Vec<u8> =
        (0..STREAMS).flat_map(|number| frame(2 * number + 1, Kind::Data, true, false, &length)).collect();
    let mut taken_kib = Vec::new();
    // Memory that was never used before costs nothing until it is written to; what another session has left does.
    for _ in 0..3 {
        let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
        peer.send(&announced).await;
        let last = 2 * STREAMS + 1;
        peer.send(&frame(last, Kind::Data, true, true, &message::encode_prefixed(&Request::OwnRules))).await;
        while !matches!(peer.hear().await.expect("an answer"), Frame::Data { stream, .. } if stream.number() == last) {}
        taken_kib.push(memory_kib(lab.daemon.child.id(), "VmRSS"));
    }
    // What is there for each stream is less.
    let all_of_them = STREAMS * MESSAGE_BYTES_MAX as u64 / 1024;
    assert!(taken_kib.iter().all(|taken| *taken < all_of_them), "{taken_kib:?} of {all_of_them} KiB");
    still_serves(&lab, &home).await;
}

fn spawn(words: &[u8], words_bytes: u32) -> Vec<u8> {
    let spawn = Spawn {
        what: Program::Exec,
        arguments: 1,
        variables: 0,
        words_bytes,
        folder: None,
        terminal: None,
        piped: [false; 3],
        detach: false,
        offered: Vec::new(),
    };
    [&message::encode_prefixed(&Request::Spawn(spawn))[..], words].concat()
}

async fn answered(peer: &mut Peer, on: u64) -> Answer<Spawned> {
    loop {
        match peer.hear().await.expect("an answer") {
            Frame::Data { stream, payload, .. } if stream.number() == on => {
                let length = u32::from_be_bytes(*payload.first_chunk().unwrap()) as usize;
                return message::decode("answer", &payload[4..4 + length]).unwrap();
            }
            _ => {}
        }
    }
}

/// As many empty words as there may be bytes, where one was announced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_that_are_more_than_was_announced_take_no_memory() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let daemon = lab.daemon.child.id();
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    // So that the peak is that of what follows (proc_pid_clear_refs(5)).
    std::fs::write(format!("/proc/{daemon}/clear_refs"), "5").unwrap();
    let before = memory_kib(daemon, "VmHWM");
    let request = spawn(b"", WORDS_BYTES_MAX);
    peer.send(&frame(1, Kind::Data, true, false, &request)).await;
    let mut credit = mux::Config::default().initial_credit as usize - request.len();
    let empty = vec![0; WORDS_BYTES_MAX as usize];
    let mut rest = &empty[..];
    while !rest.is_empty() {
        while credit == 0 {
            if let Frame::Window { credit: more, .. } = peer.hear().await.expect("it takes them") {
                credit += more as usize;
            }
        }
        let (part, behind) = rest.split_at(credit.min(rest.len()).min(16 * 1024));
        peer.send(&frame(1, Kind::Data, false, false, part)).await;
        (rest, credit) = (behind, credit - part.len());
    }
    assert_eq!(peer.hear_goaway().await.kind, ErrorKind::Protocol);
    let peak = memory_kib(daemon, "VmHWM");
    assert!(peak < before + 16 * 1024, "{peak} KiB, {before} KiB before");
    still_serves(&lab, &home).await;
}

/// Thousands of them would be gigabytes, before anybody has judged one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_has_room_for_four_of_the_longest_words_that_have_not_come() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    for number in 0..4 {
        peer.send(&frame(2 * number + 1, Kind::Data, true, false, &spawn(b"begun", WORDS_BYTES_MAX))).await;
    }
    peer.send(&frame(9, Kind::Data, true, false, &spawn(b"ls\0", 3))).await;
    assert!(timeout(Duration::from_secs(1), answered(&mut peer, 9)).await.is_err(), "it has to wait");
    // Others do not.
    still_serves(&lab, &home).await;
    peer.send(&frame(1, Kind::Rst, false, false, &Reset::Cancelled.encode())).await;
    assert!(matches!(answered(&mut peer, 9).await, Answer::Refused(_)));
}

/// What a refusal has of them is cut to a kilobyte: it took seconds, in which nobody was served, to quote all of them first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_words_of_who_may_run_nothing_take_no_time() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let before = processor_time(lab.daemon.child.id());
    let mut command = home.capuchin();
    command.args(["exec", "lab", "--", "program"]).args([OsStr::from_bytes(&[0xff; 130_000]); 15]);
    let told = fails(&mut command, 255);
    assert!(told.contains("exec") && told.len() < 16 * 1024, "{told:.200}");
    let took = processor_time(lab.daemon.child.id()) - before;
    assert!(took < Duration::from_secs(2), "{took:?}");
    // The log has its beginning.
    let line = lab.wait_for_audit("the request", |line| line["event"] == "spawn");
    assert!(line["target"].as_str().unwrap().starts_with("exec program \u{fffd}\u{fffd}"), "{:.100}", line["target"]);
    still_serves(&lab, &home).await;
}
