//! Policies of one kind of rule: a program does what that rule is for, and learns nothing of what it is not for.

use std::process::Stdio;

use serde_json::json;

use crate::{
    ends::met_again_after_a_cut,
    listens::{serves, visit},
    machine::{Machine, Within},
    support::{Daemon, run, text},
};

const LISTENS: &str = "[[allow]]\nwho = [\"alice\"]\nlisten = [\"*:8000-8999\"]\n";
const SENDS: &str = "[[allow]]\nwho = [\"alice\"]\nudp = [\"10.77.0.0/16:*\", \"[fd77::/16]:*\"]\n";

/// A machine of a name and of a search list, of which nobody is to hear.
fn machine(policy: &str) -> Machine {
    let zone = json!({ "there.test A": [["there.test 60 A 10.77.0.1"]] });
    Machine::with_names(
        policy,
        &zone,
        "echo 'search secret.test' >> /etc/resolv.conf; echo '10.77.0.9 secret.test' >> /etc/hosts",
    )
}

#[test]
fn who_may_only_listen_is_met_and_sees_who_comes() {
    let machine = machine(LISTENS);
    for within in machine.everybody() {
        let at = ["0.0.0.0:8000", "[::]:8000", ":::8001", "10.77.0.1:8002", "fd77::1:8002", "127.0.0.1:8003"];
        let (mut server, _) = serves(&within, &["--publish", "8004:8003"], &at);
        let met =
            visit(&machine, "10.78.0.1", 0, &["10.77.0.1:8000", "10.77.0.2:8000", "10.77.0.1:8001", "10.77.0.1:8002"]);
        assert_eq!(met, "met\n".repeat(4), "as {}", within.who());
        let met = visit(&machine, "fd88::1", 300_000, &["fd77::1:8000", "fd77::1:8001", "fd77::1:8002"]);
        assert_eq!(met, "met\n".repeat(3), "as {}", within.who());
        assert_eq!(visit(&machine, "", 0, &["127.0.0.1:8000", "127.0.0.1:8004"]), "met\nmet\n", "as {}", within.who());
        drop(server.stdin.take());
        assert!(server.wait().success());
    }
}

/// Answers what comes to each of two ports, and says from whom it came.
const ANSWERS: &str = r#"
import socket
for family, every in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.bind((every, 8005 if family == socket.AF_INET else 8006))
    print("bound", flush=True)
    data, peer = s.recvfrom(99)
    s.sendto(data.upper(), peer)
    print(peer[0], flush=True)
"#;

#[test]
fn who_may_only_listen_hears_datagrams_and_answers_them() {
    let machine = machine(LISTENS);
    let asks = r#"
import socket, sys
source, host, port = sys.argv[1:]
s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((source, 0))
s.connect((host, int(port)))
s.settimeout(30)
s.send(b"question")
print(s.recv(99).decode())
"#;
    for within in machine.everybody() {
        let mut server = Daemon::spawn(&mut within.python(ANSWERS));
        for (source, host, port) in [("10.78.0.1", "10.77.0.2", "8005"), ("fd88::1", "fd77::1", "8006")] {
            server.wait_for_line("bound");
            let answer = run(&mut machine.there(&["python3", "-c", asks, source, host, port]));
            assert_eq!(text(answer.stdout), "QUESTION\n", "as {}", within.who());
            server.wait_for_line(source);
        }
        assert!(server.wait().success());
    }
}

#[test]
fn who_may_only_listen_learns_nothing_of_the_network_and_leaves_it_by_no_way() {
    let machine = machine(LISTENS);
    let looks = r#"
import errno, glob, os, socket
for path in ["/etc/resolv.conf", "/etc/hosts", *glob.glob("/proc/net/*route"), "/proc/net/fib_trie", "/proc/net/if_inet6"]:
    with open(path) as file:
        print(file.read())
def attempt(name, what):
    try:
        what()
        print(name, "OK")
    except OSError as e:
        print(name, errno.errorcode.get(e.errno, type(e).__name__))
for host in ("10.77.0.1", "fd77::1", "127.0.0.1"):
    attempt(host, lambda: socket.create_connection((host, 7000), 30))
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(30)
    attempt("udp " + host, lambda: (s.connect((host, 7000)), s.send(b"x"), s.recv(9)))
for name in ("there.test", "secret.test"):
    attempt(name, lambda: socket.getaddrinfo(name, 80))
attempt("port", lambda: socket.socket().bind(("0.0.0.0", 7999)))
"#;
    for within in machine.everybody() {
        let output = run(&mut within.python(looks));
        let (said, told) = (text(output.stdout), text(output.stderr));
        // 10.77 and fd77 as they stand in each of the files.
        for secret in ["10.77.0", "4D0A", "fd77", "secret.test 60", "secret.test\n", "10.78", "4E0A", "fd88"] {
            let of_the_machine = said.split("10.77.0.1 ").next().unwrap();
            assert!(!of_the_machine.contains(secret), "{secret} as {}: {said}", within.who());
        }
        for (target, errno) in [("10.77.0.1", "EHOSTUNREACH"), ("fd77::1", "EACCES"), ("127.0.0.1", "ECONNREFUSED")] {
            assert!(
                said.contains(&format!("\n{target} {errno}\nudp {target} {errno}\n")),
                "{target} as {}: {said}",
                within.who()
            );
        }
        assert!(
            said.ends_with("there.test gaierror\nsecret.test gaierror\nport EACCES\n"),
            "as {}: {said}",
            within.who()
        );
        for refused in ["connect 10.77.0.1:7000", "udp", "resolve there.test", "listen 0.0.0.0:7999"] {
            assert!(
                told.contains(&format!("{refused} is refused: no rule allows it")),
                "{refused} as {}: {told}",
                within.who()
            );
        }
    }
    assert_eq!(
        std::fs::read_to_string(machine.lab.dir().join("asked")).unwrap(),
        "",
        "the lender's resolver was asked"
    );
}

