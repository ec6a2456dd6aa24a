//! Addresses and names that no rule for names opens (THREATS.md §8, 42 to 49), asked for by a program that knows nothing of them.

use std::process::Command;

use serde_json::json;

use crate::{
    machine::{Machine, Within},
    support::{run, text},
};

/// Every name and ordinary address, which is much, and nothing of this.
const POLICY: &str = r#"
[[allow]]
who = ["alice"]
connect = ["*:*"]
udp = ["*:*"]

[[deny]]
who = ["alice"]
connect = ["*.secret.test:*", "bücher.test:*"]
resolve = ["*.secret.test", "bücher.test"]
"#;

/// Ways to all addresses, so that the lender is asked about each; and somebody who would answer at those that matter.
pub const EVERYWHERE: &str = "ip route add default dev near; ip -6 route add default dev near
    ip address add 169.254.169.254/32 dev lo; ip -6 address add 64:ff9b::7f00:1/128 dev lo nodad
    ip -6 address add 2002:7f00:1::1/128 dev lo nodad; ip -6 address add 64:ff9b::a9fe:a9fe/128 dev lo nodad";

/// Connects to each target in turn, by every address that its host has, and prints what came of each.
const REACH: &str = r#"
import errno, socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    try:
        found = sorted({(family, at[0]) for family, _, _, _, at in socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)})
    except (socket.gaierror, UnicodeError):
        print(target, "has no address")
        continue
    for family, address in found:
        s = socket.socket(family)
        s.settimeout(60)
        result = s.connect_ex((address, int(port)))
        print(target, address, errno.errorcode.get(result, "OK"), flush=True)
"#;

/// Sends where somebody would answer who must not be met, and then to somebody who may. Both lie on one way: what comes first
/// tells of both.
const SEND: &str = r#"
import socket
s = socket.socket(type=socket.SOCK_DGRAM)
s.settimeout(60)
s.sendto(b"refused", ("169.254.169.254", 7000))
s.sendto(b"honest", ("10.77.0.1", 7000))
print(*s.recvfrom(9))
"#;

/// What a connected socket hears of the first of them.
const HEAR: &str = r#"
import errno, socket
s = socket.socket(type=socket.SOCK_DGRAM)
s.settimeout(60)
s.connect(("169.254.169.254", 7000))
s.send(b"refused")
try:
    print(s.recv(9))
except OSError as e:
    print(errno.errorcode[e.errno])
"#;

/// A user, and how a program of his is held.
pub struct Borrower {
    pub within: Within,
    pub options: &'static [&'static str],
}

impl Borrower {
    /// Each in each kind of network, and without one.
    pub fn all(machine: &Machine) -> Vec<Self> {
        let held = machine.everybody().into_iter().map(|within| Self { within, options: &[] });
        let bare = machine.borrowers().into_iter().map(|within| Self { within, options: &["--no-netns"] });
        held.chain(bare).collect()
    }

    pub fn who(&self) -> String {
        format!("{} {}", self.within.who(), self.options.concat())
    }

    /// What a program hears of a refusal which in a network of its own is `errno`: without one it hears what it is.
    fn refusal(&self, errno: &str) -> String {
        let is_same = self.options.is_empty() || errno == "ECONNREFUSED";
        if is_same { errno.to_owned() } else { "EACCES".to_owned() }
    }

    pub fn python(&self, source: &str) -> Command {
        self.within.run_with(self.options, &["python3", "-c", source])
    }

    /// What the program prints, and what its user is told.
    fn reach(&self, targets: &[&str]) -> (String, String) {
        let output = run(self.python(REACH).args(targets));
        (text(output.stdout), text(output.stderr))
    }
}

/// The lender refused it, for this reason, and its log says so.
pub fn is_in_the_log(machine: &Machine, event: &str, target: &str, why: &str) {
    machine.lab.wait_for_audit(target, |line| {
        let refused = line["event"] == event && line["verdict"] == "refused" && line["target"] == target;
        refused && line["why"].as_str().unwrap().contains(why)
    });
}

