//! Every way in which a program can end, or let its ports go: none of them stays open at the lender, whatever state it was in.
//! How long each takes `cargo bench --bench run -- closed` says.

use std::{io::Write, process::Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    listens::{serves, visit},
    machine::{Machine, Within},
    support::{Daemon, run, wait_until, wire::Wire},
};

/// Has four ports, one in each state, and does what it is told.
const SERVER: &str = include_str!("states.py");

/// More than the program's queue has room for.
const VISITORS: &str = r#"
import socket, sys
visitors = [socket.create_connection(("10.77.0.1", int(sys.argv[1])), 20) for _ in range(8)]
print("here", flush=True)
for s in visitors:
    s.settimeout(None)
    try:
        assert s.recv(9) == b""
    except ConnectionResetError:
        pass
print("sent away", flush=True)
"#;

/// Ends a server that runs, or has it let its ports go. `pids`: the program's, and that of the half that looks after it.
type End = fn(server: &mut Daemon, pids: [Pid; 2]);

const ENDS: [(&str, End); 6] = [
    ("it ends", |server, _| server.stdin.as_mut().unwrap().write_all(b"end\n").unwrap()),
    ("it is killed", |_, [program, _]| kill_process(program, Signal::KILL).unwrap()),
    ("capuchin is killed", |server, _| server.kill()),
    ("the half of capuchin that looks after it is killed", |_, [_, inner]| kill_process(inner, Signal::KILL).unwrap()),
    ("it closes them", |server, _| server.stdin.as_mut().unwrap().write_all(b"close\n").unwrap()),
    ("it becomes another program", |server, _| server.stdin.as_mut().unwrap().write_all(b"exec\n").unwrap()),
];

#[test]
fn however_a_program_ends_its_ports_close_in_every_state() {
    let machine = Machine::start();
    let mut free = 8100..;
    let by_tun = machine.anybody().over_tun();
    for within in machine.borrowers().into_iter().chain([by_tun]) {
        for (how, end) in ENDS {
            // Of its own each, so that the log tells them apart.
            closes(&machine, &within, [(); 4].map(|()| free.next().unwrap()), how, end);
        }
    }
}

fn closes(machine: &Machine, within: &Within, ports: [u16; 4], how: &str, end: End) {
    println!("{how}, as {}", within.who());
    let words = ports.map(|port| port.to_string());
    let mut server = Daemon::spawn(within.python(SERVER).args(&words).stdin(Stdio::piped()));
    let line = server.wait_for_line("ready ");
    let pids: Vec<_> = line.split(' ').skip(1).map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect();
    let visitors = Daemon::spawn(&mut machine.there(&["python3", "-c", VISITORS, &words[1]]));
    visitors.wait_for_line("here");
    end(&mut server, pids.try_into().unwrap());
    let [connections @ .., datagrams] = ports.map(|port| format!("0.0.0.0:{port}"));
    for address in connections {
        machine.wait_for_close(&address);
    }
    machine.wait_for_close_of_datagrams(&datagrams);
    visitors.wait_for_line("sent away");
    let nobody = ports.map(|port| format!("10.77.0.1:{port}"));
    let nobody = visit(machine, "", 0, &nobody[1..3].iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(nobody, "ECONNREFUSED\n".repeat(2), "{how}, as {}", within.who());
}

/// Four threads that do nothing but bind: some call is always on its way.
const BINDS: &str = r#"
import os, socket, threading
def bind(port):
    told = False
    while True:
        s = socket.socket()
        try:
            s.bind(("0.0.0.0", port))
            if not told:
                # At once, as all four write to one pipe: print does it in pieces where PYTHONUNBUFFERED is set.
                os.write(1, b"binds %d\n" % os.getpid())
            told = True
        except OSError:
            pass
        s.close()
for port in range(8200, 8204):
    threading.Thread(target=bind, args=(port,)).start()
"#;

#[test]
fn a_bind_that_is_on_its_way_when_its_program_is_killed_leaves_no_port_behind() {
    let machine = Machine::start();
    let takes = "import socket\nfor port in range(8200, 8204): socket.socket().bind(('0.0.0.0', port))";
    let [netfilter, tun] = machine.anybody_in_each_network();
    for round in 0..6 {
        let within = if round % 2 == 0 { &netfilter } else { &tun };
        let mut program = Daemon::spawn(&mut within.python(BINDS));
        let lines: Vec<_> = (0..4).map(|_| program.wait_for_line("binds ")).collect();
        let pid = Pid::from_raw(lines[0].rsplit(' ').next().unwrap().parse().unwrap()).unwrap();
        if round < 3 {
            kill_process(pid, Signal::KILL).unwrap();
            assert_eq!(program.wait().code(), Some(128 + 9));
        } else {
            program.kill();
        }
        machine.lab.wait_for_audits("its end", round + 1, |line| line["event"] == "session-ended");
        // As long as one is bound, it is nobody else's.
        let is_free = || machine.there(&["python3", "-c", takes]).stderr(Stdio::null()).status().unwrap().success();
        wait_until("all four are free", is_free);
    }
}

/// A server whose port closed with the session, and is open again; by the wire, which is to be kept.
pub fn met_again_after_a_cut(machine: &Machine, within: &Within, port: u16) -> (Daemon, Wire) {
    let wire = Wire::to(machine.lab.address);
    run(within.capuchin().args(["hosts", "set", "lab", &wire.address.to_string()]));
    let (at, met_at) = (format!("0.0.0.0:{port}"), format!("10.77.0.1:{port}"));
    let (server, _) = serves(within, &[], &[&at]);
    assert_eq!(visit(machine, "", 0, &[&met_at]), "met\n", "as {}", within.who());
    wire.cut();
    machine.wait_for_close(&at);
    assert_eq!(visit(machine, "", 0, &[&met_at]), "ECONNREFUSED\n", "as {}", within.who());
    wire.mend(machine.lab.address);
    wait_until("it is met again", || visit(machine, "", 0, &[&met_at]) == "met\n");
    (server, wire)
}

#[test]
fn a_cut_closes_the_ports_and_the_next_session_opens_them_again() {
    let machine = Machine::start();
    for within in machine.anybody_in_each_network() {
        let port = if within.by_tun { 8091 } else { 8090 };
        let (mut server, _wire) = met_again_after_a_cut(&machine, &within, port);
        drop(server.stdin.take());
        assert!(server.wait().success());
    }
}
