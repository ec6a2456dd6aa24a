//! Sockets of a program that share a port, where one is bound to more than the other: at the lender each port is had once.

use std::{io::Write, process::Stdio};

use crate::{
    binds::ATTEMPT,
    machine::{Machine, Within},
    support::{Daemon, run, text},
};

const BOUND: &str = r#"
import sys
def bound(what, host, kind, option, port=8043):
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    if option:
        s.setsockopt(socket.SOL_SOCKET, option, 1)
    if ":" in host:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, what == "ipv6")
    print(what, attempt(lambda: s.bind((host, port))), flush=True)
    return s
stream, datagram, reuse = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SO_REUSEPORT
"#;

/// Who is heard at each of these addresses; `-` is nobody.
const ASKS: &str = r#"
import socket, sys
def hears(host):
    try:
        with socket.create_connection((host, 8043), 30) as s:
            return s.recv(99).decode() or "-"
    except OSError:
        return "-"
print(*map(hears, sys.argv[1:]))
"#;

/// Starts a program that has [`BOUND`], and goes on at each line of its stdin.
fn start(within: &Within, program: &str) -> Daemon {
    Daemon::spawn(within.python(&[ATTEMPT, BOUND, program].concat()).stdin(Stdio::piped()))
}

fn go_on(server: &mut Daemon) {
    server.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
}

/// As haproxy has it, which binds `:::80` before `:80`; and a third for one address.
#[test]
fn a_socket_listens_beside_one_that_is_bound_to_more() {
    let machine = Machine::start();
    let program = r#"
import threading
def serve(s, name):
    s.listen()
    def each():
        while True:
            try:
                visitor = s.accept()[0]
            except OSError:
                return
            visitor.sendall(name)
            # The visitor closes first, so that nothing lingers at the lender.
            visitor.recv(1)
            visitor.close()
    threading.Thread(target=each, daemon=True).start()
both = bound("both", "::", stream, reuse)
serve(both, b"both")
ipv4 = bound("ipv4", "0.0.0.0", stream, reuse)
serve(ipv4, b"ipv4")
alone = bound("alone", "0.0.0.0", stream, 0)
ipv6 = bound("ipv6", "::", stream, reuse)
ipv6.close()
one = bound("one", "10.77.0.1", stream, reuse)
serve(one, b"one")
foreign = bound("foreign", "203.0.113.9", stream, reuse)
for s in both, ipv4, one:
    print("ready", flush=True)
    sys.stdin.readline()
    s.shutdown(socket.SHUT_RDWR)
    s.close()
print("over", flush=True)
sys.stdin.readline()
again = bound("again", "0.0.0.0", stream, 0)
again.listen()
sys.stdin.readline()
"#;
    let asks = |hosts: &[&str]| {
        let said = run(&mut machine.there(&[&["python3", "-c", ASKS], hosts].concat()));
        text(said.stdout).trim().to_owned()
    };
    for within in machine.everybody() {
        let mut server = start(&within, program);
        for line in ["both OK", "ipv4 OK", "alone EADDRINUSE", "ipv6 OK", "one OK", "foreign EADDRNOTAVAIL"] {
            server.wait_for_line(line);
        }
        for heard in ["one ipv4 both", "one ipv4 -", "one - -"] {
            server.wait_for_line("ready");
            // Twice: who finds nobody at one address closes no other.
            for _ in 0..2 {
                assert_eq!(asks(&["10.77.0.1", "10.77.0.2", "fd77::1"]), heard, "as {}", within.who());
            }
            go_on(&mut server);
        }
        server.wait_for_line("over");
        machine.wait_for_close("[::]:8043");
        go_on(&mut server);
        server.wait_for_line("again OK");
        go_on(&mut server);
        assert!(server.wait().success());
        machine.wait_for_close("0.0.0.0:8043");
    }
}

