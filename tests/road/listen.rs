//! Ports that are lent: who connects at the lender reaches the borrower, and no port outlives its handle.

use std::{
    future::poll_fn,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    task::Poll,
    time::Duration,
};

use capuchin::{Borrower, TcpOptions, proto::ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    dial,
    support::{
        Home, Lab, PATIENCE,
        ports::{ClosedPort, wait_for_close},
        run,
    },
};

/// Alice may listen on any port of loopback that no privilege is needed for.
pub const LISTEN: &str =
    "[[allow]]\nwho = [\"alice\", \"bob\"]\nlisten = [\"127.0.0.1:1024-65535\", \"[::1]:1024-65535\"]\n";

/// A lender, and alice's session with it.
pub async fn session(policy: &str) -> (Lab, Home, Borrower) {
    let lab = Lab::start(policy);
    let home = lab.join("alice");
    let borrower = home.connect().await;
    (lab, home, borrower)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_connects_at_the_lender_is_accepted_here_with_its_true_address() {
    let (lab, _home, borrower) = session(LISTEN).await;
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let listener = borrower.tcp_listen(SocketAddr::new(ip, 0).to_string()).await.unwrap();
        let mut visitor = dial(listener.local_addr());
        // Before it is accepted: its bytes do not wait.
        visitor.write_all(b"good day").unwrap();
        visitor.shutdown(std::net::Shutdown::Write).unwrap();
        let (mut stream, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, visitor.local_addr().unwrap());
        assert_eq!((stream.peer_addr(), stream.local_addr()), (peer, listener.local_addr()));
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        stream.write_all(b"and to you").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        visitor.read_to_string(&mut answer).unwrap();
        assert_eq!((said.as_str(), answer.as_str()), ("good day", "and to you"));
        drop(stream);
        let target = format!("{peer} at {}", listener.local_addr());
        lab.wait_for_audit("the connection", |line| {
            line["event"] == "accepted-closed" && line["target"] == target && line["bytes_out"] == 8
        });
    }
    lab.wait_for_verdict("tcp-listen", "granted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accept_that_is_given_up_loses_nobody_however_little_its_task_may_still_do() {
    let (_lab, _home, borrower) = session(LISTEN).await;
    let listener = borrower.tcp_listen("127.0.0.1:0").await.unwrap();
    // tokio gives a task 128 units for a turn.
    'visitors: for used in 96..=128 {
        let visitor = dial(listener.local_addr());
        // More often than it takes him to arrive.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
            for _ in 0..used {
                tokio::task::consume_budget().await;
            }
            let mut accept = std::pin::pin!(listener.accept());
            // Given up at once where it is not ready.
            if poll_fn(|cx| Poll::Ready(accept.as_mut().poll(cx))).await.is_ready() {
                continue 'visitors;
            }
        }
        let accepted = tokio::time::timeout(PATIENCE, listener.accept()).await;
        let (_stream, peer) = accepted.unwrap_or_else(|_| panic!("lost with {used} units used")).unwrap();
        assert_eq!(peer, visitor.local_addr().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_closes_the_port_resets_who_was_not_accepted_and_keeps_who_was() {
    let (_lab, _home, borrower) = session(LISTEN).await;
    // No other test gets its number when it is closed.
    let kept = ClosedPort::new();
    let address = kept.address;
    let listener = borrower.tcp_listen(address.to_string()).await.unwrap();
    let accepted = dial(address);
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut pending = dial(address);
    listener.close().await.unwrap();
    assert!(TcpStream::connect(address).is_err(), "it is closed when close() says so");
    assert_eq!(pending.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    stream.write_all(b"still here").await.unwrap();
    let mut said = [0; 10];
    (&accepted).read_exact(&mut said).unwrap();
    assert_eq!(&said, b"still here");
    // The port is free for the next, although a connection of the last one is still there.
    let again = borrower.tcp_listen(address.to_string()).await.unwrap();
    drop(again);
    // Dropping it closes it, too.
    wait_for_close(address);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errnos_of_bind_and_listen_are_the_lenders() {
    let (_lab, _home, borrower) = session(&LISTEN.replace("\"127.0.0.1:1024-65535\"", "\"*:1-65535\"")).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let errno = |error: capuchin::BorrowError| {
        assert_eq!(error.kind(), ErrorKind::Target, "{error}");
        error.errno().map(|errno| errno.0)
    };
    let error = borrower.tcp_listen(taken.local_addr().unwrap().to_string()).await.err().unwrap();
    assert!(error.to_string().contains("lab cannot listen on 127.0.0.1:"), "{error}");
    assert_eq!(errno(error), Some(98), "EADDRINUSE");
    let error = borrower.tcp_listen("192.0.2.1:8080").await.err().unwrap();
    assert_eq!(errno(error), Some(99), "EADDRNOTAVAIL");
    // Bound by two, as SO_REUSEADDR allows; only one of them listens.
    let options = TcpOptions::default();
    let first = borrower.tcp_bind("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
    let address = first.local_addr();
    let second = borrower.tcp_bind(address, options).await.unwrap();
    assert!(TcpStream::connect(address).is_err(), "what is bound does not listen");
    let listening = first.listen(1).await.unwrap();
    assert_eq!(errno(second.listen(1).await.err().unwrap()), Some(98));
    let visitor = dial(address);
    assert_eq!(listening.accept().await.unwrap().1, visitor.local_addr().unwrap());
    let exclusive = TcpOptions { reuse_address: false, ..options };
    let error = borrower.tcp_bind(address, exclusive).await.err().unwrap();
    assert_eq!(errno(error), Some(98));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_low_port_is_refused_by_the_system_of_a_lender_that_is_no_root() {
    let folder = tempfile::tempdir().unwrap();
    let uid = if crate::support::own_uid() == 0 { 65_533 } else { crate::support::own_uid() };
    let mut init = crate::support::capuchind(folder.path());
    crate::support::as_user(&mut init, uid);
    std::os::unix::fs::chown(folder.path(), Some(uid), Some(uid)).unwrap();
    run(init.args(["init", "--name", "lab", "--listen", "127.0.0.1:0"]));
    let policy = "[[allow]]\nwho = \"alice\"\nlisten = \"127.0.0.1:1-1023\"\n";
    std::fs::write(folder.path().join("policy.toml"), policy).unwrap();
    let mut serve = crate::support::capuchind(folder.path());
    crate::support::as_user(&mut serve, uid);
    let daemon = crate::support::Daemon::spawn(serve.arg("serve"));
    let address = daemon.wait_for_line("listens on").rsplit(' ').next().unwrap().parse().unwrap();
    let lab = Lab { folder, daemon, address };
    run(lab.admin().args(["user", "add", "alice"]));
    let borrower = lab.join("alice").connect().await;
    let allowed = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let allowed: u16 = allowed.trim().parse().unwrap();
    if allowed > 80 {
        let error = borrower.tcp_listen("127.0.0.1:80").await.err().unwrap();
        assert_eq!((error.kind(), error.errno().map(|errno| errno.0)), (ErrorKind::Target, Some(13)), "{error}");
    } else {
        let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let free = (allowed.max(1)..1024).find(is_free).unwrap();
        borrower.tcp_listen(format!("127.0.0.1:{free}")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_borrower_that_does_not_accept_holds_back_who_connects() {
    let (_lab, _home, borrower) = session(LISTEN).await;
    let bound = borrower.tcp_bind("127.0.0.1:0".parse().unwrap(), TcpOptions::default()).await.unwrap();
    let address = bound.local_addr();
    let listener = bound.listen(64).await.unwrap();
    // The pending ones, the kernel's queue, and then nobody: SYNs go unanswered, also the second after a second.
    let mut visitors = Vec::new();
    // Those for whom there is room come in, however long it takes.
    while visitors.len() < 128 {
        visitors.push(TcpStream::connect_timeout(&address, PATIENCE).unwrap());
    }
    while let Ok(visitor) = TcpStream::connect_timeout(&address, Duration::from_millis(1500)) {
        visitors.push(visitor);
        assert!(visitors.len() < 250, "nothing holds them back");
    }
    // Nothing was lost: each is accepted in the end, and is who it is.
    for visitor in &visitors {
        let (mut stream, _) = tokio::time::timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        stream.write_all(b"x").await.unwrap();
        drop(stream);
        let _ = visitor;
    }
    for mut visitor in visitors {
        visitor.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut said = Vec::new();
        visitor.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"x");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_policy_refuses_is_not_bound() {
    let (lab, _home, borrower) = session("[[allow]]\nwho = \"alice\"\nlisten = \"127.0.0.1:9000-9001\"\n").await;
    let free = ClosedPort::new();
    let error = borrower.tcp_listen(free.address.to_string()).await.err().unwrap();
    assert_eq!((error.kind(), error.errno().map(|errno| errno.0)), (ErrorKind::Policy, Some(13)), "{error}");
    assert!(error.notes().join("\n").contains("127.0.0.1:9000-9001"), "{:?}", error.notes());
    // It could not listen if the lender did.
    free.listen();
    lab.wait_for_verdict("tcp-listen", "refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_policy_a_cut_and_a_revocation_close_ports_and_what_came_to_them() {
    let (lab, home, borrower) = session(LISTEN).await;
    let listener = borrower.tcp_listen("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr();
    let (mut accepted, mut pending) = (dial(address), dial(address));
    let (_stream, _) = listener.accept().await.unwrap();
    std::fs::write(lab.dir().join("policy.toml"), "").unwrap();
    wait_for_close(address);
    for socket in [&mut accepted, &mut pending] {
        assert_eq!(socket.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    }
    // What came before the word of it did may still be accepted; it is reset, too.
    let error = loop {
        if let Err(error) = listener.accept().await {
            break error;
        }
    };
    assert_eq!(error.errno().map(|errno| errno.0), Some(13), "{error}");
    lab.wait_for_audit("why", |line| {
        line["event"] == "listen-closed" && line["why"].as_str().is_some_and(|why| why.contains("policy has changed"))
    });
    std::fs::write(lab.dir().join("policy.toml"), LISTEN).unwrap();
    let listener = loop {
        // Until the policy is in force.
        match borrower.tcp_listen("127.0.0.1:0").await {
            Ok(listener) => break listener,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Policy, "{error}"),
        }
    };
    run(lab.admin().args(["revoke", "--user", "alice"]));
    wait_for_close(listener.local_addr());
    assert!(listener.accept().await.is_err());
    drop(home);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_lives_as_long_as_its_handle_and_no_longer_than_its_session() {
    let (_lab, _home, borrower) = session(LISTEN).await;
    let listener = borrower.tcp_listen("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr();
    // The session is not over while something of it is held.
    drop(borrower);
    let visitor = dial(address);
    let (mut stream, _) = listener.accept().await.unwrap();
    drop(listener);
    wait_for_close(address);
    stream.write_all(b"x").await.unwrap();
    (&visitor).read_exact(&mut [0]).unwrap();
}

/// A stranger who connects and resets must cost its own connection and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_who_connect_and_reset_do_not_end_the_session() {
    let (_lab, _home, borrower) = session(LISTEN).await;
    let listener = borrower.tcp_listen("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr();
    let accepting = tokio::spawn(async move {
        loop {
            let (mut stream, peer) = listener.accept().await.unwrap();
            if stream.write_all(b"hello").await.is_ok() && stream.read_u8().await.is_ok() {
                return peer;
            }
        }
    });
    let resetting = tokio::task::spawn_blocking(move || {
        for _ in 0..3000 {
            let socket = dial(address);
            rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
        }
        let mut last = dial(address);
        last.read_exact(&mut [0; 5]).unwrap();
        last.write_all(b"!").unwrap();
        last
    });
    let last = resetting.await.unwrap();
    assert_eq!(accepting.await.unwrap(), last.local_addr().unwrap());
}

/// The example as it is run: `curl` from the lender's side, over both families.
#[test]
fn the_example_serves_whoever_comes_to_the_lender() {
    let lab = Lab::start(LISTEN);
    let home = lab.join("alice");
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let build = ["build", "--quiet", "--manifest-path", manifest, "--example", "outside_firewall"];
    run(std::process::Command::new(env!("CARGO")).args(build));
    let built = std::path::Path::new(env!("CARGO_BIN_EXE_capuchin")).with_file_name("examples/outside_firewall");
    let mut example = std::process::Command::new(built);
    example.args(["lab", "[::1]:0"]);
    let config = home.folder.path().join("config");
    example.env("XDG_CONFIG_HOME", config).env("XDG_STATE_HOME", home.folder.path().join("state"));
    let mut server = crate::support::Daemon::spawn(&mut example);
    let said = server.wait_for_line("listening at lab, on ");
    let address: SocketAddr = said.rsplit(' ').next().unwrap().parse().unwrap();
    for _ in 0..3 {
        let curl = ["--silent", "--fail", "--noproxy", "*", "--max-time", "30", &format!("http://{address}/")];
        let page = run(std::process::Command::new("curl").args(curl));
        assert_eq!(crate::support::text(page.stdout), "hello ::1, from behind the firewall\n");
    }
    server.wait_for_line("GET / HTTP/1.1");
    server.kill();
    // A killed borrower leaves nothing listening.
    wait_for_close(address);
}
