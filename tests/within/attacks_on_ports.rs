//! Ports, groups and far ends that no rule opens (THREATS.md §8, 50 and 51), asked for by a program that knows nothing of them.

use std::process::Stdio;

use serde_json::json;

use crate::{
    attacks::{Borrower, EVERYWHERE, is_in_the_log},
    machine::Machine,
    support::{Daemon, run, text},
};

/// A few ports of one address; and of loopback all, as far as that goes.
const LISTENS: &str = r#"
[[allow]]
who = ["alice"]
listen = ["10.77.0.1:8000-8003", "127.0.0.1:*"]

[[deny]]
who = ["alice"]
listen = ["10.77.0.1:8002"]
"#;

/// Listens at each target in turn by such sockets, keeps them all, and prints what came of each, and its port.
const LISTEN: &str = r#"
import errno, socket, sys
kind = socket.SOCK_STREAM if sys.argv[1] == "connections" else socket.SOCK_DGRAM
kept, came = [], []
for target in sys.argv[2:]:
    host, port = target.rsplit(":", 1)
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
    kept.append(s)
    try:
        s.bind((host, int(port)))
        if kind == socket.SOCK_STREAM:
            s.listen()
        came.append("OK")
    except OSError as e:
        came.append(errno.errorcode[e.errno])
print("came", *came)
print("ports", *[s.getsockname()[1] for s in kept], flush=True)
sys.stdin.read()
"#;

/// Connects to each port of each address, and prints where it was let in.
const KNOCK: &str = r#"
import socket, sys
for port in sys.argv[1:]:
    for host in ("10.77.0.1", "10.77.0.2", "127.0.0.1", "fd77::1", "::1"):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as s:
            if s.connect_ex((host, int(port))) == 0:
                print(host, port)
"#;

/// Somebody who listens so at each target until his input ends, what came of each, and its port.
fn listens(borrower: &Borrower, options: &[&str], what: &str, targets: &[&str]) -> (Daemon, Vec<String>, Vec<String>) {
    let mut command = borrower.within.run_with(options, &["python3", "-c", LISTEN, what]);
    let server = Daemon::spawn(command.args(targets).stdin(Stdio::piped()));
    let words = |what| server.wait_for_line(what).split(' ').skip(1).map(str::to_owned).collect();
    let (came, ports) = (words("came "), words("ports "));
    (server, came, ports)
}

fn met(machine: &Machine, ports: &[String]) -> String {
    text(run(machine.there(&["python3", "-c", KNOCK]).args(ports)).stdout)
}

#[test]
fn attack_50_ports_and_addresses_that_no_rule_spells_out() {
    let machine = Machine::with_policy(LISTENS);
    let own = machine.lab.address.to_string();
    let (none, denied) = ("no rule allows it", "a rule denies it");
    // No number twice: without a network of its own, a program has what it binds on this machine's loopback.
    let refused = [
        ("10.77.0.1:81", none),
        ("10.77.0.1:7999", none),
        ("10.77.0.1:8002", denied),
        ("10.77.0.1:8004", none),
        ("10.77.0.2:8000", none),
        ("0.0.0.0:8001", none),
        ("fd77::1:8000", none),
        (":::8003", none),
        ("::ffff:0.0.0.0:8005", none),
        ("0.0.0.0:0", none),
        (":::0", none),
        ("127.0.0.1:1023", "a rule must name them"),
        (&own, "lender"),
    ];
    let targets = refused.map(|(target, _)| target);
    let (elsewhere, loopback) = targets.split_at(11);
    for borrower in Borrower::all(&machine) {
        let is_bare = !borrower.options.is_empty();
        let (options, asked) =
            if is_bare { (borrower.options, elsewhere) } else { (&["--publish-loopback"][..], &targets[..]) };
        let (_server, came, ports) = listens(&borrower, options, "connections", asked);
        assert_eq!(came, vec!["EACCES"; asked.len()], "as {}", borrower.who());
        assert_eq!(met(&machine, &ports), "", "as {}", borrower.who());
        if is_bare {
            continue;
        }
        for (target, why) in refused {
            let (host, port) = target.rsplit_once(':').unwrap();
            let host = host.trim_start_matches("::ffff:");
            let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            is_in_the_log(&machine, "tcp-listen", &format!("{host}:{port}"), why);
        }
        let datagrams = [&elsewhere[..9], &loopback[..1]].concat();
        let (_server, came, _) = listens(&borrower, options, "datagrams", &datagrams);
        assert_eq!(came, ["EACCES"; 10], "as {}", borrower.who());
        // Any port is one of those that are allowed, as long as there is one.
        let (mut server, came, ports) = listens(&borrower, &[], "connections", &["10.77.0.1:0"; 4]);
        assert_eq!(came, ["OK", "OK", "OK", "EADDRINUSE"], "as {}", borrower.who());
        let mut ports = ports[..3].to_vec();
        ports.sort();
        assert_eq!(ports, ["8000", "8001", "8003"], "as {}", borrower.who());
        assert_eq!(met(&machine, &ports), "10.77.0.1 8000\n10.77.0.1 8001\n10.77.0.1 8003\n", "as {}", borrower.who());
        drop(server.stdin.take());
        assert!(server.wait().success());
        ports.iter().for_each(|port| machine.wait_for_close(&format!("10.77.0.1:{port}")));
    }
}

