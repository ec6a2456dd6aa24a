//! `capuchin forward -L`: what goes in comes out, whatever the shape of the traffic.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use crate::{
    dial, echo, origin, pattern, round_trip,
    support::{
        Daemon, LOOPBACK, Lab, PATIENCE, in_environment_of,
        ports::{ClosedPort, FullListener},
        run, text, wait_until,
    },
};

#[test]
fn curl_fetches_a_page_that_only_the_lender_serves() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let web = origin(|mut socket| {
        let mut request = [0; 1024];
        let _ = socket.read(&mut request);
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello");
    });
    let (_forward, local) = home.forward(&[&format!("0:{web}")]);
    let page =
        run(Command::new("curl").args(["--silent", "--fail", "--noproxy", "*", &format!("http://{}/", local[0])]));
    assert_eq!(text(page.stdout), "hello");
    lab.wait_for_audit("the decision", |line| {
        line["event"] == "tcp-connect" && line["verdict"] == "granted" && line["target"] == web.to_string()
    });
    lab.wait_for_audit("its end, with its bytes", |line| {
        line["event"] == "tcp-closed" && line["bytes_out"].as_u64() > Some(40)
    });
}

#[test]
fn mebibytes_each_way_at_once_are_identical() {
    // tests/long.sh asks for 1,024.
    let mebibytes: usize = std::env::var("CAPUCHIN_TEST_MEBIBYTES").map_or(64, |text| text.parse().unwrap());
    let bytes = mebibytes << 20;
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (up_tx, up_rx) = mpsc::channel();
    let server = origin(move |mut socket| {
        let mut reader = socket.try_clone().unwrap();
        let up_tx = up_tx.clone();
        let reading = thread::spawn(move || {
            let mut up = Vec::new();
            reader.read_to_end(&mut up).unwrap();
            up_tx.send(up).unwrap();
        });
        socket.write_all(&pattern(bytes, 1)).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        reading.join().unwrap();
    });
    let (_forward, local) = home.forward(&[&format!("0:{server}")]);
    let mut socket = dial(local[0]);
    let mut writer = socket.try_clone().unwrap();
    let writing = thread::spawn(move || {
        writer.write_all(&pattern(bytes, 2)).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut down = Vec::new();
    socket.read_to_end(&mut down).unwrap();
    writing.join().unwrap();
    assert!(down == pattern(bytes, 1), "{} bytes came down, and not those that were sent", down.len());
    let up = up_rx.recv_timeout(PATIENCE).unwrap();
    assert!(up == pattern(bytes, 2), "{} bytes came up, and not those that were sent", up.len());
}

#[test]
fn a_server_that_answers_only_after_the_end_is_heard() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let server = origin(|mut socket| {
        let mut question = Vec::new();
        socket.read_to_end(&mut question).unwrap();
        socket.write_all(format!("{} bytes", question.len()).as_bytes()).unwrap();
    });
    let (_forward, local) = home.forward(&[&format!("0:{server}")]);
    let mut socket = dial(local[0]);
    socket.write_all(&[b'q'; 100_000]).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "100000 bytes");
}

#[test]
fn a_thousand_connections_at_once() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let server = origin(echo);
    let (_forward, local) = home.forward(&[&format!("0:{server}")]);
    let sockets: Vec<TcpStream> = (0..1000).map(|_| dial(local[0])).collect();
    for (number, socket) in sockets.iter().enumerate() {
        round_trip(socket, &pattern(100, number as u64)).unwrap();
    }
    // Each still has its own peer when all have been used.
    for (number, socket) in sockets.iter().enumerate().rev() {
        round_trip(socket, &pattern(100, number as u64)).unwrap();
    }
}

#[test]
fn a_stalled_reader_stops_its_writer_at_about_the_window_and_slows_nobody_else() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    // Never reads, and its kernel may hold little.
    let stalled = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&stalled, 4096).unwrap();
    let echo_server = origin(echo);
    let targets = [format!("0:{}", stalled.local_addr().unwrap()), format!("0:{echo_server}")];
    let (_forward, local) = home.forward(&[&targets[0], &targets[1]]);
    let mut writer = TcpStream::connect(local[0]).unwrap();
    rustix::net::sockopt::set_socket_send_buffer_size(&writer, 4096).unwrap();
    let (_held, _) = stalled.accept().unwrap();
    writer.set_nonblocking(true).unwrap();
    let other = dial(local[1]);
    let (mut sent, mut idle_rounds) = (0_usize, 0);
    // Each round trip on the other stream gives the stalled one all the time it needs to move.
    while idle_rounds < 200 {
        match writer.write(&[7; 16 * 1024]) {
            Ok(length) => (sent, idle_rounds) = (sent + length, 0),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => idle_rounds += 1,
            Err(error) => panic!("{error}"),
        }
        round_trip(&other, &pattern(1000, sent as u64)).unwrap();
        assert!(sent < 32 << 20, "nothing stops the writer");
    }
    // The mux holds one window of 64 KiB and a relay's batch at each end; the rest are the kernel's socket buffers.
    let wmem = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_wmem").unwrap();
    let kernel: usize = wmem.split_whitespace().last().unwrap().parse().unwrap();
    assert!(sent < kernel + 512 * 1024, "{sent} bytes went nowhere");
    round_trip(&other, &pattern(1 << 20, 1).as_slice()[..60_000]).unwrap();
}

