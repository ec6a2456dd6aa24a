//! `capuchin forward -L` against `ssh -L` with aes128-gcm, in one run: `cargo bench --bench forward`. Beside them stunnel, haproxy and
//! rathole, those that are installed.
//!
//! Needs openssh-server and openssh-client. Both tunnels are up and idle while the other is measured; rounds alternate
//! and the medians of the ratios are printed.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Instant,
};

mod long_path;
mod peers;
#[path = "../support/mod.rs"]
mod support;
mod tunnels;

use long_path::{ROUND_TRIP, long_path};
use support::{median, row};
use tunnels::Tunnel;

const BULK_BYTES: usize = 1 << 30;
const ROUNDS: usize = 5;
const ROUNDS_BESIDE: usize = 3;
const IDLE_CONNECTIONS: usize = 1000;
const QUESTIONS: usize = 200;
/// Half of the 40 ms for which a kernel holds back an acknowledgement.
const STALL_MS: f64 = 20.0;
const FAR_CONNECTIONS: usize = 20;
const FAR_ROUNDS: usize = 3;

fn main() {
    let origin = origin();
    let folder = tempfile::tempdir().expect("a folder");
    let ssh = Tunnel::ssh(folder.path(), origin);
    let ours = Tunnel::capuchin(folder.path(), origin);
    // First, while neither has memory left over from other work.
    println!("{:34} of      ssh -L                   {:7.2}   KiB", "idle forwarded connection", idle(&ssh));
    row("idle forwarded connection, KiB", "-", idle(&ours), 20.0, false);
    for (name, command, wanted) in [("bulk down", b'D', 1.4), ("bulk up", b'U', 1.7)] {
        let (mut speeds, mut costs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (their_speed, their_cost) = costed(&ssh, command);
            let (our_speed, our_cost) = costed(&ours, command);
            speeds.push(our_speed / their_speed);
            costs.push(our_cost / their_cost);
            eprintln!(
                "{name}: ssh {their_speed:.0} MiB/s, {their_cost:.2} CPU s; capuchin {our_speed:.0}, {our_cost:.2}"
            );
        }
        row(name, "ssh -L aes128-gcm", median(&mut speeds), wanted, true);
        row(&format!("{name}, CPU"), "ssh -L aes128-gcm", median(&mut costs), 0.6, false);
    }
    for (name, lanes, each, wanted) in
        [("connections/s, sequential", 1, 1000, 1.3), ("connections/s, 64 at once", 64, 50, 1.15)]
    {
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            let (theirs, ours) = (connections(&ssh, lanes, each), connections(&ours, lanes, each));
            ratios.push(ours / theirs);
            eprintln!("{name}: ssh {theirs:.0}, capuchin {ours:.0}");
        }
        row(name, "ssh -L aes128-gcm", median(&mut ratios), wanted, true);
    }
    row("write, write, read, p99, ms", "-", write_write_read(&ours), STALL_MS, false);
    drop(ssh);
    for (name, start) in peers::ALL {
        match start(folder.path(), origin) {
            Some(theirs) => beside(name, &theirs, &ours),
            None => println!("{name}: not installed"),
        }
    }
    drop(ours);
    far(origin);
}

