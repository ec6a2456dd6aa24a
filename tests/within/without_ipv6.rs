//! A kernel that was started without IPv6 (`ipv6.disable=1`): a program has all of IPv4.

use std::process::{Command, Stdio};

use serde_json::json;

use crate::{
    connects::probed,
    datagrams,
    listens::{SERVER, visit},
    machine::{Machine, Within},
    support::{Daemon, fails, run, text},
    under_filter::under_filter,
};

/// socket(AF_INET6) gives EAFNOSUPPORT, and all else goes its way.
const WITHOUT_IPV6: &str = r#"
socket = {"x86_64": 41, "aarch64": 198}[platform.machine()]
steps = [(0x20, 0, 0, 0), (0x15, 0, 3, socket), (0x20, 0, 0, 16), (0x15, 0, 1, 10), (0x06, 0, 0, 0x50000 | 97),
         (0x06, 0, 0, 0x7fff0000)]
"#;

fn without_ipv6(within: &Within, command: &Command) -> Command {
    under_filter(within, WITHOUT_IPV6, command)
}

#[test]
fn a_program_connects_asks_for_names_and_sends_datagrams() {
    let policy = "[[allow]]\nwho = [\"alice\"]\nconnect = [\"*:*\", \"127.0.0.1:*\"]\nudp = [\"*:*\"]\n";
    let machine = Machine::with_names(policy, &json!({ "web.test A": [["web.test 60 A 10.77.0.1"]] }), "");
    let (probe, expected) = probed(&[
        ("10.77.0.1:7000", "OK", "10.77.0.1"),
        ("10.77.0.1:9", "ECONNREFUSED", ""),
        ("203.0.113.5:80", "EHOSTUNREACH", ""),
        ("127.0.0.1:7000", "OK", "127.0.0.1"),
    ]);
    for within in machine.everybody() {
        let connected = run(&mut without_ipv6(&within, &within.run(&probe)));
        assert_eq!(text(connected.stdout), expected, "as {}: {}", within.who(), text(connected.stderr));
        let sent = run(without_ipv6(&within, &within.python(datagrams::PROBE)).arg("10.77.0.1:7000"));
        assert_eq!(text(sent.stdout), "10.77.0.1:7000 connected OK\n10.77.0.1:7000 open OK\n", "as {}", within.who());
        let named = run(&mut without_ipv6(&within, &within.run(&["getent", "ahostsv4", "web.test"])));
        assert!(text(named.stdout).starts_with("10.77.0.1 "), "as {}", within.who());
        let none = "import socket; socket.socket(socket.AF_INET6)";
        let said = fails(&mut without_ipv6(&within, &within.python(none)), 1);
        assert!(said.contains("Errno 97"), "as {}: {said}", within.who());
    }
}

#[test]
fn a_program_that_listens_is_met() {
    let machine = Machine::start();
    for within in machine.everybody() {
        let mut command = without_ipv6(&within, &within.python(SERVER));
        let server = Daemon::spawn(command.arg("0.0.0.0:8000").stdin(Stdio::piped()));
        server.wait_for_line("listens on");
        assert_eq!(visit(&machine, "", 100, &["10.77.0.1:8000"]), "met\n", "as {}", within.who());
        drop(server);
        machine.wait_for_close("0.0.0.0:8000");
    }
}
