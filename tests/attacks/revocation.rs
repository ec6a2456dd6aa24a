//! Taking back what is lent, while it is in use: revocation, cuts, the end of a certificate. What a changed policy takes back is in
//! `reload`.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use capuchin::{
    proto::{ErrorKind, Kind},
    trust::authority::LEAF_LIFETIME,
};
use serde_json::Value;

use crate::{
    renewal::{aged, crosses, lent},
    still_serves,
    support::{LOOPBACK, Lab, PATIENCE, clock::Clock, fails, json, peer::frame, run, wait_until},
};

/// A server that says one byte to each who comes and then keeps the connection.
pub fn target() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (listener.local_addr().unwrap(), listener)
}

/// A connection through a forward, and its other end.
pub fn connection(local: SocketAddr, target: &TcpListener) -> (TcpStream, TcpStream) {
    let near = TcpStream::connect(local).unwrap();
    let (mut far, _) = target.accept().unwrap();
    for socket in [&near, &far] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    far.write_all(b"!").unwrap();
    (&near).read_exact(&mut [0]).unwrap();
    (near, far)
}

/// Both ends see that it is over.
pub fn is_cut((mut near, mut far): (TcpStream, TcpStream)) {
    for socket in [&mut near, &mut far] {
        assert!(crate::support::ends(socket), "nothing more comes");
    }
}

pub fn still_works((near, far): &mut (TcpStream, TcpStream)) {
    near.write_all(b"?").unwrap();
    far.read_exact(&mut [0]).unwrap();
}

