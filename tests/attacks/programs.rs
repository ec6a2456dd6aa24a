//! Programs that were not allowed, variables that steer them, and requests that are none.

use std::path::Path;

use capuchin::proto::{
    Answer, ErrorKind, Frame, FromProgram, Kind, Program, Refusal, Request, Reset, Spawn, SpawnStdio, Spawned, Stdio,
    ToProgram, message,
};

use crate::{
    still_serves,
    support::{
        Home, Lab,
        peer::{Peer, frame},
    },
};

const GIT: &str = "exec = [{ path = \"/usr/bin/git\", args = [\"status\"], exact = true }, { path = \"/bin/echo\" }, { path = \"/usr/bin/echo\" }]";

fn policy(rules: &str) -> String {
    format!("[[allow]]\nwho = \"alice\"\nallow_root = true\n{rules}\n")
}

fn request(argv: &[&[u8]], variables: &[&str]) -> (Spawn, Vec<u8>) {
    let words: Vec<u8> = argv
        .iter()
        .copied()
        .chain(variables.iter().map(|it| it.as_bytes()))
        .flat_map(|it| [it, b"\0"].concat())
        .collect();
    let spawn = Spawn {
        what: Program::Exec,
        arguments: argv.len() as u32,
        variables: variables.len() as u32,
        words_bytes: words.len() as u32,
        folder: None,
        terminal: None,
        piped: [false; 3],
        detach: false,
        offered: Vec::new(),
    };
    (spawn, words)
}

/// Opens a stream with a request for a program and its words.
async fn open(peer: &mut Peer, stream: u64, spawn: Spawn, words: &[u8]) {
    let first = [&message::encode_prefixed(&Request::Spawn(spawn))[..], words].concat();
    peer.send(&frame(stream, Kind::Data, true, false, &first)).await;
}

async fn answer(peer: &mut Peer) -> Answer<Spawned> {
    loop {
        if let Frame::Data { payload, .. } = peer.hear().await.expect("an answer") {
            // How it ended may come with it.
            let length = u32::from_be_bytes(*payload.first_chunk().unwrap()) as usize;
            return message::decode("answer", &payload[4..4 + length]).unwrap();
        }
    }
}

/// Asks on a session of its own.
async fn ask(lab: &Lab, home: &Home, argv: &[&[u8]], variables: &[&str]) -> Answer<Spawned> {
    let mut peer = Peer::logged_in(lab.address, home, "alice").await;
    let (spawn, words) = request(argv, variables);
    open(&mut peer, 1, spawn, &words).await;
    answer(&mut peer).await
}

async fn refused(lab: &Lab, home: &Home, argv: &[&[u8]], variables: &[&str]) -> Refusal {
    let refusal = match ask(lab, home, argv, variables).await {
        Answer::Refused(refusal) => refusal,
        Answer::Granted(_) => panic!("{argv:?} runs"),
    };
    assert_eq!(refusal.kind(), ErrorKind::Policy, "{}", refusal.text());
    lab.wait_for_audit(refusal.text(), |line| line["event"] == "spawn" && line["why"] == refusal.text());
    refusal
}

