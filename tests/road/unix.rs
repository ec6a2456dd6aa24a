//! Unix sockets of the lender: connected to, created, and judged by where their paths lead.

use std::{
    io::{Read, Write},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt, symlink},
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
};

use capuchin::{Borrower, proto::ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    listen::session,
    support::{Home, Lab},
};

/// A folder whose `lent` is lent, and alice's session.
struct Lent {
    _folder: tempfile::TempDir,
    root: PathBuf,
    lab: Lab,
    _home: Home,
    borrower: Borrower,
}

async fn lent(terms: &str) -> Lent {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    std::fs::create_dir(root.join("lent")).unwrap();
    std::fs::create_dir(root.join("kept")).unwrap();
    let lent = root.join("lent");
    let policy = format!("[[allow]]\nwho = \"alice\"\nunix = {lent:?}\nunix_listen = {lent:?}\n{terms}\n");
    let (lab, home, borrower) = session(&policy).await;
    Lent { _folder: folder, root, lab, _home: home, borrower }
}

const AS_ROOT: &str = "allow_root = true";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_behind_a_unix_socket_answers_also_through_links() {
    let lent = lent(AS_ROOT).await;
    let path = lent.root.join("lent/server");
    let server = UnixListener::bind(&path).unwrap();
    symlink("server", lent.root.join("lent/alias")).unwrap();
    symlink(lent.root.join("lent"), lent.root.join("way")).unwrap();
    std::thread::spawn(move || {
        for mut socket in server.incoming().map_while(Result::ok) {
            let mut question = String::new();
            socket.read_to_string(&mut question).unwrap();
            socket.write_all(question.to_uppercase().as_bytes()).unwrap();
        }
    });
    for way in ["lent/server", "lent/alias", "way/alias"] {
        // `check` judges where it leads, as the request does.
        lent.borrower.check("unix", lent.root.join(way).to_str().unwrap()).await.unwrap();
        let mut stream = lent.borrower.unix_connect(lent.root.join(way)).await.unwrap();
        stream.write_all(b"half-closed").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "HALF-CLOSED", "{way}");
    }
    let (mut reader, mut writer) = lent.borrower.unix_connect(&path).await.unwrap().into_split();
    // Dropping the writing half is the end that the server waits for.
    tokio::spawn(async move { writer.write_all(b"in halves").await });
    let mut answer = String::new();
    reader.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "IN HALVES");
    lent.lab.wait_for_audit("its end", |line| line["event"] == "unix-closed" && line["bytes_in"] == 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_is_created_for_the_lenders_user_alone_and_goes_with_its_handle() {
    let lent = lent(AS_ROOT).await;
    let path = lent.root.join("lent/mine");
    // What an earlier listener left is in nobody's way.
    drop(UnixListener::bind(&path).unwrap());
    let listener = lent.borrower.unix_listen(&path).await.unwrap();
    let found = path.symlink_metadata().unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    let error = lent.borrower.unix_listen(&path).await.err().unwrap();
    assert_eq!((error.kind(), error.errno().map(|errno| errno.0)), (ErrorKind::Target, Some(98)), "{error}");
    let mut visitor = UnixStream::connect(&path).unwrap();
    visitor.write_all(b"ping").unwrap();
    let mut stream = listener.accept().await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    let pending = UnixStream::connect(&path).unwrap();
    listener.close().await.unwrap();
    assert!(path.symlink_metadata().is_err(), "its file stays");
    assert!(crate::support::ends(&pending), "who was not accepted sees the end");
    stream.write_all(b"pong").await.unwrap();
    let mut said = [0; 4];
    visitor.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"pong");
    lent.lab.wait_for_audit("the end", |line| line["event"] == "listen-closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_is_neither_reached_nor_created_and_does_not_tell_whether_it_exists() {
    let lent = lent(AS_ROOT).await;
    let kept = UnixListener::bind(lent.root.join("kept/server")).unwrap();
    kept.set_nonblocking(true).unwrap();
    symlink(lent.root.join("kept/server"), lent.root.join("lent/escape")).unwrap();
    symlink(lent.root.join("kept/none"), lent.root.join("lent/nothing")).unwrap();
    symlink(lent.root.join("kept"), lent.root.join("lent/out")).unwrap();
    let own = lent.lab.door();
    let mut told = Vec::new();
    for path in ["kept/server", "kept/none", "lent/escape", "lent/nothing", "lent/out/server", "lent/out/none"] {
        let error = lent.borrower.unix_connect(lent.root.join(path)).await.err().unwrap();
        assert_eq!(
            (error.kind(), error.errno().map(|errno| errno.0)),
            (ErrorKind::Policy, Some(13)),
            "{path}: {error}"
        );
        told.push(error.to_string());
        let checked = lent.borrower.check("unix", lent.root.join(path).to_str().unwrap()).await.err().unwrap();
        assert_eq!(checked.kind(), ErrorKind::Policy, "{path}: {checked}");
    }
    assert!(told[0].ends_with("no rule allows it") && told[1].ends_with("no rule allows it"), "{told:?}");
    for path in ["kept/new", "lent/out/new"] {
        let error = lent.borrower.unix_listen(lent.root.join(path)).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Policy, "{path}: {error}");
    }
    let error = lent.borrower.unix_connect(&own).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Policy, "the lender's own door: {error}");
    assert_eq!(kept.accept().err().unwrap().kind(), std::io::ErrorKind::WouldBlock, "it was connected to");
    assert!(lent.root.join("kept").read_dir().unwrap().count() == 1, "something was created");
    // What may be known has its own errno.
    let error = lent.borrower.unix_connect(lent.root.join("lent/none")).await.err().unwrap();
    assert_eq!((error.kind(), error.errno().map(|errno| errno.0)), (ErrorKind::Target, Some(2)), "{error}");
    std::fs::write(lent.root.join("lent/file"), "").unwrap();
    let error = lent.borrower.unix_connect(lent.root.join("lent/file")).await.err().unwrap();
    assert_eq!(error.errno().map(|errno| errno.0), Some(111), "{error}");
    let error = lent.borrower.unix_listen(lent.root.join("lent/escape")).await.err().unwrap();
    assert_eq!(error.errno().map(|errno| errno.0), Some(98), "a link is in the way, and not followed: {error}");
}

