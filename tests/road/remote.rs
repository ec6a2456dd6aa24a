//! `capuchin forward -R`, Unix sockets, ranges and `-f`: what is opened, printed, and closed again.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    process::Command,
    thread,
};

use crate::{
    dial, echo, origin, round_trip,
    support::{
        Daemon, Home, Lab, PATIENCE, fails,
        ports::{ClosedPort, PortRange, wait_for_close},
        run, text,
        wire::Wire,
    },
};

/// Alice may connect and listen on loopback.
pub const BOTH: &str = "[[allow]]\nwho = [\"alice\", \"bob\"]\nconnect = [\"127.0.0.0/8:*\", \"[::1]:*\"]\n\
                    listen = [\"127.0.0.1:1024-65535\", \"[::1]:1024-65535\"]\n";

/// Runs `capuchin forward lab` with these options, and gives what stands behind the first `Forwarding` of each line.
pub fn forward(home: &Home, options: &[&str], lines: usize) -> (Daemon, Vec<String>) {
    let daemon = Daemon::spawn(home.capuchin().args(["forward", "lab"]).args(options));
    let opened = (0..lines).map(|_| {
        let line = daemon.wait_for_line("Forwarding ");
        line.split(' ').nth(1).unwrap().to_owned()
    });
    let opened = opened.collect();
    (daemon, opened)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn curl_at_the_lender_reaches_a_server_of_ours_over_both_families() {
    let lab = Lab::start(BOTH);
    let home = lab.join("alice");
    let web = origin(|mut socket| {
        let mut request = [0; 1024];
        let _ = socket.read(&mut request);
        let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello");
    });
    let (mut forward, remote) =
        forward(&home, &["-R", &format!("0:localhost:{}", web.port()), "-R", &format!("[::1]:0:{web}")], 2);
    for remote in &remote {
        let curl = ["--silent", "--fail", "--noproxy", "*", "--max-time", "30", &format!("http://{remote}/")];
        assert_eq!(text(run(Command::new("curl").args(curl)).stdout), "hello");
    }
    lab.wait_for_audit("a visitor", |line| line["event"] == "accepted-closed");
    forward.kill();
    // A killed borrower leaves nothing listening.
    remote.iter().for_each(|remote| wait_for_close(address(remote)));
}

#[test]
fn a_server_of_ours_that_answers_only_after_the_end_is_heard_and_one_that_is_down_resets() {
    let lab = Lab::start(BOTH);
    let home = lab.join("alice");
    let server = origin(|mut socket| {
        let mut question = Vec::new();
        socket.read_to_end(&mut question).unwrap();
        socket.write_all(format!("{} bytes", question.len()).as_bytes()).unwrap();
    });
    let gone = ClosedPort::new();
    let (forward, remote) = forward(&home, &["-R", &format!("0:{server}"), "-R", &format!("0:{}", gone.address)], 2);
    let mut socket = dial(address(&remote[0]));
    socket.write_all(&[b'q'; 300_000]).unwrap();
    socket.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "300000 bytes");
    let error = dial(address(&remote[1])).read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    forward.wait_for_line(&format!("cannot connect to {}: Connection refused", gone.address));
    let back = gone.listen();
    thread::spawn(move || back.incoming().map_while(Result::ok).for_each(echo));
    round_trip(&dial(address(&remote[1])), b"it is up again").unwrap();
}

