//! What bind and listen give to a program: the lender's errors, its ports, and what was judged and nothing else.

use crate::{
    listens::{serves, visit},
    machine::Machine,
    support::{Daemon, run, text},
};

/// What comes of a call, for programs that make one after the other.
pub const ATTEMPT: &str = r#"
import errno, socket
def attempt(what):
    try:
        what()
        return "OK"
    except OSError as e:
        return errno.errorcode[e.errno]
"#;

#[test]
fn bind_and_listen_fail_as_the_lenders_do() {
    let machine = Machine::start();
    let program = r#"
import ctypes, os
s = socket.socket()
for at in ("10.77.0.1", 7000), ("0.0.0.0", 80), ("0.0.0.0", 81), ("203.0.113.9", 8000), ("10.77.0.2", 8500):
    print(*at, attempt(lambda: s.bind(at)))
# A socket that was refused is as it was.
print("then", attempt(lambda: s.bind(("10.77.0.1", 8000))), attempt(lambda: s.listen()), attempt(lambda: s.listen(9)))
print("again", attempt(lambda: s.bind(("10.77.0.1", 8001))))
print("taken", attempt(lambda: socket.socket().bind(("10.77.0.1", 8000))))
libc, own = ctypes.CDLL(None, use_errno=True), socket.socket()
for fd, address, length in (own.fileno(), 8, 16), (99, 8, 16), (-5, 8, 16), (0, 8, 16), (own.fileno(), None, 0), (own.fileno(), 8, 4096):
    assert libc.bind(fd, ctypes.c_void_p(address), length) == -1
    print("raw", errno.errorcode[ctypes.get_errno()])
print("files", libc.listen(0, 1), errno.errorcode[ctypes.get_errno()])
print("udp", attempt(lambda: socket.socket(type=socket.SOCK_DGRAM).listen()))
peer = socket.create_connection(("10.77.0.1", 7000))
print("connected", attempt(lambda: peer.listen()))
os.chdir(os.environ["HOME"])
unix = socket.socket(socket.AF_UNIX)
print("unix", attempt(lambda: unix.bind("own.sock")), attempt(lambda: unix.listen()), attempt(lambda: socket.socket(socket.AF_UNIX).connect("own.sock")))
os.unlink("own.sock")
"#;
    let expected = "10.77.0.1 7000 EADDRINUSE\n0.0.0.0 80 EACCES\n0.0.0.0 81 EACCES\n203.0.113.9 8000 EADDRNOTAVAIL\n\
        10.77.0.2 8500 EACCES\nthen OK OK OK\nagain EINVAL\ntaken EADDRINUSE\n\
        raw EFAULT\nraw EBADF\nraw EBADF\nraw ENOTSOCK\nraw EINVAL\nraw EINVAL\nfiles -1 ENOTSOCK\nudp ENOTSUP\nconnected EINVAL\nunix OK OK OK\n";
    for within in machine.borrowers() {
        let said = run(&mut within.python(&(ATTEMPT.to_owned() + program)));
        assert_eq!(text(said.stdout), expected, "as {}: {}", within.uid, text(said.stderr));
    }
}

#[test]
fn a_refused_port_is_told_once_on_standard_error() {
    let machine = Machine::start();
    let program = "import socket\nfor _ in range(3): print(socket.socket().connect_ex(('127.0.0.1', 9)), end=' ')\n\
                   for _ in range(3):\n try: socket.socket().bind(('0.0.0.0', 80))\n except OSError as e: print(e.errno)";
    let said = run(&mut machine.anybody().python(program));
    assert_eq!(text(said.stdout), "111 111 111 13\n13\n13\n");
    let told = text(said.stderr);
    assert_eq!(told.matches("listen 0.0.0.0:80 is refused").count(), 1, "{told}");
}

