//! `--no-netns`: the same programs, held by nothing but their filter.

mod credentials;
mod last_words;
mod room;

use std::{
    net::{TcpListener, UdpSocket},
    os::unix::net::UnixListener,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::{
    connects::{PROBE, probed},
    machine::{Machine, Within},
    support::{Daemon, PATIENCE, fails, run, text},
};

impl Within {
    fn bare(&self, program: &[&str]) -> Command {
        self.run_with(&["--no-netns"], program)
    }

    fn bare_python(&self, source: &str) -> Command {
        self.bare(&["python3", "-c", source])
    }
}

/// What a program says on stdout, which must end well.
fn says(command: &mut Command) -> String {
    text(run(command).stdout)
}

/// A listener of this machine, at which nobody may come.
struct Outside {
    connections: TcpListener,
    datagrams: UdpSocket,
}

impl Outside {
    fn new() -> Self {
        let connections = TcpListener::bind("0.0.0.0:0").unwrap();
        let datagrams = UdpSocket::bind(("0.0.0.0", connections.local_addr().unwrap().port())).unwrap();
        connections.set_nonblocking(true).unwrap();
        datagrams.set_nonblocking(true).unwrap();
        Self { connections, datagrams }
    }

    fn port(&self) -> u16 {
        self.connections.local_addr().unwrap().port()
    }

    fn has_seen_nobody(&self) {
        let connected = self.connections.accept().map(|(_, from)| from);
        assert_eq!(connected.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let sent = self.datagrams.recv_from(&mut [0; 9]);
        assert_eq!(sent.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}

#[test]
fn curl_fetches_a_page_and_each_start_says_that_it_is_weaker() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        for url in ["http://10.77.0.1/", "http://[fd77::1]/", "http://127.0.0.1/", "http://[::1]/"] {
            let page = run(&mut within.bare(&["curl", "-sS", "--fail", "--noproxy", "*", "--max-time", "20", url]));
            assert!(!text(page.stdout).is_empty(), "{url} as {}", within.uid);
            assert_eq!(text(page.stderr).matches("--no-netns is weaker").count(), 1);
        }
        let refused = within.bare(&["curl", "-s", "--noproxy", "*", "http://10.77.0.1:9/"]).output().unwrap();
        assert_eq!(refused.status.code(), Some(7));
        fails(&mut within.bare(&["curl", "-s", "--noproxy", "*", "-m", "3", "http://10.78.0.9/"]), 28);
    }
}

#[test]
fn connect_fails_as_the_lenders_does() {
    let machine = Machine::start();
    let cases = [
        ("10.77.0.1:7000", "OK", "10.77.0.1"),
        ("10.77.0.1:9", "ECONNREFUSED", ""),
        ("203.0.113.5:80", "EHOSTUNREACH", ""),
        ("198.51.100.5:80", "EACCES", ""), // whatever routes there are, the policy's no comes first
        ("10.78.0.1:80", "EACCES", ""),    // the policy's no
        ("fd77::1:7000", "OK", "fd77::1"),
        ("fd77::1:9", "ECONNREFUSED", ""),
        ("fd88::1:80", "EACCES", ""), // the policy's no
        ("::1:7000", "OK", "::1"),
        ("127.0.0.1:9", "ECONNREFUSED", ""),
        ("::ffff:10.77.0.1:7000", "OK", "::ffff:10.77.0.1"),
        ("::ffff:10.77.0.1:9", "ECONNREFUSED", ""),
    ];
    let (targets, expected) = probed(&cases);
    for within in machine.borrowers() {
        let probed = run(&mut within.bare(&[&["python3", "-c", PROBE], targets.as_slice()].concat()));
        assert_eq!(text(probed.stdout), expected, "as {}", within.uid);
        let said = text(probed.stderr);
        assert_eq!(said.matches("connect 10.78.0.1:80 is refused: no rule allows it").count(), 1, "{said}");
    }
}

#[test]
fn a_socket_that_does_not_wait_is_connecting_until_the_lender_has_answered() {
    let machine = Machine::start();
    let program = r#"
import errno, select, socket
s = socket.socket()
s.setblocking(False)
print(errno.errorcode[s.connect_ex(("10.78.0.9", 80))], errno.errorcode[s.connect_ex(("10.78.0.9", 80))])
print(select.select([], [s], [], 0.5)[1], s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
s.close()
s = socket.socket()
s.setblocking(False)
s.connect_ex(("10.77.0.1", 9))
select.select([], [s], [], 20)
print(errno.errorcode[s.connect_ex(("10.77.0.1", 7000))])
print(errno.errorcode[s.connect_ex(("10.77.0.1", 7000))])
select.select([], [s], [], 20)
print(errno.errorcode[s.connect_ex(("10.77.0.1", 7000))])
s.setblocking(True)
s.sendall(b"again")
print(s.recv(9))
"#;
    for within in machine.borrowers() {
        let said = says(&mut within.bare_python(program));
        assert_eq!(
            said, "EINPROGRESS EALREADY\n[] 0\nECONNREFUSED\nEINPROGRESS\nEISCONN\nb'again'\n",
            "as {}",
            within.uid
        );
    }
}

#[test]
fn hundreds_of_connections_at_once_are_echoed() {
    let machine = Machine::start();
    let threads = r#"
import socket, threading
done = []
def one(number):
    s = socket.create_connection(("10.77.0.1", 7000))
    s.sendall(b"%d" % number * 1000)
    s.shutdown(socket.SHUT_WR)
    data = b""
    while more := s.recv(65536):
        data += more
    done.append(data == b"%d" % number * 1000)
threads = [threading.Thread(target=one, args=(number,)) for number in range(200)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(done), all(done))
"#;
    let tasks = r#"
import asyncio
async def one(number):
    reader, writer = await asyncio.open_connection("fd77::1" if number % 2 else "10.77.0.1", 7000)
    writer.writelines([b"%d" % number, b"\n"])
    line = await reader.readline()
    return line == b"%d\n" % number and writer.get_extra_info("peername")[1] == 7000
async def main():
    answers = await asyncio.gather(*[one(number) for number in range(500)])
    print(len(answers), all(answers))
asyncio.run(main())
"#;
    for within in machine.borrowers() {
        assert_eq!(says(&mut within.bare_python(threads)), "200 True\n", "as {}", within.uid);
        assert_eq!(says(&mut within.bare_python(tasks)), "500 True\n", "as {}", within.uid);
    }
}

#[test]
fn a_program_learns_the_address_that_its_peer_sees() {
    let machine = Machine::start();
    let program = r#"
import socket
for host in ("10.77.0.1", "fd77::1", "127.0.0.1", "::1"):
    s = socket.create_connection((host, 80))
    own, peer = s.getsockname()[0], s.getpeername()[:2]
    s.sendall(b"GET / HTTP/1.0\r\n\r\n")
    answer = b""
    while data := s.recv(4096):
        answer += data
    seen = answer.split(b"\r\n\r\n")[1].decode().removeprefix("::ffff:")
    print(own == seen, peer == (host, 80))
"#;
    for within in machine.borrowers() {
        assert_eq!(says(&mut within.bare_python(program)), "True True\n".repeat(4), "as {}", within.uid);
    }
}

#[test]
fn what_a_program_wrote_last_arrives_after_its_end() {
    let machine = Machine::start();
    let within = machine.anybody();
    let program = r#"
import socket
s = socket.create_connection(("10.77.0.1", 7001))
s.sendall(b"x" * 8000000)
"#;
    run(&mut within.bare_python(program));
    let told = "import socket; print(socket.create_connection(('10.77.0.1', 7002)).recv(99).decode())";
    assert_eq!(says(&mut within.bare_python(told)), "8000000\n");
}

#[test]
fn sockets_by_the_thousand_that_nobody_answers_stay_bounded() {
    let machine = Machine::start();
    let program = r#"
import collections, errno, resource, socket
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
sockets, said = [], collections.Counter()
for number in range(5000):
    s = socket.socket()
    s.setblocking(False)
    said[errno.errorcode[s.connect_ex(("10.78.0.9", 1 + number))]] += 1
    sockets.append(s)
print(said["EINPROGRESS"] + said["EAGAIN"])
for s in sockets:
    s.close()
while True:
    try:
        s = socket.create_connection(("10.77.0.1", 7000))
        break
    except OSError as error:
        # All streams of the session are the others', until it is noticed that nobody waits for them.
        assert error.errno in (errno.EAGAIN, errno.ETIMEDOUT, errno.ECONNRESET), error
s.sendall(b"still")
print(s.recv(9).decode())
"#;
    assert_eq!(says(&mut machine.anybody().bare_python(program)), "5000\nstill\n");
}

#[test]
fn datagrams_come_from_whom_they_were_sent_to() {
    let machine = Machine::start();
    let program = r#"
import socket
for family, host in ((socket.AF_INET, "10.77.0.1"), (socket.AF_INET6, "fd77::1"), (socket.AF_INET, "127.0.0.1")):
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(20)
    s.sendto(b"to", (host, 7000))
    data, peer = s.recvfrom(99)
    print(data, peer[:2] == (host, 7000))
    s.sendmsg([b"by ", b"parts"], [], 0, (host, 7000))
    data, _, _, peer = s.recvmsg(99)
    print(data, peer[:2] == (host, 7000))
    s.connect((host, 7000))
    s.send(b"connected")
    print(s.recv(99), s.getpeername()[:2] == (host, 7000))
    s.setblocking(True)
    s.send(b"waits")
    data, peer = s.recvfrom(99)
    print(data, peer[:2] == (host, 7000))
for bound in (True, False):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    t = socket.socket(socket.AF_INET6)
    if bound:
        s.bind(("::", 0))
        t.bind(("::", 0))
    for host in ("::ffff:10.77.0.1", "fd77::1", "::ffff:10.77.0.1"):
        s.sendto(b"both", (host, 7000))
        data, peer = s.recvfrom(99)
        print(data, peer[:2] == (host, 7000), s.getsockname()[0])
    t.connect(("::ffff:10.77.0.1", 7000))
    t.send(b"both")
    print(t.recv(99))
"#;
    let both = "b'both' True ::\n".repeat(3) + "b'both'\n";
    let expected = "b'to' True\nb'by parts' True\nb'connected' True\nb'waits' True\n".repeat(3) + &both.repeat(2);
    for within in machine.borrowers() {
        assert_eq!(says(&mut within.bare_python(program)), expected, "as {}", within.uid);
    }
}

#[test]
fn a_port_of_its_own_stays_inside_and_others_are_the_lenders() {
    let machine = Machine::start();
    let here = TcpListener::bind("127.0.0.1:0").unwrap();
    let kept = here.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for connection in here.incoming() {
            std::io::Write::write_all(&mut connection.unwrap(), b"kept here").unwrap();
        }
    });
    let program = format!(
        r#"
import errno, socket
def first(target):
    return socket.create_connection(target).recv(99)
kept = "{kept}".split(":")
print(first((kept[0], int(kept[1]))))
l = socket.create_server(("127.0.0.1", 0))
s = socket.create_connection(l.getsockname())
c, peer = l.accept()
c.sendall(b"own")
print(s.recv(9), peer == s.getsockname(), s.getpeername() == l.getsockname())
port = l.getsockname()[1]
c.close()
l.close()
print(errno.errorcode[socket.socket().connect_ex(("127.0.0.1", port))])
d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
d.bind(("", 0))
print(d.getsockname()[0])
e = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
e.sendto(b"own", ("127.0.0.1", d.getsockname()[1]))
print(d.recvfrom(9)[0])
"#
    );
    for within in machine.borrowers() {
        let mut command = within.run_with(&["--no-netns", "--local", &kept], &["python3", "-c", &program]);
        let said = says(&mut command);
        assert_eq!(said, "b'kept here'\nb'own' True True\nECONNREFUSED\n0.0.0.0\nb'own'\n", "as {}", within.uid);
    }
}

#[test]
fn beyond_loopback_nobody_listens_and_the_person_hears_why() {
    let machine = Machine::start();
    let program = r#"
import errno, socket
for address in ("0.0.0.0", "10.77.0.1"):
    s = socket.socket()
    s.bind((address, 8000))
    try:
        s.listen()
    except OSError as error:
        print(address, s.getsockname(), errno.errorcode[error.errno])
    s.close()
"#;
    for within in machine.borrowers() {
        let output = run(&mut within.bare_python(program));
        assert_eq!(
            text(output.stdout),
            "0.0.0.0 ('0.0.0.0', 8000) EACCES\n10.77.0.1 ('10.77.0.1', 8000) EACCES\n",
            "as {}",
            within.uid
        );
        let said = text(output.stderr);
        assert_eq!(said.matches("under --no-netns a program listens on loopback alone").count(), 1, "{said}");
    }
    let within = machine.anybody();
    let mut published = within.run_with(&["--no-netns", "--publish", "8080:80"], &["true"]);
    assert!(fails(&mut published, 255).contains("cannot be used with"));
}

/// Prints what each way ends in; `PORT` of this machine is at stake.
const WAYS: &str = r#"
import array, ctypes, errno, os, socket, struct, sys, threading
port = int(sys.argv[1])
def tried(way, act):
    try:
        act()
        print(way, "OPEN")
    except OSError as error:
        print(way, errno.errorcode.get(error.errno, error.errno))
for name, arguments in {
    "vsock": (40, 1), "packet": (17, 3), "bluetooth": (31, 3), "xdp": (44, 3), "raw": (2, 3, 6), "ping": (2, 2, 1),
    "netfilter": (16, 3, 12), "multipath": (2, 1, 262), "sctp": (2, 1, 132), "udplite": (2, 2, 136),
}.items():
    tried(name, lambda: socket.socket(*arguments))
libc = ctypes.CDLL(None, use_errno=True)
def call(way, *arguments):
    if libc.syscall(*arguments) < 0:
        print(way, errno.errorcode[ctypes.get_errno()])
    else:
        print(way, "OPEN")
call("io_uring", 425, 8, ctypes.create_string_buffer(200))
outsider = int(os.environ["OUTSIDER"])
call("pidfd_getfd", 438, os.pidfd_open(outsider), 0, 0)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
print("ptrace", "OPEN" if libc.ptrace(16, outsider, None, None) == 0 else errno.errorcode[ctypes.get_errno()])
page = (ctypes.c_size_t * 2)(4096, 1)
for way in (libc.process_vm_readv, libc.process_vm_writev):
    print(way.__name__, "OPEN" if way(outsider, page, 1, page, 1, 0) >= 0 else errno.errorcode[ctypes.get_errno()])
if libc.syscall(444, None, 0, 1) >= 6: # Landlock that knows scopes
    tried("memory", lambda: open("/proc/%d/mem" % outsider, "r+b"))
    tried("signal", lambda: os.kill(outsider, 9))
    tried("signal to capuchin", lambda: os.kill(os.getppid(), 9))
tcp = socket.socket()
tried("fastopen", lambda: tcp.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", port)))
tcp.setsockopt(socket.IPPROTO_TCP, 30, 1) # TCP_FASTOPEN_CONNECT
tried("fastopen-connect", lambda: tcp.connect(("127.0.0.1", port)))
tcp = socket.socket()
tried("device", lambda: (tcp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0"), tcp.connect(("127.0.0.1", port))))
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
print("done")
"#;

#[test]
fn no_way_around_is_open() {
    let machine = Machine::start();
    let outside = Outside::new();
    for within in machine.borrowers() {
        let mut outsider = Command::new("sleep");
        crate::support::as_user(outsider.arg("1000").stdin(Stdio::null()), within.uid);
        let outsider = Daemon::spawn(&mut outsider);
        let mut command = within.bare(&["python3", "-c", WAYS, &outside.port().to_string()]);
        let output = command.env("OUTSIDER", outsider.child.id().to_string()).output().unwrap();
        let said = text(output.stdout) + &text(output.stderr);
        for way in [
            "vsock EAFNOSUPPORT",
            "packet EAFNOSUPPORT",
            "bluetooth EAFNOSUPPORT",
            "xdp EAFNOSUPPORT",
            "raw EPERM",
            "ping EPROTONOSUPPORT",
            "netfilter EPROTONOSUPPORT",
            "multipath ENOPROTOOPT",
            "sctp EPROTONOSUPPORT",
            "udplite EPROTONOSUPPORT",
            "io_uring ENOSYS",
            "pidfd_getfd ENOSYS",
            "ptrace EPERM",
            "process_vm_readv EPERM",
            "process_vm_writev EPERM",
            "fastopen ENOTSUP",
            "fastopen-connect ECONNREFUSED",
            "device ECONNREFUSED",
            "bound ECONNREFUSED",
            "passed ECONNREFUSED",
            "source route EPERM",
            "source route of IPv6 EPERM",
            "group ENODEV",
            "broadcast ENETUNREACH",
            "sendmmsg 3 [1, 1, 1]",
            "done",
        ] {
            assert!(said.lines().any(|line| line == way), "{way} as {}: {said}", within.uid);
        }
        assert!(!said.contains("OPEN"), "as {}: {said}", within.uid);
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
    let within = machine.anybody();
    let (source, program) = (within.home.folder.path().join("way.c"), within.home.folder.path().join("way"));
    std::fs::write(&source, crate::confined::INT_80).unwrap();
    run(Command::new("cc").arg("-o").arg(&program).arg(&source));
    assert_eq!(says(&mut within.bare(&[program.to_str().unwrap()])), "-38 -38 -38 -38 -38\n");
}

/// Connects to each path in its arguments, and says what came of it; then to names of its own.
const UNIX: &str = r#"
import errno, os, socket, sys
def connect(name):
    s = socket.socket(socket.AF_UNIX)
    return errno.errorcode.get(s.connect_ex(name), "OK")
print(*[connect(path) for path in sys.argv[1:]])
print(connect("\0" + os.environ["ABSTRACT"]))
os.umask(0o027)
os.mkdir("here")
os.chdir("here")
for name in ("own", "\0own-%d" % os.getpid()):
    l = socket.socket(socket.AF_UNIX)
    l.bind(name)
    l.listen()
    print(connect(name), l.getsockname() == name or l.getsockname() == name.encode())
print(oct(os.stat("own").st_mode & 0o777))
d = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
d.bind("datagrams")
e = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
e.sendto(b"by name", "datagrams")
print(d.recv(99))
"#;

#[test]
fn unix_sockets_that_act_outside_are_out_of_reach() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let folder = within.home.folder.path();
        let runtime = within.home.runtime();
        std::fs::create_dir_all(&runtime).unwrap();
        let (bus, linked, plain) = (runtime.join("bus"), folder.join("linked"), folder.join("plain"));
        let listeners = [&bus, &plain].map(|path| UnixListener::bind(path).unwrap());
        for path in [&bus, &plain, &runtime] {
            let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
            std::fs::set_permissions(path, everybody).unwrap();
        }
        std::os::unix::fs::symlink(&bus, &linked).unwrap();
        let name = format!("capuchin-test-{}", std::process::id());
        let address = <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name);
        let abstracted = UnixListener::bind_addr(&address.unwrap()).unwrap();
        let paths = [&bus, &linked, &plain].map(|path| path.to_str().unwrap());
        let mut command = within.bare(&[&["python3", "-c", UNIX][..], &paths].concat());
        let expected = "ECONNREFUSED\nOK True\nOK True\n0o750\nb'by name'\n";
        let said = says(command.env("ABSTRACT", &name));
        assert_eq!(said, format!("ECONNREFUSED ECONNREFUSED OK\n{expected}"), "as {}", within.uid);
        std::fs::remove_dir_all(folder.join("here")).unwrap();
        let options = ["--no-netns", "--local-unix", paths[0]];
        let mut command = within.run_with(&options, &[&["python3", "-c", UNIX][..], &paths].concat());
        let said = says(command.env("ABSTRACT", &name));
        assert_eq!(said, format!("OK OK OK\n{expected}"), "as {}", within.uid);
        drop((listeners, abstracted));
    }
}

#[test]
fn a_program_dies_with_capuchin_and_reaches_nothing_meanwhile() {
    let machine = Machine::start();
    let outside = Outside::new();
    let program = format!(
        r#"
import os, socket
print("pid", os.getpid(), flush=True)
while True:
    try:
        socket.socket().connect(("127.0.0.1", {port}))
    except OSError:
        pass
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", {port}))
    except OSError:
        pass
"#,
        port = outside.port()
    );
    for within in machine.borrowers() {
        let mut running = Daemon::spawn(&mut within.bare_python(&program));
        let line = running.wait_for_line("pid ");
        let pid = Pid::from_raw(line.split(' ').nth(1).unwrap().parse().unwrap()).unwrap();
        let watch = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        running.kill();
        let timeout = rustix::event::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
        let mut fds = [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut fds, Some(&timeout)), Ok(1), "as {}", within.uid);
        outside.has_seen_nobody();
    }
}

#[test]
fn a_program_that_kills_who_looks_after_it_dies() {
    let machine = Machine::start();
    let within = machine.anybody();
    let mut program = Daemon::spawn(&mut within.bare(&["sh", "-c", "echo $PPID; sleep 1000"]));
    let inner = loop {
        if let Ok(pid) = program.wait_for_line("").parse() {
            break Pid::from_raw(pid).unwrap();
        }
    };
    kill_process(inner, Signal::KILL).unwrap();
    program.wait_for_line("error[local]: the half of capuchin that looked after the program is gone");
    assert_eq!(program.wait().code(), Some(255));
}

#[test]
fn the_program_is_a_process_as_in_the_other_mode() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        fails(&mut within.bare(&["sh", "-c", "exit 7"]), 7);
        fails(&mut within.bare(&["sh", "-c", "kill -TERM $$"]), 128 + 15);
        assert!(
            fails(&mut within.bare(&["/no/such/program"]), 127).contains("error[local]: cannot run /no/such/program")
        );
        assert_eq!(says(&mut within.bare(&["id", "-u"])).trim(), within.uid.to_string());
        let (mut reader, writer) = std::io::pipe().unwrap();
        rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&writer).to_string();
        let program = format!("import os; os.write({number}, b'through')");
        run(&mut within.run_with(&["--no-netns", "--keep-fd", &number], &["python3", "-c", &program]));
        drop(writer);
        assert_eq!(std::io::read_to_string(&mut reader).unwrap(), "through");
    }
    let within = machine.anybody();
    let trap = "trap 'exit 3' TERM; echo ready; while :; do sleep 60 & wait; done";
    let mut program = Daemon::spawn(&mut within.bare(&["sh", "-c", trap]));
    program.wait_for_line("ready");
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(3));
}

