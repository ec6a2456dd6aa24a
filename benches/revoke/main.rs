//! How long a borrower still gets bytes after `capuchind revoke`, and after a policy that removes its rule:
//! `cargo bench --bench revoke`.
//!
//! Real processes; 200 streams that pour for as long as they are let. The time runs from the start of the command (or of
//! the write of the file) to the last byte on any of them. At most 1 s is asked for, as the 99th of 100 rounds.

use std::{
    fs,
    io::Read,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

#[path = "../support/mod.rs"]
mod support;
#[path = "../forward/tunnels.rs"]
mod tunnels;

use support::row;
use tunnels::Tunnel;

const ROUNDS: usize = 100;
const STREAMS: usize = 200;
/// Rounds of which one may be slower.
const PERCENTILE: usize = 99;

fn main() {
    let origin = support::pour();
    let folder = tempfile::tempdir().expect("a folder");
    let mut tunnel = Tunnel::capuchin(folder.path(), origin);
    let policy = folder.path().join("lab/policy.toml");
    let rule = fs::read_to_string(&policy).expect("the policy");

    let reloads: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let took = last_byte(tunnel.local, || fs::write(&policy, "").expect("a file"));
            put_back(&policy, &rule, folder.path());
            took
        })
        .collect();
    row("reload to the last byte, s, p99", "-", percentile(reloads), 1.0, false);

    let revocations: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let session = session(folder.path());
            let revoke = || run(lender(folder.path()).args(["revoke", "--session", &session]));
            let took = last_byte(tunnel.local, revoke);
            tunnel.forward_again(folder.path(), origin);
            took
        })
        .collect();
    row("revoke to the last byte, s, p99", "-", percentile(revocations), 1.0, false);
}

/// Seconds from `end` to the last byte on any of the streams.
fn last_byte(local: SocketAddr, end: impl FnOnce()) -> f64 {
    let pouring: Vec<_> = (0..STREAMS).map(|_| pouring(local)).collect();
    let readers: Vec<_> = pouring.into_iter().map(|socket| thread::spawn(move || drain(socket))).collect();
    let began = Instant::now();
    end();
    let lasts = readers.into_iter().map(|reader| reader.join().expect("a reader"));
    lasts.map(|last| last.saturating_duration_since(began).as_secs_f64()).fold(0.0, f64::max)
}

/// A connection on which bytes have begun to come.
fn pouring(local: SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(local).expect("the tunnel listens");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    socket.read_exact(&mut [0]).expect("a byte");
    socket
}

/// When the last byte came.
fn drain(mut socket: TcpStream) -> Instant {
    let (mut last, mut block) = (Instant::now(), vec![0; 16 * 1024]);
    while socket.read(&mut block).is_ok_and(|length| length > 0) {
        last = Instant::now();
    }
    last
}

/// Waits until the old policy is in force again.
fn put_back(policy: &Path, rule: &str, folder: &Path) {
    fs::write(policy, rule).expect("a file");
    let target = rule.split('"').nth(3).expect("the rule's pattern").to_owned();
    let mut check = lender(folder);
    check.args(["check", "bench", "connect", &target]);
    let end = Instant::now() + Duration::from_secs(10);
    while !check.output().expect("capuchind").status.success() {
        assert!(Instant::now() < end, "the policy is not followed");
    }
}

fn session(folder: &Path) -> String {
    let listed = lender(folder).args(["sessions", "--json"]).output().expect("capuchind");
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
    listed["sessions"][0]["session"].as_str().expect("a session").to_owned()
}

fn lender(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_capuchind"));
    command.env("CAPUCHIND_DIR", folder.join("lab"));
    command
}

fn run(command: &mut Command) {
    let output = command.output().expect("capuchind");
    assert!(output.status.success(), "{output:?}");
}

fn percentile(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    eprintln!("median {:.3} s, longest {:.3} s", seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
    seconds[seconds.len() * PERCENTILE / 100 - 1]
}