#[test]
fn port_zero_is_one_that_the_policy_allows_or_is_the_programs_alone() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let (_server, line) = serves(&within, &[], &["0.0.0.0:0", "10.77.0.1:0"]);
        let ports: Vec<u16> = line.split(' ').skip(2).map(|port| port.parse().unwrap()).collect();
        assert!(ports.iter().all(|port| (8000..9000).contains(port)), "{ports:?}");
        let targets: Vec<String> = ports.iter().map(|port| format!("10.77.0.1:{port}")).collect();
        let targets: Vec<&str> = targets.iter().map(String::as_str).collect();
        assert_eq!(visit(&machine, "", 0, &targets), "met\nmet\n");
        // Where no port is allowed, a client still may choose its address.
        let program = r#"
import errno, socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
s.listen()
s = socket.socket(socket.AF_INET6)
s.bind(("fd99::1", 0))
"#;
        let said = within.python(program).output().unwrap();
        let told = text(said.stderr);
        assert!(told.contains("Cannot assign requested address"), "{told}");
    }
}

/// As a client does that is told which address to use, and what asks so whether an address is its machine's. Nothing may be listened on here.
#[test]
fn port_zero_of_an_address_that_the_lender_does_not_have_is_refused() {
    let lets_send = "[[allow]]\nwho = [\"alice\"]\nconnect = [\"10.77.0.0/16:*\"]\nudp = [\"10.77.0.0/16:*\"]\n";
    let machine = Machine::with_policy(lets_send);
    let program = r#"
for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
    for host in "10.99.0.1", "fd99::1", "::ffff:10.99.0.1", "10.77.0.2", "fd77::1", "10.78.0.255", "224.0.0.1", "0.0.0.0", "127.0.0.9":
        s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind)
        print(host, attempt(lambda: s.bind((host, 0))))
    IP_FREEBIND = 15
    s = socket.socket(type=kind)
    s.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
    print("free", attempt(lambda: s.bind(("10.99.0.1", 0))))
"#;
    let expected = "10.99.0.1 EADDRNOTAVAIL\nfd99::1 EADDRNOTAVAIL\n::ffff:10.99.0.1 EADDRNOTAVAIL\n10.77.0.2 OK\nfd77::1 OK\n\
        10.78.0.255 OK\n224.0.0.1 OK\n0.0.0.0 OK\n127.0.0.9 OK\nfree OK\n";
    for within in machine.everybody() {
        let said = run(&mut within.python(&(ATTEMPT.to_owned() + program)));
        assert_eq!(text(said.stdout), expected.repeat(2), "as {}: {}", within.who(), text(said.stderr));
    }
}

/// As a client does that chooses its port, and tries one family after the other.
#[test]
fn a_client_that_was_refused_binds_its_port_again_at_once() {
    let machine = Machine::start();
    let program = r#"
import socket
for number in range(100):
    for family, every, target in (socket.AF_INET6, "::", "::1"), (socket.AF_INET, "0.0.0.0", "127.0.0.1"):
        s = socket.socket(family)
        s.bind((every, 8013))
        assert s.connect_ex((target, 9)) == 111
        s.close()
print("all")
"#;
    for within in machine.borrowers() {
        let said = run(&mut within.python(program));
        assert_eq!(text(said.stdout), "all\n", "as {}: {}", within.uid, text(said.stderr));
    }
}

