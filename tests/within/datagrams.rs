//! Datagrams of programs: sent by the lender, answered from where they were sent to, and refused as the lender's are.

use std::{io::Write, process::Stdio};

use crate::{
    machine::Machine,
    support::{Daemon, run, text},
};

/// Sends to each target, connected and not, and prints what came of it.
pub const PROBE: &str = r#"
import errno, socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    result = "OK"
    for connected in (True, False):
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        # Whoever has answered will answer again; of the others who is not connected hears nothing.
        s.settimeout(30 if result == "OK" else 3)
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
    for within in machine.everybody() {
        let expected = match within.by_tun {
            true => expected.replace(
                "\n::1:7000 connected OK\n::1:7000 open OK",
                "\n::1:7000 connected ECONNREFUSED\n::1:7000 open silent",
            ),
            false => expected.clone(),
        };
        let mut probe = within.python(PROBE);
        let said = run(probe.args(cases.iter().map(|(target, _, _)| target)));
        assert_eq!(text(said.stdout), expected, "as {}: {}", within.who(), text(said.stderr));
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
    for within in machine.anybody_in_each_network() {
        assert_eq!(text(run(&mut within.python(inside)).stdout), "QUESTION\nQUESTION\n", "as {}", within.who());
    }
}

#[test]
fn a_refused_destination_is_told_on_standard_error() {
    let machine = Machine::start();
    let sends = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('10.78.0.1', 7000))\n\
                 s.settimeout(20); s.send(b'x')\ntry: s.recv(1)\nexcept OSError as e: print(e.errno)";
    let said = run(&mut machine.anybody().python(sends));
    assert_eq!(text(said.stdout), "113\n");
    let told = text(said.stderr);
    let whole = "capuchin: lab: udp 10.78.0.1:7000 is refused: no rule allows it; \
                 to send to the lender's admin: capuchind allow alice udp 10.78.0.1:7000 --for 1h";
    assert_eq!(told.lines().collect::<Vec<_>>(), [whole]);
}

/// A program that sends to where it may not, and is gone before anybody has said so.
pub const SENDS_AND_ENDS: &str = r#"
import os, socket
s = socket.socket(type=socket.SOCK_DGRAM)
s.sendto(b"x", ("10.77.0.1", 9))
s.sendto(b"x", ("10.78.0.1", 7000))
os._exit(0)
"#;
pub const REFUSED_AT_LAST: &str = "udp 10.78.0.1:7000 is refused: no rule allows it";

#[test]
fn a_refusal_that_comes_after_the_end_of_the_program_is_told() {
    let machine = Machine::start();
    for within in machine.everybody() {
        for _ in 0..10 {
            let told = text(run(&mut within.python(SENDS_AND_ENDS)).stderr);
            assert_eq!(told.matches(REFUSED_AT_LAST).count(), 1, "as {}: {told}", within.who());
        }
    }
}

/// A server that answers one question and is gone, again and again: each answer comes from where it was asked.
#[test]
fn the_last_answer_of_a_server_that_closes_behind_it_arrives() {
    let machine = Machine::start();
    let server = r#"
import os, socket
for number in range(30):
    s = socket.socket(type=socket.SOCK_DGRAM)
    s.bind(("0.0.0.0", 8040))
    print("bound", number, flush=True)
    data, peer = s.recvfrom(99)
    s.sendto(data.upper(), peer)
    if number == 29:
        os._exit(0)
    s.close()
"#;
    let asks = r#"
import socket, sys
for line in sys.stdin:
    s = socket.socket(type=socket.SOCK_DGRAM)
    s.connect(("10.77.0.1", 8040))
    s.settimeout(30)
    s.send(line.strip().encode())
    print("answer", s.recv(99).decode(), flush=True)
"#;
    for within in machine.everybody() {
        let mut asking = Daemon::spawn(machine.there(&["python3", "-c", asks]).stdin(Stdio::piped()));
        let mut server = Daemon::spawn(&mut within.python(server));
        for number in 0..30 {
            server.wait_for_line(&format!("bound {number}"));
            writeln!(asking.stdin.as_mut().unwrap(), "question {number}").unwrap();
            let answer = asking.wait_for_line("");
            assert_eq!(answer, format!("answer QUESTION {number}"), "as {}", within.who());
        }
        assert!(server.wait().success());
    }
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
        let arrived = |line: &serde_json::Value| line["event"] == "udp-closed" && line["bytes_in"] == 2000;
        machine.lab.wait_for_audits("what was sent", number, arrived);
    }
}

