//! `capuchin forward -D`: real curl, as SOCKS and as HTTP client, and clients that are none.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
};

use crate::{
    dial, echo, origin, pattern,
    remote::forward,
    round_trip,
    support::{
        Daemon, LOOPBACK, Lab,
        named::NamedLab,
        ports::{ClosedPort, FullListener},
        text,
        wire::Wire,
    },
};

fn web(socket: TcpStream) {
    let mut socket = socket;
    let mut request = [0; 4096];
    let length = socket.read(&mut request).unwrap_or(0);
    let first = String::from_utf8_lossy(&request[..length]).lines().next().unwrap_or_default().to_owned();
    let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", first.len());
    let _ = socket.write_all((head + &first).as_bytes());
}

/// curl through `proxy`: its exit status, and what it printed.
fn curl(proxy: &str, options: &[&str]) -> (Option<i32>, String) {
    let common = ["--silent", "--show-error", "--max-time", "30", "--noproxy", "", "--proxy", proxy];
    let output = Command::new("curl").args(common).args(options).output().unwrap();
    (output.status.code(), text(output.stdout) + &text(output.stderr))
}

fn proxy(lab: &Lab) -> (crate::support::Home, Daemon, SocketAddr) {
    let home = lab.join("alice");
    let (daemon, opened) = forward(&home, &["-D", "0"], 1);
    (home, daemon, opened[0].parse().unwrap())
}

/// What the person at the command reads: one line that ends with what to send.
pub fn refused_in_one_line(target: &str) -> String {
    format!(
        "capuchin: lab: connect {target} is refused: no rule allows it; \
         to send to the lender's admin: capuchind allow alice connect {target} --for 1h"
    )
}

#[test]
fn curl_goes_through_it_by_every_protocol_and_the_lender_resolves_names() {
    let lab = Lab::start(LOOPBACK);
    let (_home, _daemon, proxy) = proxy(&lab);
    let (four, six) = (origin(web), TcpListener::bind("[::1]:0").unwrap());
    let over_six = six.local_addr().unwrap();
    thread::spawn(move || six.incoming().map_while(Result::ok).for_each(web));
    for protocol in ["socks5h", "socks5", "socks4", "socks4a", "http"] {
        let (code, said) = curl(&format!("{protocol}://{proxy}"), &[&format!("http://{four}/page")]);
        assert_eq!((code, said.as_str()), (Some(0), "GET /page HTTP/1.1"), "{protocol}");
    }
    for protocol in ["socks5h", "socks5", "http"] {
        let (code, said) = curl(&format!("{protocol}://{proxy}"), &["--globoff", &format!("http://{over_six}/page")]);
        assert_eq!((code, said.as_str()), (Some(0), "GET /page HTTP/1.1"), "{protocol} over IPv6");
    }
    // CONNECT.
    let (code, said) = curl(&format!("http://{proxy}"), &["--proxytunnel", &format!("http://{four}/page")]);
    assert_eq!((code, said.as_str()), (Some(0), "GET /page HTTP/1.1"));
    // The name goes as it is; `localhost` is nothing that this rule allows by its name, but each of its addresses is.
    let (code, said) = curl(&format!("socks5h://{proxy}"), &[&format!("http://localhost:{}/page", four.port())]);
    assert_eq!((code, said.as_str()), (Some(0), "GET /page HTTP/1.1"));
    lab.wait_for_audit("the name", |line| {
        line["event"] == "tcp-connect" && line["target"] == format!("localhost:{}", four.port())
    });
}

#[test]
fn what_the_lender_refuses_or_cannot_reach_is_told_in_the_clients_protocol() {
    let lab = Lab::start(LOOPBACK);
    let (_home, daemon, proxy) = proxy(&lab);
    let gone = ClosedPort::new();
    // curl says the number of the reply.
    let (code, said) = curl(&format!("socks5h://{proxy}"), &["http://10.0.0.1:80/"]);
    assert!(code == Some(97) && said.contains("(2)"), "not allowed by the ruleset: {code:?} {said}");
    daemon.wait_for_lines([refused_in_one_line("10.0.0.1:80")]);
    let (code, said) = curl(&format!("socks5h://{proxy}"), &[&format!("http://{}/", gone.address)]);
    assert!(code == Some(97) && said.contains("(5)"), "connection refused: {code:?} {said}");
    for (target, status) in [("10.0.0.1:80".to_owned(), "403"), (gone.address.to_string(), "502")] {
        let (code, said) = curl(&format!("http://{proxy}"), &["--proxytunnel", &format!("http://{target}/")]);
        assert!(code == Some(56) && said.contains(status), "{target}: {code:?} {said}");
        let write = ["--write-out", "%{http_code}", &format!("http://{target}/")];
        assert_eq!(curl(&format!("http://{proxy}"), &write), (Some(0), status.to_owned()), "{target}");
    }
}

