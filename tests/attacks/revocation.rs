//! Taking back what is lent, while it is in use: revocation, cuts, a changed policy, the end of a certificate.

use std::{
    fs::File,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use capuchin::{
    proto::{ErrorKind, Kind},
    trust::authority::LEAF_LIFETIME,
};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    renewal::{aged, crosses, lent},
    still_serves,
    support::{
        Daemon, Home, LOOPBACK, Lab, PASSWORD, PATIENCE, as_user, capuchind, clock::Clock, fails, json, peer::frame,
        run, text, wait_until,
    },
};

/// A server that says one byte to each who comes and then keeps the connection.
fn target() -> (SocketAddr, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (listener.local_addr().unwrap(), listener)
}

/// A connection through a forward, and its other end.
fn connection(local: SocketAddr, target: &TcpListener) -> (TcpStream, TcpStream) {
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
fn is_cut((mut near, mut far): (TcpStream, TcpStream)) {
    for socket in [&mut near, &mut far] {
        assert!(crate::support::ends(socket), "nothing more comes");
    }
}

fn still_works((near, far): &mut (TcpStream, TcpStream)) {
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
    assert!(said.starts_with("error[revoked]"), "{said}");
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

#[test]
fn a_policy_in_a_folder_that_was_replaced_is_in_force() {
    let mut lab = Lab::start(LOOPBACK);
    lab.daemon.kill();
    let top = tempfile::tempdir().unwrap();
    let (folder, other) = (top.path().join("lab"), top.path().join("new"));
    std::fs::rename(lab.dir(), &folder).unwrap();
    std::fs::create_dir(lab.dir()).unwrap();
    let daemon = Daemon::spawn(capuchind(&folder).arg("serve").env("CAPUCHIN_LOG", "info"));
    let said = daemon.wait_for_line("listens on");
    let lab = Lab { address: said.rsplit(' ').next().unwrap().parse().unwrap(), daemon, ..lab };
    run(Command::new("cp").arg("-a").args([&folder, &other]));

    let home = Home::new();
    let line = text(run(capuchind(&folder).args(["invite", "alice"])).stdout);
    run(home.capuchin().args(["join", line.trim(), "--password-file"]).arg(home.password_file(PASSWORD)));
    let (address, target) = target();
    let (_forward, local) = home.forward(&[&format!("0:{address}")]);
    let kept = connection(local[0], &target);
    std::fs::write(other.join("policy.toml"), "[[allow]]\nwho = \"bob\"\nconnect = \"*:*\"\n").unwrap();
    std::fs::rename(&folder, top.path().join("old")).unwrap();
    std::fs::rename(&other, &folder).unwrap();
    is_cut(kept);
    // And from then on that folder is watched.
    std::fs::write(folder.join("policy.toml"), LOOPBACK).unwrap();
    lab.daemon.wait_for_line("policy.toml is in force");
    lab.daemon.wait_for_line("policy.toml is in force");
    connection(local[0], &target);
}

#[test]
fn attack_67_a_broken_policy_on_reload() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (address, target) = target();
    let (forward, local) = home.forward(&[&format!("0:{address}")]);
    let mut lent = connection(local[0], &target);
    let policy = lab.dir().join("policy.toml");

    std::fs::write(&policy, "[[allow]]\nwho = [\"alice\"]\nconnnect = [\"*:*\"]\n").unwrap();
    let kept = lab.wait_for_audit("the broken file", |line| line["event"] == "policy-kept");
    assert!(kept["why"].as_str().unwrap().contains("connnect"), "{kept}");
    still_works(&mut lent);
    let another = connection(local[0], &target);

    // SIGHUP reads it again, which is no better; the daemon goes on.
    let kept = || lab.audit().iter().filter(|line| line["event"] == "policy-kept").count();
    let before = kept();
    lab.daemon.signal(Signal::HUP);
    lab.wait_for_audit("the broken file, once more", |_| kept() > before);
    still_works(&mut lent);

    // By renaming, as editors do; and what is no longer allowed ends.
    let new = lab.dir().join("policy.new");
    std::fs::write(&new, "[[allow]]\nwho = [\"alice\"]\nconnect = [\"127.0.0.1:1\"]\n").unwrap();
    std::fs::rename(&new, &policy).unwrap();
    let loaded = lab.wait_for_audit("the new file", |line| line["event"] == "policy-loaded");
    assert_eq!(loaded["why"], "2 handles were taken back");
    is_cut(lent);
    is_cut(another);
    forward.wait_for_line(&format!("{address} was taken back: its policy does not allow it any more"));
    lab.wait_for_audit("a handle taken back", |line| {
        line["event"] == "tcp-closed" && line["why"].as_str().is_some_and(|why| why.contains("the policy has changed"))
    });
    fails(home.capuchin().args(["check", "lab", "connect", &address.to_string()]), 1);

    // SIGHUP reads it again, changed or not.
    let before = lab.audit().iter().filter(|line| line["event"] == "policy-loaded").count();
    lab.daemon.signal(Signal::HUP);
    lab.wait_for_audit("SIGHUP", |_| {
        lab.audit().iter().filter(|line| line["event"] == "policy-loaded").count() > before
    });
}

#[test]
fn a_policy_that_is_put_in_place_without_being_written_is_read() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (address, target) = target();
    let (_forward, local) = home.forward(&[&format!("0:{address}")]);
    let mut lent = connection(local[0], &target);
    let (policy, elsewhere) = (lab.dir().join("policy.toml"), tempfile::tempdir_in(lab.dir()).unwrap());
    let next = elsewhere.path().join("next.toml");
    let count = |event: &str| lab.audit().iter().filter(|line| line["event"] == event).count();

    // Whatever stands there instead: the old policy is kept, which is said.
    let put: [(&str, &dyn Fn()); 4] = [
        ("nothing", &|| {}),
        ("a folder", &|| std::fs::create_dir(&policy).unwrap()),
        ("a link", &|| std::os::unix::fs::symlink(&next, &policy).unwrap()),
        ("a pipe", &|| {
            run(Command::new("mkfifo").args(["-m", "600"]).arg(&policy));
        }),
    ];
    std::fs::copy(&policy, &next).unwrap();
    for (what, put) in put {
        let before = count("policy-kept");
        match std::fs::symlink_metadata(&policy) {
            Ok(is) if is.is_dir() => std::fs::remove_dir(&policy).unwrap(),
            Ok(_) => std::fs::remove_file(&policy).unwrap(),
            Err(_) => {}
        }
        put();
        lab.wait_for_audit(what, |_| count("policy-kept") > before);
        still_works(&mut lent);
    }
    assert_eq!(count("policy-loaded"), 0);

    // And a whole file by link(2), which is all that is seen of it.
    std::fs::write(&next, "[[allow]]\nwho = [\"alice\"]\nconnect = [\"127.0.0.1:1\"]\n").unwrap();
    std::fs::remove_file(&policy).unwrap();
    std::fs::hard_link(&next, &policy).unwrap();
    let loaded = lab.wait_for_audit("the file that was linked", |line| line["event"] == "policy-loaded");
    assert_eq!(loaded["why"], "1 handles were taken back");
    is_cut(lent);

    // As an editor does that removes the file and writes another.
    std::fs::remove_file(&policy).unwrap();
    std::fs::write(&policy, LOOPBACK).unwrap();
    lab.wait_for_audit("the file that was written anew", |_| count("policy-loaded") > 1);
    connection(local[0], &target);
}

