//! One lender of root, two users: each runs as somebody else, and neither sees, signals or reads the other.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use capuchin::proto::ErrorKind;

use crate::{
    exec,
    support::{Daemon, Home, Lab, PATIENCE, capuchind, fails, own_uid, run, text, wait_until},
};

/// Numbers that nobody has.
const ANA: u32 = 54_321;
const BOB: u32 = 54_322;
pub const POLICY: &str = "\
    [[allow]]\nwho = \"alice\"\nexec = [{ path = \"*\" }]\nshell = true\nrun_as = \"test-ana\"\n\
    [[allow]]\nwho = \"bob\"\nexec = [{ path = \"*\" }]\nrun_as = \"test-bob\"\n";

/// A lender of root whose machine has two more users.
fn lab_of_root(policy: &str) -> (Lab, Home, Home) {
    lab_after(policy, "true")
}

/// As above, on a machine that `prepare` has changed, a script that has the lender's folder as `$1`.
pub fn lab_after(policy: &str, prepare: &str) -> (Lab, Home, Home) {
    assert_eq!(own_uid(), 0, "this test becomes other users: run it as root");
    let mut lab = Lab::start(policy);
    lab.daemon.kill();
    let folder = lab.folder;
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let users = format!("test-ana:x:{ANA}:{ANA}::/tmp:/bin/sh\ntest-bob:x:{BOB}:{BOB}::/tmp:/bin/sh\n");
    let file = folder.path().join("passwd");
    std::fs::write(&file, passwd + &users).unwrap();
    let program = capuchind(folder.path()).get_program().to_owned();
    let mut serve = Command::new("unshare");
    let script = format!("mount --bind \"$1/passwd\" /etc/passwd && {prepare} && shift && exec \"$@\"");
    serve.args(["--mount", "sh", "-c", &script, "sh"]);
    serve.arg(folder.path()).arg(program).arg("serve").env("CAPUCHIND_DIR", folder.path());
    let daemon = Daemon::spawn(&mut serve);
    let address = daemon.wait_for_line("listens on").rsplit(' ').next().unwrap().parse().unwrap();
    let lab = Lab { folder, daemon, address };
    let (alice, bob) = (lab.join("alice"), lab.join("bob"));
    (lab, alice, bob)
}

#[test]
fn programs_run_as_their_user_and_have_given_up_everything_else() {
    let (_lab, alice, bob) = lab_of_root(POLICY);
    run_as_their_user(&alice, &bob);
}

