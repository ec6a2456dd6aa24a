//! Against the evidence: forged lines, a full disk, floods, a clock that is put back, secrets that leak.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use capuchin::{
    lend::verify_audit,
    proto::{Ask, Frame, Kind, Request, Target, message},
    trust::{
        UnixTime,
        identity::Identity,
        proof::TicketKey,
        store::{Login, Store},
    },
};
use data_encoding::{BASE64, BASE64URL_NOPAD, HEXLOWER};
use serde_json::Value;

use crate::{
    still_serves,
    support::{
        Daemon, Home, LOOPBACK, Lab, PASSWORD, PATIENCE,
        clock::Clock,
        fails,
        half_open::connect_from,
        json,
        peer::{Credentials, Peer, frame, password_login, saved_ticket},
        run, run_with, text, wait_until,
    },
};

/// Everything in the log's folder.
fn whole_log(lab: &Lab) -> String {
    let files = fs::read_dir(lab.dir().join("audit")).unwrap();
    files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap()).collect()
}

/// A command is answered once it is in the log, and with it everything before it.
pub fn everything_is_written(lab: &Lab) {
    run(lab.admin().args(["user", "list"]));
}

/// A request by this name, with the bytes of its text as they are.
fn request_named(name: &[u8]) -> Vec<u8> {
    let length = u16::try_from(name.len()).unwrap().to_be_bytes();
    let body = [&[0xa1, 0x00, 0x79][..], &length, name].concat();
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_56_log_injection() {
    const FORGED: &str = "x\",\"verdict\":\"granted\"}\n{\"seq\":1}\r\u{1b}[2J\u{9b}31m\u{202e}";
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    lab.wait_for_audit("the end of the session in which she joined", |line| line["event"] == "session-ended");
    everything_is_written(&lab);
    let before = lab.audit().len();
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    let long = "\u{1f412}".repeat(5000);
    let target = Target { host: format!("a{FORGED}"), port: 80 };
    let requests = [
        request_named(FORGED.as_bytes()),
        request_named(long.as_bytes()),
        message::encode_prefixed(&Request::TcpConnect(target)).to_vec(),
    ];
    for (stream, request) in [1, 3, 5].into_iter().zip(requests) {
        peer.send(&frame(stream, Kind::Data, true, true, &request)).await;
        // Each is refused in its own stream; the session goes on.
        while !matches!(peer.hear().await.expect("an answer"), Frame::Data { stream: of, .. } if of.number() == stream)
        {
        }
    }
    everything_is_written(&lab);
    let lines = lab.audit().split_off(before);
    let events: Vec<&str> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["login", "request", "request", "tcp-connect", "admin"], "no line more");
    assert_eq!(lines[1]["target"], FORGED, "it is evidence, and stands there as it came");
    assert!(lines[1..4].iter().all(|line| line["verdict"] == "refused" && line["user"] == "alice"));
    let raw = whole_log(&lab);
    assert!(raw.bytes().all(|byte| byte == b'\n' || (0x20..0x7f).contains(&byte)), "the file is printable ASCII");
    assert!(raw.lines().all(|line| line.len() < 4096 + 600), "a field has at most 4 KiB");
    assert!(verify_audit(&lab.dir().join("audit")).is_ok());
    let shown = text(run(lab.admin().args(["audit", "--user", "alice"])).stdout);
    assert!(!shown.contains(['\u{1b}', '\u{9b}', '\u{202e}', '\r']), "{shown}");
    assert!(shown.lines().all(|line| line.starts_with("20")), "a forged line break began a line: {shown}");
    still_serves(&lab, &home).await;
}

/// A lender whose log lies on a disk of its own that holds half a mebibyte.
fn with_a_small_disk() -> Lab {
    const MOUNT: &str = r#"mount -t tmpfs -o size=512k,mode=700 audit "$CAPUCHIND_DIR/audit" && exec "$0" serve"#;
    let mut lab = Lab::start(LOOPBACK);
    lab.daemon.kill();
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", MOUNT, env!("CARGO_BIN_EXE_capuchind")]).env("CAPUCHIND_DIR", lab.dir());
    let daemon = Daemon::spawn(&mut command);
    let address = daemon.wait_for_line("listens on").rsplit(' ').next().unwrap().parse().unwrap();
    Lab { folder: lab.folder, daemon, address }
}

/// The small disk, which only the lender sees mounted.
fn small_disk(lab: &Lab) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", lab.daemon.child.id()));
    root.join(lab.dir().strip_prefix("/").unwrap()).join("audit")
}

