//! Programs that listen: met at the lender's addresses, and visited from where visitors are.

use std::process::Stdio;

use crate::{
    machine::{Machine, Within},
    support::{Daemon, fails, run, text},
};

/// Listens where it is told, says so, and answers each visitor with his address and what he said, when he has said it all.
pub const SERVER: &str = r#"
import socket, sys, threading
def answer(conn, peer):
    said = b""
    while data := conn.recv(65536):
        said += data
    conn.sendall(("%s %d %d|" % (peer[0], peer[1], len(said))).encode() + said[-20:])
    conn.close()
listeners = []
for at in sys.argv[1:]:
    host, port = at.rsplit(":", 1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6 and "[" in host:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((host.strip("[]"), int(port)))
    listener.listen(64)
    listeners.append(listener)
print("listens on", *[listener.getsockname()[1] for listener in listeners], flush=True)
def serve(listener):
    while True:
        threading.Thread(target=answer, args=listener.accept(), daemon=True).start()
for listener in listeners:
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
sys.stdin.read()
"#;

/// Connects from an address to others, says something, ends its half, and prints what it hears.
const VISIT: &str = r#"
import errno, socket, sys
source, size, *targets = sys.argv[1:]
for target in targets:
    host, port = target.rsplit(":", 1)
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.settimeout(20)
    if source:
        s.bind((source, 0))
    try:
        s.connect((host, int(port)))
        s.sendall(b"x" * int(size) + b"good day")
        s.shutdown(socket.SHUT_WR)
        heard = b""
        while data := s.recv(65536):
            heard += data
        own = "%s %d %d|" % (*s.getsockname()[:2], int(size) + 8)
        heard = heard.removeprefix(b"::ffff:")
        print("met" if heard.startswith(own.encode()) and heard.endswith(b"good day") else heard)
    except OSError as e:
        print(errno.errorcode.get(e.errno, e))
"#;

/// A server that runs until its input ends.
pub fn serves(within: &Within, options: &[&str], at: &[&str]) -> (Daemon, String) {
    let mut command = within.run_with(options, &["python3", "-c", SERVER]);
    let server = Daemon::spawn(command.args(at).stdin(Stdio::piped()));
    let line = server.wait_for_line("listens on");
    (server, line)
}

pub fn visit(machine: &Machine, source: &str, size: usize, targets: &[&str]) -> String {
    let mut visitor = machine.there(&["python3", "-c", VISIT, source, &size.to_string()]);
    text(run(visitor.args(targets)).stdout)
}

#[test]
fn a_server_is_met_at_the_lender_and_sees_who_comes() {
    let machine = Machine::start();
    for within in machine.everybody() {
        let (mut server, _) = serves(&within, &[], &["0.0.0.0:8000", "[::]:8000", ":::8001"]);
        assert_eq!(
            visit(&machine, "10.78.0.1", 0, &["10.77.0.1:8000", "10.77.0.2:8000", "10.77.0.1:8001"]),
            "met\nmet\nmet\n"
        );
        assert_eq!(visit(&machine, "fd88::1", 300_000, &["fd77::1:8000", "fd77::1:8001"]), "met\nmet\n");
        assert_eq!(visit(&machine, "", 3_000_000, &["127.0.0.1:8000", "::1:8001"]), "met\nmet\n");
        drop(server.stdin.take());
        assert!(server.wait().success());
        for address in ["0.0.0.0:8000", "[::]:8000", "[::]:8001"] {
            machine.wait_for_close(address);
        }
        assert_eq!(visit(&machine, "", 0, &["10.77.0.1:8000", "fd77::1:8001"]), "ECONNREFUSED\nECONNREFUSED\n");
    }
}

#[test]
fn loopback_is_the_programs_alone_unless_it_is_published() {
    let machine = Machine::start();
    for within in machine.anybody_in_each_network() {
        let at = ["127.0.0.1:8006", "::1:8006"];
        {
            let (_server, _) = serves(&within, &[], &at);
            assert_eq!(visit(&machine, "", 0, &at), "ECONNREFUSED\nECONNREFUSED\n");
        }
        {
            let (_server, _) = serves(&within, &["--publish-loopback"], &at);
            assert_eq!(visit(&machine, "", 0, &at), "met\nmet\n");
            assert_eq!(visit(&machine, "", 0, &["10.77.0.1:8006"]), "ECONNREFUSED\n");
        }
        let (mut server, _) =
            serves(&within, &["--publish", "8007:80", "--publish", "8008:8006"], &["0.0.0.0:80", at[0]]);
        assert_eq!(visit(&machine, "", 0, &["10.77.0.1:8007", "127.0.0.1:8008"]), "met\nmet\n");
        assert_eq!(visit(&machine, "", 0, &["10.77.0.1:8008", "127.0.0.1:8006"]), "ECONNREFUSED\nECONNREFUSED\n");
        drop(server.stdin.take());
        assert!(server.wait().success());
    }
}

/// The program can only say that its own number is in use, which it is not.
#[test]
fn a_published_port_that_somebody_has_at_the_lender_is_told_by_its_number_there() {
    let machine = Machine::start();
    for within in machine.anybody_in_each_network() {
        let _theirs = serves(&within, &[], &["0.0.0.0:8010"]);
        let program = "import socket; socket.create_server((\"0.0.0.0\", 80))";
        let said = fails(&mut within.run_with(&["--publish", "8010:80"], &["python3", "-c", program]), 1);
        assert!(said.contains("OSError: [Errno 98] Address already in use"), "{said}");
        let told = "capuchin: lab cannot listen on 0.0.0.0:8010: Address already in use";
        assert_eq!(said.lines().filter(|line| line.starts_with(told)).count(), 1, "{said}");
    }
}

#[test]
fn a_program_meets_itself_at_the_lenders_address() {
    let machine = Machine::start();
    let program = r#"
import socket
s = socket.create_server(("0.0.0.0", 8009))
for host in "127.0.0.1", "10.77.0.1":
    c = socket.create_connection((host, 8009))
    conn, peer = s.accept()
    assert peer == c.getsockname(), (peer, c.getsockname())
s.close()
for host in "127.0.0.1", "10.77.0.1":
    assert socket.socket().connect_ex((host, 8009)) == 111
print("met")
"#;
    for within in machine.everybody() {
        assert_eq!(text(run(&mut within.python(program)).stdout), "met\n");
    }
}

#[test]
fn visitors_wait_while_the_program_does_not_accept() {
    let machine = Machine::start();
    let program = r#"
import socket, sys, threading
s = socket.socket()
s.bind(("0.0.0.0", 8010))
s.listen(8)
print("ready", flush=True)
def answer_others():
    other = socket.create_server(("0.0.0.0", 8011))
    print("beside", flush=True)
    while True:
        other.accept()[0].sendall(b"other")
threading.Thread(target=answer_others, daemon=True).start()
sys.stdin.readline()
for _ in range(100):
    conn, _ = s.accept()
    conn.sendall(conn.recv(99))
    conn.close()
print("all", flush=True)
"#;
    let visitors = r#"
import socket
visitors = []
for number in range(100):
    # One after the other: a burst would overflow the lender's own queue, as it would any.
    visitors.append(socket.create_connection(("10.77.0.1", 8010), 60))
    visitors[-1].sendall(b"%d" % number)
print("here", flush=True)
for number, s in enumerate(visitors):
    assert s.recv(99) == b"%d" % number
print("answered")
"#;
    let within = machine.anybody();
    let mut server = Daemon::spawn(within.python(program).stdin(Stdio::piped()));
    server.wait_for_line("ready");
    server.wait_for_line("beside");
    let mut visiting = Daemon::spawn(&mut machine.there(&["python3", "-c", visitors]));
    visiting.wait_for_line("here");
    // The port whose queue is full holds up no other.
    let reads = "import socket; print(socket.create_connection(('10.77.0.1', 8011), 30).recv(9).decode())";
    assert_eq!(text(run(&mut machine.there(&["python3", "-c", reads])).stdout), "other\n");
    std::io::Write::write_all(server.stdin.as_mut().unwrap(), b"\n").unwrap();
    visiting.wait_for_line("answered");
    server.wait_for_line("all");
    assert!(server.wait().success() && visiting.wait().success());
}

/// As listen(2) was told it, each time: so many wait at the lender before the program accepts.
#[test]
fn the_backlog_of_a_listen_is_the_lenders() {
    let machine = Machine::start();
    let program = r#"
import socket, sys
s = socket.socket()
s.bind(("10.77.0.1", 8014))
for backlog in (8, 9, 3):
    s.listen(backlog)
    print("listens", backlog, flush=True)
    sys.stdin.readline()
"#;
    for within in machine.anybody_in_each_network() {
        let mut server = Daemon::spawn(within.python(program).stdin(Stdio::piped()));
        for backlog in ["8", "9", "3"] {
            server.wait_for_line(&format!("listens {backlog}"));
            let listed = text(run(&mut machine.there(&["ss", "-Hltn", "sport = :8014"])).stdout);
            assert_eq!(listed.split_whitespace().nth(2), Some(backlog), "as {}: {listed}", within.who());
            std::io::Write::write_all(server.stdin.as_mut().unwrap(), b"\n").unwrap();
        }
        assert!(server.wait().success());
        machine.wait_for_close("10.77.0.1:8014");
    }
}

/// As who finds it by mDNS often is.
#[test]
fn a_visitor_by_a_link_of_the_lenders_is_let_in() {
    let machine = Machine::with_network("ip address add fe80::77/64 dev near nodad");
    let serves = "import socket
with socket.create_server(('::', 8063), family=socket.AF_INET6) as server:
    print('serves', flush=True)
    visitor, who = server.accept()
    visitor.sendall(who[0].encode())";
    let visits = "import socket
with socket.socket(socket.AF_INET6) as visitor:
    visitor.connect(('fe80::77', 8063, 0, socket.if_nametoindex('near')))
    print(visitor.recv(99).decode())";
    for within in machine.borrowers() {
        let mut server = Daemon::spawn(&mut within.python(serves));
        server.wait_for_line("serves");
        let said = run(&mut machine.there(&["python3", "-c", visits]));
        assert_eq!(text(said.stdout), "fe80::77\n", "as {}", within.uid);
        assert!(server.wait().success());
        machine.wait_for_close("[::]:8063");
    }
}