async fn echo_still_runs(lab: &Lab, home: &Home) {
    assert!(matches!(ask(lab, home, &[b"echo", b"x"], &[]).await, Answer::Granted(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_52_arguments_that_a_shell_or_git_would_obey() {
    let lab = Lab::start(&policy(GIT));
    let home = lab.join("alice");
    let mark = lab.dir().join("obeyed");
    let touch = format!("touch {}", mark.display());
    for argv in [
        &["/usr/bin/git", &format!("status; {touch}")][..],
        &["/usr/bin/git", "status", ";", "touch", mark.to_str().unwrap()],
        &["/usr/bin/git", &format!("$({touch})")],
        &["/usr/bin/git", "-c", &format!("core.pager={touch}"), "status"],
        &["/usr/bin/git", "-c", &format!("alias.status=!{touch}"), "status"],
        &["/usr/bin/git", "status", &format!("--upload-pack={touch}")],
        &["/usr/bin/../../bin/sh", "-c", &touch],
        &["sh", "-c", &touch],
        &["../../../../bin/sh", "-c", &touch],
    ] {
        let argv: Vec<&[u8]> = argv.iter().map(|word| word.as_bytes()).collect();
        let refusal = refused(&lab, &home, &argv, &[]).await;
        assert!(refusal.notes().last().unwrap().contains("capuchind allow alice exec '"), "{:?}", refusal.notes());
    }
    // What is allowed hands its arguments over as they are.
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    let (spawn, words) = request(&[b"echo", format!("$({touch})").as_bytes()], &[]);
    open(&mut peer, 1, spawn, &words).await;
    assert!(matches!(answer(&mut peer).await, Answer::Granted(_)));
    lab.wait_for_audit("its end", |line| line["event"] == "spawn-ended");
    assert!(!mark.exists());
    echo_still_runs(&lab, &home).await;
}

/// Whether a file exists, and where a link leads, is told to nobody who may not run it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_does_not_tell_what_lies_at_a_path() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    std::fs::copy("/bin/true", at("there")).unwrap();
    std::os::unix::fs::symlink("/usr/bin/env", at("link")).unwrap();
    std::os::unix::fs::symlink(at("there"), at("denied")).unwrap();
    std::fs::create_dir(at("folder")).unwrap();
    let nothing = "connect = \"10.0.0.1:1\"".to_owned();
    let other_arguments = "exec = [{ path = \"/usr/bin/env\", args = [\"x\"] }]".to_owned();
    // With this one files have to be looked at: a link may lead to echo.
    let echo = format!("{GIT}\n[[deny]]\nwho = \"alice\"\nexec = [{{ path = {:?} }}]", at("there"));
    for rules in [nothing, other_arguments, echo] {
        let lab = Lab::start(&policy(&rules));
        let home = lab.join("alice");
        let mut told = Vec::new();
        for name in ["none", "link", "denied", "folder"] {
            let path = at(name);
            let refusal = refused(&lab, &home, &[path.as_bytes(), b"-"], &[]).await;
            let lines = std::iter::once(refusal.text()).chain(refusal.notes().iter().map(String::as_str));
            told.push(lines.collect::<Vec<_>>().join("\n").replace(&path, "PATH"));
        }
        assert!(told.iter().all(|text| *text == told[0]), "{rules}: {told:#?}");
        // A name of PATH no more than a path.
        let mut told = Vec::new();
        for name in ["no-such-program", "dd", "env"] {
            let refusal = refused(&lab, &home, &[name.as_bytes(), b"-"], &[]).await;
            assert!(refusal.text().contains(&format!("/usr/bin/{name} ")), "{}", refusal.text());
            told.push(refusal.text().replace(name, "NAME"));
        }
        assert!(told.iter().all(|text| *text == told[0]), "{rules}: {told:#?}");
    }
    // What may be run is said to be missing.
    let lab = Lab::start(&policy("exec = [{ path = \"/usr/bin/no-such-program\" }]"));
    let home = lab.join("alice");
    for name in [&b"no-such-program"[..], b"/usr/bin/no-such-program"] {
        let Answer::Refused(refusal) = ask(&lab, &home, &[name], &[]).await else { panic!("it runs") };
        assert_eq!(
            (refusal.kind(), refusal.errno().map(|it| it.0)),
            (ErrorKind::Target, Some(2)),
            "{}",
            refusal.text()
        );
    }
}

/// `/bin` leads to `/usr/bin`, where a name is found first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deny_of_a_program_holds_by_the_other_name_of_its_folder() {
    assert_eq!(Path::new("/bin").canonicalize().unwrap(), Path::new("/usr/bin"), "this test needs a merged /usr");
    let lab =
        Lab::start(&policy("exec = [{ path = \"*\" }]\n[[deny]]\nwho = \"alice\"\nexec = [{ path = \"/bin/cat\" }]"));
    let home = lab.join("alice");
    for name in ["cat", "/bin/cat", "/usr/bin/cat", "/usr/../bin/cat"] {
        let refusal = refused(&lab, &home, &[name.as_bytes(), b"/dev/null"], &[]).await;
        assert!(refusal.text().contains("a rule denies it"), "{name}: {}", refusal.text());
    }
    echo_still_runs(&lab, &home).await;
}

/// As execvp goes on past what it may not execute, so does the look in PATH.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_the_first_of_path_that_the_user_may_run() {
    let first = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .into_iter()
        .find(|folder| Path::new(folder).join("echo").exists())
        .unwrap();
    assert_eq!(first, "/usr/bin", "this test needs an echo in /usr/bin and in /bin");
    let lab = Lab::start(&policy("exec = [{ path = \"/bin/echo\" }]"));
    let home = lab.join("alice");
    echo_still_runs(&lab, &home).await;
    let granted = lab.wait_for_verdict("spawn", "granted");
    assert_eq!(granted["target"], "/bin/echo x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_53_variables_that_steer_programs() {
    let lab = Lab::start(&policy(&format!("{GIT}\nenv = {{ send = [\"LC_*\", \"*\"] }}")));
    let home = lab.join("alice");
    for variable in [
        "LD_PRELOAD=/tmp/x.so",
        "PATH=/tmp",
        "BASH_ENV=/tmp/x",
        "IFS=x",
        "ENV=/tmp/x",
        "BASH_FUNC_echo=() { sh; }",
        "GIT_SSH_COMMAND=sh",
        "PYTHONPATH=/tmp",
    ] {
        let refusal = refused(&lab, &home, &[b"echo"], &["LC_ALL=C", variable]).await;
        let name = variable.split('=').next().unwrap();
        assert!(refusal.text().contains(&format!("env.send {name}")), "{}", refusal.text());
    }
    for not_a_name in ["=x", "BASH_FUNC_x%%=() { :; }", "A B=c", "\x1b[2J=x"] {
        let Answer::Refused(refusal) = ask(&lab, &home, &[b"echo"], &[not_a_name]).await else { panic!("it runs") };
        assert_eq!(refusal.kind(), ErrorKind::Usage, "{}", refusal.text());
    }
    assert!(matches!(ask(&lab, &home, &[b"echo"], &["LC_ALL=C"]).await, Answer::Granted(_)));
    echo_still_runs(&lab, &home).await;
}

/// Descriptors of the daemon, its store's and its sockets', are not a program's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_54_leaked_descriptors_and_a_terminal_that_types() {
    let lab = Lab::start(&policy("exec = [{ path = \"*\" }]"));
    let home = lab.join("alice");
    let borrower = home.connect().await;
    let output = borrower.command("ls").arg("/proc/self/fd").output().await.unwrap();
    // 3 is the folder that ls reads.
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "0\n1\n2\n3\n");
    let environment = borrower.command("env").output().await.unwrap();
    assert!(!String::from_utf8(environment.stdout).unwrap().contains("CAPUCHIN"), "nothing of the daemon's own");
    // TIOCSTI types into the program's own terminal at the most, and never into ours, which it does not have.
    let script = "import fcntl, termios, sys\ntry:\n  [fcntl.ioctl(0, termios.TIOCSTI, bytes([c])) for c in b'echo typed\\n']\nexcept OSError as e: print('refused')\n";
    let output = borrower.command("python3").args(["-c", script]).output().await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "refused\n");
    let output = borrower.command("sh").args(["-c", "(: < /dev/tty) 2>&1; exit 0"]).output().await.unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("/dev/tty"), "there is no terminal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_are_none_break_the_protocol_and_orders_that_are_none_end_the_program() {
    let lab = Lab::start(&policy("exec = [{ path = \"*\" }]"));
    let home = lab.join("alice");
    let (spawn, words) = request(&[b"sleep", b"300"], &[]);
    for (spawn, words) in [
        (Spawn { arguments: 3, ..spawn.clone() }, words.clone()),
        (Spawn { arguments: 1, ..spawn.clone() }, words.clone()),
        (spawn.clone(), words.iter().map(|_| b'x').collect()),
        (Spawn { words_bytes: u32::MAX, ..spawn.clone() }, words.clone()),
        (Spawn { arguments: u32::MAX, ..spawn.clone() }, words.clone()),
    ] {
        let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
        open(&mut peer, 1, spawn, &words).await;
        assert_eq!(peer.hear_goaway().await.kind, ErrorKind::Protocol);
    }
    // Granted, then garbage: an order is a message, and this is none.
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    open(&mut peer, 1, spawn.clone(), &words).await;
    assert!(matches!(answer(&mut peer).await, Answer::Granted(_)));
    peer.send(&frame(1, Kind::Data, false, false, &[0xff; 64])).await;
    lab.wait_for_audit("its end", |line| line["event"] == "spawn-ended");
    // Signals that are none do nothing.
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    open(&mut peer, 1, spawn, &words).await;
    let Answer::Granted(Spawned { pid }) = answer(&mut peer).await else { panic!("it runs") };
    for number in [0, 65, 255, 9] {
        let order = message::encode_prefixed(&ToProgram::Signal(number));
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        peer.send(&frame(1, Kind::Data, false, false, &order)).await;
    }
    let ended = loop {
        if let Frame::Data { payload, .. } = peer.hear().await.unwrap()
            && payload.len() > 4
        {
            break message::decode::<FromProgram>("end", &payload[4..]).unwrap();
        }
    };
    assert_eq!(ended, FromProgram::Signalled(9));
    still_serves(&lab, &home).await;
}