/// Each is refused to the program as `errno`, to its user in words, and in the log; and the next honest connection works.
fn refused(machine: &Machine, targets: &[(&str, &str, &str, &str)]) {
    for borrower in Borrower::all(machine) {
        for (target, address, errno, why) in targets {
            let port = target.rsplit(':').next().unwrap();
            let (printed, told) = borrower.reach(&[target]);
            let expected = format!("{target} {address} {}\n", borrower.refusal(errno));
            assert_eq!(printed, expected, "as {}: {told}", borrower.who());
            let asked = if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
            let asked = asked.replace("[::ffff:169.254.169.254]", "169.254.169.254");
            let audit = machine.lab.audit();
            let is_told = told.contains(&format!("connect {asked} is refused"));
            assert!(is_told, "as {}: {told} {audit:#?}", borrower.who());
            is_in_the_log(machine, "tcp-connect", &asked, why);
        }
        let honest = borrower.reach(&["10.77.0.1:7000"]).0;
        assert_eq!(honest, "10.77.0.1:7000 10.77.0.1 OK\n", "as {}", borrower.who());
    }
}

fn machine() -> Machine {
    Machine::with_names(POLICY, &json!({}), EVERYWHERE)
}

#[test]
fn attack_42_the_metadata_service_by_its_address() {
    let machine = machine();
    refused(&machine, &[("169.254.169.254:80", "169.254.169.254", "EHOSTUNREACH", "cloud metadata")]);
    for borrower in Borrower::all(&machine) {
        let sent = run(&mut borrower.python(SEND));
        let told = text(sent.stderr);
        assert_eq!(text(sent.stdout), "b'honest' ('10.77.0.1', 7000)\n", "as {}: {told}", borrower.who());
        assert!(told.contains("udp 169.254.169.254:7000 is refused"), "as {}: {told}", borrower.who());
        is_in_the_log(&machine, "udp-send", "169.254.169.254:7000", "cloud metadata");
        // Without a network of its own no packet comes that says so.
        if borrower.options.is_empty() {
            let heard = text(run(&mut borrower.python(HEAR)).stdout);
            assert_eq!(heard, "EHOSTUNREACH\n", "as {}", borrower.who());
        }
    }
}

#[test]
fn attack_45_the_metadata_service_by_an_address_of_ipv6() {
    let target = "::ffff:169.254.169.254";
    refused(&machine(), &[("::ffff:169.254.169.254:80", target, "EHOSTUNREACH", "cloud metadata")]);
}

#[test]
fn attack_46_numbers_that_the_c_library_reads_as_loopback() {
    let numbers = ["2130706433:80", "0x7f.1:80", "0177.1:80", "127.1:80", "0x7f000001:80"];
    let targets = numbers.map(|target| (target, "127.0.0.1", "ECONNREFUSED", "loopback"));
    let machine = machine();
    refused(&machine, &targets);
    // To a kernel, the unspecified address is loopback.
    for borrower in Borrower::all(&machine) {
        let (printed, told) = borrower.reach(&["0:80", "0.0.0.0:80"]);
        assert!(!printed.contains("OK"), "as {}: {printed}", borrower.who());
        assert!(told.contains(":80 is refused"), "as {}: {told}", borrower.who());
    }
}

#[test]
fn attack_47_loopback_and_metadata_inside_addresses_of_ipv6() {
    let targets = [("64:ff9b::7f00:1", "loopback"), ("64:ff9b::a9fe:a9fe", "metadata"), ("2002:7f00:1::1", "loopback")];
    let machine = machine();
    for (address, why) in targets {
        refused(&machine, &[(&format!("{address}:80"), address, "EACCES", why)]);
    }
}

#[test]
fn attack_43_a_name_that_is_another_address_the_second_time() {
    let zone = json!({ "rebind.test A": [["rebind.test 0 A 10.77.0.1"], ["rebind.test 0 A 127.0.0.1"]] });
    for way in 0..3 {
        let machine = Machine::with_names(POLICY, &zone, EVERYWHERE);
        let [netfilter, tun] = machine.anybody_in_each_network();
        let borrower = match way {
            0 => Borrower { within: netfilter, options: &[] },
            1 => Borrower { within: tun, options: &[] },
            _ => Borrower { within: netfilter, options: &["--no-netns"] },
        };
        let (printed, told) = borrower.reach(&["rebind.test:80", "rebind.test:80", "10.77.0.1:80"]);
        let expected = format!(
            "rebind.test:80 10.77.0.1 OK\nrebind.test:80 127.0.0.1 {}\n10.77.0.1:80 10.77.0.1 OK\n",
            borrower.refusal("ECONNREFUSED")
        );
        assert_eq!(printed, expected, "as {}: {told}", borrower.who());
        is_in_the_log(&machine, "tcp-connect", "127.0.0.1:80", "loopback");
    }
}