pub fn run_as_their_user(alice: &Home, bob: &Home) {
    let said = text(run(&mut exec(alice, &["sh", "-c", "id -u; id -g; id -G; echo $USER $HOME; ulimit -c"])).stdout);
    assert_eq!(said, format!("{ANA}\n{ANA}\n{ANA}\ntest-ana /tmp\n0\n"));
    assert_eq!(text(run(&mut exec(bob, &["id", "-u"])).stdout), format!("{BOB}\n"));
    let status = text(run(&mut exec(alice, &["cat", "/proc/self/status"])).stdout);
    for line in ["NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert!(status.contains(&format!("Uid:\t{ANA}\t{ANA}\t{ANA}\t{ANA}")), "{status}");
    let mut terminal = alice.capuchin();
    let output = run(terminal.args(["exec", "-t", "lab", "sh", "-c", "stat -c '%u %a' $(tty)"]));
    assert_eq!(text(output.stdout), format!("{ANA} 600\r\n"));
    let mut shell = alice.capuchin();
    let output = crate::support::run_with(shell.args(["shell", "-T", "lab"]), "id -u\n");
    assert_eq!(text(output.stdout), format!("{ANA}\n"));
}

/// Starts its arguments with a key in their session keyring (keyrings(7)), as a login of root may leave one.
const WITH_KEY: &str = r#"
import ctypes, os, platform, sys
add_key, keyctl = {"x86_64": (248, 250)}.get(platform.machine(), (217, 219))
call, join, session = ctypes.CDLL(None).syscall, 1, -3
call(keyctl, join, None)
call(add_key, b"user", b"key-of-root", b"secret", 6, session)
os.execvp(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn programs_of_a_user_have_no_keys_of_root() {
    let prepare = format!("folder=$1 && shift && set -- \"$folder\" python3 -c '{WITH_KEY}' \"$@\"");
    let (_lab, alice, _bob) = lab_after(POLICY, &prepare);
    let keys = text(run(&mut exec(&alice, &["cat", "/proc/keys"])).stdout);
    assert!(!keys.contains("key-of-root"), "{keys}");
    // The daemon has it all the same: root sees every key of root's.
    let of_root = std::fs::read_to_string("/proc/keys").unwrap();
    assert!(of_root.contains("key-of-root"), "{of_root}");
}

/// A folder in which what is setuid gains by it, as the lender sees it: the owner's and the caller's numbers, and a command that
/// becomes root for another.
pub const SETUID: &str = "mount -t tmpfs -o mode=755 tmpfs /mnt && cp $(command -v id) /mnt/id && cp $(command -v setpriv) /mnt/become \
                      && chmod 4755 /mnt/id /mnt/become";

#[test]
fn programs_gain_privileges_where_a_rule_says_setuid_and_nowhere_else() {
    let (_lab, alice, bob) = lab_after(&with_setuid(), SETUID);
    gain_privileges_where_a_rule_says_so(&alice, &bob);
}

/// Where alice's rule says it, and the machine has [`SETUID`].
pub fn gain_privileges_where_a_rule_says_so(alice: &Home, bob: &Home) {
    let said = |home: &Home| {
        let script = "/mnt/id -u; id -u; grep NoNewPrivs /proc/self/status";
        text(run(&mut exec(home, &["sh", "-c", script])).stdout)
    };
    assert_eq!(said(alice), format!("0\n{ANA}\nNoNewPrivs:\t0\n"));
    assert_eq!(said(bob), format!("{BOB}\n{BOB}\nNoNewPrivs:\t1\n"));
}

/// alice's programs may gain privileges.
pub fn with_setuid() -> String {
    POLICY.replace("run_as = \"test-ana\"", "run_as = \"test-ana\"\nsetuid = true")
}

/// What root mounts by sudo(8) is for the machine, although these programs see their own user's processes only.
#[test]
fn what_a_program_mounts_that_has_become_root_is_mounted_for_the_machine() {
    let (_lab, alice, bob) = lab_after(&with_setuid(), &format!("mount --make-rshared / && {SETUID}"));
    let become_root = ["/mnt/become", "--reuid=0", "--regid=0", "--clear-groups"];
    run(&mut exec(&alice, &[&become_root[..], &["mount", "-t", "tmpfs", "seen", "/srv"]].concat()));
    assert_eq!(text(run(&mut exec(&bob, &["stat", "-f", "-c", "%T", "/srv"])).stdout), "tmpfs\n");
    // And root sees whom it likes.
    let seen = text(run(&mut exec(&alice, &[&become_root[..], &["stat", "-c", "%u", "/proc/1"]].concat())).stdout);
    assert_eq!(seen, "0\n");
}

#[test]
fn programs_have_the_groups_of_their_user() {
    let prepare = "cp /etc/group \"$1/group\" && echo extra:x:54400:test-ana >> \"$1/group\" \
                   && mount --bind \"$1/group\" /etc/group";
    let (_lab, alice, bob) = lab_after(POLICY, prepare);
    let groups = |home: &Home| text(run(&mut exec(home, &["id", "-G"])).stdout);
    assert_eq!(groups(&alice), format!("{ANA} 54400\n"));
    assert_eq!(groups(&bob), format!("{BOB}\n"));
}

#[test]
fn two_users_cannot_see_signal_or_read_each_other() {
    let (_lab, alice, bob) = lab_of_root(POLICY);
    cannot_see_each_other(&alice, &bob);
}

#[test]
fn two_users_cannot_see_each_other_where_their_programs_may_gain_privileges() {
    let (_lab, alice, bob) = lab_of_root(&POLICY.replace("run_as", "setuid = true\nrun_as"));
    cannot_see_each_other(&alice, &bob);
}

pub fn cannot_see_each_other(alice: &Home, bob: &Home) {
    let secret = tempfile::tempdir().unwrap();
    std::fs::set_permissions(secret.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let file = secret.path().join("secret");
    let script = format!("umask 077; echo hidden > {}; echo $$; exec sleep 365", file.display());
    let mut sleeper = exec(alice, &["sh", "-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut pid = String::new();
    BufReader::new(sleeper.stdout.take().unwrap()).read_line(&mut pid).unwrap();
    let pid = pid.trim();
    let fails_for_bob = |script: &str, why: &str| {
        let stderr = fails(&mut exec(bob, &["sh", "-c", script]), 1);
        assert!(stderr.contains(why), "{script}: {stderr}");
    };
    fails_for_bob(&format!("kill -0 {pid}"), "Operation not permitted");
    fails_for_bob(&format!("kill -9 {pid}"), "Operation not permitted");
    fails_for_bob(&format!("cat {}", file.display()), "Permission denied");
    fails_for_bob(&format!("cat /proc/{pid}/cmdline"), "No such file");
    let listed = text(run(&mut exec(bob, &["ps", "-e", "-o", "args"])).stdout);
    assert!(listed.contains("ps -e -o args") && !listed.contains("sleep 365"), "{listed}");
    let seen = exec(alice, &["sh", "-c", &format!("kill -0 {pid} && cat /proc/{pid}/comm && cat {}", file.display())]);
    assert_eq!(text(run(&mut { seen }).stdout), "sleep\nhidden\n", "her own she has");
    // Nor can a program end its supervisor, which is root's.
    fails_for_bob("kill -9 $PPID", "Operation not permitted");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
}

#[test]
fn root_is_refused_unless_a_rule_says_so_twice() {
    let nobody = "[[allow]]\nwho = [\"alice\", \"bob\"]\nexec = [{ path = \"*\" }]\n";
    let (lab, alice, _) = lab_of_root(&(nobody.to_owned() + "[[allow]]\nwho = \"bob\"\nrun_as = \"root\"\n"));
    let stderr = fails(&mut exec(&alice, &["id"]), 255);
    assert!(stderr.contains("run_as or allow_root = true"), "{stderr}");
    lab.wait_for_verdict("spawn", "refused");
}

/// Attack 14, under root: what runs as another user ends as fast, whatever it called.
#[test]
fn attack_14_a_revoked_users_processes_are_gone_before_a_hangup_would_end_them_under_root_too() {
    let (lab, alice, bob) = lab_of_root(POLICY);
    let stubborn = crate::ends::Stubborn::start(&alice);
    let mut other = exec(&bob, &["sh", "-c", "echo up; exec sleep 300"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut up = String::new();
    BufReader::new(other.stdout.take().unwrap()).read_line(&mut up).unwrap();
    run(lab.admin().args(["revoke", "--user", "alice"]));
    stubborn.were_taken_back_at_once(&lab);
    assert_eq!(stubborn.command.wait_with_output().unwrap().status.code(), Some(255));
    assert!(other.try_wait().unwrap().is_none(), "bob's goes on");
    other.kill().unwrap();
    other.wait().unwrap();
}

/// Those below a process.
fn below(pid: u32) -> Vec<u32> {
    // Each child is a thread's.
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let children = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let children: Vec<u32> = children
        .flat_map(|pids| pids.split_ascii_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<_>>())
        .collect();
    children.into_iter().flat_map(|child| std::iter::once(child).chain(below(child))).collect()
}

/// A file system or a list of users that hangs holds a start up; whoever gives it up leaves nothing behind.
#[test]
fn a_start_that_hangs_and_is_given_up_or_revoked_leaves_nothing() {
    // initgroups(3) waits for somebody to write.
    let prepare = "mkfifo \"$1/group\" && mount --bind \"$1/group\" /etc/group";
    let policy = POLICY.replace("run_as = \"test-ana\"", "run_as = \"test-ana\"\ndetach = true");
    let (lab, alice, _) = lab_after(&policy, prepare);
    let daemon = lab.daemon.child.id();
    let hangs = |options: &[&str]| {
        let mut command = alice.capuchin();
        let child =
            command.arg("exec").args(options).args(["lab", "sleep", "300"]).stderr(Stdio::piped()).spawn().unwrap();
        // The worker, a supervisor, and what is to be the program.
        wait_until("a start that hangs", || below(daemon).len() == 3);
        child
    };
    for options in [&[][..], &["--detach"]] {
        let mut child = hangs(options);
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("the worker alone", || below(daemon).len() == 1);
    }
    let child = hangs(&[]);
    run(lab.admin().args(["revoke", "--user", "alice"]));
    wait_until("the worker alone", || below(daemon).len() == 1);
    let output = child.wait_with_output().unwrap();
    assert!(text(output.stderr).starts_with("error[revoked]"));
}

/// A lab of root where alice is ana, with a folder in which she may have Unix sockets.
pub fn lab_of_sockets(start: impl Fn(&str) -> (Lab, Home, Home)) -> (Lab, Home, tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    std::fs::set_permissions(&root, PermissionsExt::from_mode(0o755)).unwrap();
    let rules = format!("run_as = \"test-ana\"\nunix = {root:?}\nunix_listen = {root:?}\n");
    let (lab, alice, _) = start(&POLICY.replace("run_as = \"test-ana\"\n", &rules));
    (lab, alice, folder, root)
}

/// A server that everybody may connect to who gets into its folder, which is its owner's alone.
fn server(root: &Path, owner: u32, name: &str) -> UnixListener {
    let path = root.join(name);
    std::fs::create_dir(&path).unwrap();
    let server = UnixListener::bind(path.join("server")).unwrap();
    for (path, mode) in [(&path, 0o700), (&path.join("server"), 0o666)] {
        chown(path, Some(owner), Some(owner)).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    server
}

/// What is behind a Unix socket of root's machine is reached as the user, and so is what the user may not reach.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_sockets_are_connected_and_created_as_the_user() {
    let (_lab, alice, _folder, root) = lab_of_sockets(lab_of_root);
    are_connected_and_created_as_the_user(&alice, &root).await;
}

pub async fn are_connected_and_created_as_the_user(alice: &Home, root: &Path) {
    use rustix::net::sockopt::socket_peercred;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (hers, _his) = (server(root, ANA, "ana"), server(root, BOB, "bob"));
    let borrower = alice.connect().await;
    let mut stream = borrower.unix_connect(root.join("ana/server")).await.unwrap();
    let (mut socket, _) = hers.accept().unwrap();
    assert_eq!(socket_peercred(&socket).unwrap().uid.as_raw(), ANA, "whom the server sees");
    stream.write_all(b"ping").await.unwrap();
    let mut heard = [0; 4];
    socket.read_exact(&mut heard).unwrap();
    socket.write_all(&heard).unwrap();
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"ping");

    let listener = borrower.unix_listen(root.join("ana/mine")).await.unwrap();
    let found = root.join("ana/mine").symlink_metadata().unwrap();
    assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (ANA, ANA, 0o600));
    let mut visitor = UnixStream::connect(root.join("ana/mine")).unwrap();
    assert_eq!(socket_peercred(&visitor).unwrap().uid.as_raw(), ANA, "whom a visitor sees");
    let mut accepted = listener.accept().await.unwrap();
    accepted.write_all(b"pong").await.unwrap();
    visitor.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"pong");
    listener.close().await.unwrap();
    assert!(root.join("ana/mine").symlink_metadata().is_err(), "its file stays");

    // The policy lets her, and the system does not; whether there is anything, neither says.
    for name in ["bob/server", "bob/none"] {
        let error = borrower.unix_connect(root.join(name)).await.err().unwrap();
        assert_eq!((error.kind(), error.errno().map(|it| it.0)), (ErrorKind::Target, Some(13)), "{name}: {error}");
    }
    let error = borrower.unix_listen(root.join("bob/mine")).await.err().unwrap();
    assert_eq!((error.kind(), error.errno().map(|it| it.0)), (ErrorKind::Target, Some(13)), "{error}");
    let error = borrower.unix_connect(root.join("ana/none")).await.err().unwrap();
    assert_eq!(error.errno().map(|it| it.0), Some(2), "{error}");
}

/// Whoever runs as whom is judged again, and a daemon that dies leaves no file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unix_sockets_end_with_the_user_that_they_are_of_and_with_the_daemon() {
    use tokio::io::AsyncReadExt;
    let (mut lab, alice, _folder, root) = lab_of_sockets(lab_of_root);
    let hers = server(&root, ANA, "ana");
    let borrower = alice.connect().await;
    let mut stream = borrower.unix_connect(root.join("ana/server")).await.unwrap();
    let _socket = hers.accept().unwrap();
    let listener = borrower.unix_listen(root.join("ana/mine")).await.unwrap();
    let policy = std::fs::read_to_string(lab.dir().join("policy.toml")).unwrap();
    std::fs::write(lab.dir().join("policy.toml"), policy.replacen("test-ana", "test-bob", 1)).unwrap();
    assert_eq!(listener.accept().await.err().unwrap().errno().map(|it| it.0), Some(13));
    assert!(stream.read_u8().await.is_err());
    wait_until("the file goes", || root.join("ana/mine").symlink_metadata().is_err());
    std::fs::write(lab.dir().join("policy.toml"), policy).unwrap();
    let end = Instant::now() + PATIENCE;
    let _listener = loop {
        match borrower.unix_listen(root.join("ana/mine")).await {
            Ok(listener) => break listener,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    };
    lab.daemon.kill();
    wait_until("the file goes", || root.join("ana/mine").symlink_metadata().is_err());
}
