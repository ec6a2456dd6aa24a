//! One lender's machine for all tests: a network of its own with a resolver, a web server, a database and an ssh server that
//! nobody outside can reach; and its guests, root and an unprivileged user.

use std::{
    fs::File,
    io::Write,
    net::TcpListener,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use serde_json::json;

use crate::support::{Daemon, Home, PASSWORD, PATIENCE, as_user, capuchind, run, starts, text};

/// No program of these tests takes longer, in seconds; a JVM starts slowly on a loaded machine.
const PROGRAM_SECONDS: &str = "120";
/// An unprivileged user of this machine.
const NOBODY: u32 = 65534;

const POLICY: &str = r#"
[[allow]]
who = ["alice", "bob"]
connect = [
    "*.lab.test:*", "127.0.0.1:5432",
    "10.77.0.1:9", "10.77.0.1:5201", "10.77.0.1:5301", "203.0.113.5:80", "[fd77::1]:9", "[fd77::1]:5301", "[2001:db8::5]:80",
]
udp = ["10.77.0.1:4433", "10.77.0.1:5201", "[fd77::1]:4433"]
listen = ["*:8100-8999"]
env = { read = ["LAB_*"] }

[[allow]]
who = "carol"
connect = ["db.lab.test:5432"]

[[allow]]
who = "dave"
connect = ["web.lab.test:80"]
resolve = ["web.lab.test"]
"#;

/// Ends with the test program, which alone keeps the FIFO `end` open for writing; everything else here ends with this shell,
/// which is the first process of its namespace.
const MACHINE: &str = r#"
set -e
# Where the lender listens is its standard input.
exec 3<&0 </dev/null
# Opened for both first, as opening it to read alone waits for a writer: for ever, if the test program is gone already.
exec 5<>"$1/end" 4<"$1/end" 5>&-
ip link set lo up
ip address add 10.77.0.1/32 dev lo
ip address add 10.77.0.2/32 dev lo
ip address add fd77::1/128 dev lo nodad
for file in hosts resolv.conf nsswitch.conf; do
    if [ -e "/etc/$file" ]; then mount --bind "$1/$file" "/etc/$file"; fi
done
mkfifo "$1/ready"
python3 "$2/tests/programs/machine.py" "$1/zone" "$1/asked" "$1/www" "$1/ready" >/dev/null &
mkdir -p /run/sshd
mount -t tmpfs -o mode=0755 sshd /run/sshd
/usr/sbin/sshd -f "$1/sshd_config"
bin=$(dirname "$(ls /usr/lib/postgresql/*/bin/initdb | tail -1)")
install -d -m 0700 -o postgres "$1/db"
as_postgres="setpriv --reuid=postgres --regid=postgres --clear-groups"
$as_postgres "$bin/initdb" -D "$1/db" -A trust -U postgres --no-sync -E UTF8 --locale=C >/dev/null
echo "host all all samenet trust" >> "$1/db/pg_hba.conf"
cd /
$as_postgres "$bin/pg_ctl" -s -w -D "$1/db" -l "$1/db/log" -o "-h 127.0.0.1,10.77.0.1 -k $1/db -F" start
read ready < "$1/ready"
LAB_COLOUR=green "$3" serve &
read end <&4 || :
rm -rf -- "$1"
"#;

pub struct Stage {
    pub folder: PathBuf,
    machine: Daemon,
    /// It lives until this is closed, as it is with this program.
    _life: File,
}

/// Somebody on this machine who has joined.
pub struct Guest {
    pub home: Home,
    pub uid: u32,
}

/// The one stage of this test program.
pub fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(Stage::set)
}

/// Runs a test for root, and for a user without any privilege.
pub fn for_each_guest(test: impl Fn(&Guest)) {
    // Joined once: two first devices of a user cannot join at the same time.
    static GUESTS: OnceLock<[Guest; 2]> = OnceLock::new();
    GUESTS.get_or_init(|| [Guest::new("alice", 0), Guest::new("bob", NOBODY)]).iter().for_each(test);
}

impl Stage {
    fn set() -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests make machines of their own: run them as root");
        // The machine removes it, when this process is over.
        let folder = tempfile::Builder::new().prefix("capuchin-programs-").tempdir().unwrap().keep();
        std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let lab = folder.join("lab");
        let admin = |args: &[&str]| drop(run(capuchind(&lab).args(args)));
        admin(&["init", "--name", "lab", "--listen", "fd:3", "--advertise", &address]);
        std::fs::write(lab.join("policy.toml"), POLICY).unwrap();
        for user in ["alice", "bob", "carol", "dave"] {
            admin(&["user", "add", user]);
        }
        write_files(&folder);
        let end = folder.join("end");
        run(Command::new("mkfifo").arg(&end));
        let life = std::fs::OpenOptions::new().read(true).write(true).open(end).unwrap();
        let mut machine = Command::new("unshare");
        machine.args([
            "--mount",
            "--net",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "sh",
            "-c",
            MACHINE,
            "sh",
        ]);
        machine.arg(&folder).arg(env!("CARGO_MANIFEST_DIR")).arg(capuchind(&lab).get_program());
        machine.env("CAPUCHIND_DIR", &lab).stdin(OwnedFd::from(listener));
        let machine = Daemon::spawn(&mut machine);
        // A database is made first, which takes its time on a disk that is cold or busy.
        machine.wait_for_line_within(4 * PATIENCE, "listens on");
        Self { folder, machine, _life: life }
    }

    fn invite(&self, user: &str) -> String {
        text(run(capuchind(&self.folder.join("lab")).args(["invite", user])).stdout)
    }

    /// A program on the lender's network.
    pub fn there(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.machine.child.id())).arg(program);
        command
    }

    /// A file of the stage, which every guest can read.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// What the machine reads, what its web server gives, and the keys to its ssh server.
