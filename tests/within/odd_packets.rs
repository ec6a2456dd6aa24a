//! SYNs that no ordinary program sends: every option that a program without privileges can ask for, and those that root can.

use crate::{
    machine::Machine,
    support::{run, text},
};

/// Connects with each of them; what the kernel refuses, it refuses. Then as usual.
const CRAFTED: &str = r#"
import socket, struct
def tell(s):
    s.settimeout(60)
    s.sendall(b"x" * 3000)
    heard = b""
    while len(heard) < 3000:
        data = s.recv(65536)
        if not data:
            return "cut"
        heard += data
    return "OK"
IP, TCP, V6 = socket.IPPROTO_IP, socket.IPPROTO_TCP, socket.IPPROTO_IPV6
md5 = struct.pack("=H2xI", 2, 0) + bytes(120) + struct.pack("=HHI", 0, 3, 0) + b"key" + bytes(77)
odd = [
    ("record route", 2, IP, 4, b"\x07\x27\x04" + bytes(36)),
    ("timestamps", 2, IP, 4, b"\x44\x24\x05\x00" + bytes(32)),
    ("loose source route", 2, IP, 4, b"\x83\x07\x04\x0a\x4d\x00\x01\x00"),
    ("strict source route", 2, IP, 4, b"\x89\x07\x04\xc0\x00\x02\x07\x00"),
    ("security", 2, IP, 4, b"\x82\x0b" + bytes(9) + b"\x00"),
    ("no operations", 2, IP, 4, b"\x01" * 40),
    ("one hop", 2, IP, 2, 1),
    ("type of service", 2, IP, 1, 0xff),
    ("no fragments", 2, IP, 10, 2),
    ("least segment", 2, TCP, 2, 88),
    ("least segment of IPv6", 10, TCP, 2, 88),
    ("small window", 2, TCP, 10, 1),
    ("signed", 2, TCP, 14, md5),
    ("repair", 2, TCP, 19, 1),
    ("late", 2, TCP, 9, 1),
    ("fast open", 2, TCP, 30, 1),
    ("fast open, no cookie", 2, TCP, 34, 1),
    ("fast open of IPv6", 10, TCP, 30, 1),
    ("scalable", 2, TCP, 13, b"reno"),
    ("hops of IPv6", 10, V6, 16, 1),
    ("traffic class", 10, V6, 67, 0xff),
    ("flow label", 10, V6, 33, 1),
    ("hop-by-hop", 10, V6, 54, b"\x00\x00\x01\x04\x00\x00\x00\x00"),
    ("destination options", 10, V6, 59, b"\x00\x00\x01\x04\x00\x00\x00\x00"),
    ("routing header", 10, V6, 57, b"\x00\x02\x02\x01\x00\x00\x00\x00" + socket.inet_pton(10, "fd77::1")),
    ("device", 2, socket.SOL_SOCKET, 25, b"lo\0"),
    ("priority", 2, socket.SOL_SOCKET, 12, 6),
    ("lingering not", 2, socket.SOL_SOCKET, 13, struct.pack("ii", 1, 0)),
    ("tiny buffers", 2, socket.SOL_SOCKET, 8, 1),
]
for name, family, level, option, value in odd:
    s = socket.socket(family)
    # By whatever the option does to it, it may fail; then what follows must not. Most are served, on a busy machine too.
    s.settimeout(10)
    try:
        s.setsockopt(level, option, value)
        s.connect(("10.77.0.1" if family == 2 else "fd77::1", 7000))
        outcome = tell(s)
    except OSError as error:
        outcome = error.strerror
    s.close()
    plain = socket.create_connection(("10.77.0.1" if family == 2 else "fd77::1", 7000), 60)
    print(name, "|", outcome, "|", tell(plain), flush=True)
# The same ends again and again, and each end from itself to itself.
for _ in range(50):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, 13, struct.pack("ii", 1, 0))
    s.bind(("", 8040))
    s.settimeout(60)
    s.connect(("10.77.0.1", 7000))
    assert tell(s) == "OK"
    s.close()
for host in "127.0.0.1", "10.77.0.1":
    s = socket.socket()
    s.bind((host, 8041))
    s.settimeout(2)
    s.connect_ex((host, 8041))
    s.close()
print("end", "|", tell(socket.create_connection(("10.77.0.1", 7000), 60)))
"#;

#[test]
fn syns_with_every_option_are_answered_or_refused_and_the_next_one_is_served() {
    let machine = Machine::start();
    for within in machine.everybody() {
        let said = run(&mut within.python(CRAFTED));
        let (printed, told) = (text(said.stdout), text(said.stderr));
        let lines: Vec<_> = printed.lines().collect();
        assert_eq!(lines.len(), 30, "as {}: {printed}{told}", within.who());
        assert!(lines.iter().all(|line| line.ends_with("| OK")), "as {}: {printed}{told}", within.who());
        let served = lines.iter().filter(|line| line.contains("| OK |")).count();
        assert!(served >= 15, "only {served} of them are served as {}: {printed}", within.who());
        assert!(!told.contains("panicked"), "as {}: {told}", within.who());
    }
}
