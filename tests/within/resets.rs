//! Connections that one end breaks off: the other end sees a reset and no orderly end, wherever it is.

use crate::{
    machine::{Machine, Within},
    support::{Daemon, run, text},
};

/// At the lender: resets each of its visitors, or tells how they end.
const THERE: &str = r#"
import errno, socket, struct
resets, hears = socket.create_server(("10.77.0.1", 7101)), socket.create_server(("10.77.0.1", 7102))
print("serves", flush=True)
while True:
    conn, _ = resets.accept()
    # When what it has sent has arrived, and is acknowledged by what the program sends.
    conn.sendall(b"before")
    assert conn.recv(9) == b"got it"
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()
    conn, _ = hears.accept()
    try:
        while data := conn.recv(9):
            conn.sendall(data)
        print("end", flush=True)
    except OSError as error:
        print("hears", errno.errorcode[error.errno], flush=True)
    conn.close()
"#;

const PROGRAM: &str = r#"
import errno, socket, struct
s = socket.create_connection(("10.77.0.1", 7101))
print(s.recv(9).decode(), end=" ")
s.sendall(b"got it")
try:
    print("got", s.recv(9))
except OSError as error:
    print(errno.errorcode[error.errno])
s = socket.create_connection(("10.77.0.1", 7102))
s.sendall(b"before")
assert s.recv(9) == b"before"
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
s.close()
"#;

#[test]
fn a_reset_of_either_end_is_one_at_the_other() {
    let machine = Machine::start();
    let there = Daemon::spawn(&mut machine.there(&["python3", "-c", THERE]));
    there.wait_for_line("serves");
    let check = |within: &Within, options: &[&str]| {
        let said = run(&mut within.run_with(options, &["python3", "-c", PROGRAM]));
        assert_eq!(text(said.stdout), "before ECONNRESET\n", "{options:?} as {}", within.who());
        let heard = there.wait_for_line("");
        assert_eq!(heard, "hears ECONNRESET", "{options:?} as {}", within.who());
    };
    for within in machine.everybody() {
        check(&within, &[]);
    }
    for within in machine.borrowers() {
        check(&within, &["--no-netns"]);
    }
}

/// Ends its half and then breaks off, or hears of who does so to it, while nobody writes.
const BREAKS_OFF_LATER: &str = r#"
import select, socket, struct
def break_off(conn):
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()
def hears(conn):
    poll = select.poll()
    poll.register(conn, 0)
    return "hears " + " ".join(str(bool(events & select.POLLERR)) for _, events in poll.poll(20_000))
def end_and_break_off(conn):
    conn.sendall(b"before")
    conn.shutdown(socket.SHUT_WR)
    # It has the end as well.
    assert conn.recv(9) == b"got it"
    break_off(conn)
def hear_the_end(conn):
    assert conn.recv(9) == b"before" and conn.recv(9) == b""
    conn.sendall(b"got it")
    return hears(conn)
"#;

#[test]
fn an_end_that_breaks_off_after_it_has_ended_its_half_is_noticed_before_anything_is_written() {
    let machine = Machine::start();
    let there = r#"
listener = socket.create_server(("10.77.0.1", 7104))
print("serves", flush=True)
while True:
    end_and_break_off(listener.accept()[0])
    print(hear_the_end(listener.accept()[0]), flush=True)
"#;
    let program = r#"
def connect():
    return socket.create_connection(("10.77.0.1", 7104))
print(hear_the_end(connect()))
end_and_break_off(connect())
"#;
    let script = |rest: &str| format!("{BREAKS_OFF_LATER}{rest}");
    let there = Daemon::spawn(&mut machine.there(&["python3", "-c", &script(there)]));
    there.wait_for_line("serves");
    let program = script(program);
    let check = |within: &Within, options: &[&str]| {
        let said = run(&mut within.run_with(options, &["python3", "-c", &program]));
        assert_eq!(text(said.stdout), "hears True\n", "{options:?} as {}", within.who());
        assert_eq!(there.wait_for_line(""), "hears True", "{options:?} as {}", within.who());
    };
    for within in machine.everybody() {
        check(&within, &[]);
    }
    for within in machine.borrowers() {
        check(&within, &["--no-netns"]);
    }
}

/// At the lender: resets what it dials in the moment in which it is connected, before the lender has looked.
const RESETS_AT_ONCE: &str = r#"
import os, signal, socket, struct, sys, time
lender = int(sys.argv[1])
listener = socket.socket()
listener.bind(("10.77.0.1", 7103))
# One waits, and there is no room for another: the lender's SYN is sent again.
listener.listen(0)
waits = socket.create_connection(("10.77.0.1", 7103))
print("serves", flush=True)
while True:
    while " 01004D0A:1BBF 02 " not in open("/proc/net/tcp").read():
        time.sleep(0.01)
    os.kill(lender, signal.SIGSTOP)
    listener.accept()[0].close()
    conn, _ = listener.accept()
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()
    waits = socket.create_connection(("10.77.0.1", 7103))
    os.kill(lender, signal.SIGCONT)
"#;

/// Where the error comes, at the connect or behind it, is a matter of time on any machine.
const IS_RESET: &str = r#"
import errno, socket
try:
    print("got", socket.create_connection(("10.77.0.1", 7103)).recv(9))
except OSError as error:
    print(errno.errorcode[error.errno])
"#;

#[test]
fn a_connection_that_is_reset_before_the_lender_has_looked_was_not_refused() {
    let machine = Machine::start();
    let lender = machine.lab.daemon.child.id().to_string();
    let there = Daemon::spawn(&mut machine.there(&["python3", "-c", RESETS_AT_ONCE, &lender]));
    there.wait_for_line("serves");
    let check = |within: &Within, options: &[&str]| {
        let said = run(&mut within.run_with(options, &["python3", "-c", IS_RESET]));
        assert_eq!(text(said.stdout), "ECONNRESET\n", "{options:?} as {}", within.who());
    };
    for within in machine.everybody() {
        check(&within, &[]);
    }
    for within in machine.borrowers() {
        check(&within, &["--no-netns"]);
    }
}
