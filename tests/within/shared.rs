//! Programs over the session that `capuchin connect` keeps, where the policy allows no second one.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    listens::{serves, visit},
    machine::{Machine, POLICY, Within},
    support::{Daemon, borrowing::borrowing, run, text, wait_until},
};

/// Which lets alice have one session at a time.
fn machine() -> Machine {
    let more =
        "\n[[allow]]\nwho = [\"alice\"]\nexec = [{ path = \"*\" }]\nallow_root = true\nlimits = { sessions = 1 }\n";
    Machine::with_policy(&format!("{POLICY}{more}"))
}

fn logins(machine: &Machine) -> Vec<Value> {
    machine.lab.audit().into_iter().filter(|line| line["event"] == "login").collect()
}

/// What a command says of itself.
fn status(within: &Within, command: &str) -> Value {
    let listed = borrowing(within.capuchin());
    listed.as_array().unwrap().iter().find(|one| one["command"] == command).unwrap().clone()
}

/// Keeps a session in the foreground, so that it ends with the test.
fn keep(within: &Within) -> Daemon {
    let shared = Daemon::spawn(within.capuchin().args(["connect", "-F", "lab"]));
    shared.wait_for_line("Connected to lab");
    shared
}

#[test]
fn a_server_a_client_and_a_forward_share_the_one_session() {
    let machine = machine();
    for within in machine.everybody() {
        let before = logins(&machine).len();
        let mut shared = keep(&within);
        let (mut server, _) = serves(&within, &[], &["0.0.0.0:8000", ":::8001"]);
        // From the true address of who comes, through two processes.
        assert_eq!(visit(&machine, "10.78.0.1", 0, &["10.77.0.1:8000", "10.77.0.2:8001"]), "met\nmet\n");
        assert_eq!(visit(&machine, "fd88::1", 300_000, &["fd77::1:8001"]), "met\n");
        let client = "import socket; s = socket.create_connection(('10.77.0.1', 8000)); s.sendall(b'me'); s.shutdown(1)\n\
                      said = b''\nwhile data := s.recv(99): said += data\nprint(said[-2:].decode())";
        assert_eq!(text(run(&mut within.python(client)).stdout), "me\n");
        let here = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let spec = format!("127.0.0.1:8003:{}", here.local_addr().unwrap());
        let forward = Daemon::spawn(within.capuchin().args(["forward", "lab", "-R", &spec]));
        forward.wait_for_line("Forwarding ");
        let answering = std::thread::spawn(move || {
            std::io::Write::write_all(&mut here.accept().unwrap().0, b"from here").unwrap();
        });
        let read = "import socket; print(socket.create_connection(('127.0.0.1', 8003)).recv(9).decode())";
        assert_eq!(text(run(&mut machine.there(&["python3", "-c", read])).stdout), "from here\n");
        answering.join().unwrap();
        assert_eq!(logins(&machine).len(), before + 1, "{}", within.who());
        // What it listens on is closed with it, and the others go on.
        drop(server.stdin.take());
        assert!(server.wait().success());
        machine.wait_for_close("0.0.0.0:8000");
        machine.wait_for_close("[::]:8001");
        run(within.capuchin().args(["check", "lab", "connect", "10.77.0.1:80"]));
        drop(forward);
        machine.wait_for_close("127.0.0.1:8003");
        let session = status(&within, "connect")["session"].clone();
        shared.kill();
        machine.lab.wait_for_audit("its end", |line| line["event"] == "session-ended" && line["session"] == session);
    }
}

#[test]
fn an_answer_is_read_before_the_reset_that_follows_it() {
    let machine = machine();
    let there = r#"
import socket
listener = socket.create_server(("10.77.0.1", 7105))
print("serves", flush=True)
while True:
    connection, _ = listener.accept()
    # What is unread when it is closed makes it a reset.
    connection.recv(1)
    connection.sendall(b"too large")
    connection.close()
"#;
    let there = Daemon::spawn(&mut machine.there(&["python3", "-c", there]));
    there.wait_for_line("serves");
    let program = r#"
import socket
for _ in range(50):
    s = socket.create_connection(("10.77.0.1", 7105))
    s.sendall(bytes(10000))
    print(s.recv(9).decode())
"#;
    for within in machine.borrowers() {
        let _shared = keep(&within);
        assert_eq!(text(run(&mut within.python(program)).stdout), "too large\n".repeat(50), "as {}", within.who());
    }
}

#[test]
fn a_program_keeps_its_ports_when_the_session_that_it_shares_is_stopped() {
    let machine = machine();
    let within = machine.anybody();
    run(within.capuchin().args(["connect", "lab"]));
    let (mut server, _) = serves(&within, &[], &["0.0.0.0:8000"]);
    assert_eq!(visit(&machine, "10.78.0.1", 0, &["10.77.0.1:8000"]), "met\n");
    let before = logins(&machine).len();
    run(within.capuchin().args(["connect", "--stop", "lab"]));
    server.wait_for_line("capuchin: lab: back after");
    wait_until("it listens again", || visit(&machine, "10.78.0.1", 0, &["10.77.0.1:8000"]) == "met\n");
    assert_eq!(logins(&machine).iter().filter(|line| line["verdict"] == "granted").count(), before + 1);
    drop(server.stdin.take());
    assert!(server.wait().success());
}

/// The session in the background is begun by `run`, which keeps signals to itself: it hears them all the same.
#[test]
fn a_program_begins_the_session_that_others_share_where_that_is_settled() {
    let machine = machine();
    for within in machine.borrowers() {
        let config = within.home.folder.path().join("config/capuchin/config.toml");
        run(within.beside("sh").args(["-c", "printf '[host.lab]\\nshare = true\\n' > \"$0\""]).arg(&config));
        let mut server = Daemon::spawn(within.run(&["sh", "-c", "echo up; read end"]).stdin(Stdio::piped()));
        server.wait_for_line("up");
        let begun = logins(&machine).len();
        assert_eq!(text(run(within.run(&["echo"]).arg("x")).stdout), "x\n");
        assert_eq!(logins(&machine).len(), begun, "nobody logged in");
        // Even when all of the program is killed, what others use goes on.
        let (program, shares) = (status(&within, "run"), status(&within, "connect"));
        assert_eq!(program["session"], shares["session"]);
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", program["pid"])).unwrap();
        let shares = shares["pid"].to_string();
        let inner = children.split(' ').find(|pid| !pid.is_empty() && *pid != shares).unwrap();
        let inner = rustix::process::Pid::from_raw(inner.parse().unwrap()).unwrap();
        rustix::process::kill_process(inner, Signal::KILL).unwrap();
        assert_eq!(server.wait().code(), Some(255));
        assert_eq!(text(run(within.run(&["echo"]).arg("y")).stdout), "y\n");
        assert_eq!(logins(&machine).len(), begun, "nobody logged in");
        run(within.capuchin().args(["connect", "--stop", "lab"]));
        wait_until("it has ended", || {
            let stop = within.capuchin().args(["connect", "--stop", "lab"]).output().unwrap();
            text(stop.stderr).contains("is not connected")
        });
    }
}
