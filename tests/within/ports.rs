//! How long a port at the lender is a program's: as long as anybody has its socket, and no longer.

use std::process::Stdio;

use crate::{
    listens::{serves, visit},
    machine::Machine,
    support::{Daemon, run, text},
};

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
