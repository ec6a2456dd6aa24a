//! Ports and services over the session that `capuchin connect` keeps: as over one of one's own, and each command's its own.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    dial, echo, origin,
    remote::{BOTH, forward},
    round_trip,
    support::{Daemon, Home, Lab, borrowing::borrowing, fails, run, run_with, text, wait_until, wire::Wire},
};

/// Alice may do everything, in one session at a time.
pub(crate) fn policy() -> String {
    format!(
        "{BOTH}services = {{ offer = [\"*\"], use = [\"*\"] }}\nudp = [\"127.0.0.0/8:*\"]\n\
         exec = [{{ path = \"*\" }}]\nallow_root = true\n[[allow]]\nwho = \"alice\"\nlimits = {{ sessions = 1 }}\n"
    )
}

/// A session that is kept in the foreground, so that it ends with the test.
pub(crate) fn keep(home: &Home) -> Daemon {
    let shared = Daemon::spawn(home.capuchin().args(["connect", "-F", "lab"]));
    shared.wait_for_line("Connected to");
    shared
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// How many sessions of alice's have begun.
fn logins(lab: &Lab) -> usize {
    lab.audit().iter().filter(|line| line["event"] == "login" && line["user"] == "alice").count()
}

/// The session that a command of this name uses, as it says itself.
pub(crate) fn session_of(home: &Home, command: &str) -> Value {
    let listed = borrowing(home.capuchin());
    let found = listed.as_array().unwrap().iter().find(|one| one["command"] == command && one["state"] == "up");
    found.map_or(Value::Null, |one| one["session"].clone())
}

/// Sends a question of so many bytes, ends its half, and reads the answer to its end.
fn ask(remote: SocketAddr, length: usize) -> String {
    let mut socket = dial(remote);
    socket.write_all(&vec![b'q'; length]).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

/// Counts what it is sent, to its end.
fn count(mut socket: TcpStream) {
    let mut question = Vec::new();
    socket.read_to_end(&mut question).unwrap();
    socket.write_all(format!("{} bytes", question.len()).as_bytes()).unwrap();
}

pub(crate) fn is_open(remote: SocketAddr) -> bool {
    TcpStream::connect(remote).is_ok()
}

#[test]
fn forwards_both_ways_an_offer_and_programs_go_over_the_one_session_that_is_allowed() {
    let lab = Lab::start(&policy());
    let (alice, bob) = (lab.join("alice"), lab.join("bob"));
    let before = logins(&lab);
    let _shared = keep(&alice);
    let server = origin(count);
    let (_ways, open) = forward(
        &alice,
        &["-L", &format!("0:{server}"), "-R", &format!("0:{server}"), "-R", &format!("[::1]:0:{server}"), "-D", "0"],
        4,
    );
    for way in &open[..3] {
        assert_eq!(ask(address(way), 300_000), "300000 bytes", "{way}");
    }
    let web = origin(|mut socket| {
        let _ = socket.read(&mut [0; 1024]);
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello");
    });
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail", "--noproxy", "", "--max-time", "30", "--socks5-hostname", &open[3]]);
    assert_eq!(text(run(curl.arg(format!("http://{web}/"))).stdout), "hello");
    let page = format!("http://{web}/");
    let mut within = alice.capuchin();
    within.args(["run", "lab", "--", "curl", "--silent", "--noproxy", "*", "--max-time", "30", &page]);
    assert_eq!(text(run(&mut within).stdout), "hello");
    // Datagrams to a server of ours, from the lender's side.
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let target = udp.local_addr().unwrap();
    let (_datagrams, port) = forward(&alice, &["-L", &format!("0:{target}/udp")], 1);
    let asking = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    asking.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    udp.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    asking.send_to(b"who?", port[0].trim_end_matches("/udp")).unwrap();
    let mut datagram = [0; 16];
    let (length, peer) = udp.recv_from(&mut datagram).unwrap();
    udp.send_to(&datagram[..length], peer).unwrap();
    assert_eq!((asking.recv(&mut datagram).unwrap(), &datagram[..4]), (4, &b"who?"[..]));
    let mut offer = alice.capuchin();
    let offer = Daemon::spawn(offer.args(["offer", "lab", "calc", "stdio", "--once"]).stdin(Stdio::piped()));
    offer.wait_for_line("Offering service calc");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        use tokio::io::AsyncWriteExt;
        let mut calc = bob.connect().await.stdio("calc").await.unwrap();
        calc.write_all(b"6*7\n").await.unwrap();
        calc.shutdown().await.unwrap();
        offer.wait_for_line("6*7");
    });
    assert_eq!(text(run_with(alice.capuchin().args(["exec", "lab", "wc", "-c"]), [7; 70_000]).stdout), "70000\n");
    run(alice.capuchin().args(["check", "lab", "connect", &server.to_string()]));
    let doctor = text(alice.capuchin().args(["doctor", "lab"]).output().unwrap().stdout);
    assert!(doctor.contains("session       that of `capuchin connect` (pid "), "{doctor}");
    assert_eq!(logins(&lab), before + 1, "one session for all of them");
    let shared = session_of(&alice, "connect");
    assert!(shared.is_string(), "it is up");
    assert_eq!(session_of(&alice, "forward"), shared);
}