#[test]
fn who_may_only_listen_is_met_again_after_a_cut_and_by_nobody_after_the_end() {
    let machine = machine(LISTENS);
    for within in machine.anybody_in_each_network() {
        let port = if within.by_tun { 8011 } else { 8010 };
        let (at, met_at) = (format!("0.0.0.0:{port}"), format!("10.77.0.1:{port}"));
        let (mut server, _wire) = met_again_after_a_cut(&machine, &within, port);
        server.kill();
        machine.wait_for_close(&at);
        assert_eq!(visit(&machine, "", 0, &[&met_at]), "ECONNREFUSED\n", "as {}", within.who());
    }
}

/// Sends to each target, and says what came of it; then connects.
const PROBE: &str = r#"
import errno, socket, sys
for host in ("10.77.0.1", "fd77::1", "there.test"):
    family, _, _, _, at = socket.getaddrinfo(host, 7000, type=socket.SOCK_DGRAM)[0]
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(30)
    s.sendto(b"to", at)
    data, peer = s.recvfrom(99)
    print(host, data.decode(), peer[:2] == at[:2])
print(errno.errorcode[socket.socket().connect_ex(("10.77.0.1", 7000))])
"#;

#[test]
fn who_may_only_send_datagrams_sends_them_and_looks_up_names() {
    let machine = machine(SENDS);
    let probe = |within: &Within, options: &[&str]| {
        let mut command = within.run_with(options, &["python3", "-c", PROBE]);
        let output = run(command.stdin(Stdio::null()));
        let told = text(output.stderr);
        assert!(told.contains("connect 10.77.0.1:7000 is refused: no rule allows it"), "as {}: {told}", within.who());
        text(output.stdout)
    };
    let answered = "10.77.0.1 to True\nfd77::1 to True\nthere.test to True\n";
    for within in machine.everybody() {
        assert_eq!(probe(&within, &[]), format!("{answered}EHOSTUNREACH\n"), "as {}", within.who());
    }
}

/// As launchers and test suites wait for their own servers: they ask until somebody listens, and take no other error.
const WAIT: &str = r#"
import errno, socket
def ask(family, at):
    with socket.socket(family) as s:
        return errno.errorcode.get(s.connect_ex(at), "met")
for client, family, host, asked in (2, 2, "127.0.0.1", "127.0.0.1"), (10, 10, "::1", "::1"), (10, 2, "127.0.0.1", "::ffff:127.0.0.1"):
    with socket.create_server((host, 0), family=family) as server:
        port = server.getsockname()[1]
    before = ask(client, (asked, port))
    with socket.create_server((host, port), family=family):
        print(asked, before, ask(client, (asked, port)))
"#;

#[test]
fn who_waits_for_a_server_of_his_own_hears_that_nobody_listens_yet() {
    let machine = Machine::with_policy("[[allow]]\nwho = [\"alice\"]\nconnect = [\"10.77.0.1:7000\"]\n");
    let expected: String =
        ["127.0.0.1", "::1", "::ffff:127.0.0.1"].iter().map(|host| format!("{host} ECONNREFUSED met\n")).collect();
    for within in machine.everybody() {
        let ways = if within.by_tun { &[&[][..]][..] } else { &[&[][..], &["--no-netns"]] };
        for way in ways {
            let said = run(&mut within.run_with(way, &["python3", "-c", WAIT]));
            let (said, told) = (text(said.stdout), text(said.stderr));
            assert_eq!(said, expected, "{way:?} as {}: {told}", within.who());
            assert!(told.contains("connect 127.0.0.1:"), "{way:?} as {}: {told}", within.who());
        }
    }
}

/// As a client does that wants to know its port before it connects; and as a server does.
const PORT_ZERO: &str = r#"
import errno, socket
for family, every, target in ((socket.AF_INET, "0.0.0.0", "10.77.0.1"), (socket.AF_INET6, "::", "fd77::1")):
    client, server = socket.socket(family), socket.socket(family)
    for s in (client, server):
        s.bind((every, 0))
    port = client.getsockname()[1]
    client.connect((target, 7000))
    print(port != 0 and client.getsockname()[1] == port)
    try:
        print(server.listen())
    except OSError as error:
        print(errno.errorcode[error.errno])
"#;

#[test]
fn a_port_of_ones_own_choosing_is_for_clients_where_no_rule_allows_to_listen() {
    let connects = "[[allow]]\nwho = [\"alice\"]\nconnect = [\"10.77.0.0/16:*\", \"[fd77::/16]:*\"]\n";
    let machine = machine(connects);
    for within in machine.everybody() {
        let said = run(&mut within.python(PORT_ZERO));
        assert_eq!(text(said.stdout), "True\nEACCES\nTrue\nEACCES\n", "as {}: {}", within.who(), text(said.stderr));
    }
}
