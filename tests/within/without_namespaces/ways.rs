//! Ways around the filter, each tried by name, and by two threads at once.

use super::*;
use crate::around::none_is_open;

/// Ways past the filter; `PORT` of this machine is at stake.
const WAYS: &str = r#"
port = int(os.environ["PORT"])
for name, arguments in {"ping": (2, 2, 1), "sctp": (2, 1, 132), "udplite": (2, 2, 136)}.items():
    tried(name, lambda: socket.socket(*arguments))
if libc.syscall(444, None, 0, 1) >= 6: # Landlock that knows scopes
    tried("memory", lambda: open("/proc/%d/mem" % outsider, "r+b"))
    tried("signal", lambda: os.kill(outsider, 9))
    tried("signal to capuchin", lambda: os.kill(os.getppid(), 9))
tried("tap", lambda: fcntl.ioctl(0, 0x400454ca, struct.pack("16sH22x", b"tap0", 2)))
tcp = socket.socket()
tried("fastopen", lambda: tcp.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", port)))
tcp.setsockopt(socket.IPPROTO_TCP, 30, 1) # TCP_FASTOPEN_CONNECT
tried("fastopen-connect", lambda: tcp.connect(("127.0.0.1", port)))
index = struct.pack("=I", socket.htonl(1))
for name, option in {
    "device": (1, 25, b"lo\0"), "device by number": (1, 62, 1), "device of IPv4": (0, 50, index), "device of IPv6": (41, 76, index),
    "device of an address": (41, 50, bytes(16) + struct.pack("=I", 1)),
}.items():
    kind = socket.SOCK_DGRAM if "IPv" in name else socket.SOCK_STREAM
    tried(name, lambda: socket.socket(2 if option[0] == 0 else 10, kind).setsockopt(*option))
tcp = socket.socket()
tried("bound", lambda: (tcp.bind(("0.0.0.0", 0)), tcp.connect(("127.0.0.1", port))))
a, b = socket.socketpair()
given = socket.socket()
socket.send_fds(a, [b"x"], [given.fileno()])
_, fds, _, _ = socket.recv_fds(b, 9, 1)
passed = socket.socket(fileno=fds[0])
tried("passed", lambda: passed.connect(("127.0.0.1", port)))
tried("source route", lambda: socket.socket().setsockopt(0, 4, bytes([131, 7, 4, 203, 0, 113, 9, 0])))
tried("source route of IPv6", lambda: socket.socket(10).setsockopt(41, 57, bytes([0, 2, 4, 0, 0, 0, 0, 0]) + bytes(16)))
tried("group", lambda: socket.socket(2, 2).setsockopt(0, 35, struct.pack("4s4s", socket.inet_aton("224.0.0.251"), bytes(4))))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
tried("broadcast", lambda: (udp.setsockopt(1, 6, 1), udp.sendto(b"x", ("255.255.255.255", port))))
# Taken by the lender, whose policy is asked; nobody of this machine hears it.
udp.sendto(b"x", ("127.0.0.1", port))
udp.sendmsg([b"x"], [(socket.IPPROTO_IP, 8, struct.pack("i4s4s", 1, bytes(4), bytes(4)))], 0, ("127.0.0.1", port))
name = struct.pack("=HH4s8x", 2, socket.htons(port), socket.inet_aton("127.0.0.1"))
name, content = ctypes.create_string_buffer(name, 16), ctypes.create_string_buffer(b"x", 1)
part = (ctypes.c_size_t * 2)(ctypes.addressof(content), 1)
headers = b"".join(struct.pack("=QI4xQQQQi4xI4x", ctypes.addressof(name), 16, ctypes.addressof(part), 1, 0, 0, 0, 0) for _ in range(3))
headers = ctypes.create_string_buffer(headers, 3 * 64)
print("sendmmsg", libc.sendmmsg(udp.fileno(), headers, 3, 0), [struct.unpack_from("=I", headers, 64 * n + 56)[0] for n in range(3)])
udp.connect(("127.0.0.1", port))
udp.send(b"x")
# A way that a datagram would take: IP_RETOPTS.
udp.sendmsg([b"x"], [(socket.IPPROTO_IP, 7, bytes([131, 7, 4, 203, 0, 113, 9, 0]))])
"#;

#[test]
fn no_way_around_is_open() {
    let machine = Machine::start();
    let outside = Outside::new();
    let shut = [
        "ping EPROTONOSUPPORT",
        "sctp EPROTONOSUPPORT",
        "udplite EPROTONOSUPPORT",
        "tap EPERM",
        "fastopen ENOTSUP",
        "fastopen-connect ECONNREFUSED",
        "device EPERM",
        "device by number EPERM",
        "device of IPv4 EPERM",
        "device of IPv6 EPERM",
        "device of an address EPERM",
        "bound ECONNREFUSED",
        "passed ECONNREFUSED",
        "source route EPERM",
        "source route of IPv6 EPERM",
        "group ENODEV",
        "broadcast ENETUNREACH",
        "sendmmsg 3 [1, 1, 1]",
    ];
    for within in machine.borrowers() {
        none_is_open(&within, &["--no-netns"], WAYS, &shut, &[("PORT", outside.port().to_string())]);
        outside.has_seen_nobody();
    }
}

/// A thread that changes what was looked at: the address, and the socket under the number.
const RACE: &str = r#"
import ctypes, os, socket, struct, sys, threading
port, there = int(sys.argv[1]), 7000
libc = ctypes.CDLL(None, use_errno=True)
name = ctypes.create_string_buffer(struct.pack("=HH4s8x", 2, socket.htons(there), socket.inet_aton("10.77.0.1")), 16)
content = ctypes.create_string_buffer(b"x", 1)
part = (ctypes.c_size_t * 2)(ctypes.addressof(content), 1)
header = ctypes.create_string_buffer(struct.pack("=QI4xQQQQi4x", ctypes.addressof(name), 16, ctypes.addressof(part), 1, 0, 0, 0), 56)
number = socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()
unix, inet = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
over = threading.Event()
def change():
    good = (socket.htons(there), socket.inet_aton("10.77.0.1"))
    bad = (socket.htons(port), socket.inet_aton("127.0.0.1"))
    while not over.is_set():
        struct.pack_into("=H4s", name, 2, *bad)
        os.dup2(unix.fileno(), number)
        struct.pack_into("=H4s", name, 2, *good)
        os.dup2(inet.fileno(), number)
changing = threading.Thread(target=change)
changing.start()
for _ in range(3000):
    libc.sendmsg(number, header, 0)
    libc.bind(number, name, 16)
for _ in range(300):
    s = socket.socket()
    libc.connect(s.fileno(), name, 16)
    s.close()
over.set()
changing.join()
print("done")
"#;

#[test]
fn what_changes_while_it_is_judged_changes_nothing() {
    let machine = Machine::start();
    let outside = Outside::new();
    for within in machine.borrowers() {
        let said = says(&mut within.bare(&["python3", "-c", RACE, &outside.port().to_string()]));
        assert_eq!(said, "done\n", "as {}", within.uid);
        outside.has_seen_nobody();
    }
}

#[test]
#[cfg(target_arch = "x86_64")]
fn the_second_system_call_table_has_no_sockets() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let (source, program) = (within.home.folder.path().join("way.c"), within.home.folder.path().join("way"));
        std::fs::write(&source, crate::confined::INT_80).unwrap();
        run(Command::new("cc").arg("-o").arg(&program).arg(&source));
        let tried = says(&mut within.bare(&[program.to_str().unwrap()]));
        assert_eq!(tried, "-38 -38 -38 -38 -38\n", "as {}", within.uid);
    }
}
