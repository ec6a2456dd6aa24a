//! A lender whose names the test decides: in a network of its own, with nobody there but the test's DNS server.

use std::{
    net::TcpListener,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use super::{Daemon, Lab, capuchind, run};

/// What is there: loopback, the resolver on 127.0.0.1, and a web server on port 80 of 10.77.0.1, 10.77.0.2 and loopback.
pub struct NamedLab {
    pub lab: Lab,
}

/// Makes the network, puts the files in their places, starts the DNS server and becomes the lender. The listening socket comes
/// as standard input from the outside, where the borrowers are.
const MACHINE: &str = r#"
set -e
exec 3<&0 </dev/null
ip link set lo up
ip address add 10.77.0.1/32 dev lo
ip address add 10.77.0.2/32 dev lo
for file in hosts resolv.conf nsswitch.conf; do
    if [ -e "/etc/$file" ]; then mount --bind "$1/$file" "/etc/$file"; fi
done
mkfifo "$1/ready"
setpriv --pdeathsig KILL python3 "$2" "$1/zone" "$1/asked" "$1/ready" 3<&- &
read ready < "$1/ready"
if [ -n "$DESCRIPTORS" ]; then ulimit -n "$DESCRIPTORS"; fi
exec "$3" serve
"#;

impl NamedLab {
    /// A lender with this policy; `zone` is what names.py takes.
    pub fn start(policy: &str, zone: &Value) -> Self {
        Self::start_with(policy, zone, &[])
    }

    /// With this in its environment; `DESCRIPTORS` says how many the lender may open.
    pub fn start_with(policy: &str, zone: &Value, environment: &[(&str, PathBuf)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let advertise = address.to_string();
        run(capuchind(dir).args(["init", "--name", "lab", "--listen", "fd:3", "--advertise", &advertise]));
        std::fs::write(dir.join("policy.toml"), policy).unwrap();
        for user in ["alice", "bob"] {
            run(capuchind(dir).args(["user", "add", user]));
        }
        for (file, text) in [
            ("zone", zone.to_string().as_str()),
            ("asked", ""),
            ("hosts", "127.0.0.1 localhost\n10.77.0.2 own.test Own\n"),
            // Nobody is at the first.
            ("resolv.conf", "nameserver 127.0.0.9\nnameserver 127.0.0.1\n"),
            ("nsswitch.conf", "hosts: files dns\n"),
        ] {
            std::fs::write(dir.join(file), text).unwrap();
        }
        let mut machine = Command::new("unshare");
        machine.args(["--map-root-user", "--mount", "--net", "sh", "-c", MACHINE, "sh"]);
        machine.arg(dir).arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/names.py"));
        machine.arg(capuchind(dir).get_program()).stdin(Stdio::from(OwnedFd::from(listener)));
        machine.env("CAPUCHIND_DIR", dir).envs(environment.iter().map(|(name, value)| (name, value)));
        let daemon = Daemon::spawn(&mut machine);
        daemon.wait_for_line("listens on");
        Self { lab: Lab { folder, daemon, address } }
    }

    /// Runs a line of the shell on the lender's machine.
    pub fn there(&self, script: &str) {
        let mut command = Command::new("nsenter");
        command.args(["--preserve-credentials", "-U", "-n", "-t", &self.lab.daemon.child.id().to_string()]);
        run(command.args(["sh", "-c", script]));
    }

    /// Sees to it that what the lender sends to 10.79.0.0/24 reaches nobody, and that it gives up after three seconds.
    pub fn with_a_void(self) -> Self {
        self.there(
            "ip link add void type veth peer name nowhere && ip link set nowhere up && ip link set void arp off up && \
             ip address add 10.79.0.100/24 dev void && echo 1 > /proc/sys/net/ipv4/tcp_syn_retries",
        );
        self
    }

    /// What the DNS server was asked so far, as `udp www.test A`.
    pub fn asked(&self) -> Vec<String> {
        std::fs::read_to_string(self.file("asked")).unwrap().lines().map(str::to_owned).collect()
    }

    /// A file of the lender's machine: `hosts` or `resolv.conf`, to be written in place.
    pub fn file(&self, name: &str) -> PathBuf {
        self.lab.dir().join(name)
    }
}
