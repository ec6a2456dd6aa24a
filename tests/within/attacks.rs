//! Addresses and names that no rule for names opens (THREATS.md §8, 42 to 49), asked for by a program that knows nothing of them.

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
const EVERYWHERE: &str = "ip route add default dev near; ip -6 route add default dev near
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

/// What the program prints, and what its user is told.
fn reach(within: &Within, targets: &[&str]) -> (String, String) {
    let output = run(within.python(REACH).args(targets));
    (text(output.stdout), text(output.stderr))
}

/// The lender refused it, for this reason, and its log says so.
fn is_in_the_log(machine: &Machine, target: &str, why: &str) {
    machine.lab.wait_for_audit(target, |line| {
        let refused = line["event"] == "tcp-connect" && line["verdict"] == "refused" && line["target"] == target;
        refused && line["why"].as_str().unwrap().contains(why)
    });
}

/// Each is refused to the program as `errno`, to its user in words, and in the log; and the next honest connection works.
fn refused(machine: &Machine, targets: &[(&str, &str, &str, &str)]) {
    for within in machine.everybody() {
        for (target, address, errno, why) in targets {
            let port = target.rsplit(':').next().unwrap();
            let (printed, told) = reach(&within, &[target]);
            assert_eq!(printed, format!("{target} {address} {errno}\n"), "as {}: {told}", within.who());
            let asked = if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
            let asked = asked.replace("[::ffff:169.254.169.254]", "169.254.169.254");
            assert!(
                told.contains(&format!("connect {asked} is refused")),
                "as {}: {told} {:#?}",
                within.who(),
                machine.lab.audit()
            );
            is_in_the_log(machine, &asked, why);
        }
        assert_eq!(reach(&within, &["10.77.0.1:7000"]).0, "10.77.0.1:7000 10.77.0.1 OK\n", "as {}", within.who());
    }
}

fn machine() -> Machine {
    Machine::with_names(POLICY, &json!({}), EVERYWHERE)
}

#[test]
fn attack_42_the_metadata_service_by_its_address() {
    let machine = machine();
    refused(&machine, &[("169.254.169.254:80", "169.254.169.254", "EHOSTUNREACH", "cloud metadata")]);
    let sends = "import errno, socket; s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(60)
s.connect(('169.254.169.254', 7000)); s.send(b'x')
try: print(s.recv(9))
except OSError as e: print(errno.errorcode[e.errno])";
    for within in machine.everybody() {
        let said = run(&mut within.python(sends));
        assert_eq!(text(said.stdout), "EHOSTUNREACH\n", "as {}", within.who());
        assert!(text(said.stderr).contains("udp 169.254.169.254:7000 is refused"));
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
    let targets = numbers.map(|target| (target, "127.0.0.1", "EHOSTUNREACH", "loopback"));
    let machine = machine();
    refused(&machine, &targets);
    // To a kernel, the unspecified address is loopback.
    for within in machine.everybody() {
        let (printed, told) = reach(&within, &["0:80", "0.0.0.0:80"]);
        assert!(!printed.contains("OK"), "as {}: {printed}", within.who());
        assert!(told.contains(":80 is refused"), "as {}: {told}", within.who());
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
    for by_tun in [false, true] {
        let machine = Machine::with_names(POLICY, &zone, EVERYWHERE);
        let within = if by_tun { machine.anybody().over_tun() } else { machine.anybody() };
        let (printed, told) = reach(&within, &["rebind.test:80", "rebind.test:80", "10.77.0.1:80"]);
        let expected =
            "rebind.test:80 10.77.0.1 OK\nrebind.test:80 127.0.0.1 EHOSTUNREACH\n10.77.0.1:80 10.77.0.1 OK\n";
        assert_eq!(printed, expected, "as {}: {told}", within.who());
        is_in_the_log(&machine, "127.0.0.1:80", "loopback");
    }
}

#[test]
fn attack_44_good_and_bad_addresses_in_one_answer() {
    let mixed = ["mixed.test 60 A 169.254.169.254", "mixed.test 60 A 127.0.0.1", "mixed.test 60 A 10.77.0.1"];
    let six = ["mixed.test 60 AAAA ::ffff:169.254.169.254", "mixed.test 60 AAAA ::1", "mixed.test 60 AAAA fd77::1"];
    let machine =
        Machine::with_names(POLICY, &json!({ "mixed.test A": [mixed], "mixed.test AAAA": [six] }), EVERYWHERE);
    for within in machine.everybody() {
        let (printed, told) = reach(&within, &["mixed.test:80"]);
        for line in ["169.254.169.254 EHOSTUNREACH", "127.0.0.1 EHOSTUNREACH", "10.77.0.1 OK", "fd77::1 OK"] {
            assert!(
                printed.contains(&format!("mixed.test:80 {line}\n")),
                "{line} as {}: {printed}{told}",
                within.who()
            );
        }
        assert_eq!(printed.matches("OK").count(), 2, "as {}: {printed}", within.who());
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
    for within in machine.everybody() {
        let spellings =
            ["db.secret.test:80", "DB.Secret.TEST:80", "db.secret.test.:80", "bücher.test:80", "XN--BCHER-KVA.test:80"];
        let (printed, told) = reach(&within, &spellings);
        let expected: String = spellings.iter().map(|target| format!("{target} has no address\n")).collect();
        assert_eq!(printed, expected, "as {}: {told}", within.who());
        assert!(told.contains("resolve db.secret.test is refused"), "as {}: {told}", within.who());
        // An alias may be looked up, and where it leads is known by that.
        let (printed, told) = reach(&within, &["alias.test:80", "open.test:80"]);
        let expected = "alias.test:80 10.77.0.1 EHOSTUNREACH\nopen.test:80 10.77.0.2 OK\n";
        assert_eq!(printed, expected, "as {}: {told}", within.who());
        is_in_the_log(&machine, "10.77.0.1:80", "a rule denies it");
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
    refused(&machine, &[(&own.to_string(), "127.0.0.1", "EHOSTUNREACH", "lender")]);
    let folder = machine.lab.dir().to_str().unwrap().to_owned();
    let looks = "import os, socket, sys
for name in 'door.sock', 'admin.sock':
    try:
        socket.socket(socket.AF_UNIX).connect(os.path.join(sys.argv[1], name)); print(name, 'OK')
    except OSError as e:
        print(name, 'no')";
    machine.lab.open_folder();
    for within in machine.everybody() {
        // As whoever gives commands to a lender with a folder of its own.
        let said = text(run(within.python(looks).arg(&folder).env("CAPUCHIND_DIR", &folder)).stdout);
        assert_eq!(said, "door.sock no\nadmin.sock no\n", "as {}", within.who());
    }
}
