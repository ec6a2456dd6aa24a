//! Connections of programs: made by the lender, with its addresses' answers.

use std::{io::Read, net::TcpListener, time::Instant};

use crate::{
    machine::Machine,
    support::{fails, run, text},
};

/// Sends to the address in its arguments until nothing more fits anywhere, says its number, and ends; SIGTERM does not end it.
pub const FILL: &str = r#"
import os, select, signal, socket, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
s.setblocking(False)
# So long no room is none that is to come: less may be somebody who waits for a processor.
while select.select([], [s], [], 5)[1]:
    s.send(b"x" * 65536)
print("pid", os.getpid(), flush=True)
"#;

/// Connects to each target, blocking and not, and prints what came of it.
const PROBE: &str = r#"
import errno, select, socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    for blocking in (True, False):
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        s.setblocking(blocking)
        result = s.connect_ex((host, int(port)))
        if not blocking and result == errno.EINPROGRESS:
            poll = select.poll()
            poll.register(s, select.POLLOUT)
            poll.poll(20000)
            result = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        peer = s.getpeername()[0] if result == 0 else ""
        print(target, "blocking" if blocking else "polled", errno.errorcode.get(result, "OK"), peer)
"#;

/// The words that start [`PROBE`] with the targets, and what it prints if each ends as its case says.
pub fn probed<'a>(cases: &[(&'a str, &str, &str)]) -> (Vec<&'a str>, String) {
    let line = |(target, errno, peer): &(&str, &str, &str)| {
        ["blocking", "polled"].map(|how| format!("{target} {how} {errno} {peer}\n"))
    };
    let targets = cases.iter().map(|(target, ..)| *target);
    (["python3", "-c", PROBE].into_iter().chain(targets).collect(), cases.iter().flat_map(line).collect())
}

#[test]
fn curl_fetches_a_page_that_only_the_lender_reaches() {
    let machine = Machine::start();
    for within in machine.everybody() {
        for host in ["10.77.0.1", "fd77::1"].iter().chain(within.loopbacks()) {
            let url = if host.contains(':') { &format!("http://[{host}]/") } else { &format!("http://{host}/") };
            let page = run(&mut within.run(&["curl", "-sS", "--fail", "--noproxy", "*", "--max-time", "20", url]));
            assert!(!text(page.stdout).is_empty(), "{url} as {}", within.who());
        }
    }
}

#[test]
fn ping_runs_and_nobody_answers_in_the_lenders_name() {
    let machine = Machine::start();
    for within in machine.everybody() {
        for address in ["10.77.0.1", "fd77::1", "127.0.0.1"] {
            let output = within.run(&["ping", "-n", "-c", "1", "-W", "1", address]).output().unwrap();
            let said = text(output.stdout);
            assert!(said.contains("1 packets transmitted, 0 received"), "{} as {}: {said}", address, within.who());
            assert_eq!(output.status.code(), Some(1), "no answer: {}", text(output.stderr));
        }
    }
}

#[test]
fn connect_fails_as_the_lenders_does() {
    let machine = Machine::start();
    let cases = [
        ("10.77.0.1:7000", "OK", "10.77.0.1"),
        ("10.77.0.1:9", "ECONNREFUSED", ""),
        ("203.0.113.5:80", "EHOSTUNREACH", ""),
        ("198.51.100.5:80", "ENETUNREACH", ""),
        ("10.78.0.1:80", "EHOSTUNREACH", ""), // the policy's no: IPv4 has no better word
        ("fd77::1:7000", "OK", "fd77::1"),
        ("fd77::1:9", "ECONNREFUSED", ""),
        ("fd88::1:80", "EACCES", ""), // the policy's no
        ("::1:7000", "OK", "::1"),
        ("::1:9", "ECONNREFUSED", ""),
        ("127.0.0.1:9", "ECONNREFUSED", ""),
        ("::ffff:10.77.0.1:7000", "OK", "::ffff:10.77.0.1"),
        ("::ffff:10.77.0.1:9", "ECONNREFUSED", ""),
    ];
    let (probe, expected) = probed(&cases);
    for within in machine.everybody() {
        let probed = run(&mut within.run(&probe));
        let expected = match within.by_tun {
            true => expected.replace(
                "::1:7000 blocking OK ::1\n::1:7000 polled OK ::1",
                "::1:7000 blocking ECONNREFUSED \n::1:7000 polled ECONNREFUSED ",
            ),
            false => expected.clone(),
        };
        assert_eq!(text(probed.stdout), expected, "as {}", within.who());
        let said = text(probed.stderr);
        let refused: Vec<_> = said.lines().filter(|line| line.contains("connect 10.78.0.1:80 is refused")).collect();
        let whole = "capuchin: lab: connect 10.78.0.1:80 is refused: no rule allows it; \
                     to send to the lender's admin: capuchind allow alice connect 10.78.0.1:80 --for 1h";
        assert_eq!(refused, [whole], "{said}");
    }
}