/// The daemon sees more than the borrower may, and `/proc` has a link to each file that a process has open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_does_not_tell_where_a_link_leads() {
    let lent = lent(AS_ROOT).await;
    let (_lab, _home, without_rule) = session("[[allow]]\nwho = \"alice\"\nconnect = \"127.0.0.1:9\"\n").await;
    let at = |name: &str| lent.root.join(name).to_str().unwrap().to_owned();
    symlink("/secret/place", at("kept/link")).unwrap();
    symlink(lent.lab.door(), at("kept/own")).unwrap();
    symlink("/secret/place", at("lent/link")).unwrap();
    symlink("/secret/other/place", at("lent/other")).unwrap();
    let told = async |borrower: &Borrower, path: &str| {
        let done = borrower.unix_connect(path).await.err().unwrap();
        let asked = borrower.check("unix", path).await.err().unwrap();
        let all = [&done, &asked].map(|error| [&[error.to_string()], error.notes()].concat().join("\n"));
        all.join("\n").replace(path, "PATH")
    };
    for borrower in [&lent.borrower, &without_rule] {
        let none = told(borrower, &at("kept/none")).await;
        for link in ["kept/link", "kept/own"] {
            assert_eq!(told(borrower, &at(link)).await, none, "{link}");
        }
        let of_process = format!("/proc/{}/exe", std::process::id());
        assert!(told(borrower, &of_process).await.contains("PATH"));
        assert!(!told(borrower, &of_process).await.contains(std::env::current_exe().unwrap().to_str().unwrap()));
    }
    // Who may go to the link hears that it is one, and no more.
    let led = told(&lent.borrower, &at("lent/link")).await;
    assert!(led.contains("links lead from there to what is not allowed") && !led.contains("secret"), "{led}");
    assert_eq!(told(&lent.borrower, &at("lent/other")).await, led);
    lent.lab.wait_for_audit("where it leads", |line| {
        line["target"] == at("lent/link") && line["why"].as_str().is_some_and(|why| why.contains("/secret/place"))
    });
    let seen = lent.lab.admin().args(["check", "alice", "unix", &at("lent/link")]).output().unwrap();
    assert!(String::from_utf8_lossy(&seen.stdout).contains("unix /secret/place is refused"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_line_for_the_admin_allows_what_the_links_of_a_path_lead_to() {
    let lent = lent(AS_ROOT).await;
    let _server = UnixListener::bind(lent.root.join("kept/server")).unwrap();
    symlink("kept", lent.root.join("way")).unwrap();
    let path = lent.root.join("way/server");
    let error = lent.borrower.unix_connect(&path).await.err().unwrap();
    let line = error.notes().last().unwrap().trim_start().to_owned();
    assert!(line.starts_with("capuchind allow alice unix ") && line.contains("/way/server"), "{line}");
    crate::support::run(lent.lab.admin().args(line.split(' ').skip(1)));
    lent.borrower.unix_connect(&path).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_of_root_lends_nothing_of_its_users_files_unless_the_policy_says_so() {
    let lent = lent("").await;
    let path = lent.root.join("lent/server");
    let _server = UnixListener::bind(&path).unwrap();
    let refused = |error: Option<capuchin::BorrowError>| {
        let error = error.expect("root acts for nobody by itself");
        assert_eq!((error.kind(), error.errno().map(|errno| errno.0)), (ErrorKind::Policy, Some(13)), "{error}");
        assert!(error.to_string().contains("no rule for alice says run_as or allow_root = true"), "{error}");
        assert_eq!(error.notes().last().unwrap().trim_start(), "run_as = \"NAME\"", "the line for the admin");
    };
    if crate::support::own_uid() == 0 {
        refused(lent.borrower.unix_connect(&path).await.err());
        refused(lent.borrower.unix_listen(lent.root.join("lent/new")).await.err());
        assert!(!lent.root.join("lent/new").exists());
    } else {
        lent.borrower.unix_connect(&path).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_policy_takes_unix_sockets_back() {
    let lent = lent(AS_ROOT).await;
    let path = lent.root.join("lent/server");
    let server = UnixListener::bind(&path).unwrap();
    let mut stream = lent.borrower.unix_connect(&path).await.unwrap();
    let (socket, _) = server.accept().unwrap();
    let created = lent.root.join("lent/mine");
    let listener = lent.borrower.unix_listen(&created).await.unwrap();
    std::fs::write(lent.lab.dir().join("policy.toml"), "").unwrap();
    let error = stream.read_u8().await.unwrap_err();
    let taken = capuchin::session::TakenBack::of(&error).map(|taken| taken.0);
    assert_eq!((taken, error.kind()), (Some(ErrorKind::Policy), std::io::ErrorKind::PermissionDenied));
    assert!(crate::support::ends(&socket));
    assert_eq!(listener.accept().await.err().unwrap().errno().map(|errno| errno.0), Some(13));
    lent.lab.wait_for_audit("its end", |line| line["event"] == "listen-closed");
    assert!(!created.exists());
}
