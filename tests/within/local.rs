//! `--local`: what a program reaches on this machine and not on the lender's.

use std::{
    io::Read,
    net::{TcpListener, UdpSocket},
    process::Stdio,
};

use crate::{
    machine::{Machine, Within},
    support::{PATIENCE, run, text},
};

#[test]
fn local_keeps_an_address_or_a_port_on_this_machine() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let here = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = here.local_addr().unwrap();
        let (host, port) = (address.ip().to_string(), address.port().to_string());
        let program = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2]))).sendall(b'hello')";
        let probe = ["python3", "-c", program, &host, &port];
        for local in [address.to_string(), host.clone()] {
            let serving = here.try_clone().unwrap();
            let heard = std::thread::spawn(move || {
                let mut said = String::new();
                serving.accept().unwrap().0.read_to_string(&mut said).unwrap();
                said
            });
            run(&mut within.run_with(&["--local", &local], &probe));
            assert_eq!(heard.join().unwrap(), "hello");
        }
        // Without it, the lender is asked, where nobody listens.
        here.set_nonblocking(true).unwrap();
        assert!(!within.run(&probe).stderr(Stdio::null()).status().unwrap().success());
        assert_eq!(here.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}

#[test]
fn a_name_asked_for_over_tcp_stays_the_lenders_where_loopback_is_kept() {
    let machine = Machine::start();
    // Nobody listens on this machine's port 53, or somebody else's resolver does, which knows no number of ours.
    let program = r#"
import socket, struct
query = b"\x5a\x07\x01\x00\x00\x01\0\0\0\0\0\0\x06secret\x07example\0\0\x01\0\x01"
s = socket.create_connection(("127.0.0.1", 53), timeout=30)
s.sendall(struct.pack("!H", len(query)) + query)
print(s.recv(4096)[2:4] == query[:2])
"#;
    let output = machine.anybody().run_with(&["--local", "127.0.0.1"], &["python3", "-c", program]).output().unwrap();
    assert_eq!(text(output.stdout), "True\n", "{}", text(output.stderr));
}

/// Sends to each target, connected and not, and says when all came back, and from there.
const ASK: &str = r#"
import socket, sys
for target in sys.argv[1:]:
    host, port = target.rsplit(":", 1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for connected in (True, False):
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.settimeout(30)
        for message in (b"one", b"", b"x" * 20000):
            if connected:
                s.connect((host, int(port)))
                s.send(message)
            else:
                s.sendto(message, (host, int(port)))
            answer, source = s.recvfrom(65536)
            assert (answer, source[:2]) == (b"here " + message, (host, int(port))), (answer, source)
    print(host, "answers")
"#;

/// Sends to a port that nobody has.
const NOBODY: &str = r#"
import errno, socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(30)
s.connect((sys.argv[1], 1))
for _ in range(2):
    s.send(b"x")
    try:
        print(s.recv(9))
    except OSError as e:
        print(errno.errorcode.get(e.errno, e))
"#;

/// Answers datagrams at a port of this machine for as long as `act` lasts; how many it has heard.
fn heard_here(at: &str, act: impl FnOnce(u16)) -> usize {
    let here = UdpSocket::bind((at, 0)).unwrap();
    let (port, serving) = (here.local_addr().unwrap().port(), here.try_clone().unwrap());
    let answers = std::thread::spawn(move || {
        let (mut buffer, mut count) = (vec![0; 65536], 0);
        loop {
            let (length, from) = serving.recv_from(&mut buffer).unwrap();
            if &buffer[..length] == b"over" {
                return count;
            }
            count += 1;
            serving.send_to(&[b"here ", &buffer[..length]].concat(), from).unwrap();
        }
    });
    act(port);
    // On loopback it comes behind everything that was sent before.
    UdpSocket::bind((at, 0)).unwrap().send_to(b"over", (at, port)).unwrap();
    answers.join().unwrap()
}

/// Each way in which a program is held, and how its command begins.
fn each_way(machine: &Machine) -> Vec<(Within, &'static [&'static str])> {
    let plain = machine.everybody().into_iter().map(|within| (within, &[][..]));
    plain.chain(machine.borrowers().into_iter().map(|within| (within, &["--no-netns"][..]))).collect()
}

