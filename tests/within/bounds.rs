//! What a program can cost us: as much as the limits say.

use std::{io::Write, process::Stdio};

use crate::{
    machine::{Machine, Within},
    support::{
        Daemon,
        costs::{descriptors, memory_kib},
        own_uid, wait_until,
    },
};

/// Opens so many sockets to somebody who never answers, in as many processes as it takes: none may open more than a few at once.
/// Closes them at the next line, begins again at the one after, and speaks with the lender's machine at the last.
const SOCKETS: &str = r#"
import os, resource, socket, sys
EACH, ALL = 800, 20000
def opens(first):
    sockets = []
    for number in range(first, first + EACH):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(("10.78.0.9", 1 + number))
        sockets.append(s)
    return sockets
resource.setrlimit(resource.RLIMIT_NOFILE, (EACH + 100, EACH + 100))
for line in sys.stdin:
    if line != "open\n":
        break
    said_rx, said_tx = os.pipe()
    hold_rx, hold_tx = os.pipe()
    children = []
    for first in range(0, ALL, EACH):
        child = os.fork()
        if child == 0:
            os.close(hold_tx)
            sockets = opens(first)
            os.write(said_tx, b"%6d" % len(sockets))
            os.read(hold_rx, 1)
            os._exit(0)
        children.append(child)
    print("asked", sum(int(os.read(said_rx, 6)) for _ in children), flush=True)
    sys.stdin.readline()
    os.close(hold_tx)
    for child in children:
        os.waitpid(child, 0)
    for fd in said_rx, said_tx, hold_rx:
        os.close(fd)
    print("closed", flush=True)
s = socket.create_connection(("10.77.0.1", 7000), timeout=300)
s.sendall(b"still")
print(s.recv(9).decode(), flush=True)
"#;

/// Resident memory of a process, in KiB, and its descriptors where they may be seen: of a process that keeps its memory to
/// itself, by root alone.
fn costs(pid: u32) -> (u64, Option<usize>) {
    (memory_kib(pid, "VmRSS"), (own_uid() == 0).then(|| descriptors(pid)))
}

fn twenty_thousand_sockets(machine: &Machine, within: &Within) {
    let mut command = within.python(SOCKETS);
    let mut program = Daemon::spawn(command.stdin(Stdio::piped()));
    let pid = program.child.id();
    let say = |program: &mut Daemon, word: &str, answer: &str| {
        writeln!(program.stdin.as_mut().unwrap(), "{word}").unwrap();
        program.wait_for_line(answer);
    };
    let mut round = || {
        say(&mut program, "open", "asked 20000");
        let (here, there) = (costs(pid), costs(machine.lab.daemon.child.id()));
        assert!(here.0 < 200 << 10, "{here:?} as {}", within.who());
        assert!(there.0 < 256 << 10, "{there:?} at the lender, as {}", within.who());
        assert!(here.1.is_none_or(|descriptors| descriptors < 100), "{here:?} as {}", within.who());
        say(&mut program, "close", "closed");
    };
    round();
    let first = costs(pid);
    round();
    // What a second storm costs is what the first one did; what it held goes once its end has been heard of.
    wait_until(&format!("no more than {first:?} as {}", within.who()), || {
        let second = costs(pid);
        second.0 < first.0 + (32 << 10) && second.1 <= first.1.map(|count| count + 8)
    });
    say(&mut program, "end", "still");
    assert!(program.wait().success());
}

#[test]
fn sockets_by_the_thousand_that_nobody_answers_stay_bounded() {
    let machine = Machine::start();
    for within in machine.everybody() {
        twenty_thousand_sockets(&machine, &within);
    }
}
