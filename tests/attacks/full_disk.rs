//! The store on a disk that is full, and one that was cut or is gone: what was taken back stays so, and can be.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use capuchin::{
    proto::DeviceId,
    trust::{UnixTime, identity::Identity, store::Store},
};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::{
    still_serves,
    support::{Daemon, Home, LOOPBACK, Lab, PASSWORD, PATIENCE, capuchind, fails, run, run_with, text, wait_until},
};

/// `$1` on a disk of its own that holds 3 MiB, with what was in it; then the rest of the arguments.
const ON_A_SMALL_DISK: &str = r#"
set -e; dir="$1"; shift; kept="$(mktemp -d)"; cp -a "$dir/." "$kept"
mount -t tmpfs -o size=3m,mode=700 small "$dir"; cp -a "$kept/." "$dir"; rm -r "$kept"; exec "$@""#;

fn on_a_small_disk(dir: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", ON_A_SMALL_DISK, "sh"]).arg(dir).env("CAPUCHIND_DIR", dir);
    command
}

/// bob has so many devices that revoking them takes more room than one more user does.
fn with_many_devices(mut lab: Lab) -> Lab {
    lab.daemon.kill();
    let store = Store::open(&lab.dir().join("state.redb")).unwrap();
    for number in 0..400_u64 {
        let device = DeviceId::from_bytes(number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        let serial = format!("{number:032x}");
        let not_after = UnixTime::now().plus(Duration::from_secs(3600));
        store
            .add_device(&Identity { user: "bob".parse().unwrap(), device, serial, not_after }, UnixTime::now())
            .unwrap();
    }
    lab
}

/// A lender whose folder lies on a small disk, and that folder, which only the lender sees there.
fn with_a_small_disk(mut lab: Lab) -> (Lab, PathBuf) {
    lab.daemon.kill();
    let mut command = on_a_small_disk(lab.dir());
    let daemon = Daemon::spawn(command.args([env!("CARGO_BIN_EXE_capuchind"), "serve"]));
    let address = daemon.wait_for_line("listens on").rsplit(' ').next().unwrap().parse().unwrap();
    let root = PathBuf::from(format!("/proc/{}/root", daemon.child.id()));
    let disk = root.join(lab.dir().strip_prefix("/").unwrap());
    (Lab { folder: lab.folder, daemon, address }, disk)
}

fn join(disk: &Path, user: &str) -> Home {
    let home = Home::new();
    let line = text(run(capuchind(disk).args(["invite", user])).stdout);
    let joined = run_with(home.capuchin().args(["join", line.trim(), "--password-file", "-"]), PASSWORD);
    assert!(joined.status.success(), "{joined:?}");
    home
}

fn fill(disk: &Path) {
    let mut ballast = fs::OpenOptions::new().create(true).append(true).open(disk.join("ballast")).unwrap();
    let full = std::iter::repeat_with(|| ballast.write_all(&[0; 4096])).find_map(Result::err).unwrap();
    assert_eq!(full.kind(), ErrorKind::StorageFull);
}

/// A connection that crosses the lender.
struct Borrowed {
    near: TcpStream,
    far: TcpStream,
    _forward: Daemon,
}

impl Borrowed {
    fn begin(home: &Home) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (_forward, local) = home.forward(&[&format!("0:{}", listener.local_addr().unwrap())]);
        let near = TcpStream::connect(local[0]).unwrap();
        let mut borrowed = Self { near, far: listener.accept().unwrap().0, _forward };
        borrowed.crosses();
        borrowed
    }

    fn crosses(&mut self) {
        self.near.write_all(b"ping").unwrap();
        self.far.set_read_timeout(Some(PATIENCE)).unwrap();
        self.far.read_exact(&mut [0; 4]).unwrap();
    }

    fn ends(mut self) {
        self.far.set_read_timeout(Some(PATIENCE)).unwrap();
        match self.far.read(&mut [0]) {
            Ok(0) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            other => panic!("it goes on: {other:?}"),
        }
    }
}

/// Adds users until the store has no room for one more.
fn add_until_full(disk: &Path) -> String {
    for number in 0..5_000 {
        let output = capuchind(disk).args(["user", "add", &format!("user{number}")]).output().unwrap();
        if !output.status.success() {
            assert_eq!(output.status.code(), Some(255));
            fill(disk);
            return text(output.stderr);
        }
        // What the store has let go meanwhile.
        fill(disk);
    }
    panic!("5,000 users need no room");
}