#[test]
fn datagrams_to_what_is_kept_are_answered_by_this_machine() {
    let machine = Machine::start();
    for (within, way) in each_way(&machine) {
        for host in within.loopbacks() {
            let whole = (*host).to_owned();
            for by_port in [false, true] {
                let count = heard_here(host, |port| {
                    let one = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
                    let local = if by_port { &one } else { &whole };
                    let options = [way, &["--local", local]].concat();
                    let program = ["python3", "-c", ASK, &format!("{host}:{port}")];
                    let said = run(&mut within.run_with(&options, &program));
                    let expected = format!("{host} answers\n");
                    assert_eq!(text(said.stdout), expected, "{local} {way:?} as {}", within.who());
                });
                assert_eq!(count, 6, "{host} {way:?} as {}", within.who());
            }
            let options = [way, &["--local", host]].concat();
            let said = run(&mut within.run_with(&options, &["python3", "-c", NOBODY, host]));
            assert_eq!(text(said.stdout), "ECONNREFUSED\n".repeat(2), "{host} {way:?} as {}", within.who());
        }
    }
    assert!(machine.lab.audit().iter().all(|line| line["event"] != "udp-bind"), "the lender was not even asked");
}

#[test]
fn a_program_that_sends_to_this_machine_and_ends_is_heard() {
    let machine = Machine::start();
    for within in machine.anybody_in_each_network() {
        let here = UdpSocket::bind("127.0.0.1:0").unwrap();
        here.set_read_timeout(Some(PATIENCE)).unwrap();
        let port = here.local_addr().unwrap().port().to_string();
        let sends = "import os, socket, sys; s = socket.socket(type=socket.SOCK_DGRAM)\n\
                     for number in range(20): s.sendto(b'%d' % number, ('127.0.0.1', int(sys.argv[1])))\n\
                     os._exit(0)";
        run(&mut within.run_with(&["--local", "127.0.0.1"], &["python3", "-c", sends, &port]));
        for number in 0..20 {
            let mut buffer = [0; 9];
            let length = here.recv(&mut buffer).unwrap();
            assert_eq!(std::str::from_utf8(&buffer[..length]).unwrap(), number.to_string(), "as {}", within.who());
        }
    }
}

#[test]
fn a_programs_own_server_of_datagrams_is_met_inside_where_its_address_is_kept() {
    let machine = Machine::start();
    let program = r#"
import socket
server, client = socket.socket(type=socket.SOCK_DGRAM), socket.socket(type=socket.SOCK_DGRAM)
server.settimeout(30), client.settimeout(30)
server.bind(("127.0.0.1", 0))
client.connect(server.getsockname())
client.send(b"question")
said, source = server.recvfrom(9)
server.sendto(said.upper(), source)
print(client.recv(9).decode(), source == client.getsockname())
"#;
    for within in machine.anybody_in_each_network() {
        let said = run(&mut within.run_with(&["--local", "127.0.0.1"], &["python3", "-c", program]));
        assert_eq!(text(said.stdout), "QUESTION True\n", "as {}", within.who());
    }
}

#[test]
fn an_address_of_ipv6_is_kept_on_this_machine() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let here = TcpListener::bind("[::1]:0").unwrap();
        let port = here.local_addr().unwrap().port().to_string();
        let program = "import socket, sys; socket.create_connection(('::1', int(sys.argv[1]))).sendall(b'hello')";
        for local in ["::1".to_owned(), format!("[::1]:{port}")] {
            let serving = here.try_clone().unwrap();
            let heard = std::thread::spawn(move || {
                let mut said = String::new();
                serving.accept().unwrap().0.read_to_string(&mut said).unwrap();
                said
            });
            run(&mut within.run_with(&["--local", &local], &["python3", "-c", program, &port]));
            assert_eq!(heard.join().unwrap(), "hello");
        }
    }
}
