//! Unix sockets of the lender, against paths that are none and borrowers that are gone.

use std::{
    fs,
    os::unix::{
        fs::symlink,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::Command,
};

use capuchin::proto::{Answer, ErrorKind, Frame, Kind, Ready, Request, UnixListen, message};

use crate::support::{
    Home, Lab, PATIENCE,
    peer::{Peer, frame},
    run, wait_until,
};

struct Lent {
    _folder: tempfile::TempDir,
    root: PathBuf,
    lab: Lab,
    home: Home,
}

fn lent() -> Lent {
    lent_but(|_| String::new())
}

/// A folder that is lent, but for what these rules deny.
fn lent_but(denies: impl FnOnce(&Path) -> String) -> Lent {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let lab = Lab::start(&format!(
        "[[allow]]\nwho = \"alice\"\nunix = {root:?}\nunix_listen = {root:?}\nallow_root = true\n{}",
        denies(&root)
    ));
    let home = lab.join("alice");
    Lent { _folder: folder, root, lab, home }
}

impl Lent {
    async fn ask(&self, request: &Request) -> (Peer, Answer<Ready>) {
        let mut peer = Peer::logged_in(self.lab.address, &self.home, "alice").await;
        peer.send(&frame(1, Kind::Data, true, false, &message::encode_prefixed(request))).await;
        loop {
            if let Frame::Data { payload, .. } = peer.hear().await.expect("an answer") {
                return (peer, message::decode("answer", &payload[4..]).unwrap());
            }
        }
    }

    fn path(&self, name: &[u8]) -> Vec<u8> {
        [self.root.to_str().unwrap().as_bytes(), b"/", name].concat()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_39_paths_that_are_none() {
    let lent = lent();
    for name in [&b"a\0b"[..], b"../escape", b".", b"a//b", b"a/"] {
        for request in [
            Request::UnixConnect(lent.path(name)),
            Request::UnixListen(UnixListen { path: lent.path(name), backlog: Some(1) }),
        ] {
            let (_, Answer::Refused(refusal)) = lent.ask(&request).await else { panic!("{name:?} was granted") };
            assert_eq!(
                (refusal.kind(), refusal.errno().map(|errno| errno.0)),
                (ErrorKind::Usage, Some(22)),
                "{name:?}"
            );
        }
    }
    let relative = Request::UnixConnect(b"relative".to_vec());
    assert!(matches!(lent.ask(&relative).await.1, Answer::Refused(refusal) if refusal.kind() == ErrorKind::Usage));
    // Any other bytes are a name.
    for name in [&b"new\nline"[..], b"\xff\xfe", b"*"] {
        let request = Request::UnixListen(UnixListen { path: lent.path(name), backlog: Some(1) });
        let (_peer, answer) = lent.ask(&request).await;
        assert!(matches!(answer, Answer::Granted(Ready {})), "{name:?}: {answer:?}");
        let (_, answer) = lent.ask(&Request::UnixConnect(lent.path(name))).await;
        assert!(matches!(answer, Answer::Granted(Ready {})), "{name:?}: {answer:?}");
    }
    let long = Request::UnixListen(UnixListen { path: lent.path(&[b'x'; 200]), backlog: Some(1) });
    assert!(
        matches!(lent.ask(&long).await.1, Answer::Refused(refusal) if refusal.errno().map(|errno| errno.0) == Some(36))
    );
    for request in [Request::UnixConnect(lent.path(&[b'x'; 5000])), Request::UnixConnect(Vec::new())] {
        let mut peer = Peer::logged_in(lent.lab.address, &lent.home, "alice").await;
        peer.send(&frame(1, Kind::Data, true, false, &message::encode_prefixed(&request))).await;
        assert_eq!(peer.hear_goaway().await.kind, ErrorKind::Protocol);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_38_hard_links_to_the_lenders_own_sockets_and_what_is_no_socket() {
    let lent = lent();
    let door = lent.lab.door();
    for (own, name) in [(lent.lab.dir().join("admin.sock"), "admin"), (door, "door")] {
        fs::hard_link(own, lent.root.join(name)).unwrap();
    }
    fs::write(lent.root.join("file"), "").unwrap();
    let at = |name: &str| lent.root.join(name);
    run(Command::new("mkfifo").arg(at("pipe")));
    fs::create_dir(at("folder")).unwrap();
    for (name, errno) in [("admin", 13), ("door", 13), ("file", 111), ("pipe", 111), ("folder", 111)] {
        let (_, answer) = lent.ask(&Request::UnixConnect(lent.path(name.as_bytes()))).await;
        let Answer::Refused(refusal) = answer else { panic!("{name} was granted") };
        assert_eq!((refusal.kind(), refusal.errno().map(|it| it.0)), (ErrorKind::Target, Some(errno)), "{name}");
        let target = at(name).display().to_string();
        lent.lab.wait_for_audit(name, |line| line["event"] == "unix-failed" && line["target"] == target.as_str());
    }
    // The links were good ones, for whoever may.
    UnixStream::connect(at("door")).unwrap();
}

/// As `/var/run` leads to `/run`, whichever of both a deny is written with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attack_41_a_deny_and_a_request_by_different_links() {
    let lent = lent_but(|root| {
        for folder in ["run", "old"] {
            fs::create_dir(root.join(folder)).unwrap();
        }
        symlink("run", root.join("var")).unwrap();
        symlink("old", root.join("moved")).unwrap();
        let [server, mine, moved] = ["var/denied", "var/mine", "moved/server"].map(|name| root.join(name));
        format!("[[deny]]\nwho = \"alice\"\nunix = [{server:?}, {moved:?}]\nunix_listen = {mine:?}\n")
    });
    let _servers = ["run/denied", "run/server"].map(|name| UnixListener::bind(lent.root.join(name)).unwrap());
    // Since the policy was read.
    fs::remove_file(lent.root.join("moved")).unwrap();
    symlink("run", lent.root.join("moved")).unwrap();
    let connect = |name: &[u8]| Request::UnixConnect(lent.path(name));
    let listen = |name: &[u8]| Request::UnixListen(UnixListen { path: lent.path(name), backlog: Some(1) });
    for request in [
        connect(b"var/denied"),
        connect(b"run/denied"),
        connect(b"moved/denied"),
        connect(b"moved/server"),
        listen(b"var/mine"),
        listen(b"run/mine"),
    ] {
        let (_, Answer::Refused(refusal)) = lent.ask(&request).await else { panic!("{request:?} was granted") };
        assert_eq!((refusal.kind(), refusal.errno().map(|it| it.0)), (ErrorKind::Policy, Some(13)), "{request:?}");
    }
    for request in [connect(b"var/server"), connect(b"run/server"), listen(b"var/another")] {
        let (_, answer) = lent.ask(&request).await;
        assert!(matches!(answer, Answer::Granted(Ready {})), "{request:?}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_borrower_that_is_killed_leaves_no_socket_and_no_connection() {
    let lent = lent();
    let path = lent.root.join("mine");
    let request = Request::UnixListen(UnixListen { path: lent.path(b"mine"), backlog: Some(1) });
    let (peer, Answer::Granted(Ready {})) = lent.ask(&request).await else { panic!("it is allowed") };
    let visitor = UnixStream::connect(&path).unwrap();
    let server = UnixListener::bind(lent.root.join("server")).unwrap();
    let (connected, Answer::Granted(Ready {})) = lent.ask(&Request::UnixConnect(lent.path(b"server"))).await else {
        panic!("it is allowed")
    };
    let (socket, _) = server.accept().unwrap();
    // No good-bye, as when a process dies: the kernel closes its sockets.
    drop((peer, connected));
    for socket in [visitor, socket] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        assert!(crate::support::ends(&socket));
    }
    wait_until("its file is gone", || path.symlink_metadata().is_err());
}