#[test]
fn a_port_that_is_taken_or_refused_ends_the_command_and_opens_nothing() {
    let lab = Lab::start(BOTH);
    let home = lab.join("alice");
    let server = origin(echo);
    let keeps = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = keeps.local_addr().unwrap();
    for (remote, kind, says) in [
        (taken.to_string(), "error[target]", "Address already in use"),
        ("*:8080".to_owned(), "error[policy]", "0.0.0.0:8080 is refused"),
        ("127.0.0.1:80".to_owned(), "error[policy]", "no rule allows it"),
        ("192.0.2.1:8080".to_owned(), "error[policy]", "no rule allows it"),
    ] {
        let mut command = home.capuchin();
        command.args(["forward", "lab", "-R", &format!("0:{server}"), "-R", &format!("{remote}:{server}")]);
        let output = command.output().unwrap();
        let stderr = text(output.stderr);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(255), 0), "{remote}: {stderr}");
        assert!(stderr.starts_with(kind) && stderr.contains(says), "{remote}: {stderr}");
    }
    fails(home.capuchin().args(["forward", "lab"]), 255);
    fails(home.capuchin().args(["forward", "lab", "-W", "a:1", "-D", "0"]), 255);
}

#[test]
fn the_same_port_is_there_again_after_the_lender_was_restarted() {
    let lab = Lab::start(BOTH);
    let (wire, home) = Wire::between("alice", &lab);
    let server = origin(echo);
    let (forward, remote) = forward(&home, &["-R", &format!("0:{server}")], 1);
    let remote = address(&remote[0]);
    let lost = dial(remote);
    round_trip(&lost, b"before").unwrap();
    wire.cut();
    let lab = lab.restart();
    wire.mend(lab.address);
    forward.wait_for_line("back after");
    assert!(crate::support::ends(&lost));
    let end = std::time::Instant::now() + PATIENCE;
    let socket = loop {
        match TcpStream::connect(remote) {
            Ok(socket) => break socket,
            Err(error) => assert!(std::time::Instant::now() < end, "{remote} is not back: {error}"),
        }
    };
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    round_trip(&socket, b"after").unwrap();
}

#[test]
fn a_port_that_the_lender_takes_back_ends_the_command() {
    let lab = Lab::start(BOTH);
    let home = lab.join("alice");
    let server = origin(echo);
    let (mut forward, remote) = forward(&home, &["-R", &format!("0:{server}")], 1);
    std::fs::write(lab.dir().join("policy.toml"), "[[allow]]\nwho = \"alice\"\nconnect = \"127.0.0.1:1\"\n").unwrap();
    forward.wait_for_line("was taken back: its policy does not allow it any more");
    assert_eq!(forward.wait().code(), Some(255));
    wait_for_close(address(&remote[0]));
}

#[test]
fn a_hundred_ports_each_way_are_a_range() {
    let lab = Lab::start(&BOTH.replace("127.0.0.1:1024", &format!("{}:1024", PortRange::IP)));
    let home = lab.join("alice");
    let ports = PortRange::new(300, TcpListener::bind);
    let (ip, there, here) = (PortRange::IP, ports.first, ports.first + 100);
    // The server of each port says which one it is.
    for port in there..there + 100 {
        let listener = TcpListener::bind((ip, port)).unwrap();
        thread::spawn(move || {
            for mut socket in listener.incoming().map_while(Result::ok) {
                let _ = socket.write_all(&port.to_be_bytes());
            }
        });
    }
    let (local, remote) = (here..=here + 99, here + 100..=here + 199);
    let range = |ports: &std::ops::RangeInclusive<u16>| format!("{}-{}", ports.start(), ports.end());
    let servers = range(&(there..=there + 99));
    let options = [&local, &remote].map(|ports| format!("{ip}:{}:{ip}:{servers}", range(ports)));
    let (_forward, opened) = forward(&home, &["-L", &options[0], "-R", &options[1]], 200);
    assert_eq!(opened.len(), 200);
    for ports in [local, remote] {
        for (index, port) in ports.enumerate() {
            let mut said = [0; 2];
            dial((ip, port).into()).read_exact(&mut said).unwrap();
            assert_eq!(u16::from_be_bytes(said), there + index as u16);
        }
    }
}

