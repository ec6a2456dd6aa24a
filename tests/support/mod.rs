//! A real lender and real borrowers for tests: processes, loopback, port 0, folders of their own.

#![allow(dead_code, unused_imports, reason = "each test binary uses its own part")]

mod audit;
pub mod borrowing;
pub mod clock;
mod command;
pub mod costs;
pub mod disk;
pub mod half_open;
pub mod named;
pub mod peer;
pub mod ports;
pub mod pty;
pub mod screen;
pub mod wire;

pub use command::{as_user, fails, in_environment_of, own_uid, run, run_with, starts};

use std::{
    ffi::OsStr,
    fmt::Display,
    io::{BufRead, BufReader, ErrorKind, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::Value;

pub const PASSWORD: &str = "correct horse battery";
/// No wait of a test takes longer, on the slowest machine; ten times as long on a processor that is emulated (tests/kernels.sh).
pub const PATIENCE: Duration =
    Duration::from_secs(if option_env!("CAPUCHIN_TESTS_EMULATED").is_some() { 300 } else { 30 });

/// By which programs are told of proxies, each also in capital letters.
const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"];

/// What lets alice reach any port of this machine's loopback.
pub const LOOPBACK: &str = "[[allow]]\nwho = [\"alice\", \"bob\"]\nconnect = [\"127.0.0.0/8:*\", \"[::1]:*\"]\n";

/// Whether a connection ends here, in good order or broken off.
///
/// # Panics
/// If nothing comes for as long as its own time: that is no end.
pub fn ends(mut socket: impl Read) -> bool {
    match socket.read(&mut [0]) {
        Ok(length) => length == 0,
        Err(error) => {
            let is_silent = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            assert!(!is_silent, "it is not over: {error}");
            true
        }
    }
}

/// A running `capuchind` with its folder.
pub struct Lab {
    pub folder: tempfile::TempDir,
    pub daemon: Daemon,
    pub address: SocketAddr,
}

impl Lab {
    /// A lender named `lab` with the users alice and bob, serving on loopback.
    pub fn start(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        run(capuchind(dir).args(["init", "--name", "lab", "--listen", "127.0.0.1:0"]));
        std::fs::write(dir.join("policy.toml"), policy).unwrap();
        for user in ["alice", "bob"] {
            run(capuchind(dir).args(["user", "add", user]));
        }
        Self::serve(folder)
    }

    /// Starts the daemon in a folder that has been made before.
    pub fn serve(folder: tempfile::TempDir) -> Self {
        let daemon = Daemon::spawn(capuchind(folder.path()).arg("serve"));
        let said = daemon.wait_for_line("listens on");
        let address = said.rsplit(' ').next().unwrap().parse().unwrap();
        Self { folder, daemon, address }
    }

    /// Ends the daemon and starts it again, on another port.
    pub fn restart(mut self) -> Self {
        self.daemon.kill();
        Self::serve(self.folder)
    }

    pub fn dir(&self) -> &Path {
        self.folder.path()
    }

    pub fn admin(&self) -> Command {
        capuchind(self.dir())
    }

    /// Its door, for users of this machine.
    pub fn door(&self) -> PathBuf {
        self.dir().join("door.sock")
    }

    /// A command of `capuchin` for which HOST `.` is this lender, run by this OS user of this machine.
    pub fn here(&self, home: &Home, uid: u32) -> Command {
        let mut command = home.capuchin();
        command.env("CAPUCHIND_DIR", self.dir());
        as_user(&mut command, uid);
        command
    }

    /// Lets every user of this machine reach the door; the folder that holds it is 0700 by itself.
    pub fn open_folder(&self) {
        std::fs::set_permissions(self.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    }

    pub fn invite(&self, user: &str) -> String {
        text(run(self.admin().args(["invite", user])).stdout)
    }

    /// A borrower's home in which `user` has joined and is logged in.
    pub fn join(&self, user: &str) -> Home {
        let home = Home::new();
        self.join_at(user, &home);
        home
    }

    /// `user` joins in a home that there is, and is logged in.
    pub fn join_at(&self, user: &str, home: &Home) {
        let line = self.invite(user);
        run(home.capuchin().args(["join", line.trim(), "--password-file"]).arg(home.password_file(PASSWORD)));
    }
}

/// A borrower's home folder.
pub struct Home {
    pub folder: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn capuchin(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_capuchin"));
        let home = self.folder.path();
        command.env("HOME", home).env("XDG_CONFIG_HOME", home.join("config"));
        command.env("XDG_STATE_HOME", home.join("state")).env("XDG_RUNTIME_DIR", self.runtime());
        // Of this machine's network; what a test says of a program is about the lender's.
        for name in PROXIES {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        command.stdin(Stdio::null());
        command
    }

    /// Where its running commands have their sockets.
    pub fn runtime(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// A file with a password and a newline, as an editor leaves it.
    pub fn password_file(&self, password: &str) -> PathBuf {
        let path = self.folder.path().join("password");
        std::fs::write(&path, format!("{password}\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    /// The profile's folder of the lender `lab`.
    pub fn profile(&self) -> PathBuf {
        self.folder.path().join("config/capuchin/hosts/lab")
    }

    /// Runs `capuchin forward` and gives the local address of each forward, once they are open.
    pub fn forward(&self, forwards: &[&str]) -> (Daemon, Vec<SocketAddr>) {
        let mut command = self.capuchin();
        command.args(["forward", "lab", "-N"]);
        for forward in forwards {
            command.args(["-L", forward]);
        }
        let daemon = Daemon::spawn(&mut command);
        let open = |_| {
            let line = daemon.wait_for_line("Forwarding ");
            line.split(' ').nth(1).unwrap().parse().unwrap()
        };
        let addresses = forwards.iter().map(open).collect();
        (daemon, addresses)
    }
}

/// A process whose output is read line by line; killed when dropped.
pub struct Daemon {
    pub child: Child,
    pub stdin: Option<ChildStdin>,
    line_rx: std::sync::Mutex<mpsc::Receiver<String>>,
}

impl Daemon {
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (line_tx, line_rx) = mpsc::channel();
        let stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let other_tx = line_tx.clone();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|l| line_tx.send(l))
        });
        std::thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|l| other_tx.send(l))
        });
        Self { child, stdin, line_rx: line_rx.into() }
    }

    /// A server that cannot choose its port by itself: on one of its own, of TCP and UDP, that nobody else has taken in between;
    /// ready once it says `ready`.
    pub fn at_a_free_port(ready: &str, command: impl Fn(u16) -> Command) -> (Self, u16) {
        for _ in 0..20 {
            let port = std::net::UdpSocket::bind("[::]:0").unwrap().local_addr().unwrap().port();
            let daemon = Self::spawn(&mut command(port));
            if daemon.wait_for_either(PATIENCE, ready, "ddress already in use").contains(ready) {
                return (daemon, port);
            }
        }
        panic!("twenty ports were taken");
    }

    /// The next line that contains `what`.
    pub fn wait_for_line(&self, what: &str) -> String {
        self.wait_for_line_within(PATIENCE, what)
    }

    /// As [`Self::wait_for_line`], for what takes its time by itself.
    pub fn wait_for_line_within(&self, patience: Duration, what: &str) -> String {
        self.wait_for_either(patience, what, what)
    }

    fn wait_for_either(&self, patience: Duration, what: &str, other: &str) -> String {
        let line_rx = self.line_rx.lock().unwrap();
        let (end, mut seen) = (Instant::now() + patience, Vec::new());
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match line_rx.recv_timeout(left) {
                Ok(line) if line.contains(what) || line.contains(other) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("no line with {what:?} ({error}); it said {seen:#?}"),
            }
        }
    }

    /// Waits for a line for each of these, in any order, which is that and no more.
    pub fn wait_for_lines(&self, lines: impl IntoIterator<Item = String>) {
        let (mut missing, mut seen) = (lines.into_iter().collect::<Vec<_>>(), Vec::new());
        let (line_rx, end) = (self.line_rx.lock().unwrap(), Instant::now() + PATIENCE);
        while !missing.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            let line = line_rx.recv_timeout(left);
            let line = line.unwrap_or_else(|error| panic!("no lines {missing:#?} ({error}); it said {seen:#?}"));
            missing.retain(|one| *one != line);
            seen.push(line);
        }
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end on its own.
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        let pid = rustix::process::Pid::from_child(&self.child);
        let watch = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let left = end.saturating_duration_since(Instant::now());
        let timeout = rustix::event::Timespec { tv_sec: left.as_secs() as i64 + 1, tv_nsec: 0 };
        let ready = rustix::event::poll(
            &mut [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)],
            Some(&timeout),
        );
        assert_eq!(ready, Ok(1), "it does not end");
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

pub fn capuchind(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_capuchind"));
    command.env("CAPUCHIND_DIR", dir).stdin(Stdio::null());
    command
}

/// Asks again and again, for what nothing else tells of.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    ask_until(what, || if is_so() { Ok(()) } else { Err("it is not so") });
}

/// As [`wait_until`], for what is found out by asking; the last answer that will not do is told where no other comes.
pub fn ask_until<T, N: Display>(what: &str, mut ask: impl FnMut() -> Result<T, N>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(found) => return found,
            Err(not) => assert!(Instant::now() < end, "not after {PATIENCE:?}: {what}; {not}"),
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

pub fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

/// `args` as they stand on a command line, for a test's message.
pub fn words<'a>(args: impl IntoIterator<Item = &'a OsStr>) -> String {
    args.into_iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
