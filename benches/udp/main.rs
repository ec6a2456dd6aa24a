//! Datagrams through `capuchin forward` and `capuchin run` against socat, in one run: `cargo bench --bench udp`.
//!
//! Needs socat. The program is this one, started again under each; it keeps a number of datagrams on their way and counts
//! what comes back from an echo. Rounds alternate and the medians of the ratios are printed.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

#[path = "../support/mod.rs"]
mod support;
#[path = "../forward/tunnels.rs"]
mod tunnels;

use support::{median, row};
use tunnels::Tunnel;

const ROUNDS: usize = 5;
const DATAGRAMS: usize = 30_000;
/// Full packets of the Internet, as a tunnel or a video has.
const BYTES: usize = 1200;
/// On their way at once: less than the 64 KiB that may wait.
const WINDOW: usize = 32;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let [_, role, address] = args.as_slice()
        && role == "program"
    {
        return program(address.parse().expect("an address"));
    }
    let echo = echo();
    let folder = tempfile::tempdir().expect("a folder");
    let _tunnel = Tunnel::capuchin(folder.path(), echo);
    let (forward, forwarded) = tunnels::forward(folder.path(), &format!("0:{echo}/udp"));
    let (socat, relayed) = socat(echo);
    let _ends = [Ended(forward), Ended(socat)];
    let (mut by_forward, mut by_run) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let theirs = rate(Command::new("env"), relayed);
        let ours = rate(Command::new("env"), forwarded);
        let within = rate(borrowed(folder.path()), echo);
        eprintln!("datagrams/s: socat {theirs:.0}, forward {ours:.0}, run {within:.0}");
        by_forward.push(ours / theirs);
        by_run.push(within / theirs);
    }
    row("forward: datagrams/s", "socat UDP4-LISTEN,fork", median(&mut by_forward), 0.5, true);
    row("run: datagrams/s", "socat UDP4-LISTEN,fork", median(&mut by_run), 0.5, true);
}

/// A process that ends with its owner.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `capuchin run lab --`.
fn borrowed(folder: &Path) -> Command {
    let mut command = tunnels::borrower(folder);
    command.args(["run", "lab", "--"]);
    command
}

/// `socat UDP4-LISTEN:A,fork UDP4:B`.
fn socat(echo: SocketAddr) -> (Child, SocketAddr) {
    let local = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port");
    let listen = format!("UDP4-LISTEN:{},fork", local.port());
    let mut socat = Command::new("socat");
    // Its children outlive it, until they are quiet.
    socat.args(["-T", "2", &listen, &format!("UDP4:{echo}")]).stdout(Stdio::null()).stderr(Stdio::null());
    let child = socat.spawn().expect("socat is installed");
    // There is no word of it when it listens.
    let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
    client.connect(local).expect("connected");
    client.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    while client.send(b"?").and_then(|_| client.recv(&mut [0])).is_err() {}
    (child, local)
}

/// What the program says that it reached, under `command`.
fn rate(mut command: Command, address: SocketAddr) -> f64 {
    command.arg(std::env::current_exe().expect("this program")).args(["program", &address.to_string()]);
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().unwrap_or_else(|_| panic!("{command:?}: {output:?}"))
}

/// Datagrams that came back, a second; what is lost is sent again after a moment in which nothing came.
fn program(echo: SocketAddr) {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a port");
    socket.connect(echo).expect("connected");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let (began, payload, mut buffer) = (Instant::now(), [7; BYTES], [0; BYTES]);
    let (mut came, mut on_their_way) = (0, 0);
    while came < DATAGRAMS {
        while on_their_way < WINDOW {
            socket.send(&payload).expect("sent");
            on_their_way += 1;
        }
        match socket.recv(&mut buffer) {
            Ok(_) => (came, on_their_way) = (came + 1, on_their_way.saturating_sub(1)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => on_their_way = 0,
            Err(error) => panic!("{error}"),
        }
    }
    println!("{}", came as f64 / began.elapsed().as_secs_f64());
}

fn echo() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("its address");
    thread::spawn(move || {
        let mut buffer = [0; 64 * 1024];
        loop {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], from);
            }
        }
    });
    address
}