#[test]
fn a_lender_whose_log_has_no_room_says_which_file_and_why_from_its_start_on() {
    let (lab, disk) = with_a_small_disk(Lab::start(LOOPBACK));
    let alice = join(&disk, "alice");
    fill(&disk);
    let refused = || !alice.capuchin().args(["check", "lab", "connect", "127.0.0.1:9"]).status().unwrap().success();
    // Some room was kept for what goes on.
    wait_until("new sessions are refused", refused);
    let said = |daemon: &Daemon| {
        let why = daemon.wait_for_line("the audit log cannot be brought to the disk");
        assert!(why.contains("ERROR") && why.contains("audit/audit.jsonl: No space left on device"), "{why}");
        daemon.wait_for_line("the audit log cannot be written: new sessions are refused until it can");
    };
    said(&lab.daemon);
    let mut again = on_a_small_disk(lab.dir());
    drop(lab.daemon);
    let full = format!("head -c 10m /dev/zero >{:?} 2>/dev/null; exec \"$@\"", lab.folder.path().join("ballast"));
    again.args(["sh", "-c", &full, "sh", env!("CARGO_BIN_EXE_capuchind"), "serve"]);
    said(&Daemon::spawn(&mut again));
}

/// As where systemd's `LimitFSIZE=` or `ulimit -f` holds for it; a signal that nobody handles comes of a write beyond that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lender_whose_files_may_not_grow_fails_as_on_a_full_disk_and_goes_on_when_they_may() {
    let lab = Lab::start(LOOPBACK);
    let alice = lab.join("alice");
    let lender = Pid::from_child(&lab.daemon.child);
    let length = fs::metadata(lab.dir().join("audit/audit.jsonl")).unwrap().len();
    let before = prlimit(Some(lender), Resource::Fsize, Rlimit { current: Some(length + 1), maximum: None }).unwrap();
    let mut command = lab.admin();
    assert!(!command.args(["user", "add", "carol"]).output().unwrap().status.success());
    prlimit(Some(lender), Resource::Fsize, before).unwrap();
    run(lab.admin().args(["user", "add", "dave"]));
    still_serves(&lab, &alice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_a_user_is_revoked_for_good_and_nothing_needs_a_restart() {
    let (lab, disk) = with_a_small_disk(with_many_devices(Lab::start(LOOPBACK)));
    let (alice, bob) = (join(&disk, "alice"), join(&disk, "bob"));
    let (mut of_alice, mut of_bob) = (Borrowed::begin(&alice), Borrowed::begin(&bob));
    fill(&disk);

    let full = add_until_full(&disk);
    assert!(full.starts_with("error[local]") && full.contains("state.redb: No space left"), "{full}");
    // The failure is over with its command: what needs no room works, and what has some kept for it.
    run(capuchind(&disk).args(["user", "list"]));
    of_alice.crosses();
    let full = add_until_full(&disk);
    assert!(full.contains("No space left"), "{full}");
    let reserve = || fs::metadata(disk.join("state.redb.reserve")).unwrap().len();
    let kept = reserve();
    run(capuchind(&disk).args(["revoke", "--user", "bob"]));
    assert!(reserve() < kept, "some of {kept} bytes was needed");
    of_bob.near.write_all(b"ping").ok();
    of_bob.ends();
    of_alice.crosses();

    // With room again all is as before, in the same daemon.
    fs::remove_file(disk.join("ballast")).unwrap();
    run(capuchind(&disk).args(["user", "add", "carol"]));
    still_serves(&lab, &alice).await;
    let stderr = fails(bob.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]), 2);
    assert!(stderr.starts_with("error[revoked]"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_cannot_be_written_cuts_all_the_same_and_says_that_it_does_not_last() {
    let lab = with_many_devices(Lab::start(LOOPBACK));
    // No room can be kept in a folder.
    let reserve = lab.dir().join("state.redb.reserve");
    fs::remove_file(&reserve).unwrap();
    fs::create_dir(&reserve).unwrap();
    let (lab, disk) = with_a_small_disk(lab);
    let (alice, bob) = (join(&disk, "alice"), join(&disk, "bob"));
    let (mut of_alice, of_bob) = (Borrowed::begin(&alice), Borrowed::begin(&bob));
    fill(&disk);
    add_until_full(&disk);

    let stderr = fails(capuchind(&disk).args(["revoke", "--user", "bob"]), 255);
    assert!(stderr.contains("NOT written") && stderr.contains("cut (1)") && stderr.contains("make room"), "{stderr}");
    of_bob.ends();
    of_alice.crosses();
    // A login that cannot be written down is none that was refused: a session that is kept comes again.
    let password = alice.password_file(PASSWORD);
    let login = || alice.capuchin().args(["login", "lab", "--password-file"]).arg(&password).output().unwrap();
    let refused =
        std::iter::repeat_with(login).take(500).inspect(|_| fill(&disk)).find(|login| !login.status.success());
    let stderr = text(refused.expect("500 logins need no room").stderr);
    assert!(stderr.starts_with("error[busy]") && stderr.contains("the store failed"), "{stderr}");
    fs::remove_file(disk.join("ballast")).unwrap();
    // It did not last; said again, it does.
    run(bob.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]));
    run(capuchind(&disk).args(["revoke", "--user", "bob"]));
    let stderr = fails(bob.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]), 2);
    assert!(stderr.starts_with("error[revoked]"), "{stderr}");
    still_serves(&lab, &alice).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_read_is_told_as_busy_to_whoever_comes() {
    let (lab, disk) = with_a_small_disk(Lab::start(LOOPBACK));
    let alice = join(&disk, "alice");
    let line = text(run(capuchind(&disk).args(["invite", "bob"])).stdout);
    let store = disk.join("state.redb");
    let whole = fs::read(&store).unwrap();
    // Cut off, and with no room to be written anew.
    fs::write(&store, "").unwrap();
    fill(&disk);
    add_until_full(&disk);
    let check = || alice.capuchin().args(["check", "lab", "connect", "127.0.0.1:1"]).output().unwrap();
    let refused = check();
    let stderr = text(refused.stderr);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr.starts_with("error[busy]") && stderr.contains("store"), "{stderr}");
    let bob = Home::new();
    let join = || run_with(bob.capuchin().args(["join", line.trim(), "--password-file", "-"]), PASSWORD);
    let stderr = text(join().stderr);
    assert!(stderr.starts_with("error[busy]") && stderr.contains("store"), "his line is good: {stderr}");

    fs::remove_file(disk.join("ballast")).unwrap();
    fs::write(&store, whole).unwrap();
    wait_until("the store is read again", || check().status.success());
    assert!(join().status.success());
    still_serves(&lab, &alice).await;
}

