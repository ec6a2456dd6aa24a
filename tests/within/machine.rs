//! The lender's machine, and borrowers of each kind of user.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    net::{SocketAddr, TcpListener},
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
};

use serde_json::Value;

use crate::support::{Daemon, Home, Lab, as_user, capuchind, in_environment_of, json, own_uid, run, starts};

/// Everything that is there, but for 10.78.0.1 and fd88::1. Of the ports, 7000 is taken, and 81 out of a plain user's reach.
pub const POLICY: &str = r#"
[[allow]]
who = ["alice"]
connect = ["10.77.0.0/16:*", "10.78.0.9:*", "203.0.113.0/24:*", "127.0.0.0/8:*", "[::1]:*", "[fd77::/16]:*"]
udp = ["10.77.0.0/16:*", "127.0.0.0/8:*", "[::1]:*", "[fd77::/16]:*"]
services = { offer = ["upper"], use = ["upper"] }
listen = ["*:8000-8999", "*:81", "*:7000", "127.0.0.0/8:8000-8999", "[::1]:8000-8999"]

[[deny]]
who = ["alice"]
listen = ["10.77.0.2:8500-8999"]
"#;
/// A user with no rights of its own; on Debian it is nobody.
const UNPRIVILEGED: u32 = 65534;

/// Makes the network and becomes the lender; its listening socket comes as standard input from outside. 10.78.0.9 never
/// answers: its frames reach nobody.
const NETWORK: &str = r#"
set -e
exec 3<&0 </dev/null
ip link set lo up
ip address add 10.77.0.1/32 dev lo
ip address add 10.77.0.2/32 dev lo
ip address add fd77::1/128 dev lo nodad
ip link add near type veth peer name far
# Nobody else has what it is called by itself, and until that is looked for it sends to no group.
echo 0 > /proc/sys/net/ipv6/conf/near/accept_dad
ip link set far up
ip link set near up
ip address add 10.78.0.1/24 dev near
ip neighbour add 10.78.0.9 lladdr 02:00:00:00:00:09 dev near nud permanent
ip address add fd88::1/128 dev lo nodad
ip route add 203.0.0.0/16 dev near
ip route add unreachable 203.0.113.0/24
eval "$4"
rm -f "$1/ready"
mkfifo "$1/ready"
setpriv --pdeathsig KILL python3 "$2" "$1/ready" 3<&- &
read ready < "$1/ready"
exec setpriv --bounding-set -net_bind_service "$3" serve
"#;

/// Gives the machine a resolver; to be run in [`NETWORK`].
const NAMES: &str = r#"
echo "127.0.0.1 localhost" > "$1/hosts"
echo "nameserver 127.0.0.1" > "$1/resolv.conf"
echo "hosts: files dns" > "$1/nsswitch.conf"
for file in hosts resolv.conf nsswitch.conf; do
    if [ -e "/etc/$file" ]; then mount --bind "$1/$file" "/etc/$file"; fi
done
printf '%s' "$ZONE" > "$1/zone"
mkfifo "$1/answers"
setpriv --pdeathsig KILL python3 "$(dirname "$2")/../support/names.py" "$1/zone" "$1/asked" "$1/answers" no-web 3<&- &
read answers < "$1/answers"
"#;

/// A lender in a network of its own.
pub struct Machine {
    pub lab: Lab,
    /// How often something has ended that was waited for: the event, and its target.
    ended: Mutex<HashMap<(&'static str, String), usize>>,
}

impl Machine {
    /// One that runs.
    pub fn of(lab: Lab) -> Self {
        Self { lab, ended: Mutex::default() }
    }

    pub fn start() -> Self {
        Self::with_network("")
    }

    /// With more in its network: a line of the shell.
    pub fn with_network(more: &str) -> Self {
        Self::with(POLICY, more)
    }

    /// With this policy.
    pub fn with_policy(policy: &str) -> Self {
        Self::with(policy, "")
    }

    fn with(policy: &str, more: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Self::at(address, Command::new("unshare"), OwnedFd::from(listener).into(), policy, more)
    }

    /// With this policy, and a resolver that answers as `zone` says, in the form that names.py takes; it is asked on 127.0.0.1.
    pub fn with_names(policy: &str, zone: &Value, more: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut unshare = Command::new("unshare");
        unshare.env("ZONE", zone.to_string());
        Self::at(address, unshare, OwnedFd::from(listener).into(), policy, &format!("{NAMES}\n{more}"))
    }

