//! `--no-netns`: the same programs, held by nothing but their filter.

mod connections;
mod credentials;
mod datagrams;
mod last_words;
mod own_ports;
mod process;
mod room;
mod unix_sockets;
mod ways;

use std::{
    net::{TcpListener, UdpSocket},
    process::{Command, Stdio},
};

use crate::{
    machine::{Machine, Within},
    support::{Daemon, fails, run, text},
};

impl Within {
    fn bare(&self, program: &[&str]) -> Command {
        self.run_with(&["--no-netns"], program)
    }

    fn bare_python(&self, source: &str) -> Command {
        self.bare(&["python3", "-c", source])
    }
}

/// What a program says on stdout, which must end well.
fn says(command: &mut Command) -> String {
    text(run(command).stdout)
}

/// A listener of this machine, at which nobody may come.
struct Outside {
    connections: TcpListener,
    datagrams: UdpSocket,
}

impl Outside {
    fn new() -> Self {
        // The same number of both, which another may have of one.
        let (connections, datagrams) = std::iter::repeat_with(|| {
            let connections = TcpListener::bind("0.0.0.0:0").unwrap();
            let port = connections.local_addr().unwrap().port();
            UdpSocket::bind(("0.0.0.0", port)).ok().map(|datagrams| (connections, datagrams))
        })
        .take(20)
        .find_map(|both| both)
        .expect("twenty ports were taken");
        connections.set_nonblocking(true).unwrap();
        datagrams.set_nonblocking(true).unwrap();
        Self { connections, datagrams }
    }

    fn port(&self) -> u16 {
        self.connections.local_addr().unwrap().port()
    }

    fn has_seen_nobody(&self) {
        let connected = self.connections.accept().map(|(_, from)| from);
        assert_eq!(connected.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        let sent = self.datagrams.recv_from(&mut [0; 9]);
        assert_eq!(sent.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}

#[test]
fn curl_fetches_a_page_and_each_start_says_that_it_is_weaker() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        for url in ["http://10.77.0.1/", "http://[fd77::1]/", "http://127.0.0.1/", "http://[::1]/"] {
            let page = run(&mut within.bare(&["curl", "-sS", "--fail", "--noproxy", "*", "--max-time", "20", url]));
            assert!(!text(page.stdout).is_empty(), "{url} as {}", within.uid);
            assert_eq!(text(page.stderr).matches("--no-netns is weaker").count(), 1);
        }
        let refused = within.bare(&["curl", "-s", "--noproxy", "*", "http://10.77.0.1:9/"]).output().unwrap();
        assert_eq!(refused.status.code(), Some(7));
        fails(&mut within.bare(&["curl", "-s", "--noproxy", "*", "-m", "3", "http://10.78.0.9/"]), 28);
    }
}
