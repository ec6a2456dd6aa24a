//! `capuchin forward -W`: a real OpenSSH client, git and rsync over it.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
};

use crate::{
    echo, origin, pattern,
    support::{Daemon, Home, LOOPBACK, Lab, PATIENCE, fails, ports::ClosedPort, run, run_with, text},
};

/// A private sshd on loopback, for the user who runs the test, with keys of its own.
struct Sshd {
    folder: tempfile::TempDir,
    address: SocketAddr,
    user: String,
    _daemon: Daemon,
}

impl Sshd {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        for key in ["host", "client"] {
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]));
        }
        if crate::support::own_uid() == 0 {
            // Where it locks itself up before a login (Debian's package leaves it to the service).
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let config = format!(
            "HostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             PermitRootLogin yes\nPasswordAuthentication no\nLogLevel INFO\n",
            path("host"),
            path("client.pub")
        );
        std::fs::write(path("config"), config).unwrap();
        let sshd = ["/usr/sbin/sshd", "/usr/bin/sshd"].into_iter().find(|sshd| Path::new(sshd).exists()).expect("sshd");
        let (daemon, port) = Daemon::at_a_free_port("Server listening", |port| {
            let mut command = Command::new(sshd);
            let listen = format!("ListenAddress=127.0.0.1:{port}");
            command.args(["-D", "-e", "-f", &path("config"), "-o", &listen]).stdin(Stdio::null());
            command
        });
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let user = text(run(Command::new("id").arg("-un")).stdout).trim().to_owned();
        Self { folder, address, user, _daemon: daemon }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The options of ssh that lead there through the lender alone.
    fn options(&self) -> Vec<String> {
        let proxy = format!("ProxyCommand={} forward lab -W %h:%p", env!("CARGO_BIN_EXE_capuchin"));
        let known = format!("UserKnownHostsFile={}", self.path("known").display());
        let key = self.path("client").display().to_string();
        let port = self.address.port().to_string();
        [
            "-F",
            "none",
            "-i",
            &key,
            "-p",
            &port,
            "-o",
            &known,
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "BatchMode=yes",
            "-o",
            &proxy,
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn target(&self) -> String {
        format!("{}@{}", self.user, self.address.ip())
    }

    /// As a command line, for programs that start ssh.
    fn command_line(&self) -> String {
        let quoted = self.options().into_iter().map(|option| format!("'{option}'"));
        format!("ssh {}", quoted.collect::<Vec<_>>().join(" "))
    }
}

/// With this home's profiles, whoever starts capuchin.
fn with_home(command: &mut Command, home: &Home) {
    let folder = home.folder.path();
    command
        .env("HOME", folder)
        .env("XDG_CONFIG_HOME", folder.join("config"))
        .env("XDG_STATE_HOME", folder.join("state"));
}

#[test]
fn openssh_runs_a_program_over_it_and_its_bytes_and_status_arrive() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let sshd = Sshd::start();
    let ssh = || {
        let mut ssh = Command::new("ssh");
        with_home(ssh.args(sshd.options()).arg(sshd.target()), &home);
        ssh
    };
    let bytes = pattern(4 << 20, 7);
    let output = run_with(ssh().arg("cat; exit 7"), &bytes);
    assert_eq!(output.status.code(), Some(7), "{:?}", text(output.stderr));
    assert!(output.stdout == bytes, "{} bytes came back", output.stdout.len());
    lab.wait_for_audit("what it was", |line| {
        line["event"] == "tcp-closed"
            && line["target"] == sshd.address.to_string()
            && line["bytes_in"].as_u64() > Some(4 << 20)
    });
}

#[test]
fn a_connection_that_is_taken_back_ends_with_the_reason() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = target.local_addr().unwrap().to_string();
    let connection = || {
        let mut command = home.capuchin();
        command.args(["forward", "lab", "-W", &address]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let (mut far, _) = target.accept().unwrap();
        far.write_all(b"!").unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        (child, far)
    };
    let ends = |(child, _far): (std::process::Child, std::net::TcpStream), said: &str| {
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(output.stderr)), (Some(255), format!("{said}\n")));
    };
    let held = connection();
    let sessions = crate::support::json(&run(lab.admin().args(["sessions", "--json"])).stdout);
    let session = &sessions["sessions"][0];
    let stream = format!("{}/{}", session["session"].as_str().unwrap(), session["streams"][0]["stream"]);
    run(lab.admin().args(["cut", &stream]));
    let failed = format!("the connection to {address} failed: the lender took it back");
    ends(held, &format!("error[revoked]: {failed}: its admin has cut it"));

    let held = connection();
    std::fs::write(lab.dir().join("policy.toml"), "[[allow]]\nwho = \"alice\"\nconnect = \"127.0.0.1:1\"\n").unwrap();
    ends(held, &format!("error[policy]: {failed}: its policy does not allow it any more"));
}

#[test]
fn git_clones_and_pushes_over_it() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let sshd = Sshd::start();
    let git = |folder: &Path, arguments: &[&str]| {
        let mut git = Command::new("git");
        git.current_dir(folder).args(["-c", "user.name=a", "-c", "user.email=a@a", "-c", "init.defaultBranch=main"]);
        with_home(git.args(arguments).env("GIT_SSH_COMMAND", sshd.command_line()), &home);
        text(run(&mut git).stdout)
    };
    let place = sshd.folder.path();
    git(place, &["init", "--quiet", "--bare", "origin.git"]);
    let url = format!("ssh://{}:{}{}", sshd.target(), sshd.address.port(), sshd.path("origin.git").display());
    git(place, &["clone", "--quiet", &url, "one"]);
    std::fs::write(sshd.path("one/file"), pattern(3 << 20, 3)).unwrap();
    git(&sshd.path("one"), &["add", "."]);
    git(&sshd.path("one"), &["commit", "--quiet", "-m", "a file"]);
    git(&sshd.path("one"), &["push", "--quiet", "origin", "HEAD:main"]);
    git(place, &["clone", "--quiet", "--branch", "main", &url, "two"]);
    assert!(std::fs::read(sshd.path("two/file")).unwrap() == pattern(3 << 20, 3));
}

