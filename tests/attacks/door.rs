//! At the door of the lender's own machine: strangers with a uid, and users who would be somebody else.

use std::{
    io::{Read, Write},
    net::TcpListener,
    os::unix::net::UnixStream,
    process::Command,
};

use capuchin::{
    lend::owner_name,
    proto::{Answer, ErrorKind, Frame, FromLender, Kind, RenewedCertificate, Request, message},
    trust::request::new_device_key,
};
use tokio::time::timeout;

use crate::{
    still_serves,
    support::{
        Daemon, Home, LOOPBACK, Lab, PASSWORD, PATIENCE, as_user,
        clock::Clock,
        fails, json, own_uid,
        peer::{Credentials, Peer, frame, password_login, peer_login, saved_ticket, ticket_login},
        run, text,
    },
};

/// An OS user without a name, who is called `uid4242`.
const SOMEBODY: u32 = 4242;

/// A lender whose door everybody reaches, and whose policy names the user of the tests.
fn lab() -> (Lab, Home) {
    let lab = Lab::start(&LOOPBACK.replace("\"bob\"", &format!("\"{}\"", owner_name().0)));
    lab.open_folder();
    (lab, Home::new())
}

/// Whatever the attack was, the next honest user of this machine is served.
fn door_still_serves(lab: &Lab, home: &Home) {
    run(lab.here(home, own_uid()).args(["check", ".", "connect", "127.0.0.1:9"]));
}

/// A peer that says everything in one go, as another user: HTTP, which is neither TLS nor a frame.
fn garbage(lab: &Lab) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--max-time", "30", "http://door/", "--unix-socket"]).arg(lab.door());
    as_user(&mut curl, SOMEBODY);
    assert!(!curl.output().unwrap().status.success(), "a door is no web server");
}