/// One thread binds, another changes the address under it: what was judged is what is bound.
#[test]
fn an_address_that_changes_while_it_is_judged_is_bound_as_it_was_judged() {
    let machine = Machine::start();
    let program = r#"
import ctypes, socket, struct, threading
libc = ctypes.CDLL(None, use_errno=True)
# From the first on it is one of the two: of port 0 the lender would be asked as such.
address = ctypes.create_string_buffer(struct.pack("<HH", 2, socket.htons(8020)) + socket.inet_aton("10.77.0.1") + bytes(8))
stop = False
def flip():
    while not stop:
        for ip, port in (("10.77.0.1", 8020), ("127.0.0.1", 8021)):
            ctypes.memmove(ctypes.addressof(address) + 2, struct.pack(">H", port) + socket.inet_aton(ip), 6)
flipper = threading.Thread(target=flip)
flipper.start()
seen = set()
for _ in range(300):
    s = socket.socket()
    if libc.bind(s.fileno(), address, 16) == 0:
        seen.add("%s:%d" % s.getsockname())
    s.close()
stop = True
flipper.join()
print(*sorted(seen))
"#;
    let bound = text(run(&mut machine.anybody().python(program)).stdout);
    let bound: Vec<&str> = bound.split_whitespace().collect();
    assert!(bound.contains(&"10.77.0.1:8020") && bound.contains(&"127.0.0.1:8021"), "{bound:?}");
    for address in bound.iter().filter(|address| !address.starts_with("127.")) {
        let asked = |line: &serde_json::Value| line["event"] == "tcp-listen" && line["target"] == **address;
        assert!(machine.lab.audit().iter().any(asked), "{address} was bound and the lender never asked");
    }
}