/// The lab with another daemon, which says what it does.
fn served_by(mut lab: Lab, serve: &mut Command) -> Lab {
    lab.daemon.kill();
    let daemon = Daemon::spawn(serve.env("CAPUCHIN_LOG", "info"));
    let said = daemon.wait_for_line("listens on");
    Lab { address: said.rsplit(' ').next().unwrap().parse().unwrap(), daemon, ..lab }
}

/// Makes policy.toml anew, and not whole: its first half allows what the second denies.
fn half_a_policy(lab: &Lab) -> File {
    let policy = lab.dir().join("policy.toml");
    std::fs::remove_file(&policy).unwrap();
    let mut writer = File::create(&policy).unwrap();
    writer.write_all(b"[[allow]]\nwho = \"alice\"\nconnect = \"*:*\"\nlisten = \"127.0.0.1:*\"\n").unwrap();
    lab.daemon.wait_for_line("policy.toml is being written");
    writer
}

/// The first half was not in force, and the whole is when it is written.
fn is_read_as_a_whole(lab: &Lab, home: &Home, mut writer: File) {
    let loaded = || lab.audit().iter().filter(|line| line["event"] == "policy-loaded").count();
    writer.write_all(b"# to be continued\n").unwrap();
    lab.daemon.wait_for_line("policy.toml is being written");
    fails(home.capuchin().args(["check", "lab", "listen", "127.0.0.1:9000"]), 1);
    assert_eq!(loaded(), 0);
    writer.write_all(b"[[deny]]\nwho = \"alice\"\nlisten = \"127.0.0.1:9000\"\n").unwrap();
    drop(writer);
    lab.daemon.wait_for_line("policy.toml is in force");
    run(home.capuchin().args(["check", "lab", "listen", "127.0.0.1:9001"]));
    fails(home.capuchin().args(["check", "lab", "listen", "127.0.0.1:9000"]), 1);
    assert_eq!(loaded(), 1);
}

#[test]
fn a_policy_is_not_read_while_somebody_writes_it_however_long_he_pauses() {
    let lab = Lab::start(LOOPBACK);
    let mut serve = capuchind(lab.dir());
    let lab = served_by(lab, serve.arg("serve"));
    let home = lab.join("alice");
    let writer = half_a_policy(&lab);
    // Something else in the folder is finished meanwhile, which says nothing about this file.
    std::fs::write(lab.dir().join("other"), "x").unwrap();
    is_read_as_a_whole(&lab, &home, writer);
}

/// Whether somebody writes a file the kernel says to its owner only, and to root.
#[test]
fn roots_policy_is_not_read_half_written_by_a_daemon_that_is_not_root() {
    const NOBODY: u32 = 65534;
    let lab = Lab::start(LOOPBACK);
    let policy = lab.dir().join("policy.toml");
    run(Command::new("chown").args(["-R", &NOBODY.to_string()]).arg(lab.dir()));
    run(Command::new("chown").arg("0").arg(&policy));
    let mut serve = capuchind(lab.dir());
    as_user(serve.arg("serve"), NOBODY);
    let lab = served_by(lab, &mut serve);
    let home = lab.join("alice");
    let mut old = File::options().append(true).open(&policy).unwrap();
    let writer = half_a_policy(&lab);
    // None of this is its end: another file is written, the file of before is closed, this one's mode is set.
    std::fs::write(lab.dir().join("other"), "x").unwrap();
    old.write_all(b"# gone\n").unwrap();
    drop(old);
    std::fs::set_permissions(&policy, std::os::unix::fs::PermissionsExt::from_mode(0o604)).unwrap();
    lab.daemon.wait_for_line("policy.toml is being written");
    is_read_as_a_whole(&lab, &home, writer);
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