/// A program with more sockets than flows: those that are used have theirs, the first as well as the last.
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
for s in (sockets[0], sockets[-1]):
    s.settimeout(1)
    s.connect(("10.77.0.1", 7000))
    for attempt in range(30):
        # Behind such a burst a datagram may be lost, as on any network.
        s.send(b"still here")
        try:
            print(s.recv(100).decode())
            break
        except (TimeoutError, ConnectionRefusedError):
            pass
"#;
    let said = run(&mut machine.anybody().python(many));
    assert_eq!(text(said.stdout), "still here\nstill here\n");
}

#[test]
fn groups_and_broadcast_are_out_of_reach_and_nothing_of_them_is_sent() {
    let machine = Machine::with_network("ip route add default dev near; ip -6 route add default dev near");
    let sends = r#"
import errno, socket
for family, host in ((2, "224.0.0.251"), (2, "239.1.2.3"), (2, "255.255.255.255"), (10, "ff05::2")):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    for send in (lambda: s.sendto(b"x", (host, 7000)), lambda: s.connect((host, 7000))):
        try:
            send()
            print(host, "OK")
        except OSError as e:
            print(host, errno.errorcode[e.errno])
s = socket.socket(type=socket.SOCK_DGRAM)
try:
    s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("224.0.0.251") + bytes(4))
    print("joined")
except OSError as e:
    print("join", errno.errorcode[e.errno])
"#;
    let hosts = ["224.0.0.251", "239.1.2.3", "255.255.255.255", "ff05::2"];
    let mut expected: String = hosts.iter().map(|host| format!("{host} ENETUNREACH\n").repeat(2)).collect();
    expected.push_str("join ENODEV\n");
    for within in machine.borrowers() {
        let said = run(&mut within.python(sends));
        assert_eq!((text(said.stdout), text(said.stderr).as_str()), (expected.clone(), ""), "as {}", within.uid);
    }
    assert!(machine.lab.audit().iter().all(|line| line["event"] != "udp-bind"), "the lender was not even asked");
}

#[test]
fn the_longest_datagrams_arrive_whole_and_longer_ones_not_at_all() {
    let machine = Machine::start();
    let sends = r#"
import errno, socket, sys
for family, host, longest in ((socket.AF_INET, "10.77.0.1", 65507), (socket.AF_INET6, "fd77::1", int(sys.argv[1]))):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(20)
    s.connect((host, 7000))
    s.send(bytes(longest))
    print(len(s.recv(70000)))
    for size in (65508, 65527, 65528):
        try:
            s.send(bytes(size))
        except OSError as e:
            print(size, errno.errorcode[e.errno])
    s.settimeout(1)
    for attempt in range(30):
        # Beside such a long one there may be no room for it.
        s.send(b"end")
        try:
            # Whatever of them was sent, and cut, came before it.
            print(s.recv(70000))
            break
        except TimeoutError:
            pass
"#;
    for within in machine.anybody_in_each_network() {
        let longest = if within.by_tun { "65487" } else { "65507" };
        let said = run(within.python(sends).arg(longest));
        let expected = format!(
            "65507\n65508 EMSGSIZE\n65527 EMSGSIZE\n65528 EMSGSIZE\nb'end'\n{longest}\n65528 EMSGSIZE\nb'end'\n"
        );
        assert_eq!(text(said.stdout), expected, "as {}", within.who());
    }
}

#[test]
fn the_longest_datagrams_between_a_programs_own_sockets_arrive_whole() {
    let machine = Machine::start();
    let inside = r#"
import socket
for family, host, longest in ((socket.AF_INET, "127.0.0.1", 65507), (socket.AF_INET6, "::1", 65527), (socket.AF_INET6, "fd77::1", 65527)):
    server, client = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
    server.settimeout(20)
    server.bind((host, 8000))
    client.sendto(bytes(longest), (host, 8000))
    print(len(server.recv(70000)))
"#;
    for within in machine.borrowers() {
        assert_eq!(text(run(&mut within.python(inside)).stdout), "65507\n65527\n65527\n", "as {}", within.uid);
    }
}

