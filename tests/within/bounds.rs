//! What a program can cost us: as much as the limits say.

use std::{fs, io::Write, process::Stdio};

use crate::{machine::Machine, support::Daemon};

#[test]
fn sockets_by_the_thousand_that_nobody_answers_stay_bounded() {
    let machine = Machine::start();
    let within = machine.anybody();
    let program = r#"
import resource, socket, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
sockets = []
for number in range(min(20000, most - 100)):
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex(("10.78.0.9", 1 + number % 60000))
    sockets.append(s)
print("asked", len(sockets), flush=True)
sys.stdin.readline()
for s in sockets:
    s.close()
s = socket.create_connection(("10.77.0.1", 7000), timeout=60)
s.sendall(b"still")
print(s.recv(9).decode(), flush=True)
"#;
    let mut command = within.python(program);
    let mut program = Daemon::spawn(command.stdin(Stdio::piped()));
    program.wait_for_line("asked");
    let status = fs::read_to_string(format!("/proc/{}/status", program.child.id())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kibibytes: u64 = resident.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(kibibytes < 200 * 1024, "{kibibytes} KiB");
    program.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    program.wait_for_line("still");
    assert!(program.wait().success());
}
