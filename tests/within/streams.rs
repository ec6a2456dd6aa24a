//! Bytes of a program's connections: held back by who does not read them, not held up by each other, ended on one side.

use std::{io::Write, process::Stdio};

use serde_json::json;

use crate::{
    machine::{Machine, Within},
    support::{Daemon, costs::memory_kib, run, text},
};

/// Both kinds of network, as nobody in particular.
fn each_way(machine: &Machine) -> [Within; 2] {
    machine.anybody_in_each_network()
}

#[test]
fn a_reader_that_never_reads_stops_the_program_and_fills_no_memory() {
    // Writes until twice in a row nothing has fitted for two seconds, and meanwhile has another connection echoed.
    let program = r#"
import select, socket, sys
held = socket.create_connection(("10.77.0.1", 7003))
held.setblocking(False)
count = full = 0
while full < 2:
    if select.select([], [held], [], 2)[1]:
        count += held.send(bytes(65536))
        full = 0
    else:
        full += 1
print("held", count, flush=True)
sys.stdin.readline()
other = socket.create_connection(("10.77.0.1", 7000))
other.sendall(b"passes")
print(other.recv(9).decode(), len(select.select([], [held], [], 0)[1]), flush=True)
sys.stdin.readline()
"#;
    let machine = Machine::start();
    for within in each_way(&machine) {
        let peak_kib = |of: &Daemon| memory_kib(of.child.id(), "VmHWM");
        let lender_before = peak_kib(&machine.lab.daemon);
        let mut running = Daemon::spawn(within.python(program).stdin(Stdio::piped()));
        let line = running.wait_for_line("held ");
        let held: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        // The buffers of three sockets, and the credit of one stream.
        assert!(held < 64 << 20, "{held} bytes as {}", within.who());
        let (here, there) = (peak_kib(&running), peak_kib(&machine.lab.daemon) - lender_before);
        assert!(here < 128 * 1024 && there < 64 * 1024, "{here} KiB, {there} KiB more at the lender, {}", within.who());
        running.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        running.wait_for_line("passes 0");
    }
}

/// Two small writes and a read, as most protocols do. With Nagle's algorithm on the way, each round would wait forty milliseconds
/// for an acknowledgement. A machine that is busy is slow in some rounds and not in four of five.
#[test]
fn small_writes_of_a_program_that_turned_nagle_off_are_not_held_back() {
    let program = r#"
import socket, time
s = socket.create_connection(("10.77.0.1", 7000))
s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
rounds = []
for _ in range(500):
    began = time.monotonic()
    s.send(b"a")
    s.send(b"b")
    heard = b""
    while len(heard) < 2:
        heard += s.recv(2)
    rounds.append(time.monotonic() - began)
print(sorted(rounds)[100])
"#;
    let machine = Machine::start();
    for within in each_way(&machine) {
        let seconds: f32 = text(run(&mut within.python(program)).stdout).trim().parse().unwrap();
        assert!(seconds < 0.035, "{seconds} s for each round as {}", within.who());
    }
}

#[test]
fn a_server_that_ended_its_half_still_reads() {
    let server = r#"
import socket
listener = socket.create_server(("10.77.0.1", 7100))
print("serves", flush=True)
while True:
    conn, _ = listener.accept()
    conn.sendall(b"over")
    conn.shutdown(socket.SHUT_WR)
    count = 0
    while data := conn.recv(65536):
        count += len(data)
    print("read", count, flush=True)
"#;
    let program = r#"
import socket
s = socket.create_connection(("10.77.0.1", 7100))
heard = b""
while data := s.recv(9):
    heard += data
s.sendall(bytes(3000000))
s.shutdown(socket.SHUT_WR)
print(heard.decode())
"#;
    let machine = Machine::start();
    let server = Daemon::spawn(&mut machine.there(&["python3", "-c", server]));
    server.wait_for_line("serves");
    for within in each_way(&machine) {
        let output = run(&mut within.python(program));
        assert_eq!(text(output.stdout), "over\n", "as {}", within.who());
        let told = text(output.stderr);
        assert!(!told.contains("the session with lab is over"), "as {}: {told}", within.who());
        server.wait_for_line("read 3000000");
    }
}

/// Of two families the program takes the one that the lender has a way for, whether the other is refused at once or is silent.
#[test]
fn happy_eyeballs_find_the_family_that_the_lender_reaches() {
    let zone = json!({
        "v4.test A": [["v4.test 60 A 10.77.0.1"]],
        "v4.test AAAA": [["v4.test 60 AAAA 2001:db8::5"]],
        "v6.test A": [["v6.test 60 A 198.51.100.5"]],
        "v6.test AAAA": [["v6.test 60 AAAA fd77::1"]],
        "mute.test A": [["mute.test 60 A 10.77.0.1"]],
        "mute.test AAAA": [["mute.test 60 AAAA fd79::9"]],
        "both.test A": [["both.test 60 A 10.77.0.1"]],
        "both.test AAAA": [["both.test 60 AAAA fd77::1"]],
    });
    let policy = "[[allow]]\nwho = \"alice\"\nconnect = [\"*.test:*\"]\n";
    // Nobody is at fd79::9, to which there is a way.
    let more = "ip -6 address add fd79::1/64 dev near nodad; ip -6 neighbour add fd79::9 lladdr 02:00:00:00:00:09 dev near nud permanent";
    let machine = Machine::with_names(policy, &zone, more);
    let tries = r#"
import asyncio, sys
async def main():
    for host in sys.argv[1:]:
        reader, writer = await asyncio.open_connection(host, 7000, happy_eyeballs_delay=0.25)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        print(host, writer.get_extra_info("peername")[0])
        writer.close()
asyncio.run(main())
"#;
    for within in machine.everybody() {
        let fetch = |host: &str| {
            let url = format!("http://{host}/");
            let options =
                ["curl", "-sS", "--fail", "--noproxy", "*", "-o", "/dev/null", "-m", "60", "-w", "%{remote_ip}"];
            let said = run(&mut within.run(&[options.as_slice(), &[&url]].concat()));
            text(said.stdout)
        };
        for (host, address) in [("v4.test", "10.77.0.1"), ("v6.test", "fd77::1"), ("mute.test", "10.77.0.1")] {
            assert_eq!(fetch(host), address, "{host} as {}", within.who());
        }
        assert!(["10.77.0.1", "fd77::1"].contains(&fetch("both.test").as_str()));
        let said = run(within.python(tries).args(["v4.test", "v6.test", "mute.test"]));
        assert_eq!(
            text(said.stdout),
            "v4.test 10.77.0.1\nv6.test fd77::1\nmute.test 10.77.0.1\n",
            "as {}",
            within.who()
        );
    }
}
