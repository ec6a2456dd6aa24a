//! What the policy refuses is never dialled, never resolved, and explained.

use std::{
    net::TcpListener,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
};

use capuchin::proto::{Answer, ErrorKind, Frame, Kind, Request, Target, TcpConnected, message};

use crate::{
    listen::session,
    support::{
        LOOPBACK, Lab, fails, json, own_uid,
        peer::{Peer, frame},
    },
};

/// Alice may reach one name and one port.
const NARROW: &str = "[[allow]]\nwho = [\"alice\"]\nconnect = [\"db.internal:5432\"]\n\n\
                      [[allow]]\nwho = [\"bob\"]\nconnect = [\"secret.internal:*\"]\n";

/// Asks for a connection over the wire, as a borrower that does not check first.
async fn ask(lab: &Lab, home: &crate::support::Home, host: &str, port: u16) -> Answer<TcpConnected> {
    let mut peer = Peer::logged_in(lab.address, home, "alice").await;
    let request = message::encode_prefixed(&Request::TcpConnect(Target { host: host.into(), port }));
    peer.send(&frame(1, Kind::Data, true, false, &request)).await;
    loop {
        if let Frame::Data { payload, .. } = peer.hear().await.expect("an answer") {
            return message::decode("answer", &payload[4..]).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_target_is_not_dialled_and_the_rule_is_named() {
    let lab = Lab::start(NARROW);
    let home = lab.join("alice");
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    target.set_nonblocking(true).unwrap();
    let port = target.local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost", "::ffff:127.0.0.1", "0.0.0.0", "127.1", "2130706433"] {
        let Answer::Refused(refusal) = ask(&lab, &home, host, port).await else { panic!("{host} was granted") };
        assert_eq!(refusal.kind(), ErrorKind::Policy, "{}", refusal.text());
        assert_eq!(refusal.errno().map(|errno| errno.0), Some(13));
        let notes = refusal.notes().join("\n");
        assert!(!notes.contains("secret") && !refusal.text().contains("secret"), "another user's rule: {notes}");
    }
    assert_eq!(target.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "it was dialled");
    let line = lab.wait_for_verdict("tcp-connect", "refused");
    assert_eq!(line["user"], "alice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forward_to_a_refused_target_opens_nothing() {
    let lab = Lab::start(NARROW);
    let home = lab.join("alice");
    let mut command = home.capuchin();
    command.args(["forward", "lab", "-N", "-L", "0:db.internal:5433"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(255));
    assert!(output.stdout.is_empty(), "a forward was announced");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error[policy]"), "{stderr}");
    assert!(stderr.contains("policy.toml:3") && stderr.contains("db.internal:5432"), "the nearest rule: {stderr}");
    assert!(stderr.contains("connect = [\"db.internal:5433\"]"), "the rule to add: {stderr}");
    let last = stderr.lines().last().unwrap();
    assert_eq!(last, "  = capuchind allow alice connect db.internal:5433 --for 1h", "the line for the admin: {stderr}");
}

#[test]
fn check_says_the_same_on_both_sides() {
    let lab = Lab::start(&NARROW.replace("db.internal:5432", "127.0.0.1:5432"));
    let home = lab.join("alice");
    for (target, allowed, code) in [("127.0.0.1:5432", true, 0), ("127.0.0.1:22", false, 1)] {
        let borrower = home.capuchin().args(["check", "lab", "connect", target, "--json"]).output().unwrap();
        let admin = lab.admin().args(["check", "alice", "connect", target, "--json"]).output().unwrap();
        for output in [borrower, admin] {
            assert_eq!(output.status.code(), Some(code), "{output:?}");
            assert_eq!(json(&output.stdout)["allowed"], allowed, "{output:?}");
        }
    }
    for (user, told) in [("alice", false), ("alcie", true)] {
        let output = lab.admin().args(["check", user, "connect", "127.0.0.1:22"]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said.contains("warning: there is no user alcie"), told, "{said}");
    }
    for question in [&["connect", "nonsense"][..], &["read", "srv"], &["shell", "x"], &["read"]] {
        fails(home.capuchin().args(["check", "lab"]).args(question), 2);
        fails(lab.admin().args(["check", "alice"]).args(question), 2);
    }
    for side in [home.capuchin().args(["check", "lab"]), lab.admin().args(["check", "alice"])] {
        assert!(fails(side.args(["lisen", "127.0.0.1:1"]), 2).contains("listen"));
    }
}

#[test]
fn a_target_that_check_refuses_to_read_is_not_forwarded_in_another_spelling() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    for target in [format!("[127.0.0.1]:{port}"), format!("127.0.0.1:0{port}")] {
        assert!(!home.capuchin().args(["check", "lab", "connect", &target]).output().unwrap().status.success());
        fails(home.capuchin().args(["forward", "lab", "-W", &target]), 255);
    }
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "it was dialled");
}

#[test]
fn check_answers_for_every_kind_on_both_sides_alike() {
    let lab = Lab::start(
        "[[allow]]\nwho = \"alice\"\nread = \"/srv/data\"\nshell = true\nenv.send = \"LC_*\"\nconnect = [\"*:*\", \"a.internal:1\"]\n\
         exec = [{ path = \"/usr/bin/git\" }]\nallow_root = true\n[[deny]]\nwho = \"bob\"\nread = \"/srv/secret\"\n",
    );
    let home = lab.join("alice");
    for (kind, target, code) in [
        ("read", "/srv/data/x", 0),
        ("read", "/srv/data2", 1),
        ("write", "/srv/data/x", 1),
        ("exec", "/usr/bin/git status", 0),
        ("env.send", "LC_ALL", 0),
        ("env.read", "HOME", 1),
        ("shell", "", 0),
        ("python", "", 1),
        ("profile", "", 0),
        ("resolve", "a.internal", 0),
        ("listen", "127.0.0.1:9000/udp", 1),
        ("udp", "10.0.0.1:53", 1),
        ("unix", "/run/a", 1),
        ("unix_listen", "/run/a", 1),
        ("services.use", "calc", 1),
        ("services.offer", "calc", 1),
    ] {
        let question: &[&str] = if target.is_empty() { &[kind, "--json"] } else { &[kind, target, "--json"] };
        let borrower = home.capuchin().args(["check", "lab"]).args(question).output().unwrap();
        let admin = lab.admin().args(["check", "alice"]).args(question).output().unwrap();
        assert_eq!((borrower.status.code(), admin.status.code()), (Some(code), Some(code)), "{kind}: {borrower:?}");
        let [borrower, admin] = [borrower, admin].map(|output| json(&output.stdout));
        for part in ["kind", "target", "allowed", "rule", "reason", "notes", "warnings"] {
            assert_eq!(borrower[part], admin[part], "{kind} {part}");
        }
        assert_eq!(borrower["warnings"].as_array().unwrap().len(), 2, "of a denial too: {borrower}");
        assert!(!borrower.to_string().contains("secret"), "another user's rule: {borrower}");
        if code == 1 {
            let notes = borrower["notes"].as_array().unwrap();
            let send = notes.last().unwrap().as_str().unwrap().trim_start();
            assert!(
                send.starts_with(&format!("capuchind allow alice {kind}")) && send.ends_with(" --for 1h"),
                "{send}"
            );
        }
    }
    let text = crate::support::text(crate::support::run(home.capuchin().args(["check", "lab", "shell"])).stdout);
    assert!(text.starts_with("allowed: shell by ") && text.contains("policy.toml:4 shell = true"), "{text}");
    for moot in ["shell = true makes finer rules for alice moot", "connect = \"*:*\" makes finer rules for alice moot"]
    {
        assert!(text.contains(moot), "{moot:?} is missing: {text}");
    }
}

/// What is lent as a user of the lender's machine, by every kind of terms and through links: `check` says what the gate does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_what_the_request_meets_as_any_user_and_through_links() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
    for name in ["lent", "kept"] {
        std::fs::create_dir(at(name)).unwrap();
        std::fs::write(at(&format!("{name}/program")), "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(at(&format!("{name}/program")), PermissionsExt::from_mode(0o755)).unwrap();
    }
    let _servers = ["lent/server", "kept/server"].map(|name| UnixListener::bind(at(name)).unwrap());
    for (target, link) in [("program", "kept/alias"), ("../kept/program", "lent/out"), ("../kept/server", "lent/leads")]
    {
        let target = if link == "kept/alias" { at("lent/program") } else { target.to_owned() };
        symlink(target, at(link)).unwrap();
    }
    let lent = ["lent/program", "lent/out", "lent/none"].map(|name| format!("{{ path = {:?} }}", at(name))).join(", ");
    let things = [
        ("exec", at("lent/program")),
        ("exec", at("lent/none")),
        ("exec", at("kept/alias")),
        ("exec", at("lent/out")),
        ("exec", at("kept/program")),
        ("shell", String::new()),
        ("unix", at("lent/server")),
        ("unix", at("lent/leads")),
        ("unix_listen", at("lent/new")),
        ("unix_listen", at("kept/new")),
    ];
    for terms in ["", "allow_root = true", "run_as = \"daemon\"", "run_as = \"root\"", "run_as = \"nobody-has-this\""] {
        let (lab, _home, borrower) = session(&format!(
            "[[allow]]\nwho = \"alice\"\nshell = true\nexec = [{lent}]\nunix = {0:?}\nunix_listen = {0:?}\n{terms}\n\
             [[deny]]\nwho = \"alice\"\nexec = [{{ path = {1:?} }}]\n",
            at("lent"),
            at("kept/program"),
        ))
        .await;
        let mut allowed = 0;
        for (kind, target) in &things {
            let done = match *kind {
                "exec" => borrower.command(target).spawn().await.map(drop),
                "shell" => borrower.shell().spawn().await.map(drop),
                "unix" => borrower.unix_connect(target).await.map(drop),
                _ => borrower.unix_listen(target).await.map(drop),
            };
            let asked = borrower.check(kind, target).await.map(drop);
            let told =
                lab.admin().args(["check", "alice", kind]).args(Some(target).filter(|_| *kind != "shell")).output();
            let by_policy = |result: &Result<(), capuchin::BorrowError>| {
                result.as_ref().is_err_and(|error| error.kind() == ErrorKind::Policy)
            };
            let refused = by_policy(&done);
            assert_eq!(by_policy(&asked), refused, "{terms} {kind} {target}: {asked:?}, {done:?}");
            assert_eq!(told.unwrap().status.code(), Some(i32::from(refused)), "{terms} {kind} {target}: {done:?}");
            allowed += usize::from(!refused);
        }
        // Who has nobody to act as has nothing, and otherwise the links to what is kept are refused.
        let acts = match terms {
            "" => own_uid() != 0,
            "run_as = \"daemon\"" => own_uid() == 0,
            _ => terms == "allow_root = true",
        };
        assert_eq!(allowed, if acts { 6 } else { 0 }, "{terms}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lenders_own_port_is_out_of_reach_of_broad_rules() {
    let lab = Lab::start("[[allow]]\nwho = [\"alice\"]\nconnect = [\"*:*\", \"127.0.0.0/8:*\"]\n");
    let home = lab.join("alice");
    let answer = ask(&lab, &home, "127.0.0.1", lab.address.port()).await;
    assert!(matches!(answer, Answer::Refused(refusal) if refusal.kind() == ErrorKind::Policy));
}

#[test]
fn a_removed_user_borrows_nothing_more_and_is_told() {
    let lab = Lab::start(crate::support::LOOPBACK);
    let home = lab.join("alice");
    let server = crate::origin(crate::echo);
    let (mut forward, local) = home.forward(&[&format!("0:{server}")]);
    let socket = crate::dial(local[0]);
    crate::round_trip(&socket, b"still a user").unwrap();
    crate::support::run(lab.admin().args(["user", "remove", "alice"]));
    assert!(crate::support::ends(&socket));
    forward.wait_for_line("error[revoked]");
    assert_eq!(forward.wait().code(), Some(255));
}
