//! `capuchin run` against proxychains4 over `ssh -D`, with the same program, in one run: `cargo bench --bench run`; and a server
//! under `run` against the same server as it is.
//!
//! Needs openssh-server, openssh-client, proxychains4, haproxy, nginx and python3. The program is this one, started again under each; rounds
//! alternate and the medians of the ratios are printed.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::Instant,
};

mod closed;
mod http;
mod served;
#[path = "../support/mod.rs"]
mod support;
#[path = "../forward/tunnels.rs"]
mod tunnels;

use support::{is_asked_for, median, row};
use tunnels::Tunnel;

const BULK_BYTES: usize = 1 << 30;
const BLOCK_BYTES: usize = 256 * 1024;
const CONNECTIONS: usize = 1000;
const ROUNDS: usize = 5;
const STARTS: usize = 20;
const REFUSALS: usize = 100;
/// Where nobody listens, and the bench may connect.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), tunnels::NOBODYS_PORT);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [_, "program", job, address] => return program(job, address.parse().expect("an address")),
        [_, "server"] => return served::server(),
        [_, "binds"] => return served::binds(),
        _ => {}
    }
    let origin = origin();
    let folder = tempfile::tempdir().expect("a folder");
    let theirs = Tunnel::ssh_socks(folder.path());
    let ours = Tunnel::capuchin(folder.path(), origin);
    let config = folder.path().join("proxychains.conf");
    let text = format!("strict_chain\n[ProxyList]\nsocks5 127.0.0.1 {}\n", theirs.local.port());
    std::fs::write(&config, text).expect("a file");
    let chained = || {
        let mut command = Command::new("proxychains4");
        command.arg("-q").arg("-f").arg(&config);
        command
    };
    for (job, wanted) in [("bulk", 1.3), ("bulk up", 1.3), ("connections", 2.0)] {
        let name = format!("run: {job}");
        if !is_asked_for(&name) {
            continue;
        }
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            let (their_rate, our_rate) = (rate(chained(), job, origin), rate(borrowed(folder.path()), job, origin));
            ratios.push(our_rate / their_rate);
            eprintln!("{job}: proxychains4 {their_rate:.0}, capuchin run {our_rate:.0}");
        }
        row(&name, "proxychains4 + ssh -D", median(&mut ratios), wanted, true);
    }
    if is_asked_for("run: bulk") {
        let ratio = |_| {
            let direct = rate(Command::new("env"), "bulk", ours.local);
            rate(borrowed(folder.path()), "bulk", origin) / direct
        };
        row("run: bulk", "capuchin forward", median(&mut (0..ROUNDS).map(ratio).collect::<Vec<_>>()), 0.8, true);
    }
    if is_asked_for("start") {
        let mut extra: Vec<f64> =
            (0..STARTS).map(|_| start(borrowed(folder.path())) - start(Command::new("env"))).collect();
        row("run: start of true, more ms", "true", median(&mut extra), 15.0, false);
    }
    if is_asked_for("refused") {
        // The way to the lender is loopback's here, where a round trip is nothing beside what a machine adds to it.
        let mut refused: Vec<f64> = (0..ROUNDS).map(|_| rate(borrowed(folder.path()), "refused", NOBODY)).collect();
        row("run: refused port, ms", "a round trip", median(&mut refused), 50.0, false);
    }
    if is_asked_for("demo") {
        row("demo, s", "", demo(), 30.0, false);
    }
    if is_asked_for("closed") {
        closed::measure(folder.path());
    }
    if is_asked_for("accepted") {
        served::measure(folder.path());
        http::measure(folder.path());
    }
}

/// `capuchin run lab --`.
fn borrowed(folder: &Path) -> Command {
    let mut command = tunnels::borrower(folder);
    command.args(["run", "lab", "--"]);
    command
}

/// What the program says that it reached, under `command`.
fn rate(mut command: Command, job: &str, address: SocketAddr) -> f64 {
    command.arg(std::env::current_exe().expect("this program")).args(["program", job, &address.to_string()]);
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    said.trim().parse().unwrap_or_else(|_| panic!("{command:?}: {output:?}"))
}

/// How long `true` takes under `command`, in ms.
fn start(mut command: Command) -> f64 {
    let began = Instant::now();
    assert!(command.arg("true").status().expect("it starts").success());
    began.elapsed().as_secs_f64() * 1000.0
}

/// How long the demo takes, in s.
fn demo() -> f64 {
    let began = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_capuchin")).arg("demo").output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
    began.elapsed().as_secs_f64()
}

/// The median time until a connect has failed, in ms.
fn refused(target: SocketAddr) {
    let attempt = |_| {
        let began = Instant::now();
        let error = TcpStream::connect(target).expect_err("nobody is there");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        began.elapsed().as_secs_f64() * 1000.0
    };
    println!("{}", median(&mut (0..REFUSALS).map(attempt).collect::<Vec<_>>()));
}

/// The program that runs under both: MiB/s of a download or an upload, or connections a second that echo a byte.
fn program(job: &str, origin: SocketAddr) {
    if job == "refused" {
        return refused(origin);
    }
    let ask = |command: &[u8]| {
        let mut socket = TcpStream::connect(origin).expect("connected");
        socket.write_all(command).expect("asked");
        socket
    };
    let began = Instant::now();
    let mut block = vec![0; BLOCK_BYTES];
    let amount = match job {
        "bulk" => {
            let (mut socket, mut moved) = (ask(b"D"), 0);
            while moved < BULK_BYTES {
                moved += socket.read(&mut block).expect("bytes");
            }
            BULK_BYTES >> 20
        }
        "bulk up" => {
            let mut socket = ask(b"U");
            (0..BULK_BYTES / BLOCK_BYTES).for_each(|_| socket.write_all(&block).expect("sent"));
            socket.read_exact(&mut [0]).expect("all of it is there");
            BULK_BYTES >> 20
        }
        _ => {
            (0..CONNECTIONS).for_each(|_| ask(b"E").read_exact(&mut [0]).expect("an echo"));
            CONNECTIONS
        }
    };
    println!("{}", amount as f64 / began.elapsed().as_secs_f64());
}

/// Sends the bulk after a D, takes it before it sends a U back, and sends anything else back at once.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            let serve = move || {
                let mut command = [0];
                if socket.read_exact(&mut command).is_err() {
                    return;
                }
                let mut block = vec![7; BLOCK_BYTES];
                let mut blocks = 0..BULK_BYTES / BLOCK_BYTES;
                // Who has gone has failed by itself, and says so.
                let _ = match &command {
                    b"D" => blocks.try_for_each(|_| socket.write_all(&block)),
                    b"U" => {
                        blocks.try_for_each(|_| socket.read_exact(&mut block)).and_then(|()| socket.write_all(b"U"))
                    }
                    _ => socket.write_all(&command),
                };
            };
            thread::Builder::new().stack_size(64 * 1024).spawn(serve).expect("a thread");
        }
    });
    address
}
