//! What is capuchin's own in a program's network takes nothing from the program.

use std::io::Write;

use crate::{machine::Machine, support::Daemon};

/// Prints at which ports somebody listens who is not this program, and what is met there on the lender's loopback, once that is there.
const MEETS: &str = r#"
import socket
def ports(kind, state):
    rows = [line.split() for name in (kind, kind + "6") for line in open("/proc/net/" + name).readlines()[1:]]
    return {int(row[1].rpartition(":")[2], 16) for row in rows if row[3] == state}
listening, bound = ports("tcp", "0A"), ports("udp", "07")
[tcp] = listening
udp = bound.pop() if bound else tcp
print("ports", tcp, udp, flush=True)
input()
with socket.create_connection(("127.0.0.1", tcp), 30) as s:
    print("tcp", s.recv(99).decode(), flush=True)
with socket.socket(type=socket.SOCK_DGRAM) as s:
    s.settimeout(30)
    s.connect(("127.0.0.1", udp))
    s.send(b"?")
    print("udp", s.recv(99).decode(), flush=True)
"#;

/// Serves one of each at these ports of the lender's loopback.
const SERVES: &str = r#"
import socket, sys
listener, datagrams = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
datagrams.bind(("127.0.0.1", int(sys.argv[2])))
print("serves", flush=True)
listener.accept()[0].sendall(b"the lender's")
datagrams.sendto(b"the lender's", datagrams.recvfrom(9)[1])
"#;

#[test]
fn a_port_of_capuchins_is_the_lenders_to_the_program_and_in_nobodys_way() {
    let machine = Machine::start();
    for within in machine.everybody() {
        let mut program = Daemon::spawn(within.python(MEETS).stdin(std::process::Stdio::piped()));
        let line = program.wait_for_line("ports ");
        let ports: Vec<&str> = line.split(' ').skip(1).collect();
        for port in &ports {
            assert!(port.parse::<u16>().unwrap() < 1024, "the kernel gives {port} to programs, as {}", within.who());
        }
        let serves = [&["python3", "-c", SERVES][..], &ports].concat();
        let mut server = Daemon::spawn(&mut machine.there(&serves));
        server.wait_for_line("serves");
        program.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        program.wait_for_line("tcp the lender's");
        program.wait_for_line("udp the lender's");
        assert!(program.wait().success() && server.wait().success(), "as {}", within.who());
    }
}