/// As a VPN does: full packets both ways without an end, a few on their way, from one socket to one far end.
#[test]
fn a_tunnels_full_packets_go_both_ways_and_none_is_lost_below_the_bound() {
    let machine = Machine::start();
    let tunnel = r#"
import os, socket
for family, host in ((socket.AF_INET, "10.77.0.1"), (socket.AF_INET6, "fd77::1")):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(20)
    sent, came, body = 0, 0, os.urandom(1416)
    while came < 5000:
        while sent < 5000 and sent - came < 16:
            s.sendto(sent.to_bytes(4, "big") + body, (host, 7000))
            sent += 1
        packet, source = s.recvfrom(2000)
        assert packet == came.to_bytes(4, "big") + body and source[:2] == (host, 7000), (came, source)
        came += 1
    print(came)
"#;
    for within in machine.anybody_in_each_network() {
        let said = run(&mut within.python(tunnel));
        assert_eq!(text(said.stdout), "5000\n5000\n", "as {}: {}", within.who(), text(said.stderr));
    }
}

/// Answers each datagram with its sender and itself, at each address that it is told.
const SERVER: &str = r#"
import select, socket, sys
sockets = []
for at in sys.argv[1:]:
    host, port = at.rsplit(":", 1)
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.bind((host, int(port)))
    sockets.append(s)
print("bound", flush=True)
while True:
    for s in select.select([0] + sockets, [], [])[0]:
        if s == 0:
            sys.exit()
        said, peer = s.recvfrom(65536)
        s.sendto(b"%s|" % peer[0].removeprefix("::ffff:").encode() + said, peer)
"#;

/// Asks from an address, by sockets that hear nobody but whom they ask.
const ASK: &str = r#"
import errno, socket, sys
source, size, *targets = sys.argv[1:]
for target in targets:
    host, port = target.rsplit(":", 1)
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(20)
    if source:
        s.bind((source, 0))
    try:
        s.connect((host, int(port)))
        question = bytes(int(size))
        for _ in range(3):
            s.send(question)
            answer = s.recv(65536)
            assert answer == s.getsockname()[0].encode() + b"|" + question, answer
        print("answered")
    except OSError as e:
        print(errno.errorcode.get(e.errno, e))
"#;

fn ask(machine: &Machine, source: &str, size: usize, targets: &[&str]) -> String {
    let mut asker = machine.there(&["python3", "-c", ASK, source, &size.to_string()]);
    text(run(asker.args(targets)).stdout)
}

#[test]
fn a_server_of_datagrams_answers_strangers_from_the_address_that_they_asked() {
    let machine = Machine::start();
    let at = ["0.0.0.0:8030", ":::8031", "10.77.0.1:8032", "fd77::1:8032", "127.0.0.1:8033"];
    for within in machine.everybody() {
        let mut server = Daemon::spawn(within.python(SERVER).args(at).stdin(std::process::Stdio::piped()));
        server.wait_for_line("bound");
        let v4 = ["10.77.0.1:8030", "10.77.0.2:8030", "10.77.0.2:8031", "10.77.0.1:8032"];
        assert_eq!(ask(&machine, "10.78.0.1", 1200, &v4), "answered\n".repeat(4), "as {}", within.who());
        assert_eq!(ask(&machine, "fd88::1", 40_000, &["fd77::1:8031", "fd77::1:8032"]), "answered\n".repeat(2));
        assert_eq!(ask(&machine, "", 0, &["127.0.0.1:8030"]), "answered\n");
        if !within.by_tun {
            assert_eq!(ask(&machine, "", 0, &["::1:8031"]), "answered\n");
        }
        assert_eq!(ask(&machine, "", 0, &["127.0.0.1:8033"]), "ECONNREFUSED\n", "it is the program's alone");
        drop(server.stdin.take());
        assert!(server.wait().success());
        for address in ["0.0.0.0:8030", "[::]:8031", "10.77.0.1:8032"] {
            machine.wait_for_close_of_datagrams(address);
        }
        assert_eq!(ask(&machine, "", 0, &["10.77.0.1:8030"]), "ECONNREFUSED\n");
    }
}

#[test]
fn a_port_that_is_published_is_met_by_datagrams_as_by_connections() {
    let machine = Machine::start();
    for within in machine.anybody_in_each_network() {
        let mut command = within.run_with(&["--publish", "8041:8033"], &["python3", "-c", SERVER, "127.0.0.1:8033"]);
        let mut server = Daemon::spawn(command.stdin(Stdio::piped()));
        server.wait_for_line("bound");
        assert_eq!(ask(&machine, "", 1200, &["127.0.0.1:8041"]), "answered\n", "as {}", within.who());
        assert_eq!(ask(&machine, "", 0, &["127.0.0.1:8033", "10.77.0.1:8041"]), "ECONNREFUSED\n".repeat(2));
        drop(server.stdin.take());
        assert!(server.wait().success());
        machine.wait_for_close_of_datagrams("127.0.0.1:8041");
    }
}
