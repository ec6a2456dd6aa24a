//! Sockets for datagrams that are quiet for long: what they have elsewhere closes, and what they send after that is answered.

use std::{io::Write, net::UdpSocket, process::Stdio, time::Duration};

use crate::{
    attacks::Borrower,
    machine::Machine,
    support::{Daemon, PATIENCE, clock::Clock, ports::ListedUdpSocket, run, text, wait_until},
};

/// Longer than a socket may be quiet, which is 300 s, by more than a step of the clock: that may come before the last answer is noted.
const TOO_LONG: Duration = Duration::from_secs(400);
const NOT_TOO_LONG: Duration = Duration::from_secs(200);

/// Sends by the socket of this name to where it is told, and says what came back; and serves where it is told at first.
const PROGRAM: &str = r#"
import select, socket, sys
server, sockets = socket.socket(type=socket.SOCK_DGRAM), {}
if len(sys.argv) > 1:
    server.bind(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
while True:
    if server in select.select([0, server], [], [])[0]:
        said, who = server.recvfrom(99)
        server.sendto(said.upper(), who)
        continue
    line = sys.stdin.readline()
    if not line:
        break
    name, host, port = line.split()
    s = sockets.setdefault(name, socket.socket(type=socket.SOCK_DGRAM))
    s.settimeout(60)
    s.sendto(name.encode(), (host, int(port)))
    said, who = s.recvfrom(99)
    assert who == (host, int(port)), who
    print("heard", said.decode(), flush=True)
"#;

/// Such a program, for whose `capuchin` time passes as it is told.
struct Program {
    daemon: Daemon,
    clock: Clock,
}

impl Program {
    fn start(borrower: &Borrower, options: &[&str], serves: &[&str]) -> Self {
        let clock = Clock::new();
        let options = [borrower.options, options].concat();
        let mut command = borrower.within.run_with(&options, &["python3", "-c", PROGRAM]);
        let daemon = Daemon::spawn(command.args(serves).envs(clock.environment()).stdin(Stdio::piped()));
        daemon.wait_for_line("ready");
        Self { daemon, clock }
    }

    fn asks(&mut self, name: &str, whom: &str) {
        writeln!(self.daemon.stdin.as_mut().unwrap(), "{name} {whom}").unwrap();
    }

    fn hears(&self, name: &str) {
        self.daemon.wait_for_line(&format!("heard {name}"));
    }

    /// By a socket that is quiet otherwise.
    fn is_answered(&mut self) {
        self.asks("quiet", LENDERS);
        self.hears("quiet");
    }

    /// Time passes, in which another of its sockets is not quiet.
    async fn passes(&mut self, time: Duration) {
        let Self { daemon, clock } = self;
        let busy = async || {
            writeln!(daemon.stdin.as_mut().unwrap(), "busy {LENDERS}").unwrap();
            daemon.wait_for_line("heard busy");
        };
        clock.pass(time, busy).await;
    }

    fn ends(mut self) {
        drop(self.daemon.stdin.take());
        assert!(self.daemon.wait().success());
    }
}

/// Who answers on the lender's machine.
const LENDERS: &str = "10.77.0.1 7000";

/// Asks the program's server.
const ASK: &str = r#"
import socket
s = socket.socket(type=socket.SOCK_DGRAM)
s.settimeout(60)
s.connect(("10.77.0.1", 8043))
s.send(b"question")
print(s.recv(99).decode())
"#;

#[tokio::test]
async fn a_socket_that_is_quiet_is_closed_at_the_lender_and_what_it_sends_next_is_answered() {
    let machine = Machine::start();
    for (number, borrower) in Borrower::all(&machine).iter().enumerate() {
        println!("as {}", borrower.who());
        // Whoever may come at any time is waited for at any time.
        let serves: &[&str] = if borrower.options.is_empty() { &["8043"] } else { &[] };
        let mut program = Program::start(borrower, &[], serves);
        for _ in 0..3 {
            program.is_answered();
            program.passes(NOT_TOO_LONG).await;
        }
        program.is_answered();
        program.passes(TOO_LONG).await;
        // All four by one socket: it was not quiet for so long between them.
        let closed = |line: &serde_json::Value| line["event"] == "udp-closed" && line["bytes_in"] == 4 * 5;
        machine.lab.wait_for_audits("the quiet socket", number + 1, closed);
        program.is_answered();
        if !serves.is_empty() {
            let answer = text(run(&mut machine.there(&["python3", "-c", ASK])).stdout);
            assert_eq!(answer, "QUESTION\n", "as {}", borrower.who());
            let closed = |line: &serde_json::Value| line["event"] == "udp-closed" && line["target"] == "0.0.0.0:8043";
            let times = machine.lab.audit().into_iter().filter(closed).count();
            assert_eq!(times, number, "as {}: the server's own", borrower.who());
        }
        program.ends();
        if !serves.is_empty() {
            machine.wait_for_close_of_datagrams("0.0.0.0:8043");
        }
    }
}

#[tokio::test]
async fn a_socket_that_is_quiet_towards_this_machine_is_closed_here_and_what_it_sends_next_is_answered() {
    let machine = Machine::start();
    for within in machine.anybody_in_each_network() {
        let here = UdpSocket::bind("127.0.0.1:0").unwrap();
        here.set_read_timeout(Some(PATIENCE)).unwrap();
        let local = here.local_addr().unwrap().to_string();
        let mut program = Program::start(&Borrower { within, options: &[] }, &["--local", &local], &[]);
        let answers = |program: &mut Program| {
            program.asks("quiet", &local.replace(':', " "));
            let mut said = [0; 99];
            let (length, from) = here.recv_from(&mut said).unwrap();
            here.send_to(&said[..length], from).unwrap();
            program.hears("quiet");
            from
        };
        let from = answers(&mut program);
        let its = ListedUdpSocket::at(from);
        for _ in 0..2 {
            program.passes(NOT_TOO_LONG).await;
            assert_eq!(answers(&mut program), from, "it was not quiet for so long");
        }
        program.passes(TOO_LONG).await;
        wait_until("it is closed", || !its.is_open());
        answers(&mut program);
        program.ends();
    }
}
