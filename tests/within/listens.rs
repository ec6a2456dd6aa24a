//! Programs that listen: at the lender's addresses, with the lender's errors, and visited from where visitors are.

use std::process::Stdio;

use crate::{
    machine::{Machine, Within},
    support::{Daemon, run, text},
};

/// Listens where it is told, says so, and answers each visitor with his address and what he said, when he has said it all.
const SERVER: &str = r#"
import socket, sys, threading
def answer(conn, peer):
    said = b""
    while data := conn.recv(65536):
        said += data
    conn.sendall(("%s %d %d|" % (peer[0], peer[1], len(said))).encode() + said[-20:])
    conn.close()
listeners = []
for at in sys.argv[1:]:
    host, port = at.rsplit(":", 1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6 and "[" in host:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((host.strip("[]"), int(port)))
    listener.listen(64)
    listeners.append(listener)
print("listens on", *[listener.getsockname()[1] for listener in listeners], flush=True)
def serve(listener):
    while True:
        threading.Thread(target=answer, args=listener.accept(), daemon=True).start()
for listener in listeners:
    threading.Thread(target=serve, args=(listener,), daemon=True).start()
sys.stdin.read()
"#;

/// Connects from an address to others, says something, ends its half, and prints what it hears.
const VISIT: &str = r#"
import errno, socket, sys
source, size, *targets = sys.argv[1:]
for target in targets:
    host, port = target.rsplit(":", 1)
    s = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    s.settimeout(20)
    if source:
        s.bind((source, 0))
    try:
        s.connect((host, int(port)))
        s.sendall(b"x" * int(size) + b"good day")
        s.shutdown(socket.SHUT_WR)
        heard = b""
        while data := s.recv(65536):
            heard += data
        own = "%s %d %d|" % (*s.getsockname()[:2], int(size) + 8)
        heard = heard.removeprefix(b"::ffff:")
        print("met" if heard.startswith(own.encode()) and heard.endswith(b"good day") else heard)
    except OSError as e:
        print(errno.errorcode.get(e.errno, e))
"#;

/// A server that runs until its input ends.
fn serves(within: &Within, options: &[&str], at: &[&str]) -> (Daemon, String) {
    let mut command = within.run_with(options, &["python3", "-c", SERVER]);
    let server = Daemon::spawn(command.args(at).stdin(Stdio::piped()));
    let line = server.wait_for_line("listens on");
    (server, line)
}

fn visit(machine: &Machine, source: &str, size: usize, targets: &[&str]) -> String {
    let mut visitor = machine.there(&["python3", "-c", VISIT, source, &size.to_string()]);
    text(run(visitor.args(targets)).stdout)
}

#[test]
fn a_server_is_met_at_the_lender_and_sees_who_comes() {
    let machine = Machine::start();
    for within in machine.everybody() {
        let (mut server, _) = serves(&within, &[], &["0.0.0.0:8000", "[::]:8000", ":::8001"]);
        assert_eq!(
            visit(&machine, "10.78.0.1", 0, &["10.77.0.1:8000", "10.77.0.2:8000", "10.77.0.1:8001"]),
            "met\nmet\nmet\n"
        );
        assert_eq!(visit(&machine, "fd88::1", 300_000, &["fd77::1:8000", "fd77::1:8001"]), "met\nmet\n");
        assert_eq!(visit(&machine, "", 3_000_000, &["127.0.0.1:8000", "::1:8001"]), "met\nmet\n");
        drop(server.stdin.take());
        assert!(server.wait().success());
        for address in ["0.0.0.0:8000", "[::]:8000", "[::]:8001"] {
            machine.wait_for_close(address);
        }
        assert_eq!(visit(&machine, "", 0, &["10.77.0.1:8000", "fd77::1:8001"]), "ECONNREFUSED\nECONNREFUSED\n");
    }
}

#[test]
fn bind_and_listen_fail_as_the_lenders_do() {
    let machine = Machine::start();
    let program = r#"
import ctypes, errno, os, socket
def attempt(what):
    try:
        what()
        return "OK"
    except OSError as e:
        return errno.errorcode[e.errno]
s = socket.socket()
for at in ("10.77.0.1", 7000), ("0.0.0.0", 80), ("0.0.0.0", 81), ("203.0.113.9", 8000), ("10.77.0.2", 8500):
    print(*at, attempt(lambda: s.bind(at)))
# A socket that was refused is as it was.
print("then", attempt(lambda: s.bind(("10.77.0.1", 8000))), attempt(lambda: s.listen()), attempt(lambda: s.listen(9)))
print("again", attempt(lambda: s.bind(("10.77.0.1", 8001))))
print("taken", attempt(lambda: socket.socket().bind(("10.77.0.1", 8000))))
libc, own = ctypes.CDLL(None, use_errno=True), socket.socket()
for fd, address, length in (own.fileno(), 8, 16), (99, 8, 16), (0, 8, 16), (own.fileno(), None, 0), (own.fileno(), 8, 4096):
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
        raw EFAULT\nraw EBADF\nraw ENOTSOCK\nraw EINVAL\nraw EINVAL\nfiles -1 ENOTSOCK\nudp ENOTSUP\nconnected EINVAL\nunix OK OK OK\n";
    for within in machine.borrowers() {
        let said = run(&mut within.python(program));
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

#[test]
fn listen_binds_by_itself_may_come_again_and_revives_what_was_shut_down() {
    let machine = Machine::start();
    let program = r#"
import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.listen()
print("port", s.getsockname()[1], flush=True)
s.accept()[0].sendall(b"first")
s.shutdown(socket.SHUT_RDWR)
print("shut", flush=True)
sys.stdin.readline()
s.listen(5)
print("revived", flush=True)
s.accept()[0].sendall(b"second")
sys.stdin.readline()
"#;
    let reads = "import socket, sys; print(socket.create_connection(('10.77.0.1', int(sys.argv[1])), 20).recv(99))";
    for within in machine.borrowers() {
        let mut server = Daemon::spawn(within.python(program).stdin(Stdio::piped()));
        let line = server.wait_for_line("port ");
        let port = line.split_once(' ').unwrap().1;
        assert_eq!(text(run(&mut machine.there(&["python3", "-c", reads, port])).stdout), "b'first'\n");
        server.wait_for_line("shut");
        // Who comes now is sent away, and the next one meets nobody.
        let sent_away = text(machine.there(&["python3", "-c", reads, port]).output().unwrap().stderr);
        assert!(
            sent_away.contains("ConnectionResetError") || sent_away.contains("ConnectionRefusedError"),
            "{sent_away}"
        );
        machine.wait_for_close(&format!("0.0.0.0:{port}"));
        std::io::Write::write_all(server.stdin.as_mut().unwrap(), b"\n").unwrap();
        server.wait_for_line("revived");
        assert_eq!(text(run(&mut machine.there(&["python3", "-c", reads, port])).stdout), "b'second'\n");
    }
}

#[test]
fn a_port_is_open_as_long_as_somebody_has_its_socket() {
    let machine = Machine::start();
    // A child, a duplicate and a descriptor that was sent, each of which is the last one once.
    let program = r#"
import os, socket, sys
def listens(port):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("10.77.0.1", port))
    return s
inherited, duplicated, sent = listens(8001), listens(8002), listens(8003)
inherited.listen()
other = os.dup(duplicated.fileno())
duplicated.close()
duplicated = socket.socket(fileno=other)
duplicated.listen()
one, two = socket.socketpair()
socket.send_fds(one, [b"x"], [sent.fileno()])
sent.close()
sent = socket.socket(fileno=socket.recv_fds(two, 1, 1)[1][0])
sent.listen()
if os.fork() == 0:
    for s in inherited, duplicated, sent:
        s.accept()[0].sendall(b"child")
    print("served", flush=True)
    sys.stdin.readline()
    inherited.close()
    sys.stdin.readline()
    os._exit(0)
for s in inherited, duplicated, sent:
    s.close()
print("prepared", flush=True)
os.wait()
"#;
    let reads = "import socket\nfor port in 8001, 8002, 8003: print(socket.create_connection(('10.77.0.1', port), 20).recv(99))";
    for within in machine.borrowers() {
        let mut server = Daemon::spawn(within.python(program).stdin(Stdio::piped()));
        server.wait_for_line("prepared");
        assert_eq!(text(run(&mut machine.there(&["python3", "-c", reads])).stdout), "b'child'\n".repeat(3));
        server.wait_for_line("served");
        let closed = |port| move |line: &&serde_json::Value| line["event"] == "listen-closed" && line["target"] == port;
        let before = machine.lab.audit().iter().filter(closed("10.77.0.1:8002")).count();
        std::io::Write::write_all(server.stdin.as_mut().unwrap(), b"\n").unwrap();
        machine.wait_for_close("10.77.0.1:8001");
        assert_eq!(machine.lab.audit().iter().filter(closed("10.77.0.1:8002")).count(), before);
        std::io::Write::write_all(server.stdin.as_mut().unwrap(), b"\n").unwrap();
        assert!(server.wait().success());
        machine.wait_for_close("10.77.0.1:8003");
    }
}

#[test]
fn a_port_is_closed_and_bound_again_two_hundred_times() {
    let machine = Machine::start();
    let program = r#"
import socket
for number in range(200):
    # Another address by turns, which is met at the same port.
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("0.0.0.0" if number % 2 else "10.77.0.1", 8004))
    s.listen()
    s.close()
print("all")
"#;
    for within in machine.borrowers() {
        assert_eq!(text(run(&mut within.python(program)).stdout), "all\n", "as {}", within.uid);
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

#[test]
fn sockets_share_a_port_where_the_kernel_lets_them() {
    let machine = Machine::start();
    let program = r#"
import os, socket, sys
def listens():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(("0.0.0.0", 8005))
    s.listen()
    return s
children = []
for name in (b"one", b"two"):
    if (pid := os.fork()) == 0:
        s = listens()
        print("ready", flush=True)
        while True:
            s.accept()[0].sendall(name)
    children.append(pid)
sys.stdin.readline()
os.kill(children[0], 9)
os.waitpid(children[0], 0)
print("killed", flush=True)
sys.stdin.readline()
"#;
    let reads = r#"
import socket, sys
heard = set()
for _ in range(60):
    heard.add(socket.create_connection(("10.77.0.1", 8005), 20).recv(99))
print(sorted(heard))
"#;
    let within = machine.anybody();
    let mut server = Daemon::spawn(within.python(program).stdin(Stdio::piped()));
    server.wait_for_line("ready");
    server.wait_for_line("ready");
    let heard = |machine: &Machine| text(run(&mut machine.there(&["python3", "-c", reads])).stdout);
    assert_eq!(heard(&machine), "[b'one', b'two']\n");
    std::io::Write::write_all(server.stdin.as_mut().unwrap(), b"\n").unwrap();
    server.wait_for_line("killed");
    assert_eq!(heard(&machine), "[b'two']\n");
}

#[test]
fn loopback_is_the_programs_alone_unless_it_is_published() {
    let machine = Machine::start();
    for within in machine.anybody_in_each_network() {
        let at = ["127.0.0.1:8006", "::1:8006"];
        {
            let (_server, _) = serves(&within, &[], &at);
            assert_eq!(visit(&machine, "", 0, &at), "ECONNREFUSED\nECONNREFUSED\n");
        }
        {
            let (_server, _) = serves(&within, &["--publish-loopback"], &at);
            assert_eq!(visit(&machine, "", 0, &at), "met\nmet\n");
            assert_eq!(visit(&machine, "", 0, &["10.77.0.1:8006"]), "ECONNREFUSED\n");
        }
        let (mut server, _) =
            serves(&within, &["--publish", "8007:80", "--publish", "8008:8006"], &["0.0.0.0:80", at[0]]);
        assert_eq!(visit(&machine, "", 0, &["10.77.0.1:8007", "127.0.0.1:8008"]), "met\nmet\n");
        assert_eq!(visit(&machine, "", 0, &["10.77.0.1:8008", "127.0.0.1:8006"]), "ECONNREFUSED\nECONNREFUSED\n");
        drop(server.stdin.take());
        assert!(server.wait().success());
    }
}

#[test]
fn a_program_meets_itself_at_the_lenders_address() {
    let machine = Machine::start();
    let program = r#"
import socket
s = socket.create_server(("0.0.0.0", 8009))
for host in "127.0.0.1", "10.77.0.1":
    c = socket.create_connection((host, 8009))
    conn, peer = s.accept()
    assert peer == c.getsockname(), (peer, c.getsockname())
s.close()
for host in "127.0.0.1", "10.77.0.1":
    assert socket.socket().connect_ex((host, 8009)) == 111
print("met")
"#;
    for within in machine.everybody() {
        assert_eq!(text(run(&mut within.python(program)).stdout), "met\n");
    }
}

#[test]
fn visitors_wait_while_the_program_does_not_accept() {
    let machine = Machine::start();
    let program = r#"
import socket, sys
s = socket.socket()
s.bind(("0.0.0.0", 8010))
s.listen(8)
print("ready", flush=True)
sys.stdin.readline()
for _ in range(100):
    conn, _ = s.accept()
    conn.sendall(conn.recv(99))
    conn.close()
print("all", flush=True)
"#;
    let visitors = r#"
import socket
visitors = []
for number in range(100):
    # One after the other: a burst would overflow the lender's own queue, as it would any.
    visitors.append(socket.create_connection(("10.77.0.1", 8010), 60))
    visitors[-1].sendall(b"%d" % number)
print("here", flush=True)
for number, s in enumerate(visitors):
    assert s.recv(99) == b"%d" % number
print("answered")
"#;
    let within = machine.anybody();
    let mut server = Daemon::spawn(within.python(program).stdin(Stdio::piped()));
    server.wait_for_line("ready");
    let mut visiting = Daemon::spawn(&mut machine.there(&["python3", "-c", visitors]));
    visiting.wait_for_line("here");
    std::io::Write::write_all(server.stdin.as_mut().unwrap(), b"\n").unwrap();
    visiting.wait_for_line("answered");
    server.wait_for_line("all");
    assert!(server.wait().success() && visiting.wait().success());
}

#[test]
fn a_borrower_that_is_killed_leaves_no_port_open() {
    let machine = Machine::start();
    for within in machine.everybody() {
        let (mut server, _) = serves(&within, &[], &["0.0.0.0:8011", "0.0.0.0:0"]);
        assert_eq!(visit(&machine, "", 0, &["10.77.0.1:8011"]), "met\n");
        server.kill();
        machine.wait_for_close("0.0.0.0:8011");
        assert_eq!(visit(&machine, "", 0, &["10.77.0.1:8011"]), "ECONNREFUSED\n");
    }
}

/// More than the kernel has room to tell of: what was not told is looked for.
#[test]
fn twenty_thousand_sockets_that_close_at_once_close_their_ports() {
    let machine = Machine::start();
    let program = r#"
import os, resource, signal, socket, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
kept = socket.create_server(("10.77.0.1", 8012))
pids, left = [], 20000
while left:
    number = min(hard - 100, left)
    left -= number
    ready, tell = os.pipe()
    if (pid := os.fork()) == 0:
        published = [socket.create_server(("10.77.0.1", 8100 + len(pids) * 8 + i)) for i in range(8)]
        many = [socket.socket() for _ in range(number)]
        os.write(tell, b"x")
        signal.pause()
    os.read(ready, 1)
    pids.append(pid)
print("ready", len(pids), flush=True)
sys.stdin.readline()
for pid in pids:
    os.kill(pid, 9)
for pid in pids:
    os.waitpid(pid, 0)
print("closed", flush=True)
kept.accept()[0].sendall(b"kept")
"#;
    let within = machine.anybody();
    let mut server = Daemon::spawn(within.python(program).stdin(Stdio::piped()));
    let line = server.wait_for_line("ready ");
    let children: usize = line.rsplit(' ').next().unwrap().parse().unwrap();
    std::io::Write::write_all(server.stdin.as_mut().unwrap(), b"\n").unwrap();
    server.wait_for_line("closed");
    for port in 0..children * 8 {
        machine.wait_for_close(&format!("10.77.0.1:{}", 8100 + port));
    }
    let reads = "import socket; print(socket.create_connection(('10.77.0.1', 8012), 20).recv(99))";
    assert_eq!(text(run(&mut machine.there(&["python3", "-c", reads])).stdout), "b'kept'\n");
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
