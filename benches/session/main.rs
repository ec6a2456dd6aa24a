//! `capuchin exec` against `ssh` with aes128-gcm, in one run: `cargo bench --bench session`.
//!
//! Needs openssh-server and openssh-client. Both daemons are up while the other is measured; rounds alternate and the
//! medians of the ratios are printed. `-- WORDS` measures the rows alone whose names have one of them.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};

mod peers;
#[path = "../support/mod.rs"]
mod support;

use peers::Peer;
use support::{is_asked_for, median, processes::run, row};

const ROUNDS: usize = 5;
const COMMANDS: usize = 10;
/// Keys, and the pause between two: of a person who types fast, and of one who pastes.
const TYPED: (usize, Duration) = (60, Duration::from_millis(50));
const PASTED: (usize, Duration) = (300, Duration::from_millis(2));
const BULK_BYTES: usize = 512 << 20;
const FILES: usize = 10_000;

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ssh, ours) = (Peer::ssh(folder.path()), Peer::capuchin(folder.path()));
    compare("exec true, new login", "ssh host true", 0.33, false, || (starts(&ssh), starts(&ours)));
    let (ssh_shared, ours_shared) = (ssh.shared(), ours.shared());
    compare("exec true, shared connection", "ssh ControlMaster", 0.8, false, || {
        (starts(&ssh_shared), starts(&ours_shared))
    });
    for (what, keys) in [("keystroke echo, p50, 20 keys/s", TYPED), ("keystroke echo, p50, 500 keys/s", PASTED)] {
        compare(what, "ssh -tt", 1.1, false, || (echo(&ssh, keys), echo(&ours, keys)));
    }
    compare("exec cat, bulk", "ssh aes128-gcm", 1.4, true, || (bulk(&ssh), bulk(&ours)));
    // Nothing is asked for but that sharing is no worse a bargain than there: bytes cross one process more in both.
    compare("exec cat, bulk, shared connection", "ssh ControlMaster", 1.0, true, || {
        (bulk(&ssh_shared), bulk(&ours_shared))
    });
    compare("exec cat, bulk, shared connection", "capuchin exec of its own", 0.5, true, || {
        (bulk(&ours), bulk(&ours_shared))
    });
    let files = small_files(folder.path());
    compare("tar | exec tar, 10,000 files", "tar | ssh tar", 1.6, true, || {
        (1.0 / untar(&ssh, &files), 1.0 / untar(&ours, &files))
    });
}

/// Measures both in turns, and prints the median of the ratios.
fn compare(what: &str, against: &str, wanted: f64, at_least: bool, both: impl Fn() -> (f64, f64)) {
    if !is_asked_for(what) {
        return;
    }
    let mut ratios: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (theirs, ours) = both();
            eprintln!("{what}: {against} {theirs:.5}, capuchin {ours:.5}");
            ours / theirs
        })
        .collect();
    row(what, against, median(&mut ratios), wanted, at_least);
}

/// Seconds for one command that does nothing.
fn starts(peer: &Peer) -> f64 {
    let began = Instant::now();
    for _ in 0..COMMANDS {
        run(&mut peer.exec(&["true"]));
    }
    began.elapsed().as_secs_f64() / COMMANDS as f64
}

/// Median of the seconds from a key to its echo, on a terminal at both ends.
fn echo(peer: &Peer, (keys, pause): (usize, Duration)) -> f64 {
    let (mut child, mut keyboard) = at_terminal(&mut peer.exec_on_terminal(&["cat"]));
    let mut byte = [0; 1];
    let mut times = Vec::with_capacity(keys);
    // The first is not measured: the program may not be there yet.
    for round in 0..=keys {
        let began = Instant::now();
        keyboard.write_all(b"x").expect("a terminal");
        while keyboard.read_exact(&mut byte).is_ok() && byte != *b"x" {}
        if round > 0 {
            times.push(began.elapsed().as_secs_f64());
        }
        thread::sleep(pause);
    }
    let _ = child.kill();
    let _ = child.wait();
    median(&mut times)
}

/// Bytes a second there and back.
fn bulk(peer: &Peer) -> f64 {
    let began = Instant::now();
    let (mut child, mut stdin, mut stdout) = piped(&mut peer.exec(&["cat"]));
    let writer = thread::spawn(move || {
        let block = vec![7; 256 * 1024];
        for _ in 0..BULK_BYTES / block.len() {
            stdin.write_all(&block).expect("cat reads");
        }
    });
    let (mut block, mut got) = (vec![0; 256 * 1024], 0);
    loop {
        match stdout.read(&mut block).expect("cat writes") {
            0 => break,
            length => got += length,
        }
    }
    writer.join().expect("all is written");
    assert!(child.wait().expect("an end").success() && got == BULK_BYTES);
    BULK_BYTES as f64 / began.elapsed().as_secs_f64()
}

/// A folder of many small files.
fn small_files(folder: &Path) -> std::path::PathBuf {
    let files = folder.join("files");
    fs::create_dir(&files).expect("a folder");
    for number in 0..FILES {
        fs::write(files.join(format!("file-{number}")), vec![b'x'; 100 + number % 4000]).expect("a file");
    }
    files
}

/// Seconds to unpack them there.
fn untar(peer: &Peer, files: &Path) -> f64 {
    let target = tempfile::tempdir().expect("a folder");
    let began = Instant::now();
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(files).args(["-cf", "-", "."]).stdout(Stdio::piped());
    let mut tar = tar.spawn().expect("tar");
    let mut there = peer.exec(&["tar", "-C", target.path().to_str().expect("a path"), "-xf", "-"]);
    run(there.stdin(tar.stdout.take().expect("piped")));
    assert!(tar.wait().expect("an end").success());
    began.elapsed().as_secs_f64()
}

/// Starts it at a terminal, and gives the side of the person there.
fn at_terminal(command: &mut Command) -> (Child, fs::File) {
    let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&person).expect("a terminal");
    unlockpt(&person).expect("a terminal");
    let path = ptsname(&person, Vec::new()).expect("its name");
    let terminal =
        fs::OpenOptions::new().read(true).write(true).open(path.to_str().expect("ASCII")).expect("it is open");
    // No echo of its own.
    let mut modes = tcgetattr(&terminal).expect("modes");
    modes.make_raw();
    tcsetattr(&terminal, OptionalActions::Now, &modes).expect("modes");
    let again = || terminal.try_clone().expect("a descriptor");
    let child = command.stdin(again()).stdout(again()).stderr(Stdio::null()).spawn().expect("it runs");
    (child, person.into())
}

fn piped(command: &mut Command) -> (Child, ChildStdin, ChildStdout) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it runs");
    let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
    (child, stdin, stdout)
}
