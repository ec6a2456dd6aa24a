//! What a program has written before it ends.

use super::*;

/// Tells of each fifty connections how many bytes came by them.
const COUNTS: &str = r#"
import socket
listener = socket.create_server(("10.77.0.1", 0), backlog=200)
print("port", listener.getsockname()[1], flush=True)
while True:
    total = 0
    for _ in range(50):
        connection, _ = listener.accept()
        with connection:
            try:
                while data := connection.recv(99):
                    total += len(data)
            except OSError:
                pass
    print("total", total, flush=True)
"#;

#[test]
fn what_is_written_as_soon_as_it_is_connected_arrives_after_the_end() {
    let machine = Machine::start();
    let counts = Daemon::spawn(&mut machine.there(&["python3", "-c", COUNTS]));
    let port = counts.wait_for_line("port ").replace("port ", "");
    let program = format!(
        r#"
import os, selectors, socket
waiting = selectors.DefaultSelector()
for _ in range(50):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex(("10.77.0.1", {port}))
    waiting.register(s, selectors.EVENT_WRITE)
while waiting.get_map():
    for key, _ in waiting.select():
        waiting.unregister(key.fileobj)
        key.fileobj.send(b"x")
os._exit(0)
"#
    );
    for within in machine.borrowers() {
        for _ in 0..15 {
            run(&mut within.bare_python(&program));
            assert_eq!(counts.wait_for_line("total "), "total 50", "as {}", within.uid);
        }
    }
}

#[test]
fn datagrams_that_a_connected_socket_has_sent_arrive_after_the_end() {
    let machine = Machine::start();
    let counts = r#"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("10.77.0.1", 0))
print("port", s.getsockname()[1], flush=True)
while True:
    print("datagram", s.recv(99).decode(), flush=True)
"#;
    let counts = Daemon::spawn(&mut machine.there(&["python3", "-c", counts]));
    let port = counts.wait_for_line("port ").replace("port ", "");
    let program = format!(
        r#"
import os, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("10.77.0.1", {port}))
for number in range(100):
    s.send(b"%d" % number)
os._exit(0)
"#
    );
    for within in machine.borrowers() {
        for _ in 0..5 {
            run(&mut within.bare_python(&program));
            for number in 0..100 {
                assert_eq!(counts.wait_for_line("datagram "), format!("datagram {number}"), "as {}", within.uid);
            }
        }
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

/// Lets each connect of capuchin's own take half a second more to return than it takes to connect, and leaves the program alone.
const SLOW: [&str; 11] = [
    "strace",
    "-f",
    "-b",
    "execve",
    "-qq",
    "-o",
    "/dev/null",
    "-e",
    "trace=connect",
    "-e",
    "inject=connect:delay_exit=500000",
];

#[test]
fn a_program_that_is_over_before_its_connection_is_handed_on_has_written_all_the_same() {
    let machine = Machine::start();
    let hears = r#"
import socket
listener = socket.create_server(("10.77.0.1", 0))
print("port", listener.getsockname()[1], flush=True)
while True:
    connection, heard = listener.accept()[0], b""
    try:
        while data := connection.recv(99):
            heard += data
    except OSError:
        pass
    print("heard", heard, flush=True)
"#;
    let hears = Daemon::spawn(&mut machine.there(&["python3", "-c", hears]));
    let port = hears.wait_for_line("port ").replace("port ", "");
    let program = format!(
        r#"
import os, select, socket
s = socket.socket()
s.setblocking(False)
s.connect_ex(("10.77.0.1", {port}))
select.select([], [s], [])
s.send(b"last words")
os._exit(0)
"#
    );
    for within in machine.borrowers() {
        let inner = within.bare_python(&program);
        let mut command = within.beside(SLOW[0]);
        run(command.args(&SLOW[1..]).arg(inner.get_program()).args(inner.get_args()));
        assert_eq!(hears.wait_for_line("heard "), "heard b'last words'", "as {}", within.uid);
    }
}