#[test]
fn attack_10_garbage_to_the_door() {
    let (lab, home) = lab();
    garbage(&lab);
    let line = lab.wait_for_verdict("login", "refused");
    assert!(line["peer"].as_str().unwrap().starts_with("uid 4242 pid "), "{line}");
    assert!(line["why"].as_str().unwrap().contains("frame"), "{line}");
    // The second time it is not heard any more for a while, and nobody else pays.
    garbage(&lab);
    let line = lab.wait_for_audit("the penalty", |line| line["event"] == "source-penalised");
    assert_eq!(line["peer"], "uid 4242");
    let stderr = fails(lab.here(&home, SOMEBODY).args(["check", ".", "connect", "127.0.0.1:9"]), 2);
    assert!(stderr.contains("error[unreachable]") && stderr.contains("failed logins"), "{stderr}");
    door_still_serves(&lab, &home);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_20_streams_before_the_login_at_the_door() {
    let (lab, home) = lab();
    let mut peer = Peer::knock(&lab.door()).await;
    peer.greet().await;
    peer.send(&frame(1, Kind::Data, true, false, b"\x00\x00\x00\x01\xa0")).await;
    let goaway = peer.hear_goaway().await;
    assert!(goaway.kind == ErrorKind::Protocol && goaway.text.contains("log in first"), "{}", goaway.text);
    let line = lab.wait_for_verdict("login", "refused");
    assert!(line["why"].as_str().unwrap().contains("log in first"), "{line}");
    door_still_serves(&lab, &home);
}

#[test]
fn attack_25_silence_at_the_door() {
    let (lab, home) = lab();
    // As many as one user has places for, and some that wait for one.
    let mut silent: Vec<_> = (0..12).map(|_| UnixStream::connect(lab.door()).unwrap()).collect();
    // The honest one is another user, who has places of his own.
    let mut check = lab.here(&home, SOMEBODY);
    let denied = check.args(["check", ".", "connect", "127.0.0.1:9"]).output().unwrap();
    assert_eq!(denied.status.code(), Some(1), "he is heard, and the policy says no: {denied:?}");
    let line = lab.wait_for_audit("the deadline", |line| line["why"] == "the login or join took too long");
    assert_eq!((&line["event"], &line["verdict"]), (&"login".into(), &"refused".into()));
    for socket in &mut silent {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = socket.read_to_end(&mut Vec::new()).expect("it is closed, with a word or without");
    }
    lab.wait_for_audit("the penalty", |line| line["event"] == "source-penalised");
    let denied = lab.here(&home, SOMEBODY).args(["check", ".", "connect", "127.0.0.1:9"]).output().unwrap();
    assert_eq!(denied.status.code(), Some(1), "he still is: {denied:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_16_a_user_of_this_machine_who_claims_to_be_somebody_else() {
    let (lab, home) = lab();
    let alice = lab.join("alice");
    let saved = saved_ticket(&alice, "alice");
    // His name, his password, his ticket: none of it counts here.
    for login in [peer_login(Some("alice")), password_login(PASSWORD.as_bytes()), ticket_login(&saved, [0; 32])] {
        let mut peer = Peer::knock(&lab.door()).await;
        let FromLender::Refusal(refusal) = peer.log_in_with(login).await else { panic!("it was let in") };
        assert_eq!(refusal.kind(), ErrorKind::Login, "{}", refusal.text());
    }
    // An admin's command is answered once all before it is in the log.
    run(lab.admin().args(["user", "list"]));
    let refused: Vec<_> = lab.audit().into_iter().filter(|line| line["verdict"] == "refused").collect();
    assert_eq!(refused.len(), 3, "{refused:#?}");
    assert!(refused.iter().all(|line| line["user"] == owner_name().0.as_str()), "who it is says the kernel");
    assert!(refused[0]["why"].as_str().unwrap().contains("not \"alice\""), "{}", refused[0]);
    let stderr = fails(lab.here(&home, SOMEBODY).args(["check", "alice@.", "connect", "127.0.0.1:9"]), 2);
    assert!(stderr.starts_with("error[login]") && stderr.contains("uid 4242 is uid4242 here"), "{stderr}");
    // Nor does a name in the policy that only looks like somebody's: uid 65534 is whoever the kernel does not know.
    let stderr = fails(lab.here(&home, 65534).args(["check", ".", "connect", "127.0.0.1:9"]), 2);
    assert!(stderr.starts_with("error[identity]") && stderr.contains("may be anybody"), "{stderr}");
    door_still_serves(&lab, &home);
    still_serves(&lab, &alice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_16_a_login_by_peer_over_the_network() {
    let (lab, home) = lab();
    let alice = lab.join("alice");
    for user in [None, Some("alice")] {
        let mut peer = Peer::dial(lab.address, Credentials::of(&alice, "alice").config(), "lab").await.unwrap();
        let FromLender::Refusal(refusal) = peer.log_in_with(peer_login(user)).await else { panic!("it was let in") };
        assert_eq!(refusal.kind(), ErrorKind::Login);
        assert!(refusal.text().contains("the lender's own machine"), "{}", refusal.text());
    }
    let line = lab.wait_for_verdict("login", "refused");
    assert_eq!((&line["user"], &line["method"]), (&"alice".into(), &"peer".into()));
    still_serves(&lab, &alice).await;
    door_still_serves(&lab, &home);
}

/// What a session at the door answers to its first request.
async fn ask<T>(lab: &Lab, request: &Request) -> Answer<T>
where
    Answer<T>: for<'b> minicbor::Decode<'b, ()>,
{
    let mut peer = Peer::knock(&lab.door()).await;
    assert!(matches!(peer.log_in_with(peer_login(None)).await, FromLender::Welcome(_)), "logged in");
    peer.send(&frame(1, Kind::Data, true, false, &message::encode_prefixed(request))).await;
    loop {
        if let Frame::Data { payload, .. } = peer.hear().await.expect("an answer") {
            return message::decode("answer", &payload[4..]).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_18_a_visitor_who_would_take_a_certificate_or_a_ticket_home() {
    let (lab, home) = lab();
    // Even one who has an entry of his own: only a join makes a device.
    run(lab.admin().args(["user", "add", owner_name().0.as_str()]));
    let (_key, csr) = new_device_key().unwrap();
    let Answer::Refused(refusal) = ask::<RenewedCertificate>(&lab, &Request::RenewCertificate(csr)).await else {
        panic!("it was given a certificate")
    };
    assert_eq!(refusal.kind(), ErrorKind::Identity, "{}", refusal.text());
    let Answer::Refused(refusal) = ask::<capuchin::proto::IssuedTicket>(&lab, &Request::RenewTicket).await else {
        panic!("it was given a ticket")
    };
    assert_eq!(refusal.kind(), ErrorKind::Login, "{}", refusal.text());
    for event in ["certificate-renewed", "ticket-renewed"] {
        lab.wait_for_verdict(event, "refused");
    }
    door_still_serves(&lab, &home);
}

#[test]
fn attack_14_a_user_of_this_machine_revoked_in_mid_session() {
    let (lab, home) = lab();
    let owner = owner_name().0;
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = target.local_addr().unwrap();
    let device = format!("{:016x}", own_uid());
    let live = || {
        let forward =
            Daemon::spawn(lab.here(&home, own_uid()).args(["forward", ".", "-N", "-L", &format!("0:{address}")]));
        let local: std::net::SocketAddr =
            forward.wait_for_line("Forwarding ").split(' ').nth(1).unwrap().parse().unwrap();
        let mut near = std::net::TcpStream::connect(local).unwrap();
        let (mut far, _) = target.accept().unwrap();
        near.set_read_timeout(Some(PATIENCE)).unwrap();
        far.write_all(b"!").unwrap();
        near.read_exact(&mut [0]).unwrap();
        (forward, near)
    };
    let session = || {
        let listed = json(&run(lab.admin().args(["sessions", "--json"])).stdout);
        listed["sessions"][0]["session"].as_str().unwrap().to_owned()
    };
    let is_out = |(mut forward, near): (Daemon, std::net::TcpStream)| {
        forward.wait_for_line("error[revoked]");
        assert_eq!(forward.wait().code(), Some(255));
        assert!(crate::support::ends(&near), "nothing more comes");
        let stderr = fails(lab.here(&home, own_uid()).args(["check", ".", "connect", "127.0.0.1:9"]), 2);
        assert!(stderr.starts_with("error[revoked]") && stderr.contains("was revoked or removed"), "{stderr}");
    };

    // He has no entry; each way to take him away keeps him out, over a restart too, until the admin lets him in.
    let held = live();
    run(lab.admin().args(["revoke", "--user", owner.as_str()]));
    is_out(held);
    let listed = |way: &str| {
        let said = text(run(lab.admin().args(["user", "list"])).stdout);
        assert!(said.contains(&format!("to open it: capuchind {way} {owner})")), "{said}");
        let users = json(&run(lab.admin().args(["user", "list", "--json"])).stdout);
        let entry =
            users["users"].as_array().unwrap().iter().find(|entry| entry["user"] == owner.as_str()).unwrap().clone();
        assert!(entry["barred"].as_u64() > Some(1_700_000_000), "{entry}");
        assert_eq!(entry.get("created").is_none(), way == "user add", "whether he has an entry: {entry}");
    };
    listed("user add");
    run(lab.admin().args(["user", "add", owner.as_str()]));
    assert!(!text(run(lab.admin().args(["user", "list"])).stdout).contains("to open it"));
    let held = live();
    run(lab.admin().args(["revoke", "--device", &device]));
    is_out(held);
    listed("invite");
    run(lab.admin().args(["invite", owner.as_str()]));
    let held = live();
    run(lab.admin().args(["revoke", "--session", &session()]));
    is_out(held);
    run(lab.admin().args(["invite", owner.as_str()]));
    let held = live();
    run(lab.admin().args(["user", "remove", owner.as_str()]));
    is_out(held);
    lab.wait_for_audit("the refusal", |line| {
        line["event"] == "login" && line["verdict"] == "refused" && line["device"] == device.as_str()
    });
    let lab = lab.restart();
    fails(lab.here(&home, own_uid()).args(["check", ".", "connect", "127.0.0.1:9"]), 2);
    run(lab.admin().args(["user", "add", owner.as_str()]));
    door_still_serves(&lab, &home);
    // Who is no user of this machine is still a slip of the finger.
    fails(lab.admin().args(["revoke", "--user", "nobody-has-this.name"]), 255);
}

#[test]
fn attack_49_the_lenders_own_door() {
    let owner = owner_name().0;
    let rules = "unix = [\"/\"]\nconnect = [\"127.0.0.1:9\"]\nallow_root = true\n";
    let lab = Lab::start(&format!("[[allow]]\nwho = [\"{owner}\"]\n{rules}"));
    let home = Home::new();
    run(lab.here(&home, own_uid()).args(["check", ".", "unix", "/run/app.sock"]));
    let door = lab.door();
    let denied = lab.here(&home, own_uid()).args(["check", ".", "unix", door.to_str().unwrap()]).output().unwrap();
    assert_eq!(denied.status.code(), Some(1), "{denied:?}");
    let line = lab.wait_for_verdict("check", "refused");
    assert!(line["target"].as_str().unwrap().contains("door.sock"), "{line}");
    door_still_serves(&lab, &home);
}

/// While the lender's clock stands still, nothing of the flood ends by itself, and whoever had to wait would wait for ever.
#[test]
fn a_flood_at_the_door_closes_neither_the_network_nor_the_door_to_others() {
    let clock = Clock::new();
    let (lab, home) = lab();
    let lab = clock.serve(lab);
    let alice = lab.join("alice");
    clock.stop();
    let flood: Vec<_> = (0..300).filter_map(|_| UnixStream::connect(lab.door()).ok()).collect();
    run(alice.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]));
    let denied = lab.here(&home, SOMEBODY).args(["check", ".", "connect", "127.0.0.1:9"]).output().unwrap();
    assert_eq!(denied.status.code(), Some(1), "{denied:?}");
    clock.go_on();
    drop(flood);
    door_still_serves(&lab, &home);
}

#[test]
fn a_lender_that_is_told_to_hold_nothing_against_anybody_does_so_at_the_door_too() {
    let (mut lab, home) = lab();
    lab.daemon.kill();
    let settings = lab.dir().join("lender.toml");
    std::fs::write(&settings, std::fs::read_to_string(&settings).unwrap() + "penalties = false\n").unwrap();
    let lab = Lab::serve(lab.folder);
    // The second of these would close the door otherwise.
    for _ in 0..4 {
        garbage(&lab);
    }
    let refused = || lab.audit().iter().filter(|line| line["verdict"] == "refused").count();
    lab.wait_for_audit("each of them", |_| refused() >= 4);
    let denied = lab.here(&home, SOMEBODY).args(["check", ".", "connect", "127.0.0.1:9"]).output().unwrap();
    assert_eq!(denied.status.code(), Some(1), "he is heard, and the policy says no: {denied:?}");
    assert!(!lab.audit().iter().any(|line| line["event"] == "source-penalised"));
    door_still_serves(&lab, &home);
}

/// One who is many users, by the uids that subuid(5) gives him, leaves others the lender's descriptors.
#[tokio::test]
async fn users_whom_no_rule_names_have_as_many_sessions_together_as_one_user() {
    assert_eq!(own_uid(), 0, "this test is several users: run it as root");
    let (lab, home) = lab();
    let knock_as = async |uid: u32| {
        let become_uid = |uid| {
            let (root, uid) = (rustix::process::Uid::ROOT, rustix::process::Uid::from_raw(uid));
            // Of this thread alone: what it connects is his.
            rustix::thread::set_thread_res_uid(root, uid, root).unwrap();
        };
        become_uid(uid);
        let knock = Peer::knock(&lab.door()).await;
        become_uid(0);
        let mut peer = knock;
        let answer = peer.log_in_with(peer_login(None)).await;
        (peer, answer)
    };
    let mut held = Vec::new();
    for number in 0..256 {
        let (peer, answer) = knock_as(SOMEBODY + number % 8).await;
        assert!(matches!(answer, FromLender::Welcome(_)), "session {number}");
        held.push(peer);
    }
    let (_, answer) = knock_as(SOMEBODY + 9).await;
    let FromLender::Refusal(refusal) = answer else { panic!("it was let in") };
    assert_eq!(refusal.kind(), ErrorKind::Busy, "{}", refusal.text());
    door_still_serves(&lab, &home);
    // The place of one that has gone is free again.
    drop(held.pop());
    let last = format!("uid{}", SOMEBODY + 255 % 8);
    lab.wait_for_audit("its end", |line| line["event"] == "session-ended" && line["user"] == last.as_str());
    // Given back only behind that line.
    let is_let_in = async { while !matches!(knock_as(SOMEBODY + 9).await.1, FromLender::Welcome(_)) {} };
    timeout(PATIENCE, is_let_in).await.expect("a free place");
}