#[test]
fn a_first_start_on_a_full_disk_leaves_no_half_made_store() {
    const FIRST_START: &str = r#"
        while head -c 4096 /dev/zero >>"$CAPUCHIND_DIR/ballast"; do :; done 2>/dev/null
        if "$0" user add ana; then exit 90; fi
        if [ -n "$(find "$CAPUCHIND_DIR" -name '*state.redb*')" ]; then exit 91; fi
        rm "$CAPUCHIND_DIR/ballast"; "$0" user add ana && "$0" user list"#;
    let folder = tempfile::tempdir().unwrap();
    run(capuchind(folder.path()).args(["init", "--name", "lab", "--listen", "127.0.0.1:0"]));
    let program = env!("CARGO_BIN_EXE_capuchind");
    let output = on_a_small_disk(folder.path()).args(["sh", "-c", FIRST_START, program]).output().unwrap();
    let (stdout, stderr) = (text(output.stdout), text(output.stderr));
    assert!(output.status.success(), "{:?}: {stderr}", output.status);
    assert!(stderr.contains("state.redb: No space left") && stdout.contains("ana"), "{stderr} {stdout}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_was_emptied_cut_or_removed_is_refused_and_not_begun_anew() {
    let mut lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    run(lab.admin().args(["revoke", "--user", "bob"]));
    lab.daemon.kill();
    let store = lab.dir().join("state.redb");
    let whole = fs::read(&store).unwrap();
    for broken in [&[][..], b"# not a store\n", &whole[..100], &whole[..whole.len() / 2]] {
        fs::write(&store, broken).unwrap();
        for command in [&["serve"][..], &["user", "list"]] {
            let stderr = fails(lab.admin().args(command), 255);
            assert!(stderr.starts_with("error[config]") && stderr.contains("state.redb is not a store"), "{stderr}");
            assert!(stderr.contains("from a backup"), "{stderr}");
        }
        assert_eq!(fs::read(&store).unwrap(), broken, "it was left as it was");
    }
    fs::remove_file(&store).unwrap();
    let stderr = fails(lab.admin().arg("serve"), 255);
    assert!(
        stderr.starts_with("error[config]") && stderr.contains("there is no") && stderr.contains("audit"),
        "{stderr}"
    );
    assert!(!store.exists());

    fs::write(&store, &whole).unwrap();
    fs::set_permissions(&store, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let lab = Lab::serve(lab.folder);
    still_serves(&lab, &home).await;
}