/// Asks the gate this often in a live session: a line each.
async fn ask(peer: &mut Peer, streams: std::ops::Range<u64>) {
    let request =
        message::encode_prefixed(&Request::Check(Ask { kind: "connect".into(), target: "127.0.0.1:1".into() }));
    for number in streams {
        let stream = 2 * number + 1;
        peer.send(&frame(stream, Kind::Data, true, true, &request)).await;
        while !matches!(peer.hear().await.expect("a live session goes on"), Frame::Data { stream: of, .. } if of.number() == stream)
        {
        }
    }
}

fn echo_once(listener: &TcpListener) -> TcpStream {
    listener.accept().unwrap().0
}

fn crosses(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"ping").unwrap();
    let mut got = [0; 4];
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    to.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"ping");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_68_the_disk_of_the_log_is_full() {
    let lab = with_a_small_disk();
    let disk = small_disk(&lab);
    let home = lab.join("alice");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_forward, local) = home.forward(&[&format!("0:{}", listener.local_addr().unwrap())]);
    let mut near = TcpStream::connect(local[0]).unwrap();
    let mut far = echo_once(&listener);
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;

    let mut ballast = fs::File::create(disk.join("ballast")).unwrap();
    let full = std::iter::repeat_with(|| ballast.write_all(&[0; 4096])).find_map(Result::err).unwrap();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);

    // The room that was kept free holds what goes on, and what is refused.
    ask(&mut peer, 0..120).await;
    everything_is_written(&lab);
    let stderr = fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]), 2);
    assert!(stderr.starts_with("error[busy]") && stderr.contains("cannot write its audit log"), "{stderr}");
    let stranger = Home::new();
    let line = lab.invite("bob");
    let output = run_with(stranger.capuchin().args(["join", line.trim(), "--password-file", "-"]), PASSWORD);
    assert!(text(output.stderr).starts_with("error[busy]"));
    let log = fs::read_to_string(disk.join("audit.jsonl")).unwrap();
    let last: Value = json(log.lines().rfind(|line| line.contains("\"login\"")).unwrap().as_bytes());
    assert_eq!(last["verdict"], "refused", "{last}");

    // Then there is no room at all: what goes on goes on, unwritten.
    ask(&mut peer, 120..400).await;
    crosses(&mut near, &mut far);
    let mut second = TcpStream::connect(local[0]).unwrap();
    crosses(&mut echo_once(&listener), &mut second);
    fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]), 2);

    // With room again the very next one is served, and the log says what it lacks.
    fs::remove_file(disk.join("ballast")).unwrap();
    drop(ballast);
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
    still_serves(&lab, &home).await;
    everything_is_written(&lab);
    let log = fs::read_to_string(disk.join("audit.jsonl")).unwrap();
    let lost: Value = json(log.lines().find(|line| line.contains("lines-lost")).unwrap().as_bytes());
    assert!(lost["count"].as_u64().unwrap() > 50, "{lost}");
    assert!(verify_audit(&disk).is_ok());
    let joined = run_with(stranger.capuchin().args(["join", line.trim(), "--password-file", "-"]), PASSWORD);
    assert!(joined.status.success(), "the invitation was not used up: {joined:?}");
}

#[test]
fn a_log_that_can_no_longer_be_written_is_noticed_by_the_first_who_comes() {
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    everything_is_written(&lab);
    // The log was sound when it was last written, and nobody has written since.
    let log = lab.dir().join("audit/audit.jsonl");
    let kept = lab.dir().join("kept.jsonl");
    fs::rename(&log, &kept).unwrap();
    fs::create_dir(&log).unwrap();
    let stderr = fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]), 2);
    assert!(stderr.starts_with("error[busy]") && stderr.contains("cannot write its audit log"), "{stderr}");
    fs::remove_dir(&log).unwrap();
    fs::rename(&kept, &log).unwrap();
    run(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
}