#[test]
fn attack_44_good_and_bad_addresses_in_one_answer() {
    let mixed = ["mixed.test 60 A 169.254.169.254", "mixed.test 60 A 127.0.0.1", "mixed.test 60 A 10.77.0.1"];
    let six = ["mixed.test 60 AAAA ::ffff:169.254.169.254", "mixed.test 60 AAAA ::1", "mixed.test 60 AAAA fd77::1"];
    let machine =
        Machine::with_names(POLICY, &json!({ "mixed.test A": [mixed], "mixed.test AAAA": [six] }), EVERYWHERE);
    for borrower in Borrower::all(&machine) {
        let (printed, told) = borrower.reach(&["mixed.test:80"]);
        let no = borrower.refusal("EHOSTUNREACH");
        for (address, end) in
            [("169.254.169.254", &*no), ("127.0.0.1", "ECONNREFUSED"), ("10.77.0.1", "OK"), ("fd77::1", "OK")]
        {
            let line = format!("mixed.test:80 {address} {end}\n");
            assert!(printed.contains(&line), "{line} as {}: {printed}{told}", borrower.who());
        }
        assert_eq!(printed.matches("OK").count(), 2, "as {}: {printed}", borrower.who());
    }
}

#[test]
fn attack_48_every_spelling_and_alias_of_a_denied_name() {
    let zone = json!({
        "db.secret.test A": [["db.secret.test 60 A 10.77.0.1"]],
        "xn--bcher-kva.test A": [["xn--bcher-kva.test 60 A 10.77.0.1"]],
        "open.test A": [["open.test 60 A 10.77.0.2"]],
        "alias.test A": [["alias.test 60 CNAME db.secret.test", "db.secret.test 60 A 10.77.0.1"]],
    });
    let machine = Machine::with_names(POLICY, &zone, EVERYWHERE);
    for borrower in Borrower::all(&machine) {
        let spellings =
            ["db.secret.test:80", "DB.Secret.TEST:80", "db.secret.test.:80", "bücher.test:80", "XN--BCHER-KVA.test:80"];
        let (printed, told) = borrower.reach(&spellings);
        let expected: String = spellings.iter().map(|target| format!("{target} has no address\n")).collect();
        assert_eq!(printed, expected, "as {}: {told}", borrower.who());
        assert!(told.contains("resolve db.secret.test is refused"), "as {}: {told}", borrower.who());
        // An alias may be looked up, and where it leads is known by that.
        let (printed, told) = borrower.reach(&["alias.test:80", "open.test:80"]);
        let no = borrower.refusal("EHOSTUNREACH");
        let expected = format!("alias.test:80 10.77.0.1 {no}\nopen.test:80 10.77.0.2 OK\n");
        assert_eq!(printed, expected, "as {}: {told}", borrower.who());
        is_in_the_log(&machine, "tcp-connect", "10.77.0.1:80", "a rule denies it");
    }
    let asked = std::fs::read_to_string(machine.lab.dir().join("asked")).unwrap();
    assert!(!asked.contains("bcher") && !asked.contains("db.secret.test"), "{asked}");
}

/// The rule is for all of loopback, where the lender listens, and says nothing of its port.
#[test]
fn attack_49_the_lenders_own_port_and_sockets() {
    let policy =
        "[[allow]]\nwho = \"alice\"\nconnect = [\"127.0.0.0/8:*\", \"10.77.0.1:7000\"]\nlisten = [\"*:1024-65535\"]\n";
    let machine = Machine::with_names(policy, &json!({}), EVERYWHERE);
    let own = machine.lab.address;
    refused(&machine, &[(&own.to_string(), "127.0.0.1", "ECONNREFUSED", "lender")]);
    let folder = machine.lab.dir().to_str().unwrap().to_owned();
    let looks = "import os, socket, sys
for name in 'door.sock', 'admin.sock':
    try:
        socket.socket(socket.AF_UNIX).connect(os.path.join(sys.argv[1], name)); print(name, 'OK')
    except OSError as e:
        print(name, 'no')";
    machine.lab.open_folder();
    for borrower in Borrower::all(&machine) {
        // As whoever gives commands to a lender with a folder of its own.
        let said = text(run(borrower.python(looks).arg(&folder).env("CAPUCHIND_DIR", &folder)).stdout);
        assert_eq!(said, "door.sock no\nadmin.sock no\n", "as {}", borrower.who());
    }
}