/// Every address, which is much, and nothing of this.
const SENDS: &str = "[[allow]]\nwho = [\"alice\"]\nudp = [\"*:*\"]\n";

/// On the lender's machine: hears what is sent to it, to groups and to everybody, and says so.
const HEARS: &str = r#"
import os, select, socket, struct
near = socket.if_nametoindex("near")
v4, v6 = socket.socket(type=socket.SOCK_DGRAM), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
for group in ("224.0.0.251", "239.1.2.3"):
    v4.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("=4s4si", socket.inet_aton(group), bytes(4), near))
v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, struct.pack("=16si", socket.inet_pton(socket.AF_INET6, "ff05::2"), near))
v4.bind(("0.0.0.0", 7100))
v6.bind(("::", 7100))
print("hears", flush=True)
while True:
    for s in select.select([v4, v6], [], [])[0]:
        os.write(1, s.recv(99) + b"\n")
"#;

/// Sends to each, then to an address that may be sent to: what is heard is heard before that.
const SEND: &str = r#"
import socket, sys
for family, hosts, honest in (
    (socket.AF_INET, ("224.0.0.251", "239.1.2.3", "255.255.255.255", "10.78.0.255"), "10.77.0.1"),
    (socket.AF_INET6, ("ff05::2",), "fd77::1"),
):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    if family == socket.AF_INET6 and len(sys.argv) > 1:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(sys.argv[1]))
    for host in hosts:
        try:
            s.sendto(b"to " + host.encode(), (host, 7100))
        except OSError:
            pass
    s.sendto(b"honest", (honest, 7100))
"#;

/// What is heard of somebody who sends to all that he can.
fn heard(hears: &Daemon) -> Vec<String> {
    let (mut heard, mut honest) = (Vec::new(), 0);
    while honest < 2 {
        let line = hears.wait_for_line("");
        honest += usize::from(line == "honest");
        heard.push(line);
    }
    heard.retain(|line| line != "honest");
    heard.sort();
    heard
}

#[test]
fn attack_51_groups_and_everybody_at_once() {
    let machine = Machine::with_names(SENDS, &json!({}), EVERYWHERE);
    let hears = Daemon::spawn(&mut machine.there(&["python3", "-c", HEARS]));
    hears.wait_for_line("hears");
    // Who is there reaches them.
    run(&mut machine.there(&["python3", "-c", SEND, "near"]));
    let all = ["to 10.78.0.255", "to 224.0.0.251", "to 239.1.2.3", "to 255.255.255.255", "to ff05::2"];
    assert_eq!(heard(&hears), all);
    for borrower in Borrower::all(&machine) {
        run(&mut borrower.python(SEND));
        assert_eq!(heard(&hears), [""; 0], "as {}", borrower.who());
    }
}

/// On the lender's machine: before it answers, others send to who has asked, who have his port and not more.
const ANSWERS: &str = r#"
import socket
def bound(host, port):
    s = socket.socket(type=socket.SOCK_DGRAM)
    s.bind((host, port))
    return s
asked, others = bound("10.77.0.1", 7101), [bound("10.77.0.1", 7102), bound("10.77.0.2", 7101), bound("127.0.0.1", 7101)]
print("answers", flush=True)
while True:
    said, who = asked.recvfrom(99)
    for other in others:
        # To the port, by whichever address of the machine it is that this one may send to.
        other.sendto(b"injected", (other.getsockname()[0], who[1]))
        try:
            other.sendto(b"injected", who)
        except OSError:
            pass
    asked.sendto(said.upper(), who)
"#;

const ASKS: &str = r#"
import socket
for bound in (False, True):
    s = socket.socket(type=socket.SOCK_DGRAM)
    s.settimeout(60)
    if bound:
        s.bind(("0.0.0.0", 0))
    for question in (b"one", b"two"):
        s.sendto(question, ("10.77.0.1", 7101))
        print(*s.recvfrom(99))
"#;

#[test]
fn attack_51_a_peer_never_sent_to_is_not_heard() {
    let machine = Machine::with_names(SENDS, &json!({}), EVERYWHERE);
    let answers = Daemon::spawn(&mut machine.there(&["python3", "-c", ANSWERS]));
    answers.wait_for_line("answers");
    for borrower in Borrower::all(&machine) {
        let said = run(&mut borrower.python(ASKS));
        let expected = "b'ONE' ('10.77.0.1', 7101)\nb'TWO' ('10.77.0.1', 7101)\n".repeat(2);
        assert_eq!(text(said.stdout), expected, "as {}: {}", borrower.who(), text(said.stderr));
    }
}