#[test]
fn what_the_lenders_network_says_has_a_reply_of_its_own() {
    let policy = "[[allow]]\nwho = \"alice\"\nconnect = [\"198.51.100.5:80\", \"203.0.113.5:80\", \"10.79.0.5:80\"]\n";
    let named = NamedLab::start(policy, &serde_json::json!({})).with_a_void();
    named.there("ip route add unreachable 203.0.113.0/24");
    let (_home, _daemon, proxy) = proxy(&named.lab);
    // RFC 1928 §6: network unreachable, host unreachable, TTL expired.
    for (target, socks, http) in
        [("198.51.100.5:80", 3, "502"), ("203.0.113.5:80", 4, "502"), ("10.79.0.5:80", 6, "504")]
    {
        let url = format!("http://{target}/");
        let (code, said) = curl(&format!("socks5h://{proxy}"), &[&url]);
        assert!(code == Some(97) && said.contains(&format!("({socks})")), "{target}: {code:?} {said}");
        let (code, said) = curl(&format!("http://{proxy}"), &["--proxytunnel", &url]);
        assert!(code == Some(56) && said.contains(http), "{target}: {code:?} {said}");
        let write = ["--output", "/dev/null", "--write-out", "%{http_code}", &url];
        assert_eq!(curl(&format!("http://{proxy}"), &write), (Some(0), http.to_owned()), "{target}");
    }
}

