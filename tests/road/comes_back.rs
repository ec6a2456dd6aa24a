//! A lost connection is made again: the lender restarted, moved, cut off, or the borrower asleep.

use std::{
    future::{Future, poll_fn},
    io::Read,
    net::{SocketAddr, TcpStream},
    os::fd::OwnedFd,
    process::Command,
    task::Poll,
};

use capuchin::{
    BorrowError, Connection, Endpoint, Forward, Share,
    proto::{ErrorKind, Target},
};
use rustix::process::Signal;
use tokio::time::timeout;

use crate::{
    dial, echo, is_root_of_a_network, origin, remote, round_trip,
    settings::settle,
    support::{
        Daemon, LOOPBACK, Lab, PATIENCE, in_environment_of, json,
        named::NamedLab,
        ports::{ClosedPort, wait_for_close},
        run, text, wait_until,
        wire::Wire,
    },
};

#[test]
fn a_forward_comes_back_by_itself_to_a_lender_that_was_restarted() {
    let lab = Lab::start(LOOPBACK);
    let (wire, home) = Wire::between("alice", &lab);
    let server = origin(echo);
    let (forward, local) = home.forward(&[&format!("0:{server}")]);
    let mut socket = dial(local[0]);
    round_trip(&socket, b"before").unwrap();
    wire.cut();
    assert_eq!(socket.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    forward.wait_for_line("reconnecting");
    assert_eq!(dial(local[0]).read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let lab = lab.restart();
    wire.mend(lab.address);
    loop {
        let line = forward.wait_for_line("");
        println!("{line}");
        // Of the session, and not of each of its connections: they would read as if the forward had ended.
        assert!(line.contains("reconnecting") || line.contains("back after"), "{line}");
        if line.contains("back after") {
            break;
        }
    }
    // The same local port, and the ticket alone.
    round_trip(&dial(local[0]), b"after").unwrap();
    let mut logins = lab.audit().into_iter().filter(|line| line["event"] == "login" && line["verdict"] == "granted");
    assert_eq!(logins.next_back().unwrap()["method"], "ticket");
}

#[test]
fn a_session_that_the_lender_still_takes_for_alive_is_replaced() {
    let lab = Lab::start(LOOPBACK);
    let wire = Wire::to(lab.address);
    let (home, other) = (lab.join("alice"), lab.join("alice"));
    run(home.capuchin().args(["hosts", "set", "lab", &wire.address.to_string()]));
    let server = origin(echo);
    let (forward, local) = home.forward(&[&format!("0:{server}")]);
    let (_other_forward, other_local) = other.forward(&[&format!("0:{server}")]);
    let stays = dial(other_local[0]);
    round_trip(&stays, b"alive").unwrap();
    wire.lose_borrowers();
    forward.wait_for_line("back after");
    lab.wait_for_audit("the end of the session that was replaced", |line| {
        line["event"] == "session-ended" && line["why"].as_str().is_some_and(|why| why.contains("another connection"))
    });
    round_trip(&dial(local[0]), b"back").unwrap();
    // Another device's session of the same user is none of that.
    round_trip(&stays, b"not touched").unwrap();
}

#[test]
fn a_borrower_that_was_asleep_comes_back_and_leaves_nothing_open_meanwhile() {
    if !is_root_of_a_network() {
        return;
    }
    let lab = Lab::start(remote::BOTH);
    let home = lab.join("alice");
    // The machine that sleeps ends here.
    let wire = Wire::to(lab.address);
    run(home.capuchin().args(["hosts", "set", "lab", &wire.address.to_string()]));
    let server = origin(echo);
    let (forward, opened) = remote::forward(&home, &["-L", &format!("0:{server}"), "-R", &format!("0:{server}")], 2);
    let [local, at_lender] = [&opened[0], &opened[1]].map(|text| text.parse::<SocketAddr>().unwrap());
    for address in [local, at_lender] {
        round_trip(&dial(address), b"awake").unwrap();
    }
    // As a laptop with its lid closed, until the lender has missed its pings: two, each after ten seconds. It acknowledges nothing.
    let unplug = |way: &str| {
        let mut unplug = Command::new("python3");
        unplug.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/road/unplug.py"));
        run(unplug.arg(way).stdin(OwnedFd::from(wire.to_the_lender())));
    };
    unplug("on");
    forward.signal(Signal::STOP);
    lab.wait_for_audit_within(2 * PATIENCE, "the end of the session", |line| {
        line["event"] == "session-ended" && line["why"].as_str().is_some_and(|why| why.contains("has not answered"))
    });
    // While the borrower sleeps.
    wait_for_close(at_lender);
    unplug("off");
    forward.signal(Signal::CONT);
    forward.wait_for_line("back after");
    for address in [local, at_lender] {
        round_trip(&dial(address), b"awake again").unwrap();
    }
}

#[test]
fn a_lender_that_moved_is_found_where_it_says_it_is() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    // It moves; its old address is taken by a lender that is another one, and by one where nobody is.
    let lab = lab.restart();
    let stranger = Lab::start(LOOPBACK);
    let set = |home: &crate::support::Home, addresses: &[String]| {
        run(home.capuchin().args(["hosts", "set", "lab"]).args(addresses));
    };
    let nobody = ClosedPort::new();
    set(&home, &[stranger.address.to_string(), nobody.address.to_string(), lab.address.to_string()]);
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]));
    // Pinned: what the lender tells is not added.
    set(&home, &[format!("localhost:{}", lab.address.port())]);
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]));
    let addresses = || {
        let listed: serde_json::Value =
            serde_json::from_str(&text(run(home.capuchin().args(["hosts", "--json"])).stdout)).unwrap();
        listed["hosts"][0]["addresses"].clone()
    };
    let pinned = serde_json::json!([format!("localhost:{}", lab.address.port())]);
    assert_eq!(addresses(), pinned);
    // Nor what another user's join line says.
    lab.join_at("bob", &home);
    assert_eq!(addresses(), pinned);
    // Told ones are added again, and lead to it when the set ones are gone.
    run(home.capuchin().args(["hosts", "set", "lab", "--auto"]));
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]));
    assert_eq!(addresses(), serde_json::json!([lab.address.to_string(), format!("localhost:{}", lab.address.port())]));
}

