//! A server under `run`: what a port costs, and how many connections come through it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::Instant,
};

use super::{
    ROUNDS, borrowed,
    support::{
        median,
        processes::{free_port, wait_for},
        row,
    },
    tunnels::{self, Tunnel},
};

/// Clients at once.
const CLIENTS: usize = 16;
const EACH: usize = 100;
const BINDS: usize = 200;

/// The rows.
pub fn measure(folder: &Path) {
    let (mut ratios, mut costs) = ([const { Vec::new() }; 3], [Vec::new(), Vec::new()]);
    for _ in 0..ROUNDS {
        let (native, ours) = (accepted(Command::new("env")), accepted(borrowed(folder)));
        let (relayed, back) = (behind(relays), behind(Tunnel::ssh_back));
        eprintln!(
            "accepted connections/s: as it is {native:.0}, capuchin run {ours:.0}, two haproxy {relayed:.0}, ssh -R {back:.0}"
        );
        for (ratios, theirs) in ratios.iter_mut().zip([native, relayed, back]) {
            ratios.push(ours / theirs);
        }
        costs[0].push(cost(Command::new("env")));
        costs[1].push(cost(borrowed(folder)));
    }
    // What a relay costs that has no TLS, no policy and no address but its own stands beside it.
    let [native, relayed, back] = ratios.map(|mut ratios| median(&mut ratios));
    row("run: accepted connections/s", "the same server as it is", native, 0.5, true);
    row("run: accepted connections/s", "two haproxy, no TLS", relayed, 0.7, true);
    row("run: accepted connections/s", "ssh -R", back, 1.2, true);
    let [native, ours] = costs.map(|mut costs| median(&mut costs));
    println!("run: bind + listen + close {ours:.3} ms; as it is {native:.3} ms");
}

/// A server that listens, and where.
fn start(mut command: Command) -> (Child, u16) {
    command.arg(std::env::current_exe().expect("this program")).arg("server").stdin(Stdio::piped());
    let mut server = command.stdout(Stdio::piped()).spawn().expect("the server");
    let mut line = String::new();
    BufReader::new(server.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    (server, line.trim().parse().expect("a port"))
}

/// Connections a second that the server answers under `command`, each of one byte there and back.
fn accepted(command: Command) -> f64 {
    let (server, port) = start(command);
    let rate = echoed(port);
    end(server);
    rate
}

/// The same where they come by what leads to the server as it is.
fn behind(tunnel: fn(&Path, SocketAddr) -> Tunnel) -> f64 {
    let (server, port) = start(Command::new("env"));
    let folder = tempfile::tempdir().expect("a folder");
    let tunnel = tunnel(folder.path(), SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let rate = echoed(tunnel.local.port());
    drop(tunnel);
    end(server);
    rate
}

/// As many hops as a lender and a `run` are, by Debian's haproxy.
fn relays(folder: &Path, origin: SocketAddr) -> Tunnel {
    let ports = [free_port(), free_port()];
    let hops = [(ports[0], origin), (ports[1], SocketAddr::from((Ipv4Addr::LOCALHOST, ports[0])))];
    let ends = hops.map(|(port, next)| {
        let listen = format!("  bind 127.0.0.1:{port}\n  server o {next}\n");
        let haproxy = tunnels::haproxy(folder, &port.to_string(), "", &listen);
        wait_for(port);
        haproxy
    });
    Tunnel::of(ports[1], ends.into())
}

fn echoed(port: u16) -> f64 {
    rate(port, |socket| {
        socket.write_all(b"x").expect("connected");
        socket.read_exact(&mut [0]).expect("an echo");
    })
}

/// It ends with its input.
fn end(mut server: Child) {
    drop(server.stdin.take());
    server.wait().expect("it ends");
}

/// Connections a second to `port`, of some clients at once, with this in each.
pub fn rate(port: u16, exchange: impl Fn(&mut TcpStream) + Sync) -> f64 {
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    exchange(&mut TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens"));
                }
            });
        }
    });
    (CLIENTS * EACH) as f64 / began.elapsed().as_secs_f64()
}

/// Milliseconds that a port costs under `command`.
fn cost(mut command: Command) -> f64 {
    command.arg(std::env::current_exe().expect("this program")).arg("binds");
    let output = command.output().expect("the program");
    String::from_utf8_lossy(&output.stdout).trim().parse().unwrap_or_else(|_| panic!("{output:?}"))
}

/// The server: answers a byte of each connection, one after the other, until its input ends.
pub fn server() {
    let listener = listen();
    println!("{}", listener.local_addr().expect("its address").port());
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let mut byte = [0];
            if socket.read_exact(&mut byte).is_ok() {
                let _ = socket.write_all(&byte);
            }
        }
    });
    let _ = std::io::stdin().read(&mut [0]);
}

/// Opens ports and closes them; prints what one costs, in ms.
pub fn binds() {
    let began = Instant::now();
    for _ in 0..BINDS {
        drop(listen());
    }
    println!("{}", began.elapsed().as_secs_f64() * 1000.0 / BINDS as f64);
}

fn listen() -> TcpListener {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port")
}
