//! Datagrams of programs: sent by the lender, answered from where they were sent to, and refused as the lender's are.

use crate::{
    machine::Machine,
    support::{run, text},
};

/// Sends to each target, connected and not, and prints what came of it.
const PROBE: &str = r#"
import errno, socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    for connected in (True, False):
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(20 if connected else 3)
        try:
            for size in (0, 1, 1200, 20000):
                message = bytes(size)
                if connected:
                    s.connect((host, int(port)))
                    s.send(message)
                    answer, source = s.recv(65536), s.getpeername()
                else:
                    s.sendto(message, (host, int(port)))
                    answer, source = s.recvfrom(65536)
                assert (answer, source[:2]) == (message, (host, int(port))), (len(answer), source)
            result = "OK"
        except OSError as e:
            result = errno.errorcode.get(e.errno, "silent")
        print(target, "connected" if connected else "open", result)
"#;

#[test]
fn datagrams_are_answered_from_where_they_were_sent_to_and_fail_as_the_lenders_do() {
    let machine = Machine::start();
    let cases = [
        ("10.77.0.1:7000", "OK", "OK"),
        ("127.0.0.1:7000", "OK", "OK"),
        ("fd77::1:7000", "OK", "OK"),
        ("::1:7000", "OK", "OK"),
        ("10.77.0.1:9", "ECONNREFUSED", "silent"),
        ("fd77::1:9", "ECONNREFUSED", "silent"),
        ("10.78.0.1:7000", "EHOSTUNREACH", "silent"), // the policy's no: IPv4 has no better word
        ("fd88::1:7000", "EACCES", "silent"),         // the policy's no
    ];
    let expected: String = cases
        .iter()
        .map(|(target, connected, open)| format!("{target} connected {connected}\n{target} open {open}\n"))
        .collect();
    for within in machine.borrowers() {
        let mut probe = within.python(PROBE);
        let said = run(probe.args(cases.iter().map(|(target, _, _)| target)));
        assert_eq!(text(said.stdout), expected, "as {}: {}", within.uid, text(said.stderr));
    }
}

#[test]
fn a_programs_own_datagrams_on_loopback_stay_inside() {
    let machine = Machine::start();
    let inside = r#"
import socket
for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    server, client = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
    server.settimeout(20), client.settimeout(20)
    server.bind((host, 7000))
    client.connect((host, 7000))
    client.send(b"question")
    said, source = server.recvfrom(100)
    assert source[:2] == client.getsockname()[:2]
    server.sendto(said.upper(), source)
    print(client.recv(100).decode())
"#;
    let said = run(&mut machine.anybody().python(inside));
    assert_eq!(text(said.stdout), "QUESTION\nQUESTION\n");
}

#[test]
fn a_refused_destination_is_told_on_standard_error() {
    let machine = Machine::start();
    let sends = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('10.78.0.1', 7000))\n\
                 s.settimeout(20); s.send(b'x')\ntry: s.recv(1)\nexcept OSError as e: print(e.errno)";
    let said = run(&mut machine.anybody().python(sends));
    assert_eq!(text(said.stdout), "113\n");
    let told = text(said.stderr);
    assert!(told.contains("udp 10.78.0.1:7000 is refused: no rule allows it"), "{told}");
}

/// A program that sends and is gone, as a logger is: what it said arrives.
#[test]
fn the_last_datagrams_of_a_program_arrive() {
    let machine = Machine::start();
    let within = machine.anybody();
    for number in 1..=5 {
        let sends = "import socket; s = socket.socket(type=socket.SOCK_DGRAM)\n\
                     for _ in range(20): s.sendto(bytes(100), ('10.77.0.1', 7000))";
        run(&mut within.python(sends));
        let arrived = |line: &&serde_json::Value| line["event"] == "udp-closed" && line["bytes_in"] == 2000;
        machine.lab.wait_for_audit("what was sent", |_| machine.lab.audit().iter().filter(arrived).count() == number);
    }
}

/// A program with more sockets than flows: the first have theirs, and everything goes on.
#[test]
fn sockets_by_the_thousand_stay_bounded() {
    let machine = Machine::start();
    let many = r#"
import resource, socket
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
sockets = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(1500)]
for s in sockets:
    s.sendto(b"x", ("10.77.0.1", 9))
first = sockets[0]
first.settimeout(1)
first.connect(("10.77.0.1", 7000))
for attempt in range(30):
    # Behind such a burst a datagram may be lost, as on any network.
    first.send(b"still here")
    try:
        print(first.recv(100).decode())
        break
    except TimeoutError:
        pass
"#;
    let said = run(&mut machine.anybody().python(many));
    assert_eq!(text(said.stdout), "still here\n");
}