/// Polls for the end of each of many connections, and prints how often which error was there then.
const POLL_MANY: &str = r#"
import collections, errno, select, socket, sys
seen = collections.Counter()
for host in sys.argv[1:]:
    for _ in range(1000):
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        s.setblocking(False)
        result = s.connect_ex((host, 80))
        if result == errno.EINPROGRESS:
            poll = select.poll()
            poll.register(s, select.POLLOUT)
            poll.poll(20000)
            result = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        seen[errno.errorcode.get(result, str(result))] += 1
        s.close()
print(sorted(seen.items()))
"#;

#[test]
fn who_polls_for_a_connection_that_is_refused_never_takes_it_for_made() {
    let machine = Machine::start();
    for within in machine.everybody() {
        let output = run(within.python(POLL_MANY).args(["10.78.0.1", "fd88::1"]));
        let expected = "[('EACCES', 1000), ('EHOSTUNREACH', 1000)]\n";
        assert_eq!(text(output.stdout), expected, "as {}: {}", within.who(), text(output.stderr));
    }
}

/// Port 0 is nobody's: the program hears that, and its other connections go on.
pub const PORT_ZERO: &str = r#"
import errno, socket
kept = socket.create_connection(("10.77.0.1", 7000))
for host in ("10.77.0.1", "127.0.0.1", "10.78.0.9", "fd77::1"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    print(host, errno.errorcode[socket.socket(family).connect_ex((host, 0))])
    # Nobody answers a datagram either.
    s = socket.socket(family, socket.SOCK_DGRAM)
    try:
        s.connect((host, 0))
        s.send(b"x")
    except OSError:
        pass
kept.sendall(b"still")
print(kept.recv(9).decode(), socket.create_connection(("fd77::1", 7000)).getpeername()[1])
"#;
pub const NOBODY_AT_ZERO: &str = "10.77.0.1 ECONNREFUSED\n127.0.0.1 ECONNREFUSED\n10.78.0.9 ECONNREFUSED\n\
    fd77::1 ECONNREFUSED\nstill 7000\n";

#[test]
fn a_connect_to_port_zero_is_refused_and_ends_nothing_else() {
    let machine = Machine::start();
    for within in machine.everybody() {
        let output = run(&mut within.python(PORT_ZERO));
        assert_eq!(text(output.stdout), NOBODY_AT_ZERO, "as {}: {}", within.who(), text(output.stderr));
    }
}

#[test]
fn a_machine_of_as_many_addresses_and_routes_as_a_profile_holds_is_borrowed() {
    let machine = Machine::with_network(
        "for i in $(seq 1 200); do\n\
             ip route add 10.99.$i.0/24 dev near; ip -6 route add fd99:$i::/32 dev near\n\
             ip address add 10.98.0.$i/32 dev lo\n\
         done",
    );
    for within in machine.anybody_in_each_network() {
        let fetch = ["curl", "-sS", "--fail", "--noproxy", "*", "--max-time", "20", "http://10.77.0.1/"];
        let page = run(&mut within.run(&fetch));
        assert_eq!(text(page.stdout), "::ffff:10.77.0.1", "as {}", within.who());
    }
}

#[test]
fn curl_is_refused_and_times_out_by_silence() {
    let machine = Machine::start();
    for within in machine.everybody() {
        // That it costs one round trip is shown in `round_trip`.
        fails(&mut within.run(&["curl", "-s", "--noproxy", "*", "http://10.77.0.1:9/"]), 7);
        fails(&mut within.run(&["curl", "-s", "--noproxy", "*", "-m", "3", "http://10.78.0.9/"]), 28);
    }
}

#[test]
fn a_program_that_ended_its_half_still_reads() {
    let machine = Machine::start();
    let program = r#"
import socket
s = socket.create_connection(("10.77.0.1", 7000))
s.sendall(b"x" * 300000)
s.shutdown(socket.SHUT_WR)
count = 0
while data := s.recv(65536):
    count += len(data)
print(count)
"#;
    for within in machine.everybody() {
        assert_eq!(text(run(&mut within.python(program)).stdout), "300000\n");
    }
}

#[test]
fn data_that_a_program_sends_with_its_first_packet_arrive_once() {
    let machine = Machine::start();
    // TCP_FASTOPEN_NO_COOKIE: the SYN carries them.
    let program = r#"
import socket
for family, host in ((socket.AF_INET, "10.77.0.1"), (socket.AF_INET6, "fd77::1")):
    s = socket.socket(family)
    s.setsockopt(socket.IPPROTO_TCP, 34, 1)
    s.sendto(b"x" * 900, socket.MSG_FASTOPEN, (host, 7000))
    s.shutdown(socket.SHUT_WR)
    count = 0
    while data := s.recv(4096):
        count += len(data)
    print(count)
"#;
    for within in machine.anybody_in_each_network() {
        assert_eq!(text(run(&mut within.python(program)).stdout), "900\n900\n", "as {}", within.who());
    }
}

#[test]
fn two_thousand_connections_that_are_open_together_are_echoed() {
    let machine = Machine::start();
    let program = r#"
import asyncio, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
MANY = 2000
async def main():
    opened = await asyncio.gather(*[asyncio.open_connection("10.77.0.1", 7000) for _ in range(MANY)])
    for number, (_, writer) in enumerate(opened):
        writer.write(b"%d\n" % number)
    for number, (reader, _) in enumerate(opened):
        assert await reader.readline() == b"%d\n" % number
    print(len(opened))
asyncio.run(main())
"#;
    for within in machine.everybody() {
        assert_eq!(text(run(&mut within.python(program)).stdout), "2000\n", "as {}", within.who());
    }
}

#[test]
fn a_program_learns_the_address_that_its_peer_sees() {
    let machine = Machine::start();
    let program = r#"
import socket, sys
for host in ["10.77.0.1", "fd77::1"] + sys.argv[1:]:
    s = socket.create_connection((host, 80))
    own, peer = s.getsockname()[0], s.getpeername()[:2]
    s.sendall(b"GET / HTTP/1.0\r\n\r\n")
    answer = b""
    while data := s.recv(4096):
        answer += data
    seen = answer.split(b"\r\n\r\n")[1].decode().removeprefix("::ffff:")
    print(own == seen, peer == (host, 80))
"#;
    for within in machine.everybody() {
        let (learns, hosts) = (run(within.python(program).args(within.loopbacks())), 2 + within.loopbacks().len());
        assert_eq!(text(learns.stdout), "True True\n".repeat(hosts), "as {}", within.who());
    }
}

#[test]
fn what_a_program_wrote_last_arrives_after_its_end() {
    let machine = Machine::start();
    let program = r#"
import socket
s = socket.create_connection(("10.77.0.1", 7001))
s.sendall(b"x" * 8000000)
"#;
    let tells = "import socket; print(socket.create_connection(('10.77.0.1', 7002)).recv(99).decode())";
    for within in machine.borrowers() {
        let began = Instant::now();
        run(&mut within.python(program));
        let told = run(&mut within.python(tells));
        assert_eq!(text(told.stdout), "8000000\n", "as {} after {:?}", within.who(), began.elapsed());
    }
}

#[test]
fn what_a_program_wrote_last_reaches_a_slow_reader_of_this_machine() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let here = TcpListener::bind("127.0.0.1:0").unwrap();
        let (host, port) = (here.local_addr().unwrap().ip().to_string(), here.local_addr().unwrap().port().to_string());
        let reading = std::thread::spawn(move || {
            let (mut socket, mut buffer, mut count) = (here.accept().unwrap().0, [0; 16384], 0);
            loop {
                match socket.read(&mut buffer).unwrap() {
                    0 => return count,
                    length => count += length,
                }
                // About half a megabyte a second: the end comes long after the program's.
                std::thread::sleep(std::time::Duration::from_millis(30));
            }
        });
        let program =
            "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2]))).sendall(b'x' * 8000000)";
        run(&mut within.run_with(&["--local", "127.0.0.1"], &["python3", "-c", program, &host, &port]));
        assert_eq!(reading.join().unwrap(), 8_000_000);
    }
}