fn write_files(folder: &Path) {
    let zone = json!({
        "web.lab.test A": [["web.lab.test 60 A 10.77.0.1"]],
        "web.lab.test AAAA": [["web.lab.test 60 AAAA fd77::1"]],
        " TXT": [[" 60 TXT of-the-root"]],
        "web.lab.test TXT": [["web.lab.test 60 TXT hello-from-the-zone"]],
        "db.lab.test A": [["db.lab.test 60 A 10.77.0.1"]],
        "code.lab.test A": [["code.lab.test 60 A 10.77.0.1"]],
        "long.lab.test TXT": ["long"],
    });
    std::fs::create_dir(folder.join("www")).unwrap();
    for (file, content) in [
        ("zone", zone.to_string().as_str()),
        ("asked", ""),
        ("hosts", "127.0.0.1 localhost\n10.77.0.1 own.lab.test own\nfd77::8 six.lab.test\n"),
        ("resolv.conf", "nameserver 127.0.0.1\nsearch lab.test\n"),
        ("nsswitch.conf", "hosts: files dns\n"),
        ("www/hello", "hello from lab\n"),
        ("sshd_config", &sshd_config(folder)),
    ] {
        std::fs::write(folder.join(file), content).unwrap();
    }
    for key in ["host_key", "user_key"] {
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(folder.join(key)));
    }
    let repository = folder.join("www/code.git");
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=lab", "-c", "user.email=lab@lab.test", "-c", "init.defaultBranch=main"]).args(args);
        drop(run(git.env("GIT_CONFIG_GLOBAL", "/dev/null")));
    };
    let work = folder.join("work");
    git(&["init", "-q", work.to_str().unwrap()]);
    std::fs::write(work.join("README"), "code of lab\n").unwrap();
    git(&["-C", work.to_str().unwrap(), "add", "README"]);
    git(&["-C", work.to_str().unwrap(), "commit", "-q", "-m", "Begin"]);
    git(&["clone", "-q", "--bare", work.to_str().unwrap(), repository.to_str().unwrap()]);
    // What a server that knows only files needs.
    git(&["-C", repository.to_str().unwrap(), "update-server-info"]);
}

fn sshd_config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "ListenAddress 10.77.0.1\nHostKey {folder}/host_key\nAuthorizedKeysFile {folder}/user_key.pub\nStrictModes no\n\
         PermitRootLogin prohibit-password\nUsePAM no\nPidFile none\n"
    )
}

impl Guest {
    pub fn new(user: &str, uid: u32) -> Self {
        // In the folder that goes with the stage.
        let home = Home { folder: tempfile::tempdir_in(&stage().folder).unwrap() };
        let line = stage().invite(user);
        std::fs::write(home.folder.path().join("password"), PASSWORD).unwrap();
        for path in [home.folder.path(), &home.folder.path().join("password")] {
            std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap();
        }
        std::fs::set_permissions(
            home.folder.path().join("password"),
            std::os::unix::fs::PermissionsExt::from_mode(0o600),
        )
        .unwrap();
        let guest = Self { home, uid };
        let mut join = guest.command();
        run(join.args(["join", line.trim(), "--password-file"]).arg(guest.home.folder.path().join("password")));
        guest
    }

    /// `capuchin` as this user.
    pub fn command(&self) -> Command {
        let mut command = self.home.capuchin();
        command.env_remove("XDG_RUNTIME_DIR").current_dir(self.home.folder.path());
        as_user(&mut command, self.uid);
        command
    }

    /// A program on lab's network.
    pub fn run(&self, options: &[&str], program: &[&str]) -> Command {
        let mut command = self.command();
        command.arg("run").args(options).args(["lab", "--", "timeout", PROGRAM_SECONDS]).args(program);
        command
    }

    /// A command in a mount namespace that `script` changes first, as root; it gets `arguments`, then the command.
    pub fn in_a_machine(&self, script: &str, arguments: &[&str], command: &Command) -> Command {
        let mut machine = Command::new("unshare");
        machine.args(["--mount", "sh", "-ec", script, "sh"]).args(arguments);
        starts(&mut machine, command).current_dir(self.home.folder.path());
        machine
    }

    /// What a program that must succeed prints.
    pub fn says(&self, program: &[&str]) -> String {
        text(run(&mut self.run(&[], program)).stdout)
    }

    /// What a program that must fail so has printed.
    pub fn fails(&self, program: &[&str], code: i32) -> Output {
        let output = self.run(&[], program).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{program:?} as {} gave {output:#?}", self.uid);
        output
    }

    /// A file of this guest's own.
    pub fn write(&self, name: &str, mode: u32, content: &[u8]) -> PathBuf {
        let path = self.home.folder.path().join(name);
        std::fs::File::create(&path).unwrap().write_all(content).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(&path, Some(self.uid), Some(self.uid)).unwrap();
        path
    }
}