#[test]
fn rsync_copies_over_it() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let sshd = Sshd::start();
    std::fs::create_dir(sshd.path("from")).unwrap();
    for number in 0..50 {
        std::fs::write(sshd.path("from").join(number.to_string()), pattern(40_000, number)).unwrap();
    }
    let mut rsync = Command::new("rsync");
    rsync.args(["-a", "-e", &sshd.command_line()]).arg(format!("{}/", sshd.path("from").display()));
    with_home(rsync.arg(format!("{}:{}/", sshd.target(), sshd.path("to").display())), &home);
    run(&mut rsync);
    for number in 0..50 {
        assert!(
            std::fs::read(sshd.path("to").join(number.to_string())).unwrap() == pattern(40_000, number),
            "{number}"
        );
    }
}

#[test]
fn each_half_ends_alone_and_what_fails_has_its_status() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let late = origin(|mut socket| {
        let mut question = Vec::new();
        socket.read_to_end(&mut question).unwrap();
        socket.write_all(format!("{} bytes", question.len()).as_bytes()).unwrap();
    });
    let forward = |target: &str| {
        let mut command = home.capuchin();
        command.args(["forward", "lab", "-W", target]);
        command
    };
    let output = run_with(&mut forward(&late.to_string()), [b'q'; 200_000]);
    assert_eq!((output.status.code(), text(output.stdout).as_str()), (Some(0), "200000 bytes"), "{:?}", output.stderr);
    let six = TcpListener::bind("[::1]:0").unwrap();
    let over_six = six.local_addr().unwrap().to_string();
    std::thread::spawn(move || echo(six.accept().unwrap().0));
    let output = run_with(&mut forward(&over_six), b"over IPv6");
    assert_eq!((output.status.code(), text(output.stdout).as_str()), (Some(0), "over IPv6"), "{:?}", output.stderr);
    // The target ends first: stdout ends while stdin is open.
    let early = origin(|mut socket| {
        socket.write_all(b"good bye").unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut last = Vec::new();
        socket.read_to_end(&mut last).unwrap();
        assert_eq!(last, b"and to you");
    });
    let mut child = forward(&early.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(said, "good bye");
    child.stdin.take().unwrap().write_all(b"and to you").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let gone = ClosedPort::new();
    let said = fails(&mut forward(&gone.address.to_string()), 255);
    assert!(said.starts_with("error[target]") && said.contains("Connection refused"), "{said}");
    let said = fails(&mut forward("10.0.0.1:22"), 255);
    assert!(said.starts_with("error[policy]"), "{said}");
    let reset = origin(|mut socket| {
        socket.read_exact(&mut [0]).unwrap();
        rustix::net::sockopt::set_socket_linger(&socket, Some(std::time::Duration::ZERO)).unwrap();
    });
    let output = run_with(&mut forward(&reset.to_string()), b"x");
    assert_eq!(output.status.code(), Some(255));
    assert!(text(output.stderr).starts_with("error[target]"));
}

#[test]
fn a_target_that_has_ended_its_half_gets_all_that_is_sent_and_its_end() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (got_tx, got_rx) = mpsc::channel();
    let server = origin(move |mut socket| {
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut got = Vec::new();
        let end = socket.read_to_end(&mut got).map_err(|error| error.kind());
        got_tx.send((got.len(), end.is_ok())).unwrap();
    });
    // Which of both is first, the last bytes or the end of the command, is chance.
    for length in [1, 70_000, 8_000_000, 8_000_000, 8_000_000, 8_000_000] {
        let output = run_with(home.capuchin().args(["forward", "lab", "-W", &server.to_string()]), vec![7; length]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(got_rx.recv_timeout(PATIENCE).unwrap(), (length, true));
    }
}

#[test]
fn a_stdin_that_fails_is_no_end_for_the_target() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let (end_tx, end_rx) = mpsc::channel();
    let server = origin(move |mut socket| {
        let end = socket.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
        end_tx.send(end).unwrap();
    });
    // Nothing is mapped at its beginning: EIO, as of a disk.
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let mut command = home.capuchin();
    command.args(["forward", "lab", "-W", &server.to_string()]).stdin(memory);
    let said = fails(&mut command, 255);
    assert!(said.starts_with("error[local]: cannot read stdin: "), "{said}");
    assert_eq!(end_rx.recv_timeout(PATIENCE).unwrap(), Err(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_lender_that_dies_ends_it_with_its_name() {
    let mut lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let server = origin(echo);
    let mut command = home.capuchin();
    let mut daemon = Daemon::spawn(command.args(["forward", "lab", "-W", &server.to_string()]).stdin(Stdio::piped()));
    daemon.stdin.as_mut().unwrap().write_all(b"alive\n").unwrap();
    daemon.wait_for_line("alive");
    lab.daemon.kill();
    daemon.wait_for_line("error[lost]");
    assert_eq!(daemon.wait().code(), Some(255));
}