/// Whom and where a session is with was settled when it began; what is written meanwhile may be half done.
#[test]
fn what_is_settled_meanwhile_makes_a_session_neither_another_users_nor_its_end() {
    let lab = Lab::start(LOOPBACK);
    let (wire, home) = Wire::between("alice", &lab);
    lab.join_at("bob", &home);
    let server = origin(echo);
    let (forward, local) = home.forward(&[&format!("0:{server}")]);
    round_trip(&dial(local[0]), b"before").unwrap();
    wire.cut();
    forward.wait_for_line("reconnecting");
    settle(&home, "[host.lab]\nuser = \"bo");
    let why = forward.wait_for_line("config.toml");
    assert!(why.contains("reconnecting… (") && why.contains("line 2: "), "{why}");
    settle(&home, "[host.lab]\nuser = \"bob\"\n");
    let lab = lab.restart();
    wire.mend(lab.address);
    forward.wait_for_line("back after");
    round_trip(&dial(local[0]), b"after").unwrap();
    let sessions = json(&run(lab.admin().args(["sessions", "--json"])).stdout);
    let users: Vec<_> = sessions["sessions"].as_array().unwrap().iter().map(|session| &session["user"]).collect();
    assert_eq!(users, ["alice"]);
}

#[test]
fn ports_that_have_no_place_for_the_moment_are_asked_for_until_they_have() {
    let lab = Lab::start(remote::BOTH);
    let (wire, home) = Wire::between("alice", &lab);
    let server = origin(echo);
    let spec = format!("0:{server}");
    let (forward, opened) = remote::forward(&home, &["-R", &spec, "-R", &spec], 2);
    let policy = lab.dir().join("policy.toml");
    std::fs::write(&policy, format!("{}limits = {{ streams = 1 }}\n", remote::BOTH)).unwrap();
    wire.cut();
    let lab = lab.restart();
    wire.mend(lab.address);
    // Which of both it tells first is nobody's promise.
    let mut untold = vec!["back after", "streams"];
    while !untold.is_empty() {
        let line = forward.wait_for_line("");
        untold.retain(|words| !line.contains(words));
    }
    let loaded = || lab.audit().iter().filter(|line| line["event"] == "policy-loaded").count();
    let before = loaded();
    std::fs::write(&policy, remote::BOTH).unwrap();
    // How many streams a session may have is said when it begins.
    wait_until("the policy is in force", || loaded() > before);
    wire.cut();
    wire.mend(lab.address);
    for port in opened {
        let port: SocketAddr = port.parse().unwrap();
        wait_until("it listens again", || {
            TcpStream::connect(port).is_ok_and(|socket| round_trip(&socket, b"again").is_ok())
        });
    }
}

#[test]
fn a_host_is_not_set_to_nonsense() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    for (arguments, why) in [
        (vec!["hosts", "set", "lab", "not an address:1"], "not an address"),
        (vec!["hosts", "set", "lab", "a:0"], "port"),
        (vec!["hosts", "set", "attic", "a:1"], "not a host"),
        (vec!["hosts", "set", "lab"], "required"),
        (vec!["hosts", "set", "lab", "a:1", "--auto"], "cannot be used with"),
    ] {
        let mut command: Command = home.capuchin();
        let said = crate::support::fails(command.args(&arguments), 255);
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
}