/// The limit belongs to the user namespace that is made here, and forbids any more below it.
#[test]
fn where_namespaces_are_forbidden_it_is_named_and_works() {
    let machine = Machine::start();
    let within = machine.anybody();
    let forbidden = |command: &Command| {
        let mut shell = Command::new("unshare");
        let forbid =
            "echo 0 > /proc/sys/user/max_user_namespaces; echo 0 > /proc/sys/user/max_net_namespaces; exec \"$@\"";
        // As somebody in it who is not its root.
        shell.args(["--user", "--map-current-user", "--keep-caps", "sh", "-c", forbid, "sh"]);
        shell.args(["setpriv", "--ambient-caps=-all", "--inh-caps=-all", "--bounding-set=-all"]);
        shell.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.current_dir(within.home.folder.path());
        crate::support::as_user(&mut shell, within.uid);
        shell
    };
    let said = fails(&mut forbidden(&within.run(&["true"])), 255);
    assert!(said.contains("error[local]: cannot make a network") && said.contains("--no-netns"), "{said}");
    let page = ["curl", "-sS", "--fail", "--noproxy", "*", "--max-time", "20", "http://10.77.0.1/"];
    assert!(!says(&mut forbidden(&within.bare(&page))).is_empty());
    let mut doctor = within.capuchin();
    let output = forbidden(doctor.arg("doctor")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(output.stdout).contains("--no-netns"));
    assert!(Path::new("/proc/sys/user/max_user_namespaces").exists());
}
