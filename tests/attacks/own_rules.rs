//! What the policy lets a user do, asked by that user: nobody's rules but his own, whoever asks and however often.

use capuchin::proto::{Answer, Frame, Kind, OwnRules, Request, message};

use crate::support::{
    Lab,
    peer::{Peer, frame},
    run,
};

const POLICY: &str = "[groups]\nstaff = [\"alice\", \"carol\"]\n\
    [[allow]]\nwho = \"group:staff\"\nconnect = [\"wiki.internal:80\"]\n\
    [[allow]]\nwho = \"carol\"\nconnect = [\"secret.carol.internal:22\"]\nshell = true\n\
    [[deny]]\nwho = \"alice\"\nconnect = [\"10.0.0.0/8:*\"]\n\
    [[deny]]\nwho = \"carol\"\nread = [\"/srv/carol\"]\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_is_told_his_own_rules_and_grants_as_they_are_now() {
    let lab = Lab::start(POLICY);
    let [alice, bob] = [lab.join("alice"), lab.join("bob")];
    run(lab.admin().args(["allow", "alice", "listen", "127.0.0.1:8000", "--for", "1h"]));
    run(lab.admin().args(["user", "add", "carol"]));
    run(lab.admin().args(["allow", "carol", "listen", "127.0.0.1:9000", "--for", "1h"]));
    let rules = alice.connect().await.own_rules().await.unwrap();
    let file = lab.dir().join("policy.toml").display().to_string();
    let wiki = format!("{file}:5 connect = \"wiki.internal:80\"");
    assert_eq!(rules.allows, [&wiki, "grant 1 listen = \"127.0.0.1:8000\""]);
    assert_eq!(rules.denies, [format!("{file}:12 connect = \"10.0.0.0/8:*\"")]);
    assert_eq!(bob.connect().await.own_rules().await.unwrap(), OwnRules::default());
    let line = lab.wait_for_audit("the question", |line| line["event"] == "own-rules" && line["user"] == "bob");
    assert_eq!(line["verdict"], "granted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_questions_are_answered_and_counted_and_who_hangs_up_leaves_nothing() {
    const ASKED: u64 = 2000;
    let mut lab = Lab::start(POLICY);
    let home = lab.join("alice");
    // Another user's name in the request, as a key that nobody knows, changes nothing.
    let forged = b"\0\0\0\x13\xa2\0\x69own-rules\x01\x65carol".to_vec();
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    for number in 0..ASKED {
        let request = if number == 0 { forged.clone() } else { message::encode_prefixed(&Request::OwnRules).to_vec() };
        peer.send(&frame(1 + 2 * number, Kind::Data, true, true, &request)).await;
        let payload = loop {
            match peer.hear().await.expect("an answer") {
                Frame::Data { payload, .. } if !payload.is_empty() => break payload,
                Frame::Goaway(goaway) => panic!("{goaway:?}"),
                _ => {}
            }
        };
        let Answer::Granted(rules) = message::decode::<Answer<OwnRules>>("answer", &payload[4..]).unwrap() else {
            panic!("refused")
        };
        assert_eq!((rules.allows.len(), rules.denies.len(), rules.left_out), (1, 1, 0), "{rules:?}");
    }
    peer.send(&frame(1 + 2 * ASKED, Kind::Data, true, true, &message::encode_prefixed(&Request::OwnRules))).await;
    drop(peer);
    lab.wait_for_audit("its end", |line| line["event"] == "session-ended");
    assert_eq!(home.connect().await.own_rules().await.unwrap().denies.len(), 1);
    // What is still being counted is written when the lender stops.
    lab.daemon.signal(rustix::process::Signal::TERM);
    lab.daemon.wait();
    let lines: Vec<_> = lab.audit().into_iter().filter(|line| line["event"] == "own-rules").collect();
    let counted: u64 = lines.iter().map(|line| line["count"].as_u64().unwrap_or(1)).sum();
    assert!((ASKED + 1..=ASKED + 2).contains(&counted), "{counted} with the one that may not have been heard");
    assert!(lines.len() < ASKED as usize / 2, "{} lines", lines.len());
}
