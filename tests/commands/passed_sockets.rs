//! Sockets that somebody else opened, as systemd does: each is served, and what is none is said.

use std::{
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::Command,
};

use crate::{
    one_line,
    support::{Daemon, LOOPBACK, Lab, PATIENCE, ends, fails},
};

/// `capuchind serve` with these at 3 and 4, and LISTEN_FDS of `value` for this very process. One that serves is ended in time.
fn serve_passed(lab: &Lab, value: &str, three: impl Into<OwnedFd>, four: Option<TcpListener>) -> Command {
    let mut command = Command::new("timeout");
    let script = match four.is_some() {
        true => r#"LISTEN_PID=$$ exec "$0" serve 3<&0 4<&1 </dev/null >&2"#,
        false => r#"LISTEN_PID=$$ exec "$0" serve 3<&0 </dev/null"#,
    };
    command.args([&PATIENCE.as_secs().to_string(), "sh", "-c", script]).arg(env!("CARGO_BIN_EXE_capuchind"));
    command.env("CAPUCHIND_DIR", lab.dir()).env("LISTEN_FDS", value).stdin(three.into());
    if let Some(four) = four {
        command.stdout(OwnedFd::from(four));
    }
    command
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

#[test]
fn every_socket_that_is_passed_is_served() {
    let mut lab = Lab::start(LOOPBACK);
    lab.daemon.kill();
    let (one, two) = (listener(), listener());
    let addresses = [one.local_addr().unwrap(), two.local_addr().unwrap()];
    let mut child = serve_passed(&lab, "2", one, Some(two)).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    for address in addresses {
        let line = said.find(|line| line.as_ref().unwrap().contains("listens on")).unwrap().unwrap();
        assert!(line.ends_with(&format!("listens on {address}")), "{line}");
    }
    for address in addresses {
        // No TLS: whoever accepts it ends it.
        let mut visitor = TcpStream::connect(address).unwrap();
        visitor.set_read_timeout(Some(PATIENCE)).unwrap();
        std::io::Write::write_all(&mut visitor, b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut alert = [0; 7];
        std::io::Read::read_exact(&mut visitor, &mut alert).unwrap();
        assert_eq!(alert[0], 21, "an alert of TLS");
        assert!(ends(visitor));
    }
    // Whoever joins learns of both.
    let line: capuchin::trust::join_line::JoinLine = lab.invite("alice").trim().parse().unwrap();
    assert_eq!(line.addresses, addresses.map(|address| address.to_string()));
    // Its time is up: what it has started ends with it.
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    child.wait().unwrap();
}

#[test]
fn what_is_no_socket_or_no_number_of_them_is_refused_at_the_start() {
    let mut lab = Lab::start(LOOPBACK);
    lab.daemon.kill();
    for (value, what) in [
        ("x", "LISTEN_FDS=x: it is no number of sockets"),
        ("-1", "LISTEN_FDS=-1: it is no number of sockets"),
        ("5", "LISTEN_FDS=5: fd:4 is not a listening TCP socket"),
    ] {
        let stderr = fails(&mut serve_passed(&lab, value, listener(), None), 255);
        one_line(&stderr, "local", what);
        assert!(stderr.contains("or unset it"), "{stderr}");
    }
    let unix = std::os::unix::net::UnixListener::bind(lab.dir().join("unix.sock")).unwrap();
    one_line(&fails(&mut serve_passed(&lab, "1", unix, None), 255), "local", "fd:3 is not a listening TCP socket");
    // None at all is as without the variable.
    let mut daemon = Daemon::spawn(&mut serve_passed(&lab, "0", listener(), None));
    daemon.wait_for_line("listens on");
    daemon.signal(rustix::process::Signal::TERM);
    daemon.wait();
}
