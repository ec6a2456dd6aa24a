//! How long a port at the lender outlives a server under `run`: in whatever state it is, and however that ends.

use std::{
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, bind, socket_with},
    process::{Pid, Signal, kill_process},
};

use super::{borrowed, support::row};

/// The server of `tests/within/ends.rs`.
const SERVER: &str = include_str!("../../tests/within/states.py");
/// Whether nobody has a port, for that of each state: bound, listening with visitors who wait, listening in three processes, and bound
/// for datagrams. Of what listened, connections may be left, who would refuse a bind without SO_REUSEADDR.
const FREE: [fn(u16) -> bool; 4] = [may_be_bound, may_listen, may_listen, |port| UdpSocket::bind(any(port)).is_ok()];
const SERVERS: usize = 20;
/// A port that is open for so long stays open.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks whether all are closed.
const LOOK: Duration = Duration::from_millis(1);

/// Ends a server, or has it let its ports go. `pids`: the program's, and that of the half of `run` that looks after it.
type End = fn(server: &mut Child, pids: [Pid; 2]);

const ENDS: [(&str, End); 6] = [
    ("it ends", |server, _| tell(server, "end")),
    ("it is killed", |_, [program, _]| kill_process(program, Signal::KILL).expect("it runs")),
    ("run is killed", |server, _| server.kill().expect("it runs")),
    ("run's half is killed", |_, [_, inner]| kill_process(inner, Signal::KILL).expect("it runs")),
    ("it closes them", |server, _| tell(server, "close")),
    ("it becomes another", |server, _| tell(server, "exec")),
];

/// The rows.
pub fn measure(folder: &Path) {
    for (how, end) in ENDS {
        let worst = (0..SERVERS).map(|_| closed(borrowed(folder), end)).fold(0.0, f64::max);
        let met = row(&format!("run: closed, {how}"), "s, the worst of 20", worst, 1.0, false);
        assert!(met, "it is promised");
    }
}

/// Seconds from an end until nobody has any of its ports any more.
fn closed(mut command: Command, end: End) -> f64 {
    let ports = free_ports();
    command.args(["python3", "-c", SERVER]).args(ports.map(|port| port.to_string()));
    let mut server = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the server");
    let mut said = BufReader::new(server.stdout.take().expect("piped"));
    let mut line = String::new();
    said.read_line(&mut line).expect("a line");
    let pids = line.split_whitespace().skip(1).map(|pid| pid.parse().ok().and_then(Pid::from_raw).expect("a process"));
    let pids = pids.collect::<Vec<_>>().try_into().expect("two processes");
    let visitors = [(); 8].map(|()| TcpStream::connect((Ipv4Addr::LOCALHOST, ports[1])).expect("it listens"));
    let free = || ports.iter().zip(FREE).filter(|(port, is_free)| is_free(**port)).count();
    assert_eq!(free(), 0, "each is open");
    let began = Instant::now();
    end(&mut server, pids);
    while free() < ports.len() {
        assert!(began.elapsed() < PATIENCE, "a port stays open");
        thread::sleep(LOOK);
    }
    let took = began.elapsed().as_secs_f64();
    drop((visitors, server.stdin.take()));
    server.wait().expect("it ends");
    took
}

/// Four that differ, the last of which is free for datagrams as well.
fn free_ports() -> [u16; 4] {
    let held = [(); 3].map(|()| TcpListener::bind(any(0)).expect("a port"));
    let [first, second, third] = held.each_ref().map(|one| one.local_addr().expect("its address").port());
    let datagrams = UdpSocket::bind(any(0)).expect("a port");
    [first, second, third, datagrams.local_addr().expect("its address").port()]
}

fn tell(server: &mut Child, what: &str) {
    writeln!(server.stdin.as_mut().expect("piped"), "{what}").expect("it reads");
}

fn any(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

fn may_listen(port: u16) -> bool {
    TcpListener::bind(any(port)).is_ok()
}

/// Without SO_REUSEADDR, which the standard library sets.
fn may_be_bound(port: u16) -> bool {
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).expect("a socket");
    bind(&socket, &any(port)).is_ok()
}