#[test]
fn ipv6_targets_and_ipv6_local_ports() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(echo));
    let (_forward, local) = home.forward(&[&format!("[::1]:0:[::1]:{port}")]);
    assert!(local[0].is_ipv6());
    round_trip(&dial(local[0]), b"over six").unwrap();
}

#[test]
fn a_reset_by_the_target_is_a_reset_here() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let server = origin(|mut socket| {
        socket.read_exact(&mut [0]).unwrap();
        rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
    });
    let (_forward, local) = home.forward(&[&format!("0:{server}")]);
    let mut socket = dial(local[0]);
    socket.write_all(b"x").unwrap();
    let error = socket.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_target_that_is_down_ends_its_connection_and_not_the_forward() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let gone = ClosedPort::new();
    let (forward, local) = home.forward(&[&format!("0:{}", gone.address)]);
    for _ in 0..2 {
        assert!(crate::support::ends(dial(local[0])));
    }
    forward.wait_for_line("Connection refused");
    let back = gone.listen();
    thread::spawn(move || back.incoming().map_while(Result::ok).for_each(echo));
    round_trip(&dial(local[0]), b"it is up again").unwrap();
}

/// As a port scanner does, or a load test with a short timeout: to the lender it would be a flood of resets, which costs the session.
#[test]
fn a_storm_of_clients_that_break_off_before_the_answer_costs_nobody_else_anything() {
    const CLIENTS: usize = 3000;
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (server, full) = (origin(echo), FullListener::new());
    let (_forward, local) = home.forward(&[&format!("0:{}", full.address), &format!("0:{server}")]);
    let before = dial(local[1]);
    round_trip(&before, b"before").unwrap();
    for _ in 0..CLIENTS {
        let client = dial(local[0]);
        rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    }
    wait_until("the lender has heard of each", || {
        let of_them =
            |line: &serde_json::Value| line["event"] == "tcp-connect" && line["target"] == full.address.to_string();
        lab.audit().iter().filter(|line| of_them(line)).count() >= CLIENTS || round_trip(&before, b"during").is_err()
    });
    round_trip(&before, b"after").unwrap();
    round_trip(&dial(local[1]), b"new").unwrap();
}

/// Of a connection that the lender refuses, when the forward stands and the policy has changed.
#[test]
fn a_refusal_in_mid_forward_is_a_line_with_what_to_send_to_the_admin() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let server = origin(echo);
    let (forward, local) = home.forward(&[&format!("0:{server}")]);
    std::fs::write(lab.dir().join("policy.toml"), LOOPBACK.replace("connect", "udp")).unwrap();
    lab.wait_for_audit("the other policy", |line| line["event"] == "policy-loaded");
    let mut socket = dial(local[0]);
    assert_eq!(socket.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    forward.wait_for_lines([crate::proxy::refused_in_one_line(&server.to_string())]);
}

#[test]
fn each_forward_says_from_where_to_where_and_through_whom() {
    let lab = Lab::start(&format!("{LOOPBACK}listen = \"127.0.0.1:*\"\n"));
    let home = lab.join("alice");
    let mut command = home.capuchin();
    command.args(["forward", "lab", "-L", "0:localhost:9", "-R", "0:localhost:3000", "-D", "0"]);
    let forward = Daemon::spawn(&mut command);
    for more in ["localhost:9", "at lab -> localhost:3000", "SOCKS and HTTP"] {
        let line = forward.wait_for_line("Forwarding ");
        let from = line.split(' ').nth(1).unwrap();
        assert!(from.parse::<std::net::SocketAddr>().is_ok_and(|from| from.ip().is_loopback()), "{line}");
        let arrow = if more.starts_with("at ") { "" } else { "-> " };
        assert_eq!(line, format!("Forwarding {from} {arrow}{more} (via lab)"));
    }
}

#[test]
fn as_many_connections_as_the_hard_limit_allows_go_through_at_once() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let server = origin(echo);
    let capuchin = home.capuchin();
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -Sn 48; exec \"$0\" forward lab -L \"$1\""]).arg(capuchin.get_program());
    command.arg(format!("0:{server}")).stdin(std::process::Stdio::null());
    let daemon = Daemon::spawn(in_environment_of(&mut command, &capuchin));
    let line = daemon.wait_for_line("Forwarding ");
    let local = line.split(' ').nth(1).unwrap().parse().unwrap();
    let sockets: Vec<_> = (0..100).map(|_| dial(local)).collect();
    for socket in &sockets {
        round_trip(socket, b"through").unwrap();
    }
}