#[test]
fn a_socket_for_datagrams_of_ipv4_hears_beside_one_of_both_families() {
    let machine = Machine::start();
    let program = r#"
both = bound("both", "::", datagram, socket.SO_REUSEADDR)
ipv4 = bound("ipv4", "0.0.0.0", datagram, socket.SO_REUSEADDR)
print("ready", flush=True)
for s, name in (ipv4, b"ipv4"), (both, b"both"):
    said, who = s.recvfrom(99)
    s.sendto(name, who)
# The last one that there is has the port alone.
both.close()
said, who = ipv4.recvfrom(99)
ipv4.sendto(b"still ipv4", who)
ipv4.close()
# Nothing of what was closed is in the way of these, nor a part of them.
again = bound("again", "0.0.0.0", datagram, 0)
again.close()
both = bound("all again", "::", datagram, 0)
sys.stdin.readline()
"#;
    let asks = r#"
import socket
for host in "10.77.0.1", "fd77::1", "10.77.0.1":
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(30)
    s.connect((host, 8043))
    s.send(b"question")
    print(s.recv(99).decode())
"#;
    for within in machine.everybody() {
        let mut server = start(&within, program);
        for line in ["both OK", "ipv4 OK", "ready"] {
            server.wait_for_line(line);
        }
        let said = text(run(&mut machine.there(&["python3", "-c", asks])).stdout);
        assert_eq!(said, "ipv4\nboth\nstill ipv4\n", "as {}", within.who());
        server.wait_for_line("again OK");
        machine.wait_for_close_of_datagrams("[::]:8043");
        server.wait_for_line("all again OK");
        machine.wait_for_close_of_datagrams("0.0.0.0:8043");
        go_on(&mut server);
        assert!(server.wait().success());
        machine.wait_for_close_of_datagrams("[::]:8043");
    }
}

#[test]
fn a_socket_that_listens_by_two_ports_closes_both_when_it_is_shut_down() {
    let machine = Machine::start();
    let program = r#"
ipv4 = bound("ipv4", "0.0.0.0", stream, reuse)
both = bound("both", "::", stream, reuse)
ipv4.close()
both.listen()
both.shutdown(socket.SHUT_RDWR)
sys.stdin.readline()
both.listen()
print("again", flush=True)
for _ in range(2):
    visitor = both.accept()[0]
    visitor.sendall(b"both")
    visitor.recv(1)
    visitor.close()
"#;
    for within in machine.everybody() {
        let mut server = start(&within, program);
        machine.wait_for_close("[::]:8043");
        machine.wait_for_close("0.0.0.0:8043");
        go_on(&mut server);
        server.wait_for_line("again");
        let said = run(&mut machine.there(&["python3", "-c", ASKS, "10.77.0.1", "fd77::1"]));
        assert_eq!(text(said.stdout), "both both\n", "as {}", within.who());
        assert!(server.wait().success());
        machine.wait_for_close("[::]:8043");
        machine.wait_for_close("0.0.0.0:8043");
    }
}

/// What `--publish` brings to one port at the lender is met by the first of both: the other is not told that it is met, too.
#[test]
fn two_ports_that_are_one_at_the_lender_are_not_shared() {
    let machine = Machine::start();
    let program = r#"
published = bound("published", "0.0.0.0", stream, reuse, 80)
published.listen()
bound("named", "0.0.0.0", stream, reuse, 8044)
bound("narrower", "10.77.0.1", stream, reuse, 8044)
bound("of both", "::", stream, reuse, 8044)
"#;
    let program = [ATTEMPT, BOUND, program].concat();
    for within in machine.borrowers() {
        let said = run(&mut within.run_with(&["--publish", "8044:80"], &["python3", "-c", &program]));
        let expected = "published OK\nnamed EADDRINUSE\nnarrower EADDRINUSE\nof both EADDRINUSE\n";
        assert_eq!(text(said.stdout), expected, "as {}: {}", within.uid, text(said.stderr));
    }
}
