//! How long a port at the lender is a program's: as long as anybody has its socket, and no longer.

use std::process::Stdio;

use rustix::process::Signal;

use crate::{
    machine::Machine,
    support::{Daemon, run, text, wait_until},
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
        // Nobody need come for that.
        machine.wait_for_close(&format!("0.0.0.0:{port}"));
        let refused = text(machine.there(&["python3", "-c", reads, port]).output().unwrap().stderr);
        assert!(refused.contains("ConnectionRefusedError"), "{refused}");
        std::io::Write::write_all(server.stdin.as_mut().unwrap(), b"\n").unwrap();
        server.wait_for_line("revived");
        assert_eq!(text(run(&mut machine.there(&["python3", "-c", reads, port])).stdout), "b'second'\n");
    }
}

#[test]
fn a_port_whose_socket_is_shut_down_listens_if_another_socket_does() {
    let machine = Machine::start();
    let program = r#"
import socket, sys
def listens():
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    s.bind(("0.0.0.0", 8012))
    s.listen()
    return s
one, two = listens(), listens()
one.shutdown(socket.SHUT_RDWR)
print("shut", flush=True)
for _ in range(60):
    two.accept()[0].sendall(b"two")
sys.stdin.readline()
"#;
    let reads = r#"
import socket
for _ in range(60):
    assert socket.create_connection(("10.77.0.1", 8012), 20).recv(99) == b"two"
"#;
    let within = machine.anybody();
    let mut server = Daemon::spawn(within.python(program).stdin(Stdio::piped()));
    server.wait_for_line("shut");
    run(&mut machine.there(&["python3", "-c", reads]));
    assert!(machine.lab.audit().iter().all(|line| line["event"] != "listen-closed"));
    drop(server.stdin.take());
    assert!(server.wait().success());
    machine.wait_for_close("0.0.0.0:8012");
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
    print("open", number, flush=True)
    conn, _ = s.accept()
    s.close()
    conn.sendall(b"%d" % number)
    conn.close()
"#;
    let visits = r#"
import socket, sys
for _ in sys.stdin:
    print("heard", socket.create_connection(("10.77.0.1", 8004), 20).recv(99).decode(), flush=True)
"#;
    let mut visitor = Daemon::spawn(machine.there(&["python3", "-c", visits]).stdin(Stdio::piped()));
    for within in machine.borrowers() {
        let mut server = Daemon::spawn(&mut within.python(program));
        for number in 0..200 {
            assert_eq!(server.wait_for_line("open "), format!("open {number}"), "as {}", within.uid);
            std::io::Write::write_all(visitor.stdin.as_mut().unwrap(), b"go\n").unwrap();
            assert_eq!(visitor.wait_for_line("heard "), format!("heard {number}"), "as {}", within.uid);
        }
        assert!(server.wait().success());
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
        # At once, as both write to one pipe: print does it in two pieces where PYTHONUNBUFFERED is set.
        os.write(1, b"ready\n")
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
# Of each child, 400 in all or a few less.
room = hard - 600
each = 400 // -(-left // room)
while left:
    number = min(room, left)
    left -= number
    ready, tell = os.pipe()
    if (pid := os.fork()) == 0:
        published = [socket.create_server(("10.77.0.1", 8100 + len(pids) * each + i)) for i in range(each)]
        many = [socket.socket() for _ in range(number)]
        os.write(tell, b"x")
        signal.pause()
    os.read(ready, 1)
    pids.append(pid)
print("ready", len(pids) * each, os.getpid(), flush=True)
sys.stdin.readline()
for pid in pids:
    os.kill(pid, 9)
for pid in pids:
    os.waitpid(pid, 0)
print("killed", flush=True)
kept.accept()[0].sendall(b"kept")
"#;
    let within = machine.anybody();
    let mut command = within.python(program);
    let mut server = Daemon::spawn(command.stdin(Stdio::piped()).env("CAPUCHIN_LOG", "capuchin=debug"));
    let line = server.wait_for_line("ready ");
    let words: Vec<_> = line.split(' ').collect();
    let [_, ports, program] = *words else { panic!("{line}") };
    // While nobody hears what the kernel tells, it loses what it has no room for: the last column but one.
    server.signal(Signal::STOP);
    std::io::Write::write_all(server.stdin.as_mut().unwrap(), b"\n").unwrap();
    server.wait_for_line("killed");
    let sockets = format!("/proc/{program}/net/netlink");
    wait_until("the kernel has lost some", || {
        let listed = std::fs::read_to_string(&sockets).unwrap();
        let mut listeners = listed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        listeners.any(|columns| columns[3] == "0000000f" && columns[8] != "0")
    });
    server.signal(Signal::CONT);
    server.wait_for_line("more sockets were closed at once than the kernel could tell");
    let of_a_child = |target: &str| target.starts_with("10.77.0.1:8") && target != "10.77.0.1:8012";
    machine.lab.wait_for_audits("their ends", ports.parse().unwrap(), |line| {
        line["event"] == "listen-closed" && of_a_child(line["target"].as_str().unwrap())
    });
    let reads = "import socket; print(socket.create_connection(('10.77.0.1', 8012), 20).recv(99))";
    assert_eq!(text(run(&mut machine.there(&["python3", "-c", reads])).stdout), "b'kept'\n");
}

/// As from who activates servers by their sockets: bound by one program, made to listen by the next, served by a third.
#[test]
fn a_socket_that_is_handed_on_over_exec_is_served_by_whoever_has_it() {
    let machine = Machine::start();
    let program = r#"
import os, socket, sys
turn = sys.argv[1]
def hand_on(s, turn):
    os.dup2(s.detach(), 9)
    os.execvp("python3", ["python3", "-c", os.environ["PROGRAM"], turn])
if turn == "bind":
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("10.77.0.1", 8070))
    hand_on(s, "listen")
s = socket.socket(fileno=os.dup(9))
os.close(9)
if turn == "listen":
    s.listen()
    hand_on(s, "serve")
print("serves", flush=True)
for _ in range(2):
    s.accept()[0].sendall(b"third")
"#;
    let reads = "import socket; print(socket.create_connection(('10.77.0.1', 8070), 20).recv(99))";
    for within in machine.borrowers() {
        let mut server = Daemon::spawn(within.python(program).arg("bind").env("PROGRAM", program));
        server.wait_for_line("serves");
        for _ in 0..2 {
            let heard = text(run(&mut machine.there(&["python3", "-c", reads])).stdout);
            assert_eq!(heard, "b'third'\n", "as {}", within.uid);
        }
        assert!(server.wait().success());
        machine.wait_for_close("10.77.0.1:8070");
        let nobody = machine.there(&["python3", "-c", reads]).output().unwrap();
        assert!(text(nobody.stderr).contains("ConnectionRefusedError"));
    }
}

#[test]
fn a_server_in_the_background_is_met_as_long_as_it_is_waited_for() {
    let machine = Machine::start();
    let program = r#"
import os, socket, time
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("10.77.0.1", 8071))
s.listen()
first = os.getpid()
if os.fork() == 0:
    os.setsid()
    while os.getppid() == first:
        time.sleep(0.01)
    print("alone", flush=True)
    s.accept()[0].sendall(b"behind")
    os._exit(0)
os._exit(7)
"#;
    let reads = "import socket; print(socket.create_connection(('10.77.0.1', 8071), 20).recv(99))";
    for within in machine.borrowers() {
        let mut server = Daemon::spawn(&mut within.run_with(&["--wait-all"], &["python3", "-c", program]));
        server.wait_for_line("alone");
        let heard = text(run(&mut machine.there(&["python3", "-c", reads])).stdout);
        assert_eq!(heard, "b'behind'\n", "as {}", within.uid);
        assert_eq!(server.wait().code(), Some(7));
        machine.wait_for_close("10.77.0.1:8071");
    }
}
