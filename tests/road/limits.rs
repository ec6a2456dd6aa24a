//! `limits` of the policy: streams and sessions at once, and megabits a second.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use crate::support::{LOOPBACK, Lab, fails, run, wait_until};

fn policy(limits: &str) -> String {
    format!(
        "[[allow]]\nwho = [\"alice\", \"bob\"]\nconnect = [\"127.0.0.0/8:*\"]\n[[allow]]\nwho = [\"alice\"]\nlimits = {{ {limits} }}\n"
    )
}

fn lab(limits: &str) -> Lab {
    Lab::start(&policy(limits))
}

#[test]
fn a_session_more_than_allowed_is_refused_and_another_user_is_not() {
    let lab = lab("sessions = 1");
    let (alice, bob) = (lab.join("alice"), lab.join("bob"));
    let server = crate::origin(crate::echo);
    let (mut forward, _) = alice.forward(&[&format!("0:{server}")]);
    let said = fails(alice.capuchin().args(["check", "lab", "connect", &server.to_string()]), 2);
    assert!(said.starts_with("error[busy]") && said.contains("all that the policy allows"), "{said}");
    lab.wait_for_audit("the refusal", |line| {
        line["event"] == "login" && line["verdict"] == "refused" && line["why"].as_str().unwrap().contains("1 sessions")
    });
    run(bob.capuchin().args(["check", "lab", "connect", &server.to_string()]));
    forward.kill();
    lab.wait_for_audit("its end", |line| line["event"] == "session-ended" && line["user"] == "alice");
    // The place is free with the session's last line in the log, or a moment later.
    let end = Instant::now() + crate::support::PATIENCE;
    while !alice.capuchin().args(["check", "lab", "connect", &server.to_string()]).output().unwrap().status.success() {
        assert!(Instant::now() < end, "the place stays taken");
    }
}

#[test]
fn a_stream_more_than_allowed_fails_and_the_others_go_on() {
    let lab = lab("streams = 2");
    let home = lab.join("alice");
    let server = crate::origin(crate::echo);
    let (forward, local) = home.forward(&[&format!("0:{server}")]);
    let (one, two) = (crate::dial(local[0]), crate::dial(local[0]));
    crate::round_trip(&one, b"one").unwrap();
    crate::round_trip(&two, b"two").unwrap();
    assert!(crate::round_trip(&crate::dial(local[0]), b"three").is_err());
    forward.wait_for_line("2 streams are open, the other side allows no more");
    crate::round_trip(&one, b"still").unwrap();
    drop(two);
    lab.wait_for_audit("a free place", |line| line["event"] == "tcp-closed");
}

#[test]
fn a_range_of_ports_is_opened_also_where_few_streams_are_allowed_at_once() {
    let lab = Lab::start(&format!("{LOOPBACK}limits = {{ streams = 2 }}\n"));
    let home = lab.join("alice");
    let specs = vec!["127.0.0.1:9"; 20].into_iter().map(|target| format!("0:{target}")).collect::<Vec<_>>();
    let (_forward, local) = home.forward(&specs.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(local.len(), 20);
}

#[test]
fn a_user_is_no_faster_than_allowed() {
    let lab = lab("mbit = 16");
    let home = lab.join("alice");
    let server = crate::origin(|mut socket| {
        let _ = socket.write_all(&[7; 3_000_000]);
    });
    let (_forward, local) = home.forward(&[&format!("0:{server}")]);
    let began = Instant::now();
    let mut got = Vec::new();
    crate::dial(local[0]).read_to_end(&mut got).unwrap();
    assert_eq!(got.len(), 3_000_000);
    // 16 Mbit/s are 2 MB/s, and a tenth of a second of it may come at once, with the batch that it ends in.
    assert!(began.elapsed() > Duration::from_millis(1_200), "{:?}", began.elapsed());
}

/// Puts other limits in force, for sessions that are open, too.
fn tighten(lab: &Lab, limits: &str) {
    let loaded = || lab.audit().iter().filter(|line| line["event"] == "policy-loaded").count();
    let before = loaded();
    std::fs::write(lab.dir().join("policy.toml"), policy(limits)).unwrap();
    lab.wait_for_audit("the other policy", |_| loaded() > before);
}

#[test]
fn a_speed_that_is_tightened_holds_for_a_connection_that_is_open() {
    let lab = lab("streams = 9");
    let home = lab.join("alice");
    let (go_tx, go_rx) = std::sync::mpsc::channel();
    let go_rx = std::sync::Arc::new(std::sync::Mutex::new(go_rx));
    let server = crate::origin(move |mut socket| {
        let _ = socket.write_all(&[7; 3_000_000]);
        go_rx.lock().unwrap().recv().unwrap();
        let _ = socket.write_all(&[7; 3_000_000]);
    });
    let (_forward, local) = home.forward(&[&format!("0:{server}")]);
    let mut program = crate::dial(local[0]);
    let mut got = vec![0; 3_000_000];
    program.read_exact(&mut got).unwrap();
    tighten(&lab, "mbit = 16");
    let began = Instant::now();
    go_tx.send(()).unwrap();
    program.read_exact(&mut got).unwrap();
    assert!(began.elapsed() > Duration::from_millis(1_200), "{:?}", began.elapsed());
}

#[test]
fn a_number_of_streams_that_is_tightened_holds_for_a_session_that_is_open() {
    let lab = lab("streams = 9");
    let home = lab.join("alice");
    let server = crate::origin(crate::echo);
    let (forward, local) = home.forward(&[&format!("0:{server}")]);
    let (one, two) = (crate::dial(local[0]), crate::dial(local[0]));
    crate::round_trip(&one, b"one").unwrap();
    crate::round_trip(&two, b"two").unwrap();
    tighten(&lab, "streams = 2");
    assert!(crate::round_trip(&crate::dial(local[0]), b"three").is_err());
    forward.wait_for_line("the policy allows 2 streams at once");
    lab.wait_for_audit("the refusal", |line| {
        line["verdict"] == "refused" && line["why"].as_str().is_some_and(|why| why.contains("allows 2 streams"))
    });
    // Those that are open stay, and one that goes makes room.
    crate::round_trip(&one, b"still").unwrap();
    drop(two);
    lab.wait_for_audit("a free place", |line| line["event"] == "tcp-closed");
    // It is free with that line, or a moment later.
    wait_until("another has room", || crate::round_trip(&crate::dial(local[0]), b"another").is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_come_to_a_listener_count_among_the_streams() {
    let lab = Lab::start("[[allow]]\nwho = \"alice\"\nlisten = \"127.0.0.1:1024-65535\"\nlimits = { streams = 3 }\n");
    let home = lab.join("alice");
    let borrower = home.connect().await;
    let listener = borrower.tcp_listen("127.0.0.1:0").await.unwrap();
    let visit = || crate::dial(listener.local_addr());
    let (_one, _two) = (visit(), visit());
    let (first, _) = listener.accept().await.unwrap();
    let (_second, _) = listener.accept().await.unwrap();
    assert!(visit().read(&mut [0]).is_err(), "one more than the policy allows is reset");
    lab.wait_for_audit("why", |line| line["event"] == "accept-failed");
    drop(first);
    lab.wait_for_audit("a free place", |line| line["event"] == "accepted-closed");
    // It is free with that line, or a moment later; until then who comes is reset.
    let came = async {
        loop {
            let three = visit();
            tokio::select! {
                accepted = listener.accept() => break drop(accepted.unwrap()),
                read = tokio::task::spawn_blocking(move || (&three).read(&mut [0])) => assert!(read.unwrap().is_err()),
            }
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, came).await.expect("the place stays taken");
}
