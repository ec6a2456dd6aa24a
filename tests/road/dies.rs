//! Either process dies half-way: the other says so, frees everything, and goes on serving others.

use std::{
    io::{Read, Write},
    path::Path,
    process::Command,
    sync::mpsc,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    dial, echo, origin, round_trip,
    support::{
        Daemon, LOOPBACK, Lab, PATIENCE, ask_until, borrowing::borrowing, costs::descriptors, run, starts, wait_until,
    },
};

#[test]
fn a_killed_lender_resets_every_borrowed_connection_and_the_forward_waits_for_it() {
    let mut lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let server = origin(echo);
    let (mut forward, local) = home.forward(&[&format!("0:{server}")]);
    let mut socket = dial(local[0]);
    round_trip(&socket, b"alive").unwrap();
    lab.daemon.kill();
    let error = socket.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(forward.wait_for_line("reconnecting").contains("lab: reconnecting… ("));
    // Its port is still there, and what comes to it meanwhile fails at once.
    let error = dial(local[0]).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    forward.signal(Signal::INT);
    assert_eq!(forward.wait().code(), Some(130));
}

#[test]
fn a_killed_borrower_frees_what_it_borrowed_and_others_go_on() {
    let lab = Lab::start(LOOPBACK);
    let (alice, bob) = (lab.join("alice"), lab.join("bob"));
    let (gone_tx, gone_rx) = mpsc::channel();
    let server = origin(move |mut socket| {
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.read(&mut buffer) {
            if length == 0 || socket.write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        gone_tx.send(()).unwrap();
    });
    let target = format!("0:{server}");
    let (mut dying, dying_local) = alice.forward(&[&target]);
    let (_staying, staying_local) = bob.forward(&[&target]);
    let sockets: Vec<_> = (0..10).map(|_| dial(dying_local[0])).collect();
    let stays = dial(staying_local[0]);
    for socket in sockets.iter().chain([&stays]) {
        round_trip(socket, b"alive").unwrap();
    }
    dying.kill();
    for _ in 0..10 {
        gone_rx.recv_timeout(PATIENCE).expect("the target sees its connection end");
    }
    // The join had a session of its own, which ended before.
    let made = |line: &serde_json::Value| line["event"] == "tcp-connect" && line["user"] == "alice";
    let session = lab.wait_for_audit("a connection", made)["session"].clone();
    lab.wait_for_audit("the session's end", |line| line["event"] == "session-ended" && line["session"] == session);
    // Every granted connection has its end in the log, with its bytes.
    let closed = |line: &serde_json::Value| line["event"] == "tcp-closed" && line["user"] == "alice";
    lab.wait_for_audits("their ends", 10, closed);
    assert_eq!(lab.audit().iter().filter(|line| closed(line)).count(), 10);
    round_trip(&stays, b"still here").unwrap();
    round_trip(&dial(staying_local[0]), b"and new ones too").unwrap();
}

#[test]
fn a_lender_that_stops_says_good_bye() {
    let mut lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let server = origin(echo);
    let (mut forward, local) = home.forward(&[&format!("0:{server}")]);
    round_trip(&dial(local[0]), b"alive").unwrap();
    lab.daemon.signal(Signal::TERM);
    forward.wait_for_line("reconnecting… (the lender is stopping");
    forward.kill();
    assert_eq!(lab.daemon.wait().code(), Some(0));
    assert!(!lab.dir().join("admin.sock").exists(), "the admin's socket goes with the daemon");
}

#[test]
fn a_lender_that_was_killed_starts_again_where_it_was() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let lines = lab.audit().len();
    let lab = lab.restart();
    assert!(lab.audit().len() >= lines);
    assert!(capuchin::lend::verify_audit(&lab.dir().join("audit")).unwrap() >= lines as u64, "the chain goes on");
    let server = origin(echo);
    // It listens elsewhere now; the borrower is told so by its profile, as by an admin.
    let settings = home.profile().join("lender.toml");
    let old = std::fs::read_to_string(&settings).unwrap();
    let lines = old.lines().map(|line| match line.starts_with("addresses") {
        true => format!("addresses = [\"{}\"]", lab.address),
        false => line.to_owned(),
    });
    std::fs::write(&settings, lines.collect::<Vec<_>>().join("\n")).unwrap();
    let (_forward, local) = home.forward(&[&format!("0:{server}")]);
    round_trip(&dial(local[0]), b"the ticket is still good").unwrap();
}

#[test]
fn clients_that_die_behind_a_stalled_target_leave_nothing_at_the_borrower() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let stalled = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (forward, local) = home.forward(&[&format!("0:{}", stalled.local_addr().unwrap())]);
    let before = descriptors(forward.child.id());
    let mut held = Vec::new();
    for _ in 0..10 {
        let socket = dial(local[0]);
        held.push(stalled.accept().unwrap());
        socket.set_write_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
        // Until nothing moves any more.
        while (&socket).write(&[7; 65_536]).is_ok() {}
        rustix::net::sockopt::set_socket_linger(&socket, Some(std::time::Duration::ZERO)).unwrap();
    }
    ask_until(&format!("no more than {before} descriptors"), || {
        let now = descriptors(forward.child.id());
        if now <= before { Ok(()) } else { Err(now) }
    });
}

/// As a script does that reads the line, and has what it wanted.
#[test]
fn a_signal_that_comes_with_the_line_of_a_forward_ends_it() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    // The moment is short.
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)].repeat(20) {
        let (mut forward, _) = home.forward(&["0:127.0.0.1:9"]);
        forward.signal(signal);
        assert_eq!(forward.wait().code(), Some(code), "{signal:?}");
    }
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

#[test]
fn what_ends_with_its_terminal_leaves_no_sockets_and_nohup_keeps_it() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (socket, server) = (home.folder.path().join("socket"), origin(echo));
    let mut command = home.capuchin();
    command.args(["forward", "lab", "-L", &format!("{}:{server}", socket.display()), "-L", &format!("0:{server}")]);
    let mut forward = Daemon::spawn(&mut command);
    forward.wait_for_line("Forwarding 127.");
    forward.signal(Signal::HUP);
    assert_eq!(forward.wait().code(), Some(129));
    assert!(!socket.exists());
    assert!(is_empty(&home.runtime().join("capuchin/borrowing")));

    run(home.capuchin().args(["connect", "lab"]));
    let share = home.runtime().join("capuchin/share");
    assert!(!is_empty(&share));
    let pid = borrowing(home.capuchin())[0]["pid"].as_i64().unwrap();
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::HUP).unwrap();
    wait_until("the session in the background takes its socket along", || is_empty(&share));

    let mut under_nohup = Command::new("sh");
    under_nohup.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]);
    let mut forward = Daemon::spawn(starts(&mut under_nohup, &command));
    let line = forward.wait_for_line("Forwarding 127.");
    forward.signal(Signal::HUP);
    round_trip(&dial(line.split(' ').nth(1).unwrap().parse().unwrap()), b"it goes on").unwrap();
    forward.signal(Signal::TERM);
    assert_eq!(forward.wait().code(), Some(143));
}
