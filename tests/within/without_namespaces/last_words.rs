//! What a program has written before it ends.

use super::*;
use crate::datagrams::{REFUSED_AT_LAST, SENDS_AND_ENDS};

#[test]
fn a_refusal_that_comes_after_the_end_of_the_program_is_told() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        for _ in 0..10 {
            let told = text(run(&mut within.bare_python(SENDS_AND_ENDS)).stderr);
            assert_eq!(told.matches(REFUSED_AT_LAST).count(), 1, "as {}: {told}", within.uid);
        }
    }
}

/// Ends its half as soon as somebody comes, then tells what it has heard and how that ended.
const ENDS_FIRST: &str = r#"
import errno, socket
listener = socket.create_server(("10.77.0.1", 0))
print("port", listener.getsockname()[1], flush=True)
while True:
    connection, count = listener.accept()[0], 0
    connection.sendall(b"over")
    connection.shutdown(socket.SHUT_WR)
    how = "end"
    try:
        while data := connection.recv(65536):
            count += len(data)
    except OSError as e:
        how = errno.errorcode[e.errno]
    print("heard", count, how, flush=True)
"#;

/// Reads to the end of the other half; what it does then comes behind it.
const HEARS_THE_END: &str = r#"
import os, select, socket, struct, sys
s = socket.socket()
waits = sys.argv[2] == "waits"
s.setblocking(waits)
s.connect_ex(("10.77.0.1", int(sys.argv[1])))
select.select([], [s], [])
s.setblocking(True)
heard = b""
while data := s.recv(9):
    heard += data
assert heard == b"over", heard
"#;

#[test]
fn a_half_that_ends_after_the_other_ends_in_order_whatever_becomes_of_the_program() {
    let machine = Machine::start();
    let there = Daemon::spawn(&mut machine.there(&["python3", "-c", ENDS_FIRST]));
    let port = there.wait_for_line("port ").replace("port ", "");
    for (ends, expected) in [
        ("s.sendall(bytes(3000000)); s.shutdown(socket.SHUT_WR); assert s.recv(1) == b''", "3000000 end"),
        ("s.sendall(bytes(3000000)); s.close()", "3000000 end"),
        ("s.sendall(bytes(3000000)); os._exit(0)", "3000000 end"),
        ("s.send(b'last'); os._exit(0)", "4 end"),
        ("s.shutdown(socket.SHUT_WR); os._exit(0)", "0 end"),
        ("os._exit(0)", "0 end"),
        ("s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0)); os._exit(0)", "0 ECONNRESET"),
    ] {
        for within in machine.borrowers() {
            for how in ["waits", "does not"] {
                let mut command = within.bare_python(&format!("{HEARS_THE_END}{ends}"));
                run(command.args([&port, how]));
                let heard = there.wait_for_line("heard ");
                assert_eq!(heard, format!("heard {expected}"), "{ends}, {how}, as {}", within.uid);
            }
        }
    }
}

/// A half that ends while the other goes on: what comes then is read, and the program ends with all of it.
#[test]
fn who_has_ended_his_half_reads_what_comes_long_after() {
    let machine = Machine::start();
    let there = r#"
import socket, sys
listener = socket.create_server(("10.77.0.1", 0))
print("port", listener.getsockname()[1], flush=True)
for line in sys.stdin:
    connection, count = listener.accept()[0], 0
    while data := connection.recv(65536):
        count += len(data)
    print("heard", count, flush=True)
    # The program waits.
    sys.stdin.readline()
    connection.sendall(bytes(3000000))
    connection.close()
"#;
    let mut there = Daemon::spawn(machine.there(&["python3", "-c", there]).stdin(Stdio::piped()));
    let port = there.wait_for_line("port ").replace("port ", "");
    let program = r#"
import socket, sys
s = socket.create_connection(("10.77.0.1", int(sys.argv[1])))
s.sendall(b"question")
s.shutdown(socket.SHUT_WR)
print("asked", flush=True)
count = 0
while data := s.recv(65536):
    count += len(data)
print("read", count, flush=True)
"#;
    let stdin = &mut there.stdin.take().unwrap();
    for within in machine.borrowers() {
        std::io::Write::write_all(stdin, b"\n").unwrap();
        let asking = Daemon::spawn(within.bare_python(program).arg(&port));
        asking.wait_for_line("asked");
        assert_eq!(there.wait_for_line("heard "), "heard 8", "as {}", within.uid);
        std::io::Write::write_all(stdin, b"\n").unwrap();
        assert_eq!(asking.wait_for_line("read "), "read 3000000", "as {}", within.uid);
    }
}

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
    let program = r#"
import socket
s = socket.create_connection(("10.77.0.1", 7001))
s.sendall(b"x" * 8000000)
"#;
    let tells = "import socket; print(socket.create_connection(('10.77.0.1', 7002)).recv(99).decode())";
    for within in machine.borrowers() {
        run(&mut within.bare_python(program));
        assert_eq!(says(&mut within.bare_python(tells)), "8000000\n", "as {}", within.uid);
    }
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