/// Rows of which none is asked for: ours against another tunnel's.
fn beside(name: &str, theirs: &Tunnel, ours: &Tunnel) {
    let show = |what: &str, ratios: &mut [f64]| println!("{what:34} against {name:24} {:7.2}", median(ratios));
    for (what, command) in [("bulk down", b'D'), ("bulk up", b'U')] {
        let (mut speeds, mut costs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS_BESIDE {
            let (their_speed, their_cost) = costed(theirs, command);
            let (our_speed, our_cost) = costed(ours, command);
            speeds.push(our_speed / their_speed);
            costs.push(our_cost / their_cost);
        }
        show(what, &mut speeds);
        show(&format!("{what}, CPU"), &mut costs);
    }
    for (what, lanes, each) in [("connections/s, sequential", 1, 1000), ("connections/s, 64 at once", 64, 50)] {
        let ratio = |_| connections(ours, lanes, each) / connections(theirs, lanes, each);
        show(what, &mut (0..ROUNDS_BESIDE).map(ratio).collect::<Vec<_>>());
    }
}

/// The rows at 50 ms and 1 Gbit/s.
fn far(origin: SocketAddr) {
    let folder = tempfile::tempdir().expect("a folder");
    let ours = Tunnel::capuchin_over(folder.path(), origin, long_path);
    let raw = long_path(origin);
    let mut trips: Vec<f64> = (0..FAR_CONNECTIONS)
        .map(|_| {
            let began = Instant::now();
            echo_once(&mut dial(ours.local));
            began.elapsed().as_secs_f64() / ROUND_TRIP.as_secs_f64()
        })
        .collect();
    row("50 ms: connect + echo", "a round trip", median(&mut trips), 1.05, false);
    for (name, command) in [("50 ms, 1 Gbit/s: bulk down", b'D'), ("50 ms, 1 Gbit/s: bulk up", b'U')] {
        let mut ratios: Vec<f64> = (0..FAR_ROUNDS).map(|_| bulk(ours.local, command) / bulk(raw, command)).collect();
        row(name, "raw TCP", median(&mut ratios), 0.95, true);
    }
}

/// The bulk's MiB/s, and CPU seconds of both ends of the tunnel.
fn costed(tunnel: &Tunnel, command: u8) -> (f64, f64) {
    let cpu = tunnel.cpu_seconds();
    let speed = bulk(tunnel.local, command);
    (speed, tunnel.cpu_seconds() - cpu)
}

/// Milliseconds that a question takes which is written in two parts, by a program that has never heard of TCP_NODELAY.
fn write_write_read(tunnel: &Tunnel) -> f64 {
    let mut socket = TcpStream::connect(tunnel.local).expect("the tunnel listens");
    socket.write_all(b"W").expect("the tunnel is up");
    let mut times: Vec<f64> = (0..QUESTIONS)
        .map(|_| {
            let began = Instant::now();
            socket.write_all(b"1").expect("the tunnel is up");
            socket.write_all(b"2").expect("the tunnel is up");
            socket.read_exact(&mut [0]).expect("an answer");
            began.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[QUESTIONS * 99 / 100]
}

/// The bulk's MiB/s.
fn bulk(local: SocketAddr, command: u8) -> f64 {
    let began = Instant::now();
    let mut socket = dial(local);
    socket.write_all(&[command]).expect("the tunnel is up");
    let mut block = vec![7; 256 * 1024];
    let mut moved = 0;
    if command == b'U' {
        while moved < BULK_BYTES {
            socket.write_all(&block).expect("the tunnel is up");
            moved += block.len();
        }
        socket.shutdown(Shutdown::Write).expect("an end");
        let mut count = [0; 8];
        socket.read_exact(&mut count).expect("a count");
        assert_eq!(u64::from_be_bytes(count), BULK_BYTES as u64);
    } else {
        loop {
            match socket.read(&mut block).expect("the tunnel is up") {
                0 => break,
                length => moved += length,
            }
        }
        assert_eq!(moved, BULK_BYTES);
    }
    BULK_BYTES as f64 / (1 << 20) as f64 / began.elapsed().as_secs_f64()
}

/// Connections a second: connect, two bytes out, one back, close.
fn connections(tunnel: &Tunnel, lanes: usize, each: usize) -> f64 {
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| (0..each).for_each(|_| echo_once(&mut dial(tunnel.local))));
        }
    });
    (lanes * each) as f64 / began.elapsed().as_secs_f64()
}

fn echo_once(socket: &mut TcpStream) {
    socket.write_all(b"Ex").expect("the tunnel is up");
    let mut echo = [0];
    socket.read_exact(&mut echo).expect("an echo");
    assert_eq!(&echo, b"x");
}

/// Memory of both ends of an idle connection, in KiB.
fn idle(tunnel: &Tunnel) -> f64 {
    let before = tunnel.pss_kib();
    let mut held = Vec::new();
    for _ in 0..IDLE_CONNECTIONS {
        let mut socket = dial(tunnel.local);
        echo_once(&mut socket);
        held.push(socket);
    }
    (tunnel.pss_kib() - before) / IDLE_CONNECTIONS as f64
}

fn dial(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).expect("the tunnel listens");
    socket.set_nodelay(true).expect("nodelay");
    socket
}

/// What lies behind both tunnels; the first byte says what to do.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            thread::Builder::new().stack_size(64 * 1024).spawn(move || serve(socket)).expect("a thread");
        }
    });
    address
}

fn serve(mut socket: TcpStream) {
    let mut command = [0];
    if socket.set_nodelay(true).is_err() || socket.read_exact(&mut command).is_err() {
        return;
    }
    if command == *b"W" {
        while socket.read_exact(&mut [0; 2]).is_ok() && socket.write_all(b"!").is_ok() {}
        return;
    }
    let mut block = vec![7; if command == *b"E" { 64 } else { 256 * 1024 }];
    let mut total = 0_u64;
    if command == *b"D" {
        for _ in 0..BULK_BYTES / block.len() {
            if socket.write_all(&block).is_err() {
                return;
            }
        }
        return;
    }
    while let Ok(length) = socket.read(&mut block) {
        if length == 0 {
            break;
        }
        total += length as u64;
        if command == *b"E" && socket.write_all(&block[..length]).is_err() {
            return;
        }
    }
    if command == *b"U" {
        let _ = socket.write_all(&total.to_be_bytes());
    }
}