#[test]
fn what_the_policy_refuses_reads_as_over_a_session_of_its_own() {
    let lab = Lab::start(&policy());
    let home = lab.join("alice");
    let server = origin(echo);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused =
        |remote: &str| fails(home.capuchin().args(["forward", "lab", "-R", &format!("{remote}:{server}")]), 255);
    let remotes = ["*:8080", "127.0.0.1:80", &taken.local_addr().unwrap().to_string()];
    let own = remotes.map(refused);
    let shared = keep(&home);
    let over_it = remotes.map(refused);
    assert_eq!(own, over_it);
    assert!(own[0].starts_with("error[policy]") && own[2].starts_with("error[target]"), "{own:#?}");
    drop(shared);
}

#[test]
fn a_command_that_is_killed_takes_its_port_along_and_no_other_command() {
    let lab = Lab::start(&policy());
    let home = lab.join("alice");
    let _shared = keep(&home);
    let server = origin(echo);
    let spec = format!("0:{server}");
    let (mut one, first) = forward(&home, &["-L", &spec, "-R", &spec], 2);
    let (_two, second) = forward(&home, &["-L", &spec, "-R", &spec], 2);
    let lost = dial(address(&first[1]));
    round_trip(&lost, b"before").unwrap();
    let stays = dial(address(&second[1]));
    round_trip(&stays, b"before").unwrap();
    one.kill();
    wait_until("the port is closed", || !is_open(address(&first[1])));
    assert_ne!((&lost).read(&mut [0]).unwrap_or(0), 1, "its connection has ended");
    round_trip(&stays, b"after").unwrap();
    for way in &second {
        round_trip(&dial(address(way)), b"new").unwrap();
    }
    let closed = |line: &Value| line["event"] == "listen-closed";
    assert_eq!(lab.wait_for_audit("its port", closed)["target"], first[1].as_str());
}

