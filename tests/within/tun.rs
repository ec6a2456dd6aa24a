//! A kernel without nf_tables: the program's packets cross a TUN device instead, and the person is told.

use std::process::Command;

use crate::{
    machine::{Machine, Within},
    support::{fails, json, run, text},
    under_filter::under_filter,
};

/// There is no netfilter: as under a kernel that was built without.
const WITHOUT_NETFILTER: &str = r#"
socket = {"x86_64": 41, "aarch64": 198}[platform.machine()]
# socket(AF_NETLINK, …, NETLINK_NETFILTER) gives EPROTONOSUPPORT, and all else goes its way.
steps = [(0x20, 0, 0, 0), (0x15, 0, 5, socket), (0x20, 0, 0, 16), (0x15, 0, 3, 16), (0x20, 0, 0, 32), (0x15, 0, 1, 12),
         (0x06, 0, 0, 0x50000 | 93), (0x06, 0, 0, 0x7fff0000)]
"#;

/// `command` under a kernel without netfilter.
fn without_netfilter(within: &Within, command: &Command) -> Command {
    under_filter(within, WITHOUT_NETFILTER, command)
}

/// The line for the person.
const TOLD: &str = "every packet of the program crosses a TUN device: slower";

#[test]
fn without_netfilter_packets_cross_a_tun_device_and_the_person_is_told() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let fetch = within.run(&["curl", "-sS", "--fail", "--noproxy", "*", "--max-time", "20", "http://10.77.0.1/"]);
        let mut command = without_netfilter(&within, &fetch);
        let fetched = run(&mut command);
        assert_eq!(text(fetched.stdout), "::ffff:10.77.0.1", "as {}", within.who());
        let said = text(fetched.stderr);
        assert_eq!(said.matches(TOLD).count(), 1, "{said}");
        let with = run(&mut within.run(&["ls", "/sys/class/net"]));
        assert!(!text(with.stderr).contains(TOLD));

        let mut doctor = within.capuchin();
        doctor.args(["doctor", "--json", "--", "sh"]);
        let way = |command: &mut Command| {
            let document = json(&command.output().unwrap().stdout);
            let checks = document["checks"].as_array().unwrap().clone();
            let state =
                |name: &str| checks.iter().find(|check| check["name"] == name).map(|check| check["state"].clone());
            let way = checks.iter().find(|check| check["name"] == "way").unwrap_or_else(|| panic!("{checks:?}"));
            let words = way["text"].as_str().unwrap().to_owned() + &way["mend"].to_string();
            let held = checks.iter().find(|check| check["name"] == "mode").unwrap()["text"].clone();
            (state("way").unwrap(), state("tun"), state("nf_tables"), words + held.as_str().unwrap())
        };
        let (state, tun, nf_tables, words) = way(&mut without_netfilter(&within, &doctor));
        assert_eq!((state, tun, nf_tables), ("warn".into(), Some("ok".into()), None), "{words}");
        assert!(words.contains("it would run in a network namespace of its own, led by a TUN device"), "{words}");
        assert!(words.contains("TUN device") && words.contains("modprobe -a nf_tables nft_tproxy"), "{words}");
        let (state, tun, nf_tables, words) = way(&mut doctor);
        assert_eq!((state, tun, nf_tables), ("ok".into(), None, Some("ok".into())), "{words}");
        assert!(words.contains("nf_tables"), "{words}");
    }
}

#[test]
fn without_either_nothing_runs_and_both_mends_are_told() {
    let machine = Machine::start();
    let within = machine.anybody();
    let bare = |inner: &Command| {
        let mut command = within.beside("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs none /dev/net && exec \"$@\"", "sh"]);
        command.arg(inner.get_program()).args(inner.get_args());
        command
    };
    let said = fails(&mut bare(&without_netfilter(&within, &within.run(&["echo", "ran"]))), 255);
    assert!(said.contains("error[local]: cannot make the TUN device of the program's network"), "{said}");
    assert!(said.contains("modprobe -a nf_tables nft_tproxy") && said.contains("modprobe tun"), "{said}");
    // A kernel that has netfilter needs no such device.
    run(&mut bare(&within.run(&["true"])));
    let mut doctor = within.capuchin();
    doctor.arg("doctor");
    let output = bare(&without_netfilter(&within, &doctor)).output().unwrap();
    let said = text(output.stdout);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("fail  tun") && said.contains("modprobe tun"), "{said}");
}

#[test]
fn an_address_that_no_packet_can_be_sent_to_is_not_kept_here() {
    let machine = Machine::start();
    let within = machine.anybody().over_tun();
    let said = fails(&mut within.run_with(&["--local", "[::1]:5432"], &["echo", "ran"]), 255);
    assert!(said.contains("error[usage]: --local cannot keep ::1 where packets cross a TUN device"), "{said}");
    assert!(said.contains("modprobe -a nf_tables nft_tproxy"), "{said}");
}

