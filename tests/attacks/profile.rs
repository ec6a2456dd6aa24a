//! Profiles that are asked for in ways that no borrower asks.

use capuchin::proto::{Answer, ErrorKind, Frame, Kind, Machine, Request, VARIABLE_NAME_MAX, VARIABLES_MAX, message};

use crate::support::{
    Home, LOOPBACK, Lab,
    peer::{Peer, frame},
};

/// Sends one request on a session of its own, and gives the answer; `None` when the session ends instead.
async fn ask(lab: &Lab, home: &Home, request: &[u8]) -> Option<Answer<Machine>> {
    let mut peer = Peer::logged_in(lab.address, home, "alice").await;
    peer.send(&frame(1, Kind::Data, true, true, request)).await;
    let mut answer = Vec::new();
    loop {
        match peer.hear().await? {
            Frame::Data { payload, fin, .. } => {
                answer.extend_from_slice(&payload);
                if fin {
                    return Some(message::decode("answer", &answer[4..]).unwrap());
                }
            }
            Frame::Goaway(goaway) => {
                assert_eq!(goaway.kind, ErrorKind::Protocol, "{goaway:?}");
                return None;
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variables_that_are_none_are_refused_and_too_many_break_the_protocol() {
    let policy = LOOPBACK.to_owned() + "env = { read = [\"*\"] }\n";
    let lab = Lab::start(&policy);
    let home = lab.join("alice");
    for name in ["A=B", "PATH\n", "1", "é", "A\0B"] {
        let request = message::encode_prefixed(&Request::Profile(vec![name.to_owned()]));
        let Some(Answer::Refused(refusal)) = ask(&lab, &home, &request).await else {
            panic!("{name:?} is no variable")
        };
        assert_eq!(refusal.kind(), ErrorKind::Usage, "{}", refusal.text());
    }
    for variables in
        [vec!["A".to_owned(); VARIABLES_MAX + 1], vec!["A".repeat(VARIABLE_NAME_MAX + 1)], vec![String::new()]]
    {
        let request = message::encode_prefixed(&Request::Profile(variables));
        assert_eq!(ask(&lab, &home, &request).await, None);
    }
    // Asked for twice, told once.
    let request = message::encode_prefixed(&Request::Profile(vec!["CAPUCHIND_DIR".to_owned(); VARIABLES_MAX]));
    let Some(Answer::Granted(machine)) = ask(&lab, &home, &request).await else { panic!("it is allowed") };
    assert_eq!(machine.variables.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_before_the_answer_leaves_nothing_behind() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let request = message::encode_prefixed(&Request::Profile(Vec::new()));
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    for stream in 0..100 {
        peer.send(&frame(2 * stream + 1, Kind::Data, true, false, &request)).await;
        peer.send(&frame(2 * stream + 1, Kind::Rst, false, false, &[0, 0, 0, 0])).await;
    }
    drop(peer);
    lab.wait_for_audit("the end", |line| line["event"] == "session-ended");
    assert!(matches!(ask(&lab, &home, &request).await, Some(Answer::Granted(_))));
}
