//! A lender that ends, and begins again while a program that borrows from it goes on.

use std::{io::Write, process::Stdio};

use crate::{
    machine::Machine,
    support::{Daemon, run, wait_until, wire::Wire},
};

/// Says what becomes of a connection, of one that it makes while the lender is away, and, for a line, of one afterwards.
const PROGRAM: &str = r#"
import errno, socket, sys
lender = "10.77.0.1", 7000
s = socket.create_connection(lender)
print("connected", flush=True)
try:
    s.recv(1)
except OSError as error:
    print("lost", errno.errorcode[error.errno], flush=True)
print("away", errno.errorcode[socket.socket().connect_ex(lender)], flush=True)
sys.stdin.readline()
s = socket.create_connection(lender)
s.sendall(b"again")
print("there", s.recv(9).decode(), flush=True)
"#;

#[test]
fn a_program_outlives_its_lender_and_has_a_network_again_once_that_is_back() {
    let mut machine = Machine::start();
    let wire = Wire::to(machine.lab.address);
    let mut programs = Vec::new();
    for within in machine.everybody() {
        run(within.capuchin().args(["hosts", "set", "lab", &wire.address.to_string()]));
        let log = within.home.folder.path().join("stderr");
        let inner = within.python(PROGRAM);
        // What it says itself comes apart from what capuchin says of it.
        let mut command = within.beside("sh");
        command.args(["-c", "exec 2>\"$0\" \"$@\""]).arg(&log).arg(inner.get_program()).args(inner.get_args());
        let program = Daemon::spawn(command.stdin(Stdio::piped()));
        program.wait_for_line("connected");
        programs.push((within, program, log));
    }
    machine.lab.daemon.kill();
    for (within, program, _) in &programs {
        let [lost, away] = [(); 2].map(|()| program.wait_for_line(""));
        assert_eq!([lost, away], ["lost ECONNRESET", "away ENETUNREACH"], "as {}", within.who());
    }
    let machine = machine.restart();
    wire.mend(machine.lab.address);
    for (within, mut program, log) in programs {
        let said = || std::fs::read_to_string(&log).unwrap();
        wait_until("it is back", || said().contains("back after"));
        program.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        assert_eq!(program.wait_for_line(""), "there again", "as {}", within.who());
        assert!(program.wait().success());
        let said = said();
        let of_lab: Vec<_> = said.lines().filter_map(|line| line.strip_prefix("capuchin: lab: ")).collect();
        let [away @ .., back] = &of_lab[..] else { panic!("as {}: {said}", within.who()) };
        let is_away = |line: &&str| line.starts_with("reconnecting… (");
        assert!(!away.is_empty() && away.iter().all(is_away), "as {}: {said}", within.who());
        assert!(back.starts_with("back after "), "as {}: {said}", within.who());
    }
}