#[test]
fn attack_69_what_has_an_end_ends_at_its_time_whatever_the_clock_did_meanwhile() {
    const NOW: UnixTime = UnixTime(1_700_000_000);
    const HOUR: Duration = Duration::from_secs(3600);
    const EXPORTER: [u8; 32] = [9; 32];
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("state.redb")).unwrap();
    let (ana, yesterday) = ("ana".parse().unwrap(), NOW.minus(24 * HOUR));
    store.add_user(&ana, NOW).unwrap();
    let device = capuchin::proto::DeviceId::from_bytes([1; 8]);
    let identity = Identity { user: ana.clone(), device, serial: "01".into(), not_after: NOW.plus(1000 * HOUR) };
    store.add_device(&identity, NOW).unwrap();
    let login = |at| Login { at, epoch: store.password_of(&ana).unwrap().epoch, by_certificate: false };
    let redeem = |ticket: &capuchin::trust::ticket::Ticket, now| {
        let proof = TicketKey::derive(ticket).proof(&EXPORTER);
        store.redeem_ticket(ticket.id(), &proof, &EXPORTER, &identity, now).is_ok()
    };

    // Made before the step: it lives longer by the step, and not beyond the end that was written down.
    let (ticket, ends) = store.issue_ticket(&identity, login(NOW), 12 * HOUR, NOW).unwrap();
    let (invitation, _) = store.create_invitation(&ana, HOUR, NOW).unwrap();
    assert!(redeem(&ticket, yesterday) && store.invitation(invitation, yesterday).is_ok());
    assert!(!redeem(&ticket, ends) && store.invitation(invitation, NOW.plus(HOUR)).is_err());
    // Renewing in the past gives no ticket that outlives the one that a right clock would give.
    let (renewed, renewed_ends) = store.issue_ticket(&identity, login(NOW), 12 * HOUR, yesterday).unwrap();
    assert!(renewed_ends <= ends && redeem(&renewed, yesterday) && !redeem(&renewed, ends));
    // Made while the clock was wrong: over at once when it is right again.
    let (wrong, _) = store.issue_ticket(&identity, login(yesterday), 12 * HOUR, yesterday).unwrap();
    let (invitation, _) = store.create_invitation(&ana, HOUR, yesterday).unwrap();
    assert!(redeem(&wrong, yesterday) && !redeem(&wrong, NOW));
    assert!(store.invitation(invitation, NOW).is_err());
    // Taking back does not look at the clock at all.
    store.drop_tickets(&ana).unwrap();
    assert!(!redeem(&ticket, NOW) && !redeem(&ticket, yesterday));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_refused_handshakes_is_counted_and_fills_no_disk() {
    const FLOOD: usize = 200;
    let mut lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    lab.daemon.kill();
    // Otherwise the second would be the last that is heard.
    let settings = lab.dir().join("lender.toml");
    let unpenalised = std::fs::read_to_string(&settings).unwrap() + "penalties = false\n";
    std::fs::write(&settings, unpenalised).unwrap();
    let mut lab = Lab::serve(lab.folder);
    for _ in 0..FLOOD {
        let mut socket = TcpStream::connect(lab.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    }
    lab.wait_for_audit("a count", |line| line["event"] == "handshake-refused" && line["count"].is_u64());
    still_serves(&lab, &home).await;
    // What is still being counted is written when the lender stops.
    lab.daemon.signal(rustix::process::Signal::TERM);
    lab.daemon.wait();
    let lines: Vec<Value> = lab.audit().into_iter().filter(|line| line["event"] == "handshake-refused").collect();
    let counted: u64 = lines.iter().map(|line| line["count"].as_u64().unwrap_or(1)).sum();
    assert_eq!(counted, FLOOD as u64);
    assert!(lines.len() < 20, "{} lines", lines.len());
    assert!(lines.iter().all(|line| line["peer"].as_str().unwrap().starts_with("127.0.0.1:")));
}

/// While the lender's clock stands still no penalty runs off, so that each source gets exactly one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_sources_that_are_penalised_is_counted_and_fills_no_disk() {
    const SOURCES: u16 = 2_000;
    let clock = Clock::new();
    let mut lab = clock.serve(Lab::start(LOOPBACK));
    let home = lab.join("alice");
    clock.stop();
    for number in 0..SOURCES {
        let [high, low] = number.to_be_bytes();
        for _ in 0..2 {
            let mut socket = connect_from(Ipv4Addr::new(127, 68, high, low), lab.address);
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            if let Err(error) = socket.read_to_end(&mut Vec::new()) {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "it waits for its log");
            }
        }
    }
    // Whoever has been blamed is not heard. Were the clock to go on before the last ones are, their first penalty would run off.
    for number in SOURCES - 128..SOURCES {
        let [high, low] = number.to_be_bytes();
        wait_until("its source is penalised", || {
            let mut silent = connect_from(Ipv4Addr::new(127, 68, high, low), lab.address);
            silent.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            silent
                .read(&mut [0])
                .map_or_else(|error| error.kind() != std::io::ErrorKind::WouldBlock, |length| length == 0)
        });
    }
    clock.go_on();
    still_serves(&lab, &home).await;
    lab.daemon.signal(rustix::process::Signal::TERM);
    lab.daemon.wait();

    let lines = lab.audit();
    for (event, each) in [("source-penalised", 1), ("handshake-refused", 2)] {
        let of: Vec<_> = lines.iter().filter(|line| line["event"] == event).collect();
        let counted: u64 = of.iter().map(|line| line["count"].as_u64().unwrap_or(1)).sum();
        assert_eq!(counted, each * u64::from(SOURCES), "each {event} is a line or counted");
        assert!(of.len() < 200, "{} lines of {event}", of.len());
        assert!(of.iter().all(|line| line["peer"].is_string() || line["count"].is_u64()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_of_a_join_a_login_or_a_refusal_is_in_the_log() {
    const WRONG: &str = "not the password at all";
    const NEW: &str = "another good password";
    let lab = Lab::start(LOOPBACK);
    let home = Home::new();
    let line = lab.invite("alice");
    let line = line.trim();
    run(home.capuchin().args(["join", line, "--password-file"]).arg(home.password_file(PASSWORD)));
    let first_ticket = saved_ticket(&home, "alice");
    // Refused: a used line, a wrong password at a join and at a login, a password change, an old ticket.
    run_with(Home::new().capuchin().args(["join", line, "--password-file", "-"]), PASSWORD);
    let second = lab.invite("alice");
    let second = second.trim();
    run_with(Home::new().capuchin().args(["join", second, "--password-file", "-"]), WRONG);
    let mut peer = Peer::dial(lab.address, Credentials::of(&home, "alice").config(), "lab").await.unwrap();
    peer.log_in_with(password_login(WRONG.as_bytes())).await;
    assert!(run_with(lab.admin().args(["passwd", "alice", "--password-file", "-"]), NEW).status.success());
    fails(home.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]), 2);
    run(home.capuchin().args(["login", "lab", "--password-file"]).arg(home.password_file(NEW)));
    everything_is_written(&lab);

    let log = whole_log(&lab);
    for event in ["\"join\"", "\"login\"", "\"passwd\"", "\"invite\"", "refused", "wrong password"] {
        assert!(log.contains(event), "the run was not what it should be: {event} is missing in {log}");
    }
    let mut secrets: Vec<Vec<u8>> = [PASSWORD, WRONG, NEW].map(|text| text.as_bytes().to_vec()).into();
    for line in [line, second] {
        assert!(!log.contains("cap1_") && !log.contains(&line[5..]));
        // Expiry 8, id 8, secret 16.
        secrets.push(BASE64URL_NOPAD.decode(&line.as_bytes()[5..]).unwrap()[16..32].to_vec());
    }
    for ticket in [first_ticket, saved_ticket(&home, "alice")] {
        secrets.push(ticket.ticket.as_bytes().to_vec());
    }
    for secret in secrets {
        for shown in [HEXLOWER.encode(&secret), BASE64.encode(&secret), BASE64URL_NOPAD.encode(&secret)] {
            assert!(!log.contains(&shown), "{shown}");
        }
        let numbers = secret.iter().map(u8::to_string).collect::<Vec<_>>();
        assert!(!log.contains(&numbers.join(",")) && !log.contains(&numbers.join(", ")));
        assert!(std::str::from_utf8(&secret).map_or(true, |text| !log.contains(text)));
    }
    still_serves(&lab, &home).await;
}

/// More than 16 MiB of refusals, of which the log takes a part and counts the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_borrower_cannot_roll_the_log_over_with_long_refusals() {
    const REQUESTS: u64 = 2_500;
    const OF_THEIR_OWN: usize = 256;
    let mut lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let long = Request::Check(Ask { kind: "read".into(), target: format!("/{}", "x".repeat(30_000)) });
    let long = message::encode_prefixed(&long);
    // Another session brings no lines of its own.
    for _ in 0..2 {
        let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
        for number in 0..REQUESTS / 2 {
            peer.send(&frame(2 * number + 1, Kind::Data, true, true, &long)).await;
            // Its last frame, so that not too many are open.
            while !matches!(peer.hear().await.expect("an answer"), Frame::Data { fin: true, .. }) {}
        }
    }
    lab.wait_for_audit("a count", |line| line["event"] == "check" && line["count"].is_u64());
    lab.daemon.signal(rustix::process::Signal::TERM);
    lab.daemon.wait();

    let lines = lab.audit();
    let refused: Vec<_> = lines.iter().filter(|line| line["event"] == "check").collect();
    let (counts, own): (Vec<&Value>, Vec<&Value>) = refused.into_iter().partition(|line| line["count"].is_u64());
    assert!((OF_THEIR_OWN..OF_THEIR_OWN + 60).contains(&own.len()), "{} lines", own.len());
    assert!(counts.iter().all(|line| line["user"] == "alice" && line["verdict"] == "refused"));
    let counted: u64 = counts.iter().filter_map(|line| line["count"].as_u64()).sum();
    assert_eq!(own.len() as u64 + counted, REQUESTS, "each is a line or counted");
    assert!(whole_log(&lab).len() < 4 << 20, "{} bytes", whole_log(&lab).len());
    let lab = Lab::serve(lab.folder);
    still_serves(&lab, &home).await;
}