#[test]
fn binding_a_port_for_datagrams_fails_as_the_lenders_does() {
    let machine = Machine::start();
    let program = r#"
s = socket.socket(type=socket.SOCK_DGRAM)
for at in ("10.77.0.1", 7000), ("0.0.0.0", 80), ("0.0.0.0", 81), ("203.0.113.9", 8000), ("10.77.0.2", 8500), ("10.77.0.1", 8034):
    print(*at, attempt(lambda: s.bind(at)))
other = socket.socket(type=socket.SOCK_DGRAM)
print("taken", attempt(lambda: other.bind(("10.77.0.1", 8034))))
s.close()
print("free", attempt(lambda: other.bind(("10.77.0.1", 8034))))
# A client asks, and a server of the same program answers, at the lender's address.
client = socket.socket(type=socket.SOCK_DGRAM)
client.settimeout(20)
client.connect(("10.77.0.1", 8034))
client.send(b"question")
other.sendto(b"answer", other.recvfrom(9)[1])
print("inside", client.recv(9).decode())
for _ in range(200):
    other.close()
    other = socket.socket(type=socket.SOCK_DGRAM)
    other.bind(("0.0.0.0", 8034))
for _ in range(2):
    s = socket.socket(type=socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    print("shared", attempt(lambda: s.bind(("10.77.0.1", 8035))))
    other = s if _ == 0 else other
"#;
    let expected = "10.77.0.1 7000 EADDRINUSE\n0.0.0.0 80 EACCES\n0.0.0.0 81 EACCES\n203.0.113.9 8000 EADDRNOTAVAIL\n\
        10.77.0.2 8500 EACCES\n10.77.0.1 8034 OK\ntaken EADDRINUSE\nfree OK\ninside answer\nshared OK\nshared OK\n";
    for within in machine.everybody() {
        let said = run(&mut within.python(&(ATTEMPT.to_owned() + program)));
        assert_eq!(text(said.stdout), expected, "as {}: {}", within.who(), text(said.stderr));
    }
}

/// As ntpd has it: one socket for every address, and one for each.
#[test]
fn a_port_for_datagrams_of_every_address_leaves_room_for_one_of_them() {
    let machine = Machine::start();
    let program = r#"
def bound(at, reuse=1):
    s = socket.socket(type=socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
    print(*at, attempt(lambda: s.bind(at)), flush=True)
    return s
every, one, alone = bound(("0.0.0.0", 8041)), bound(("10.77.0.1", 8041)), bound(("10.77.0.1", 8041), 0)
foreign = bound(("203.0.113.9", 8041))
every.close()
print("asked", flush=True)
said, who = one.recvfrom(99)
one.sendto(said.upper(), who)
"#;
    let asks = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.settimeout(30); s.connect(('10.77.0.1', 8041))\n\
                s.send(b'question'); print(s.recv(99).decode())";
    for within in machine.everybody() {
        let mut server = Daemon::spawn(&mut within.python(&(ATTEMPT.to_owned() + program)));
        for line in [
            "0.0.0.0 8041 OK",
            "10.77.0.1 8041 OK",
            "10.77.0.1 8041 EADDRINUSE",
            "203.0.113.9 8041 EADDRNOTAVAIL",
            "asked",
        ] {
            server.wait_for_line(line);
        }
        assert_eq!(text(run(&mut machine.there(&["python3", "-c", asks])).stdout), "QUESTION\n", "as {}", within.who());
        assert!(server.wait().success());
        machine.wait_for_close_of_datagrams("0.0.0.0:8041");
    }
}

/// As a program has it that binds IPv4 first, and then what listens for both families, or has a socket for datagrams of each.
#[test]
fn sockets_that_share_a_port_are_of_ipv4_and_of_both_families() {
    let machine = Machine::start();
    let program = r#"
def bound(what, family, host, kind, option):
    s = socket.socket(family, kind)
    if option:
        s.setsockopt(socket.SOL_SOCKET, option, 1)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    print(what, attempt(lambda: s.bind((host, 8042))), flush=True)
    return s
stream, datagram, reuse = socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SO_REUSEPORT
ipv4, every = (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")
v4 = bound("ipv4", *ipv4, stream, reuse)
both = bound("both", *every, stream, reuse)
alone = bound("alone", *every, stream, 0)
# As another worker has it.
more = bound("more", *every, stream, reuse)
u4 = bound("datagrams of ipv4", *ipv4, datagram, socket.SO_REUSEADDR)
uboth = bound("datagrams of both", *every, datagram, socket.SO_REUSEADDR)
more.close()
both.listen()
u4.close()
print("ready", flush=True)
for _ in range(2):
    s, peer = both.accept()
    s.sendall(b"both")
    # The visitor closes first, so that nothing lingers at the lender.
    s.recv(1)
    s.close()
    said, who = uboth.recvfrom(99)
    uboth.sendto(said.upper(), who)
"#;
    let asks = r#"
import socket, sys
for host in "10.77.0.1", "fd77::1":
    print(socket.create_connection((host, 8042), 30).recv(99).decode())
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(30)
    s.connect((host, 8042))
    s.send(b"question")
    print(s.recv(99).decode())
"#;
    for within in machine.everybody() {
        let mut server = Daemon::spawn(&mut within.python(&(ATTEMPT.to_owned() + program)));
        for line in [
            "ipv4 OK",
            "both OK",
            "alone EADDRINUSE",
            "more OK",
            "datagrams of ipv4 OK",
            "datagrams of both OK",
            "ready",
        ] {
            server.wait_for_line(line);
        }
        let said = text(run(&mut machine.there(&["python3", "-c", asks])).stdout);
        assert_eq!(said, "both\nQUESTION\n".repeat(2), "as {}", within.who());
        assert!(server.wait().success());
        machine.wait_for_close("0.0.0.0:8042");
        machine.wait_for_close("[::]:8042");
        machine.wait_for_close_of_datagrams("0.0.0.0:8042");
    }
}

/// As Go's runtime does at each start: it binds, never listens, and is answered here.
#[test]
fn who_looks_for_the_families_that_there_are_asks_the_lender_nothing() {
    let machine = Machine::start();
    let program = r#"
import socket
for only, address in (1, "::1"), (0, "::ffff:127.0.0.1"):
    s = socket.socket(socket.AF_INET6)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
    s.bind((address, 0))
    assert s.getsockname()[1] > 0
s = socket.socket()
s.bind(("127.0.0.1", 0))
assert s.getsockname()[1] > 0
"#;
    for within in machine.everybody() {
        run(&mut within.python(program));
    }
    let asked: Vec<_> = machine.lab.audit().into_iter().filter(|line| line["event"] == "tcp-listen").collect();
    assert!(asked.is_empty(), "{asked:?}");
}