#[test]
fn sixty_four_mebibytes_go_and_come_whole() {
    let machine = Machine::start();
    let program = r#"
import hashlib, os, socket, threading
for host in ("10.77.0.1", "fd77::1", "127.0.0.1"):
    s = socket.create_connection((host, 7000))
    block = os.urandom(1 << 20)
    up, down, came = hashlib.sha256(), hashlib.sha256(), 0
    def send():
        for number in range(64):
            piece = number.to_bytes(4, "big") + block[4:]
            up.update(piece)
            s.sendall(piece)
        s.shutdown(socket.SHUT_WR)
    sending = threading.Thread(target=send)
    sending.start()
    while data := s.recv(1 << 18):
        down.update(data)
        came += len(data)
    sending.join()
    print(came >> 20, up.digest() == down.digest())
"#;
    for within in machine.borrowers().into_iter().map(Within::over_tun) {
        assert_eq!(text(run(&mut within.python(program)).stdout), "64 True\n".repeat(3), "as {}", within.who());
    }
}

/// To our listener both would come from one port to one address.
#[test]
fn one_port_of_a_program_may_have_connections_with_two_ports_of_one_target() {
    let machine = Machine::start();
    let program = r#"
import socket
own, sockets = None, []
for target in (7000, 7002, 80):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("10.77.0.1", own or 0))
    own = s.getsockname()[1]
    s.connect(("10.77.0.1", target))
    assert s.getsockname() == ("10.77.0.1", own) and s.getpeername() == ("10.77.0.1", target)
    sockets.append(s)
echo, tell, page = sockets
page.sendall(b"GET / HTTP/1.0\r\n\r\n")
echo.sendall(b"echo")
print(echo.recv(9).decode(), tell.recv(9).decode(), page.recv(15).decode())
"#;
    for within in machine.anybody_in_each_network() {
        assert_eq!(text(run(&mut within.python(program)).stdout), "echo 0 HTTP/1.0 200 OK\n", "as {}", within.who());
    }
}

/// What a program without any privilege can shape: options, pieces, protocols, and ports that are ours.
#[test]
fn packets_of_odd_shapes_end_nothing() {
    let machine = Machine::start();
    let program = r#"
import os, socket
def attempt(what):
    try:
        return what()
    except OSError:
        pass
def send(family, kind, protocol, options, host, port, size):
    s = attempt(lambda: socket.socket(family, kind, protocol))
    if s is None:
        return
    s.setblocking(False)
    for level, name, value in options:
        attempt(lambda: s.setsockopt(level, name, value))
    attempt(lambda: s.connect((host, port)))
    attempt(lambda: s.send(os.urandom(size)))
    attempt(lambda: s.recv(1 << 16))
    s.close()
hosts = ((2, "10.77.0.1"), (2, "127.0.0.1"), (2, "127.255.255.254"), (2, "203.0.113.9"), (10, "fd77::1"), (10, "::ffff:10.77.0.1"))
kinds = [(1, 0), (2, 0), (2, 136), (2, 1), (2, 58), (1, 132), (5, 132), (6, 33), (1, 262)]
record = bytes([7, 39, 4]) + bytes(37)
stamps = bytes([68, 36, 5, 0]) + bytes(36)
routed = bytes([131, 7, 4, 10, 77, 0, 1, 0])
options = [[], [(0, 4, record)], [(0, 4, stamps)], [(0, 4, routed)], [(0, 1, 255), (0, 2, 1)], [(41, 67, 255), (41, 16, 1)],
           [(6, 2, 88)], [(6, 23, 5), (6, 30, 1)], [(0, 10, 0), (41, 23, 0), (41, 24, 1280)], [(17, 103, 9)], [(17, 1, 1)]]
for family, host in hosts:
    for kind, protocol in kinds:
        for option in options:
            for size in (0, 1, 8, 9000, 65487, 65527):
                send(family, kind, protocol, option, host, 7000, size)
for port in list(range(1, 65536, 977)) + [0]:
    send(2, 2, 0, [], "10.77.0.1", port, 100)
    send(2, 1, 0, [], "10.77.0.1", port, 100)
for family, host in ((2, "10.77.0.1"), (10, "fd77::1")):
    s = socket.socket(family)
    s.settimeout(30)
    s.connect((host, 7000))
    s.sendall(b"still")
    print(s.recv(9).decode())
"#;
    for within in machine.borrowers().into_iter().map(Within::over_tun) {
        assert_eq!(text(run(&mut within.python(program)).stdout), "still\nstill\n", "as {}", within.who());
    }
}

#[test]
fn a_name_is_looked_up_at_the_lender_over_either_transport() {
    let machine = Machine::start();
    // Who is asked is the resolver inside: at whatever address of loopback, and at the lender's.
    let program = r#"
import socket, struct
query = b"\x5a\x07\x01\x00\x00\x01\0\0\0\0\0\0\x06secret\x07example\0\0\x01\0\x01"
for host in ("127.0.0.1", "127.0.0.53"):
    s = socket.socket(type=socket.SOCK_DGRAM)
    s.settimeout(30)
    s.connect((host, 53))
    s.send(query)
    print(s.recv(4096)[:2] == query[:2])
    s = socket.create_connection((host, 53), timeout=30)
    s.sendall(struct.pack("!H", len(query)) + query)
    print(s.recv(4096)[2:4] == query[:2])
"#;
    for within in machine.anybody_in_each_network() {
        assert_eq!(text(run(&mut within.python(program)).stdout), "True\n".repeat(4), "as {}", within.who());
    }
}