/// All that comes on a stream until its end.
async fn said_on(peer: &mut Peer, number: u64) -> Vec<u8> {
    let mut said = Vec::new();
    loop {
        match peer.hear().await.expect("frames") {
            Frame::Data { stream, payload, fin, .. } if stream.number() == number => {
                said.extend_from_slice(&payload);
                if fin {
                    return said;
                }
            }
            Frame::Rst { stream, reset } if stream.number() == number => panic!("{reset:?}"),
            _ => {}
        }
    }
}

/// The program starts when its streams are there, which may be long after it was judged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_variable_that_a_policy_takes_back_before_the_start_is_not_sent() {
    let rules = |send: &str| policy(&format!("exec = [{{ path = \"*\" }}]\nenv = {{ send = [{send}] }}"));
    let lab = Lab::start(&rules("\"KEPT\", \"TAKEN\""));
    let home = lab.join("alice");
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    let (spawn, words) = request(&[b"env"], &[]);
    let offered = vec![b"KEPT=1".to_vec(), b"TAKEN=1".to_vec()];
    open(&mut peer, 1, Spawn { piped: [false, true, false], offered, ..spawn }, &words).await;
    lab.wait_for_verdict("spawn", "granted");
    std::fs::write(lab.dir().join("policy.toml"), rules("\"KEPT\"")).unwrap();
    lab.wait_for_audit("the other policy", |line| line["event"] == "policy-loaded");
    let output = message::encode_prefixed(&Request::SpawnStdio(SpawnStdio { spawn: 1, which: Stdio::Out }));
    peer.send(&frame(3, Kind::Data, true, false, &output)).await;
    let said = String::from_utf8(said_on(&mut peer, 3).await).unwrap();
    assert!(said.contains("KEPT=1") && !said.contains("TAKEN"), "{said}");
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_wait_for_a_program_keep_no_session() {
    let lab = Lab::start(&policy("exec = [{ path = \"*\" }]\nlimits = { sessions = 1 }"));
    let home = lab.join("alice");
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    let attach = message::encode_prefixed(&Request::SpawnStdio(SpawnStdio { spawn: 7, which: Stdio::In }));
    peer.send(&frame(1, Kind::Data, true, false, &attach)).await;
    // Answered behind it, so that the stream waits by now.
    let (refused, words) = request(&[b"no-such-program"], &[]);
    open(&mut peer, 3, refused, &words).await;
    while !matches!(peer.hear().await.expect("an answer"), Frame::Data { stream, .. } if stream.number() == 3) {}
    drop(peer);
    still_serves(&lab, &home).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_for_another_sessions_program_or_for_none_gets_nothing() {
    let lab = Lab::start(&policy("exec = [{ path = \"*\" }]"));
    let home = lab.join("alice");
    let (spawn, words) = request(&[b"cat"], &[]);
    let mut owner = Peer::logged_in(lab.address, &home, "alice").await;
    let piped = Spawn { piped: [true, true, false], ..spawn };
    open(&mut owner, 1, piped, &words).await;
    // The thief names the owner's stream, in a session of its own.
    let mut thief = Peer::logged_in(lab.address, &home, "alice").await;
    let attach = |which| message::encode_prefixed(&Request::SpawnStdio(SpawnStdio { spawn: 1, which }));
    thief.send(&frame(1, Kind::Data, true, false, &[&attach(Stdio::In)[..], b"stolen"].concat())).await;
    thief.send(&frame(3, Kind::Data, true, false, &attach(Stdio::Out))).await;
    // Only when the owner's own are there does it start.
    owner.send(&frame(3, Kind::Data, true, true, &[&attach(Stdio::In)[..], b"own"].concat())).await;
    owner.send(&frame(5, Kind::Data, true, false, &attach(Stdio::Out))).await;
    let said = said_on(&mut owner, 5).await;
    assert_eq!(said, b"own");
    // A refused program gives its streams back.
    let mut peer = Peer::logged_in(lab.address, &home, "alice").await;
    let (refused, words) = request(&[b"no-such-program"], &[]);
    let early = message::encode_prefixed(&Request::SpawnStdio(SpawnStdio { spawn: 3, which: Stdio::In }));
    peer.send(&frame(1, Kind::Data, true, false, &early)).await;
    open(&mut peer, 3, Spawn { piped: [true; 3], ..refused }, &words).await;
    loop {
        if let Frame::Rst { stream, reset } = peer.hear().await.expect("a reset") {
            // The other is the request's own, which is over with its answer.
            if stream.number() == 1 {
                assert_eq!(reset, Reset::Refused);
                break;
            }
        }
    }
    still_serves(&lab, &home).await;
}