#[test]
fn a_cut_wire_and_a_new_address_of_the_lender_are_survived() {
    let home = crate::support::Home::new();
    let mut machines = Command::new("unshare");
    machines.args(["--map-root-user", "--net", "--mount", "bash"]);
    machines.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/network_cut.sh"));
    machines.args([env!("CARGO_BIN_EXE_capuchind"), env!("CARGO_BIN_EXE_capuchin")]).arg(home.folder.path());
    // The commands of the script belong to this home.
    in_environment_of(&mut machines, &home.capuchin());
    home.password_file(crate::support::PASSWORD);
    let said = text(run(&mut machines).stdout);
    let lines: Vec<_> = said.lines().collect();
    let all = "-L page -L unix page -D page -R page -R unix page";
    let fetched = ["before", "after"].map(|when| format!("{when}: {all}"));
    assert_eq!([lines[0], lines[lines.len() - 1]], [&fetched[0], &fetched[1]], "{said}");
    assert!(lines[1].contains("reconnecting… (") && lines[2].contains("back after"), "{said}");
    println!("{}", lines[2]);
}

/// The new session has answered no question of the program, which goes on with the address that it was told in the old one.
#[test]
fn a_program_reaches_a_name_that_it_looked_up_before_the_connection_was_lost() {
    let zone = serde_json::json!({ "www.test A": [["www.test 60 A 10.77.0.1"]] });
    let named = NamedLab::start("[[allow]]\nwho = \"alice\"\nconnect = [\"www.test:80\"]\n", &zone);
    let wire = Wire::to(named.lab.address);
    let home = named.lab.join("alice");
    run(home.capuchin().args(["hosts", "set", "lab", &wire.address.to_string()]));
    let program = "import socket, sys
address = socket.gethostbyname('www.test')
print('known', flush=True)
sys.stdin.readline()
print('got', socket.create_connection((address, 80)).recv(99).decode(), flush=True)";
    let mut borrowed = home.capuchin();
    borrowed.args(["run", "lab", "--", "python3", "-c", program]).stdin(std::process::Stdio::piped());
    let mut borrowed = Daemon::spawn(&mut borrowed);
    borrowed.wait_for_line("known");
    wire.lose_borrowers();
    borrowed.wait_for_line("back after");
    std::io::Write::write_all(borrowed.stdin.as_mut().unwrap(), b"\n").unwrap();
    borrowed.wait_for_line("got 10.77.0.1");
}

/// Two who wait for its end since before it was lost: `ended`, and a forward that serves until then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_the_end_of_a_session_that_came_back_hears_that_it_was_closed() {
    let lab = Lab::start(LOOPBACK);
    let (wire, home) = Wire::between("alice", &lab);
    for comes_back in [true, false] {
        let borrower = home.connect().await;
        borrower.keep_connected();
        let mut connection = borrower.connection();
        let local = Endpoint::Tcp("127.0.0.1:0".parse().unwrap());
        let forward = Forward::bind(&borrower, local, "127.0.0.1:9".parse::<Target>().unwrap()).await.unwrap();
        let mut serving = Box::pin(forward.serve(|_| {}));
        let waiting = borrower.clone();
        let mut ended = Box::pin(async move { waiting.ended().await });
        // Both have begun to wait once they had a turn.
        let both = poll_fn(|cx| Poll::Ready((serving.as_mut().poll(cx), ended.as_mut().poll(cx)))).await;
        assert!(matches!(both, (Poll::Pending, Poll::Pending)), "{both:?}");
        let (serving, ended) = (tokio::spawn(serving), tokio::spawn(ended));
        wire.cut();
        connection.wait_for(|now| matches!(now, Connection::Down { .. })).await.unwrap();
        if comes_back {
            wire.mend(lab.address);
            connection.wait_for(|now| *now == Connection::Up).await.unwrap();
        }
        assert_eq!(borrower.close().await.is_ok(), comes_back);
        for (what, waiting) in [("ended", ended), ("serve", serving)] {
            let end = timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} waits on")).unwrap();
            assert_eq!(end.kind(), ErrorKind::Lost, "{end}");
        }
        assert!(matches!(*connection.borrow(), Connection::Over(_)), "{connection:?}");
    }
}

/// `hosts remove` lets sessions go on, each with its own lender.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_does_not_come_back_at_another_lender_that_has_its_name_by_now() {
    let lab = Lab::start(LOOPBACK);
    let (wire, home) = Wire::between("alice", &lab);
    let server = origin(echo);
    let (forward, local) = home.forward(&[&format!("0:{server}")]);
    round_trip(&dial(local[0]), b"before").unwrap();
    let borrower = home.connect().await;
    // Of the same name, as one that was set up anew.
    let other = Lab::start(LOOPBACK);
    run(home.capuchin().args(["hosts", "remove", "lab"]));
    other.join_at("alice", &home);
    let error = Share::open(&borrower).unwrap_err();
    assert!(matches!(error, BorrowError::OtherLender { .. }), "{error}");
    let logins = || other.audit().iter().filter(|line| line["event"] == "login").count();
    let before = logins();
    wire.cut();
    let end = forward.wait_for_line("is another lender by now");
    assert!(end.starts_with("error[config]"), "{end}");
    assert_eq!(logins(), before);
}