/// What it had sent to the lender before it was cut off must not look whole there.
#[test]
fn what_a_killed_command_had_under_way_ends_with_a_reset_and_not_in_good_order() {
    let lab = Lab::start(&policy());
    let home = lab.join("alice");
    let _shared = keep(&home);
    let (ended_tx, ended_rx) = std::sync::mpsc::channel();
    let server = origin(move |mut socket| {
        socket.write_all(b"!").unwrap();
        ended_tx.send(std::io::copy(&mut socket, &mut std::io::sink()).map_err(|error| error.kind())).unwrap();
    });
    let (mut forward, open) = forward(&home, &["-L", &format!("0:{server}")], 1);
    let mut socket = dial(address(&open[0]));
    socket.read_exact(&mut [0]).unwrap();
    socket.write_all(b"half of ").unwrap();
    forward.kill();
    let ended = ended_rx.recv_timeout(crate::support::PATIENCE).unwrap();
    assert_eq!(ended, Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn when_who_shares_is_killed_the_ports_close_and_each_command_comes_back_by_itself() {
    let lab = Lab::start(&policy().replace("sessions = 1", "sessions = 3"));
    let home = lab.join("alice");
    let mut shared = keep(&home);
    let server = origin(echo);
    let spec = format!("0:{server}");
    let (one, first) = forward(&home, &["-L", &spec, "-R", &spec], 2);
    let (two, second) = forward(&home, &["-L", &spec, "-R", &spec], 2);
    let before = logins(&lab);
    let lost: Vec<_> = first.iter().chain(&second).map(|way| dial(address(way))).collect();
    lost.iter().for_each(|socket| round_trip(socket, b"before").unwrap());
    shared.kill();
    for forward in [&one, &two] {
        forward.wait_for_line("reconnecting");
        forward.wait_for_line("back after");
    }
    for mut socket in &lost {
        assert_ne!(socket.read(&mut [0]).unwrap_or(0), 1, "its connection has ended");
    }
    for remote in [&first[1], &second[1]] {
        lab.wait_for_audit("its port", |line| line["event"] == "listen-closed" && line["target"] == remote.as_str());
    }
    first.iter().chain(&second).for_each(|way| opens_again(address(way)));
    assert_eq!(logins(&lab), before + 2, "each has a session of its own");
}

/// It leads to the server that echoes, after a loss.
fn opens_again(way: SocketAddr) {
    wait_until("it is open again", || is_open(way));
    round_trip(&dial(way), b"after").unwrap();
}

#[test]
fn a_session_that_is_stopped_is_followed_by_one_of_the_commands_own_and_told_once() {
    let lab = Lab::start(&policy());
    let home = lab.join("alice");
    run(home.capuchin().args(["connect", "lab"]));
    let server = origin(echo);
    let spec = format!("0:{server}");
    let mut command = home.capuchin();
    let mut child = command
        .args(["forward", "lab", "-L", &spec, "-R", &spec])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    let open = [(); 2].map(|()| {
        let mut line = String::new();
        std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        address(line.split(' ').nth(1).unwrap())
    });
    open.iter().for_each(|way| round_trip(&dial(*way), b"before").unwrap());
    let shared = session_of(&home, "connect");
    assert!(shared.is_string(), "it is up");
    run(home.capuchin().args(["connect", "--stop", "lab"]));
    wait_until("it has another session", || {
        let own = session_of(&home, "forward");
        own.is_string() && own != shared
    });
    open.into_iter().for_each(opens_again);
    // The place is taken by then, and a session that ends leaves it to the one that was there before.
    assert!(fails(home.capuchin().args(["connect", "lab"]), 255).starts_with("error[busy]"));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::INT).unwrap();
    let said = text(child.wait_with_output().unwrap().stderr);
    let told: Vec<_> = said.lines().collect();
    let [lost @ .., back] = told.as_slice() else { panic!("{said}") };
    assert!(back.starts_with("capuchin: lab: back after"), "{said}");
    assert!(!lost.is_empty() && lost.iter().all(|line| line.starts_with("capuchin: lab: reconnecting…")), "{said}");
    let mut distinct = lost.to_vec();
    distinct.dedup();
    assert_eq!(distinct, lost, "each reason once: {said}");
}

#[test]
fn after_the_lender_was_lost_all_commands_share_the_one_session_again() {
    let lab = Lab::start(&policy());
    let (wire, home) = Wire::between("alice", &lab);
    let _shared = keep(&home);
    let server = origin(echo);
    let spec = format!("0:{server}");
    let forwards: Vec<_> = (0..3).map(|_| forward(&home, &["-L", &spec, "-R", &spec], 2)).collect();
    wire.cut();
    let lab = lab.restart();
    let before = logins(&lab);
    wire.mend(lab.address);
    for (forward, open) in &forwards {
        forward.wait_for_line("back after");
        open.iter().for_each(|way| opens_again(address(way)));
    }
    assert_eq!(logins(&lab), before + 1, "one session for all of them");
}

#[test]
fn a_command_that_is_revoked_with_its_session_says_so_and_ends() {
    let lab = Lab::start(&policy());
    let home = lab.join("alice");
    let mut shared = keep(&home);
    let server = origin(echo);
    let (mut forward, _) = forward(&home, &["-R", &format!("0:{server}")], 1);
    run(lab.admin().args(["revoke", "--user", "alice"]));
    forward.wait_for_line("error[revoked]");
    assert_eq!((forward.wait().code(), shared.wait().code()), (Some(255), Some(255)));
}

/// More visitors than may wait at a command that accepts none: they are its own trouble.
#[test]
fn a_command_that_accepts_nobody_holds_back_only_itself() {
    let lab = Lab::start(&policy());
    let home = lab.join("alice");
    let _shared = keep(&home);
    let server = origin(echo);
    let spec = format!("0:{server}");
    let (stopped, slow) = forward(&home, &["-R", &spec], 1);
    let (_goes_on, quick) = forward(&home, &["-R", &spec], 1);
    stopped.signal(Signal::STOP);
    let waiting: Vec<_> = (0..300).map(|_| dial(address(&slow[0]))).collect();
    round_trip(&dial(address(&quick[0])), b"meanwhile").unwrap();
    stopped.signal(Signal::CONT);
    for socket in &waiting {
        round_trip(socket, b"at last").unwrap();
    }
    round_trip(&dial(address(&quick[0])), b"afterwards").unwrap();
}

#[test]
fn who_names_another_user_or_another_port_has_another_session() {
    let lab = Lab::start(BOTH);
    let home = lab.join("alice");
    lab.join_at("bob", &home);
    let _shared = keep(&home);
    let logins = || lab.audit().iter().filter(|line| line["event"] == "login").count();
    let check = |args: &[&str]| drop(run(home.capuchin().args(args).args(["connect", "127.0.0.1:1"])));
    let port = lab.address.port().to_string();
    let shared = session_of(&home, "connect");
    assert!(shared.is_string(), "it is up");
    lab.wait_for_audit("the shared one", |line| line["event"] == "login" && line["session"] == shared);
    let before = logins();
    check(&["check", "lab"]);
    check(&["check", "alice@lab"]);
    let others = [&["check", "bob@lab"][..], &["check", "-l", "bob", "lab"], &["check", "-p", &port, "lab"]];
    for (number, other) in others.into_iter().enumerate() {
        check(other);
        // Never, had one of those before it logged in.
        wait_until("one has logged in", || logins() == before + number + 1);
    }
}
