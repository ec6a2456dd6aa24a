//! Processes that a bench measures, on loopback, and an OpenSSH of its own.

#![allow(dead_code, reason = "each bench uses its own part")]

use std::{
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A server of OpenSSH with its keys in `folder`, and a client of it with the fastest cipher here: what it is to do is still to be
/// said, and then where, which is 127.0.0.1.
pub fn sshd(folder: &Path) -> (Child, Command) {
    let path = |name: &str| folder.join(name).display().to_string();
    for key in ["host", "user"] {
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]));
    }
    std::fs::create_dir_all("/run/sshd").ok();
    std::fs::rename(path("user.pub"), path("authorized")).expect("the key");
    let port = free_port();
    let config = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n\
         PermitRootLogin prohibit-password\nMaxSessions 100\nMaxStartups 100\n",
        path("host"),
        path("authorized")
    );
    std::fs::write(path("sshd_config"), config).expect("a file");
    let server = spawn(Command::new("/usr/sbin/sshd").args(["-D", "-f", &path("sshd_config")]));
    wait_for(port);
    let mut client = Command::new("ssh");
    client.args(["-F", "none", "-c", "aes128-gcm@openssh.com", "-i", &path("user"), "-p", &port.to_string()]);
    for option in ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"] {
        client.args(["-o", option]);
    }
    (server, client)
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port()
}

pub fn wait_for(port: u16) {
    let end = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < end, "nothing listens on {port}");
        std::thread::yield_now();
    }
}

pub fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}