#[test]
fn who_does_not_read_what_a_program_wrote_last_sees_a_reset_and_no_end() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let here = TcpListener::bind("127.0.0.1:0").unwrap();
        let (host, port) = (here.local_addr().unwrap().ip().to_string(), here.local_addr().unwrap().port().to_string());
        run(&mut within.run_with(&["--local", "127.0.0.1"], &["python3", "-c", FILL, &host, &port]));
        let error = here.accept().unwrap().0.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_far_end_that_never_closes_holds_up_no_program_that_sent_nothing() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let mut command = within.python("import socket; socket.create_connection(('10.77.0.1', 7003))");
        let said = text(run(command.env("CAPUCHIN_LOG", "capuchin=debug")).stderr);
        assert!(!said.contains("connections that the other end keeps"), "{said}");
    }
}

#[test]
fn a_port_that_the_program_listens_on_is_its_own_and_others_are_the_lenders() {
    let machine = Machine::start();
    let program = r#"
import socket
own = socket.create_server(("127.0.0.1", 0))
port = own.getsockname()[1]
client = socket.create_connection(("127.0.0.1", port))
assert own.accept()[0].getpeername() == client.getsockname()
own.close()
assert socket.socket().connect_ex(("127.0.0.1", port)) == 111
theirs = socket.create_connection(("127.0.0.1", 7000))
theirs.sendall(b"lender")
print(theirs.recv(9).decode())
"#;
    for within in machine.everybody() {
        assert_eq!(text(run(&mut within.python(program)).stdout), "lender\n");
    }
}