/// As `docker` does: HTTP over a Unix socket, here and there.
#[test]
fn curl_over_unix_sockets_on_each_side() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let lab = Lab::start(&format!("{BOTH}unix = {root:?}\nunix_listen = {root:?}\nallow_root = true\n"));
    let home = lab.join("alice");
    let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
    let server = UnixListener::bind(path("docker.sock")).unwrap();
    thread::spawn(move || {
        for mut socket in server.incoming().map_while(Result::ok) {
            let _ = socket.read(&mut [0; 1024]);
            let _ = socket.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\nConnection: close\r\n\r\n{\"Version\":\"1\"}"[..].as_ref(),
            );
        }
    });
    // One that a crash left behind.
    drop(UnixListener::bind(path("here.sock")).unwrap());
    let options = [
        format!("{}:{}", path("here.sock"), path("docker.sock")),
        format!("{}:{}", path("there.sock"), path("docker.sock")),
        format!("0:{}", path("docker.sock")),
    ];
    let (mut forward, opened) = forward(&home, &["-L", &options[0], "-R", &options[1], "-L", &options[2]], 3);
    let curl = |options: &[&str]| {
        let common = ["--silent", "--max-time", "30", "--noproxy", "*"];
        text(run(Command::new("curl").args(common).args(options)).stdout)
    };
    for socket in ["here.sock", "there.sock"] {
        let mode = std::fs::symlink_metadata(path(socket)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{socket}");
        let answer = curl(&["--unix-socket", &path(socket), "http://docker/version"]);
        assert!(answer.starts_with("{\"Version\""), "{socket}: {answer}");
    }
    let port = opened.iter().find(|opened| !opened.starts_with('/')).unwrap();
    assert!(curl(&[&format!("http://{port}/version")]).starts_with("{\"Version\""));
    // In use by somebody who lives.
    let said = fails(home.capuchin().args(["forward", "lab", "-L", &options[0]]), 255);
    assert!(said.starts_with("error[local]") && said.contains("Address already in use"), "{said}");
    forward.signal(rustix::process::Signal::INT);
    assert_eq!(forward.wait().code(), Some(130));
    assert!(std::fs::symlink_metadata(path("here.sock")).is_err(), "our file stays");
    lab.wait_for_audit("the end", |line| line["event"] == "listen-closed");
    assert!(UnixStream::connect(path("there.sock")).is_err());
}

#[test]
fn visitors_wait_while_the_queue_of_a_server_of_ours_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.sock");
    let server = UnixListener::bind(&path).unwrap();
    // A queue of one and a half, in the kernel's way of counting.
    rustix::net::listen(&server, 1).unwrap();
    let lab = Lab::start(BOTH);
    let home = lab.join("alice");
    let (_forward, opened) = forward(&home, &["-R", &format!("0:{}", path.display())], 1);
    let mut visitors: Vec<_> = (0..20).map(|_| dial(address(&opened[0]))).collect();
    thread::spawn(move || {
        for mut socket in server.incoming().map_while(Result::ok) {
            let _ = socket.write_all(b"at last");
        }
    });
    for visitor in &mut visitors {
        let mut said = String::new();
        visitor.read_to_string(&mut said).unwrap();
        assert_eq!(said, "at last");
    }
}

#[test]
fn in_the_background_the_command_ends_well_once_its_forwards_are_open() {
    let lab = Lab::start(BOTH);
    let home = lab.join("alice");
    let server = origin(echo);
    // All of its output has come when it ends: what stays holds none of its pipes.
    let output = run(home.capuchin().args(["forward", "lab", "-f", "-L", &format!("0:{server}")]));
    let stdout = text(output.stdout);
    let local = address(stdout.split(' ').nth(1).unwrap());
    round_trip(&dial(local), b"from the background").unwrap();
    run(lab.admin().args(["revoke", "--user", "alice"]));
    wait_for_close(local);
    // What fails before is told in the foreground.
    let bob = lab.join("bob");
    let said = fails(bob.capuchin().args(["forward", "lab", "-f", "-L", "0:10.0.0.1:80"]), 255);
    assert!(said.starts_with("error[policy]"), "{said}");
}