    /// Started by `unshare`, a command for unshare(1), whose standard input is the socket that listens at `address`.
    pub fn at(address: SocketAddr, unshare: Command, listener: Stdio, policy: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let advertise = address.to_string();
        run(capuchind(dir).args(["init", "--name", "lab", "--listen", "fd:3", "--advertise", &advertise]));
        std::fs::write(dir.join("policy.toml"), policy).unwrap();
        run(capuchind(dir).args(["user", "add", "alice"]));
        Self::serve(folder, address, unshare, listener, more)
    }

    /// What has been killed begins again, with a network that is new and at another port.
    pub fn restart(self) -> Self {
        let Lab { folder, mut daemon, .. } = self.lab;
        daemon.kill();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Self::serve(folder, address, Command::new("unshare"), OwnedFd::from(listener).into(), "")
    }

    fn serve(
        folder: tempfile::TempDir,
        address: SocketAddr,
        mut unshare: Command,
        listener: Stdio,
        more: &str,
    ) -> Self {
        let dir = folder.path();
        unshare.args(["--map-root-user", "--net", "--mount", "sh", "-c", NETWORK, "sh"]).arg(dir);
        unshare.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/within/machine.py"));
        unshare.arg(capuchind(dir).get_program()).arg(more);
        unshare.env("CAPUCHIND_DIR", dir).stdin(listener);
        let daemon = Daemon::spawn(&mut unshare);
        daemon.wait_for_line("listens on");
        Self::of(Lab { folder, daemon, address })
    }

    /// Each kind of user that these tests can be.
    pub fn borrowers(&self) -> Vec<Within> {
        users().into_iter().map(|uid| self.borrower(uid)).collect()
    }

    /// Each kind of user in each kind of network: [`Within::by_tun`] tells which.
    pub fn everybody(&self) -> Vec<Within> {
        let by_tun = self.borrowers().into_iter().map(Within::over_tun);
        self.borrowers().into_iter().chain(by_tun).collect()
    }

    /// A program on the lender's machine.
    pub fn there(&self, program: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--preserve-credentials", "-U", "-n", "-t", &self.lab.daemon.child.id().to_string()]);
        command.args(program).stdin(Stdio::null());
        command
    }

    /// Waits until the lender has closed what listened at `address`; each time once more.
    pub fn wait_for_close(&self, address: &str) {
        self.wait_for_end("listen-closed", address);
    }

    /// As [`Self::wait_for_close`], of a port for datagrams.
    pub fn wait_for_close_of_datagrams(&self, address: &str) {
        self.wait_for_end("udp-closed", address);
    }

    fn wait_for_end(&self, event: &'static str, target: &str) {
        let mut ended = self.ended.lock().unwrap();
        let count = ended.entry((event, target.to_owned())).or_default();
        *count += 1;
        self.lab.wait_for_audits(target, *count, |line| line["event"] == event && line["target"] == target);
    }

    /// Cuts the one stream of all sessions of which the list says this.
    pub fn cut(&self, field: &str, value: &str) {
        let list = json(&run(self.lab.admin().args(["sessions", "--json"])).stdout);
        let fits = |stream: &&Value| stream[field] == value;
        let sessions = list["sessions"].as_array().unwrap().iter();
        let found: Vec<_> = sessions
            .flat_map(|session| {
                let streams = session["streams"].as_array().unwrap().iter().filter(fits);
                streams.map(|stream| format!("{}/{}", session["session"].as_str().unwrap(), stream["stream"]))
            })
            .collect();
        assert_eq!(found.len(), 1, "{field} {value}: {list}");
        run(self.lab.admin().arg("cut").args(found));
    }

    /// A borrower who is nobody in particular, in each kind of network.
    pub fn anybody_in_each_network(&self) -> [Within; 2] {
        [self.anybody(), self.anybody().over_tun()]
    }

    /// A borrower who is nobody in particular: whom CAPUCHIN_TEST_ANYBODY names by number, for tests/long.sh, or who has no privilege.
    pub fn anybody(&self) -> Within {
        let named = std::env::var("CAPUCHIN_TEST_ANYBODY").ok();
        named.map_or_else(|| self.unprivileged(), |uid| self.borrower(uid.parse().expect("a user's number")))
    }

