//! How long a borrower still gets bytes after `capuchind revoke`, in each of its forms, and after a policy that removes its
//! rule; and how long its programs live after `revoke --user`: `cargo bench --bench revoke`.
//!
//! Real processes; 200 streams that pour for as long as they are let, and are seen to, all of them, before they end. The time
//! runs from the start of the command (or of the write of the file) to the last byte on any of them. At most 1 s is promised,
//! as the 99th of 100 rounds: where it is missed the bench fails.

use std::{
    fs,
    io::{ErrorKind, Read},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

mod programs;
#[path = "../support/mod.rs"]
mod support;
#[path = "../forward/tunnels.rs"]
mod tunnels;

use programs::Programs;
use support::{is_asked_for, p99, processes::run, row};
use tunnels::{Tunnel, join, lender, log_in};

const ROUNDS: usize = 100;
const STREAMS: usize = 200;
/// Seconds that are promised.
const PROMISED: f64 = 1.0;
/// No wait takes longer: for a stream that does not pour, or one that does not end.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let origin = support::pour();
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let mut tunnel = Tunnel::capuchin(folder, origin);
    let policy = folder.join("lab/policy.toml");
    let rule = fs::read_to_string(&policy).expect("the policy");

    let mut met = true;
    if is_asked_for("reload") {
        let mut reloads: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let took = last_byte(tunnel.local, folder, || fs::write(&policy, "").expect("a file"));
                put_back(&policy, &rule, folder);
                took
            })
            .collect();
        met &= row("reload to the last byte, s, p99", "-", p99(&mut reloads), PROMISED, false);
    }
    for whose in ["session", "device", "user"] {
        let what = format!("revoke --{whose} to the last byte, s, p99");
        if !is_asked_for(&what) {
            continue;
        }
        let mut revocations: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let id = live(folder)[whose].as_str().expect("who it is").to_owned();
                let revoke = || run(lender(folder).args(["revoke", &format!("--{whose}"), &id]));
                let took = last_byte(tunnel.local, folder, revoke);
                tunnel.forward_again(folder, origin, || match whose {
                    "session" => log_in(folder),
                    _ => come_anew(folder),
                });
                took
            })
            .collect();
        met &= row(&what, "-", p99(&mut revocations), PROMISED, false);
    }
    let what = "revoke --user to the last program's end, s, p99";
    if is_asked_for(what) {
        let runs = "exec = [{ path = \"/usr/bin/sh\" }]\nallow_root = true\n";
        fs::write(&policy, rule + runs).expect("a file");
        wait_until_allowed(folder, &["exec", "/usr/bin/sh"]);
        let mut ends: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let took = Programs::start(folder).last_end(|| run(lender(folder).args(["revoke", "--user", "bench"])));
                come_anew(folder);
                took
            })
            .collect();
        met &= row(what, "-", p99(&mut ends), PROMISED, false);
    }
    if met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Seconds from `end` to the last byte on any of the streams.
fn last_byte(local: SocketAddr, folder: &Path, end: impl FnOnce()) -> f64 {
    let streams: Vec<_> = (0..STREAMS).map(|_| Pouring::open(local)).collect();
    assert_eq!(live(folder)["streams"].as_array().map(Vec::len), Some(STREAMS), "each of them is lent");
    // All are open: what comes from now on comes beside all others.
    let so_far: Vec<_> = streams.iter().map(Pouring::bytes).collect();
    let patience = Instant::now() + PATIENCE;
    for (stream, so_far) in streams.iter().zip(so_far) {
        while stream.bytes() == so_far {
            assert!(Instant::now() < patience, "a stream that does not pour");
            thread::sleep(Duration::from_millis(1));
        }
    }
    let began = Instant::now();
    end();
    let lasts = streams.into_iter().map(|stream| stream.reader.join().expect("a stream that ends"));
    lasts.map(|last| last.saturating_duration_since(began).as_secs_f64()).fold(0.0, f64::max)
}

/// A connection through the tunnel, which somebody reads.
struct Pouring {
    bytes: Arc<AtomicU64>,
    /// Gives when the last byte came.
    reader: JoinHandle<Instant>,
}

impl Pouring {
    fn open(local: SocketAddr) -> Self {
        let mut socket = TcpStream::connect(local).expect("the tunnel listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.read_exact(&mut [0]).expect("a byte");
        let bytes = Arc::new(AtomicU64::new(1));
        let counted = bytes.clone();
        Self { bytes, reader: thread::spawn(move || drain(socket, &counted)) }
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Reads to the end, and gives when the last byte came.
fn drain(mut socket: TcpStream, bytes: &AtomicU64) -> Instant {
    let (mut last, mut block) = (Instant::now(), vec![0; 16 * 1024]);
    loop {
        match socket.read(&mut block) {
            Ok(0) => return last,
            Ok(length) => {
                last = Instant::now();
                bytes.fetch_add(length as u64, Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("neither bytes nor an end within {PATIENCE:?}")
            }
            Err(_) => return last,
        }
    }
}

/// Waits until the old policy is in force again.
fn put_back(policy: &Path, rule: &str, folder: &Path) {
    fs::write(policy, rule).expect("a file");
    let target = rule.split('"').nth(3).expect("the rule's pattern");
    wait_until_allowed(folder, &["connect", target]);
}

fn wait_until_allowed(folder: &Path, what: &[&str]) {
    let mut check = lender(folder);
    check.args(["check", "bench"]).args(what);
    let end = Instant::now() + PATIENCE;
    while !check.output().expect("capuchind").status.success() {
        assert!(Instant::now() < end, "the policy is not followed");
    }
}

/// The one session that there is, as `capuchind sessions --json` has it, once those of commands that have ended are gone.
fn live(folder: &Path) -> serde_json::Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let listed = lender(folder).args(["sessions", "--json"]).output().expect("capuchind");
        let mut listed: serde_json::Value = serde_json::from_slice(&listed.stdout).expect("JSON");
        let sessions = listed["sessions"].as_array_mut().expect("sessions");
        if sessions.len() == 1 {
            return sessions.remove(0);
        }
        assert!(Instant::now() < end, "{sessions:?}");
    }
}

/// The borrower begins anew: its device was revoked, and keeps nothing.
fn come_anew(folder: &Path) {
    for kept in ["config", "state"] {
        fs::remove_dir_all(folder.join(kept)).expect("a profile");
    }
    join(folder);
}