#[test]
fn who_speaks_nonsense_or_nothing_is_bounded_and_holds_up_nobody() {
    let lab = Lab::start(LOOPBACK);
    let (_home, _daemon, proxy) = proxy(&lab);
    let server = origin(echo);
    let silent: Vec<_> = (0..200).map(|_| dial(proxy)).collect();
    // A head without end.
    let mut endless = dial(proxy);
    endless.write_all(b"GET ").unwrap();
    for _ in 0..100 {
        // Whoever is slower than the proxy has patience is refused all the same.
        if endless.write_all(&[b'a'; 4096]).is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = endless.read_to_end(&mut answer);
    assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
    for nonsense in
        [&b"\0\0\0\0"[..], b"\x16\x03\x01\x02\x00", b"SSH-2.0-x\r\n\r\n", &[5, 0], &[4, 9, 0, 0, 0, 0, 0, 0, 0]]
    {
        let mut socket = dial(proxy);
        socket.write_all(nonsense).unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        assert!(answer.len() < 100, "{nonsense:?}: {answer:?}");
    }
    // Everything at once, with what comes first behind it.
    let mut socket = dial(proxy);
    let SocketAddr::V4(v4) = server else { panic!("{server}") };
    let request = [&[5, 1, 0, 5, 1, 0, 1][..], &v4.ip().octets(), &v4.port().to_be_bytes(), b"early"].concat();
    socket.write_all(&request).unwrap();
    let mut answer = [0; 17];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!((&answer[..5], &answer[12..]), (&[5, 0, 5, 0, 0][..], &b"early"[..]));
    round_trip(&socket, b"goes on").unwrap();
    drop(silent);
}

#[test]
fn a_killed_lender_resets_the_clients_and_a_restarted_one_serves_the_next() {
    let lab = Lab::start(LOOPBACK);
    let (wire, home) = Wire::between("alice", &lab);
    let (daemon, opened) = forward(&home, &["-D", "0"], 1);
    let proxy: SocketAddr = opened[0].parse().unwrap();
    let server = origin(echo);
    let connect = || {
        let mut socket = dial(proxy);
        socket.write_all(format!("CONNECT {server} HTTP/1.1\r\n\r\n").as_bytes()).unwrap();
        let mut reply = [0; 39];
        socket.read_exact(&mut reply).unwrap();
        (socket, String::from_utf8(reply.to_vec()).unwrap())
    };
    let (mut socket, reply) = connect();
    assert_eq!(reply, "HTTP/1.1 200 Connection established\r\n\r\n");
    round_trip(&socket, b"alive").unwrap();
    wire.cut();
    assert_eq!(socket.read(&mut [0]).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    daemon.wait_for_line("reconnecting");
    let (_, reply) = connect();
    assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
    let lab = lab.restart();
    wire.mend(lab.address);
    daemon.wait_for_line("back after");
    round_trip(&connect().0, b"back").unwrap();
}

/// How a client of one protocol asks, and how the answers begin.
struct Asking {
    protocol: &'static str,
    request: Vec<u8>,
    connected: &'static [u8],
    refused: &'static [u8],
    down: &'static [u8],
}

/// By each protocol.
fn asking_for(target: SocketAddr) -> [Asking; 3] {
    let SocketAddr::V4(v4) = target else { panic!("{target}") };
    let (address, port) = (v4.ip().octets(), v4.port().to_be_bytes());
    [
        Asking {
            protocol: "SOCKS5",
            request: [&[5, 1, 0, 5, 1, 0, 1][..], &address, &port].concat(),
            connected: &[5, 0, 5, 0, 0, 1],
            refused: &[5, 0, 5, 2, 0, 1],
            down: &[5, 0, 5, 5, 0, 1],
        },
        Asking {
            protocol: "SOCKS4",
            request: [&[4, 1][..], &port, &address, &[0]].concat(),
            connected: &[0, 90],
            refused: &[0, 91],
            down: &[0, 91],
        },
        Asking {
            protocol: "CONNECT",
            request: format!("CONNECT {target} HTTP/1.1\r\n\r\n").into_bytes(),
            connected: b"HTTP/1.1 200 ",
            refused: b"HTTP/1.1 403 ",
            down: b"HTTP/1.1 502 ",
        },
    ]
}

/// Says all of it and that it is all, then hears the answer to its end.
fn say_at_once(proxy: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut socket = dial(proxy);
    socket.write_all(request).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).unwrap();
    answer
}

#[test]
fn a_client_that_ends_what_it_sends_at_once_is_connected_and_answered() {
    let lab = Lab::start(LOOPBACK);
    let (_home, _daemon, proxy) = proxy(&lab);
    // Answers once its peer has ended, so what it says tells of the bytes and of the end.
    let server = origin(|mut socket| {
        let mut got = b"to the end: ".to_vec();
        socket.read_to_end(&mut got).unwrap();
        socket.write_all(&got).unwrap();
    });
    let gone = ClosedPort::new();
    // More than is taken before the target is connected, too.
    for early in [&b""[..], b"hey", &pattern(100_000, 1)] {
        let whole = [b"to the end: ", early].concat();
        for Asking { protocol, request, connected, .. } in asking_for(server) {
            let answer = say_at_once(proxy, &[&request, early].concat());
            let is_whole = answer.starts_with(connected) && answer.ends_with(&whole);
            assert!(is_whole, "{protocol} with {} bytes: {} came back", early.len(), answer.len());
        }
    }
    for Asking { protocol, request, refused, .. } in asking_for("10.0.0.1:80".parse().unwrap()) {
        let answer = say_at_once(proxy, &[&request[..], b"hey"].concat());
        assert!(answer.starts_with(refused), "{protocol} to what no rule allows: {answer:?}");
    }
    for Asking { protocol, request, down, .. } in asking_for(gone.address) {
        let answer = say_at_once(proxy, &[&request[..], b"hey"].concat());
        assert!(answer.starts_with(down), "{protocol} to what is down: {answer:?}");
    }
}

#[test]
fn a_client_that_breaks_off_while_it_waits_ends_the_dial() {
    let lab = Lab::start(LOOPBACK);
    let (_home, _daemon, proxy) = proxy(&lab);
    let streams = || {
        let sessions = crate::support::json(&crate::support::run(lab.admin().args(["sessions", "--json"])).stdout);
        sessions.to_string().matches("tcp-connect").count()
    };
    // Nobody accepts, and there is room for one: the kernel drops the SYNs of the others.
    let full = FullListener::new();
    for Asking { protocol, request, .. } in asking_for(full.address) {
        for ends_first in [false, true] {
            let mut socket = dial(proxy);
            socket.write_all(&[&request[..], b"early"].concat()).unwrap();
            if ends_first {
                socket.shutdown(Shutdown::Write).unwrap();
            }
            crate::support::wait_until("the lender dials", || streams() == 1);
            rustix::net::sockopt::set_socket_linger(&socket, Some(std::time::Duration::ZERO)).unwrap();
            drop(socket);
            crate::support::wait_until(&format!("the dial of {protocol} has ended"), || streams() == 0);
        }
    }
}