fn sessions(lab: &Lab) -> Vec<Value> {
    json(&run(lab.admin().args(["sessions", "--json"])).stdout)["sessions"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_14_a_user_revoked_in_mid_session() {
    let lab = Lab::start(LOOPBACK);
    let (alice, bob) = (lab.join("alice"), lab.join("bob"));
    let (address, target) = target();
    let (mut forward, local) = alice.forward(&[&format!("0:{address}")]);
    let (_other, others) = bob.forward(&[&format!("0:{address}")]);
    let lent: Vec<_> = (0..3).map(|_| connection(local[0], &target)).collect();
    let mut unharmed = connection(others[0], &target);

    run(lab.admin().args(["revoke", "--user", "alice"]));
    forward.wait_for_line("error[revoked]");
    assert_eq!(forward.wait().code(), Some(255));
    lent.into_iter().for_each(is_cut);
    lab.wait_for_audit("the end", |line| {
        line["event"] == "session-ended" && line["why"].as_str().unwrap().contains("the user alice was revoked")
    });
    lab.wait_for_audit("a cut connection", |line| {
        line["event"] == "tcp-closed" && line["why"].as_str().is_some_and(|why| why.contains("revoked"))
    });
    lab.wait_for_audit("the command", |line| line["event"] == "admin" && line["command"] == "revoke --user");
    let said = fails(alice.capuchin().args(["check", "lab", "connect", &address.to_string()]), 2);
    assert!(said.starts_with("error[revoked]: lab: device ") && said.contains(" was revoked\n"), "{said}");
    assert!(said.contains("join again with a new line: capuchin join"), "{said}");
    assert!(said.ends_with("  = capuchind invite alice\n"), "{said}");
    still_works(&mut unharmed);

    // A new device of hers is a new beginning.
    let again = lab.join("alice");
    still_serves(&lab, &again).await;
}

#[test]
fn attack_14_a_device_and_a_session_revoked_in_mid_session() {
    let lab = Lab::start(LOOPBACK);
    let (laptop, desktop) = (lab.join("alice"), lab.join("alice"));
    let (address, target) = target();
    let (mut forward, local) = laptop.forward(&[&format!("0:{address}")]);
    let lent = connection(local[0], &target);
    let (other, others) = desktop.forward(&[&format!("0:{address}")]);
    let mut kept = connection(others[0], &target);

    let device = sessions(&lab)[0]["device"].as_str().unwrap().to_owned();
    run(lab.admin().args(["revoke", "--device", &device]));
    forward.wait_for_line("error[revoked]");
    assert_eq!(forward.wait().code(), Some(255));
    is_cut(lent);
    still_works(&mut kept);

    lab.wait_for_audit("the end", |line| {
        line["event"] == "session-ended"
            && line["device"] == device.as_str()
            && line["why"].as_str().unwrap().contains("revoked")
    });

    // It leaves the list with its line in the log, or a moment later.
    wait_until("one session is left", || sessions(&lab).len() == 1);
    let left = sessions(&lab);
    let session = left[0]["session"].as_str().unwrap();
    run(lab.admin().args(["revoke", "--session", &session[..8]]));
    other.wait_for_line("error[revoked]");
    is_cut(kept);
    // The ticket went with it; the device may come back with the password.
    let said = fails(desktop.capuchin().args(["check", "lab", "connect", &address.to_string()]), 2);
    assert!(said.starts_with("error[login]"), "{said}");
    let password = desktop.password_file(crate::support::PASSWORD);
    run(desktop.capuchin().args(["login", "lab", "--password-file"]).arg(password));
}

/// Written first: whatever becomes of the daemon once the command has been answered, its next start knows.
#[test]
fn what_is_revoked_stays_revoked_though_the_daemon_is_killed_at_once() {
    for (how, said) in [("user", "error[revoked]"), ("device", "error[revoked]"), ("session", "error[login]")] {
        let mut lab = Lab::start(LOOPBACK);
        let home = lab.join("alice");
        let (address, target) = target();
        let (_forward, local) = home.forward(&[&format!("0:{address}")]);
        let lent = connection(local[0], &target);
        let whose = sessions(&lab)[0][how].as_str().unwrap().to_owned();
        run(lab.admin().args(["revoke", &format!("--{how}"), &whose]));
        lab.daemon.kill();
        is_cut(lent);

        let lab = Lab::serve(lab.folder);
        run(home.capuchin().args(["hosts", "set", "lab", &lab.address.to_string()]));
        let refused = fails(home.capuchin().args(["check", "lab", "connect", &address.to_string()]), 2);
        assert!(refused.starts_with(said), "--{how}: {refused}");
        lab.wait_for_audit("the refusal", |line| line["event"] == "login" && line["verdict"] == "refused");
        let bob = lab.join("bob");
        run(bob.capuchin().args(["check", "lab", "connect", &address.to_string()]));
    }
}

#[test]
fn one_stream_is_cut_and_the_others_go_on() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (address, target) = target();
    let (forward, local) = home.forward(&[&format!("0:{address}")]);
    let (one, mut two) = (connection(local[0], &target), connection(local[0], &target));
    let mut listed = sessions(&lab);
    // What has come is counted with it, or a moment later.
    wait_until("its bytes are counted", || {
        listed = sessions(&lab);
        let first = &listed[0]["streams"][0];
        (&first["bytes_in"], &first["bytes_out"]) == (&0.into(), &1.into())
    });
    let session = &listed[0];
    assert_eq!(session["user"], "alice");
    let streams = session["streams"].as_array().unwrap();
    assert_eq!(streams.len(), 2, "{streams:?}");
    assert_eq!((&streams[0]["kind"], &streams[0]["target"]), (&"tcp-connect".into(), &address.to_string().into()));

    let id = session["session"].as_str().unwrap();
    run(lab.admin().args(["cut", &format!("{}/{}", &id[..6], streams[0]["stream"])]));
    is_cut(one);
    forward.wait_for_line(&format!("capuchin: lab: {address} was taken back: its admin has cut it"));
    still_works(&mut two);
    lab.wait_for_audit("the cut", |line| line["event"] == "tcp-closed" && line["why"] == "cut by the admin");
    wait_until("one stream is left", || sessions(&lab)[0]["streams"].as_array().unwrap().len() == 1);

    for (what, why) in [("zz", "too short"), ("zzzz", "no live session"), (&format!("{id}/7777"), "no stream 7777")] {
        let said = fails(lab.admin().args(["cut", what]), 255);
        assert!(said.starts_with("error[usage]") && said.contains(why), "{said}");
    }
    run(lab.admin().args(["cut", id]));
    forward.wait_for_line("error[revoked]");
    // A cut says nothing about tomorrow.
    run(home.capuchin().args(["check", "lab", "connect", &address.to_string()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_15_a_certificate_that_ends_in_mid_session() {
    const LEFT: Duration = Duration::from_secs(300);
    const MINUTE: Duration = Duration::from_secs(60);
    let clock = Clock::new();
    let (lab, [home, other]) = aged(&clock, LEAF_LIFETIME - LEFT);
    let (mut peer, mut far) = lent(&lab, &home).await;
    clock.pass(LEFT - 2 * MINUTE, async || crosses(&mut peer, &mut far).await).await;
    clock.pass(4 * MINUTE, async || peer.send(&frame(1, Kind::Data, false, false, b"?")).await).await;
    let goaway = peer.hear_goaway().await;
    assert_eq!((goaway.kind, goaway.text.as_str()), (ErrorKind::Identity, "the certificate of this device has ended"));
    let end = far.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
    assert_ne!(end, Err(std::io::ErrorKind::WouldBlock), "what it held ended with it");
    lab.wait_for_audit("the end", |line| {
        line["event"] == "session-ended"
            && line["why"].as_str().unwrap().contains("certificate of this device has ended")
    });
    // Another device's ends at the same time, which is not yet by a clock that is right.
    clock.set_by(-((LEFT + 2 * MINUTE).as_secs() as i64));
    still_serves(&lab, &other).await;
}