    /// A borrower without any privilege.
    pub fn unprivileged(&self) -> Within {
        self.borrower(if own_uid() == 0 { UNPRIVILEGED } else { own_uid() })
    }

    fn borrower(&self, uid: u32) -> Within {
        Within::at_home(self.lab.join("alice"), uid, Vec::new())
    }
}

/// Each kind of user that these tests can be.
pub fn users() -> Vec<u32> {
    if own_uid() == 0 { vec![0, UNPRIVILEGED] } else { vec![own_uid()] }
}

/// The descriptor that [`Within::holding_a_connection`] opens.
pub const INHERITED: u8 = 87;

/// Runs programs within the lender's network, as one user.
pub struct Within {
    pub home: Home,
    command: PathBuf,
    pub uid: u32,
    /// Its packets cross a TUN device, although this kernel has nf_tables.
    pub by_tun: bool,
    /// What starts each command where it is to run, as that user, if that is elsewhere.
    elsewhere: Vec<OsString>,
}

impl Within {
    /// In a home that has joined.
    pub fn at_home(home: Home, uid: u32, elsewhere: Vec<OsString>) -> Self {
        let command = home.folder.path().join("capuchin");
        // The target folder may be out of that user's reach.
        // By another process: a program that this one has open for writing when a thread forks is busy.
        run(Command::new("cp").arg(env!("CARGO_BIN_EXE_capuchin")).arg(&command));
        std::fs::set_permissions(&command, PermissionsExt::from_mode(0o755)).unwrap();
        if uid != own_uid() {
            run(Command::new("chown").args(["-R", &format!("{uid}:{uid}")]).arg(home.folder.path()));
        }
        Self { home, command, uid, by_tun: false, elsewhere }
    }

    /// `capuchin run lab -- PROGRAM`.
    pub fn run(&self, program: &[&str]) -> Command {
        self.run_with(&[], program)
    }

    /// As above, with options of `run`.
    pub fn run_with(&self, options: &[&str], program: &[&str]) -> Command {
        let mut command = self.capuchin();
        command.arg("run").args(self.network()).args(options).args(["lab", "--"]).args(program);
        command
    }

    /// The options of `run` for its kind of network.
    pub fn network(&self) -> &'static [&'static str] {
        if self.by_tun { &["--network", "tun"] } else { &[] }
    }

    /// The command itself, for what starts it in a way of its own.
    pub fn capuchin_path(&self) -> &Path {
        &self.command
    }

    /// The same borrower, whose packets cross a TUN device.
    pub fn over_tun(self) -> Self {
        Self { by_tun: true, ..self }
    }

    /// Who runs what, for a test's message.
    pub fn who(&self) -> String {
        format!("{}{}", self.uid, if self.by_tun { " by TUN" } else { "" })
    }

    /// Addresses of the lender's loopback that are met: a TUN device brings no packet to `::1`.
    pub fn loopbacks(&self) -> &'static [&'static str] {
        if self.by_tun { &["127.0.0.1"] } else { &["127.0.0.1", "::1"] }
    }

    /// A Python program.
    pub fn python(&self, source: &str) -> Command {
        self.run(&["python3", "-c", source])
    }

    /// The command with a connection of this machine's, to this address, as its descriptor [`INHERITED`]. A shell makes it: what
    /// this process leaves open for a command, it leaves open for those of all other tests.
    pub fn holding_a_connection(&self, to: SocketAddr, command: &Command) -> Command {
        let mut shell = Command::new("bash");
        shell.args(["-c", &format!("exec \"$@\" {INHERITED}<>/dev/tcp/{}/{}", to.ip(), to.port()), "bash"]);
        starts(&mut shell, command).stdin(Stdio::null()).current_dir(self.home.folder.path());
        if self.elsewhere.is_empty() {
            as_user(&mut shell, self.uid);
        }
        shell
    }

    pub fn capuchin(&self) -> Command {
        self.beside(&self.command)
    }

    /// A program of this machine, as the same user in the same home.
    pub fn beside(&self, program: impl AsRef<OsStr>) -> Command {
        let mut words = self.elsewhere.iter().map(OsString::as_os_str).chain([program.as_ref()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        in_environment_of(&mut command, &self.home.capuchin())
            .stdin(Stdio::null())
            .current_dir(self.home.folder.path());
        if self.elsewhere.is_empty() {
            as_user(&mut command, self.uid);
        }
        command
    }
}
