//! The two tunnels, each a pair of real processes on loopback.

#![allow(dead_code, reason = "each bench uses its own part")]

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::support::processes::{free_port, run, spawn, sshd, wait_for};

/// A port of loopback where nobody listens, and to which the policy leads all the same.
pub const NOBODYS_PORT: u16 = 1;

/// Where a user connects, and the processes of both ends.
pub struct Tunnel {
    pub local: SocketAddr,
    ends: Vec<Child>,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        for end in &mut self.ends {
            let _ = end.kill();
            let _ = end.wait();
        }
    }
}

impl Tunnel {
    /// What listens on this port of loopback, with both of its ends.
    pub fn of(local: u16, ends: Vec<Child>) -> Self {
        Self { local: SocketAddr::from(([127, 0, 0, 1], local)), ends }
    }

    /// OpenSSH with its fastest cipher here.
    pub fn ssh(folder: &Path, origin: SocketAddr) -> Self {
        let local = free_port();
        Self::ssh_with(folder, local, ["-L", &format!("127.0.0.1:{local}:{origin}")])
    }

    /// The same as a SOCKS proxy.
    pub fn ssh_socks(folder: &Path) -> Self {
        let local = free_port();
        Self::ssh_with(folder, local, ["-D", &format!("127.0.0.1:{local}")])
    }

    /// The same for those who come to a port of the other end.
    pub fn ssh_back(folder: &Path, origin: SocketAddr) -> Self {
        let port = free_port();
        Self::ssh_with(folder, port, ["-R", &format!("127.0.0.1:{port}:{origin}")])
    }

    fn ssh_with(folder: &Path, local: u16, forward: [&str; 2]) -> Self {
        let (server, mut ssh) = sshd(folder);
        ssh.args(["-N", "-o", "ExitOnForwardFailure=yes"]);
        let client = spawn(ssh.args(forward).arg("127.0.0.1"));
        wait_for(local);
        Self::of(local, vec![server, client])
    }

    /// A lender, a borrower that joined, and `forward`.
    pub fn capuchin(folder: &Path, origin: SocketAddr) -> Self {
        Self::capuchin_over(folder, origin, |lender| lender)
    }

    /// As [`Self::capuchin`]; the borrower reaches the lender where `path` from it begins.
    pub fn capuchin_over(folder: &Path, origin: SocketAddr, path: impl FnOnce(SocketAddr) -> SocketAddr) -> Self {
        let port = free_port();
        let listens = SocketAddr::from(([127, 0, 0, 1], port));
        let reached = path(listens).to_string();
        run(lender(folder).args(["init", "--name", "lab", "--listen", &listens.to_string(), "--advertise", &reached]));
        let policy = format!(
            "[[allow]]\nwho = [\"bench\"]\nconnect = [\"{origin}\", \"127.0.0.1:{NOBODYS_PORT}\"]\nudp = [\"{origin}\"]\nlisten = [\"0.0.0.0:*\"]\n"
        );
        std::fs::write(folder.join("lab/policy.toml"), policy).expect("a file");
        run(lender(folder).args(["user", "add", "bench"]));
        let server = spawn(lender(folder).arg("serve"));
        wait_for(port);
        std::fs::write(folder.join("password"), "a password for the bench").expect("a file");
        join(folder);
        let (client, local) = forward(folder, &format!("0:{origin}"));
        Self { local, ends: vec![server, client] }
    }

    /// After its session was ended: opens the forward anew, once `let_in` has let the borrower in again.
    pub fn forward_again(&mut self, folder: &Path, origin: SocketAddr, let_in: impl FnOnce()) {
        let mut old = self.ends.pop().expect("the borrower is the last");
        old.wait().expect("it has ended");
        let_in();
        let (client, local) = forward(folder, &format!("0:{origin}"));
        self.ends.push(client);
        self.local = local;
    }

    /// User and system time of both ends and all their children, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        self.processes().iter().map(|pid| ticks(*pid)).sum::<f64>() / 100.0
    }

    /// Memory of both ends, shared pages divided among their users, in KiB.
    pub fn pss_kib(&self) -> f64 {
        let pss = |pid: &u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap_or_default();
            line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0.0)
        };
        self.processes().iter().map(pss).sum()
    }

    fn processes(&self) -> Vec<u32> {
        let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
        for entry in std::fs::read_dir("/proc").expect("procfs").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if let Some(parent) = stat(pid).and_then(|fields| fields.get(1)?.parse().ok()) {
                children.entry(parent).or_default().push(pid);
            }
        }
        let mut found: Vec<u32> = self.ends.iter().map(Child::id).collect();
        let mut next = 0;
        while let Some(pid) = found.get(next).copied() {
            found.extend(children.remove(&pid).unwrap_or_default());
            next += 1;
        }
        found
    }
}

/// Debian's haproxy, which relays as its section `listen` says; `global` is what it is beside that.
pub fn haproxy(folder: &Path, name: &str, global: &str, listen: &str) -> Child {
    let text = format!(
        "global\n{global}defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 300s\n  timeout server 300s\n\
         listen t\n{listen}"
    );
    let file = folder.join(format!("haproxy-{name}"));
    std::fs::write(&file, text).expect("a file");
    // What it logs is of no interest here.
    spawn(Command::new("haproxy").args(["-db", "-f"]).arg(file).stdout(Stdio::null()).stderr(Stdio::null()))
}

/// A command of the borrower that joined.
pub fn borrower(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_capuchin"));
    command.env("XDG_CONFIG_HOME", folder.join("config")).env("XDG_STATE_HOME", folder.join("state"));
    command
}

/// A new device of the borrower, which joins and is logged in.
pub fn join(folder: &Path) {
    let invite = lender(folder).args(["invite", "bench"]).output().expect("a join line");
    let line = String::from_utf8(invite.stdout).expect("a line");
    run(borrower(folder).args(["join", line.trim(), "--password-file"]).arg(folder.join("password")));
}

/// Logs the borrower in by its password.
pub fn log_in(folder: &Path) {
    run(borrower(folder).args(["login", "lab", "--password-file"]).arg(folder.join("password")));
}

/// A command of the lender.
pub fn lender(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_capuchind"));
    command.env("CAPUCHIND_DIR", folder.join("lab"));
    command
}

/// A running `capuchin forward -L`, and where it listens.
pub fn forward(folder: &Path, option: &str) -> (Child, SocketAddr) {
    let mut command = borrower(folder);
    command.args(["forward", "lab", "-N", "-L", option]);
    let mut client = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("capuchin");
    let mut opened = String::new();
    BufReader::new(client.stdout.take().expect("piped")).read_line(&mut opened).expect("a line");
    let word = opened.split(' ').nth(1).map(|word| word.strip_suffix("/udp").unwrap_or(word));
    let local = word.and_then(|word| word.parse().ok()).expect("Forwarding ADDRESS");
    (client, local)
}

/// The fields of /proc/PID/stat behind the name: state, parent, …
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit(')').next()?.split_whitespace().map(str::to_owned).collect())
}

fn ticks(pid: u32) -> f64 {
    let fields = stat(pid).unwrap_or_default();
    // utime, stime, and those of children that have been waited for.
    fields.iter().skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum()
}
