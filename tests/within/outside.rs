//! A network of the test's own in the place of this machine's: with a way out in both families, and everything seen that takes it.
//! With services of this machine that would act outside, and everybody seen who comes to one.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    io::Write,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    machine::{Machine, Within, users},
    support::{Daemon, Home, PASSWORD, in_environment_of, own_uid, run, starts},
};

/// Makes the network and becomes what watches it.
const NETWORK: &str = r#"
set -e
ip link set lo up
ip link add out type veth peer name wire
ip link set wire up
ip link set out arp off up
ip address add 192.0.2.1/24 dev out
ip address add 2001:db8:77::1/64 dev out nodad
ip route add default dev out
ip -6 route add default dev out
mount -t tmpfs -o mode=0755 run /run
exec python3 "$@"
"#;

/// Sockets of services that look up names, or act, for whoever asks; `@` begins one that has no path, and `UID` is a user's number.
pub const SERVICES: [&str; 8] = [
    "/run/nscd/socket",
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/dbus/system_bus_socket",
    "/run/avahi-daemon/socket",
    "/run/docker.sock",
    "/run/snapd.socket",
    "/run/user/UID/bus",
    "@/tmp/dbus-outside",
];

/// Makes the socket where it is started and gives it on as standard input.
const LISTEN: &str = r#"
import os, socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.dup2(listener.fileno(), 0)
os.execvp(sys.argv[2], sys.argv[2:])
"#;

/// Where the lender listens, which has the whole network for itself.
pub const LENDER_PORT: u16 = 4000;

/// [`SERVICES`] as this user has them.
pub fn services_of(uid: u32) -> impl Iterator<Item = String> {
    SERVICES.into_iter().map(move |service| service.replace("UID", &uid.to_string()))
}

pub struct Outside {
    watch: Daemon,
}

/// What was seen since it was asked the last time.
#[derive(Debug)]
pub struct Seen {
    /// Connections that were begun to the lender.
    pub to_lender: usize,
    /// Everything else, a line each.
    pub others: Vec<String>,
}

impl Outside {
    pub fn start() -> Self {
        let mut unshare = Command::new("unshare");
        if own_uid() != 0 {
            unshare.args(["--user", "--map-current-user", "--keep-caps"]);
        }
        let watch = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/within/watch.py");
        unshare.args(["--net", "--mount", "sh", "-c", NETWORK, "sh"]).arg(watch).stdin(Stdio::piped());
        let services = users().into_iter().flat_map(services_of).collect::<BTreeSet<_>>();
        unshare.args(services);
        let watch = Daemon::spawn(&mut unshare);
        watch.wait_for_line("watches");
        Self { watch }
    }

    /// What starts a command in this network.
    fn way(&self) -> Vec<OsString> {
        let pid = self.watch.child.id().to_string();
        let user: &[&str] = if own_uid() == 0 { &[] } else { &["--preserve-credentials", "-U"] };
        [&["nsenter", "-n", "-t", &pid], user].concat().into_iter().map(OsString::from).collect()
    }

    /// What starts a command of a borrower's here, among the services, and what makes it this user's.
    fn ways(&self, uid: u32) -> [Vec<OsString>; 2] {
        let user = format!("--userspec=+{uid}:+{uid}");
        let become_user: &[&str] = match own_uid() {
            // By a program that looks up no user, for which the C library asks a service.
            0 => &["chroot", &user, "--groups=", "--skip-chdir", "/"],
            _ => &[],
        };
        let enter = [self.way(), vec!["-m".into()]].concat();
        [enter, become_user.iter().map(OsString::from).collect()]
    }

    /// `capuchin` of this borrower, with the calls of each of its threads in a file of its own: `trace.PID`.
    pub fn traced(&self, within: &Within, trace: &Path) -> Command {
        let [enter, become_user] = self.ways(within.uid);
        let mut command = Command::new(&enter[0]);
        command.args(&enter[1..]).args(["strace", "-ff", "-qq", "-s", "200", "-e", "signal=none"]);
        command.args(["-e", "trace=network,execve,clone,?clone3,?fork,?vfork", "-o"]).arg(trace);
        command.args(become_user).arg(within.capuchin_path());
        in_environment_of(&mut command, &within.capuchin()).stdin(Stdio::null());
        command
    }

    /// A lender that listens here, and has a network of its own behind it.
    pub fn lender(&self, policy: &str) -> Machine {
        let address = SocketAddr::from(([127, 0, 0, 1], LENDER_PORT));
        let way = self.way();
        let mut unshare = Command::new(&way[0]);
        unshare.args(&way[1..]).args(["python3", "-c", LISTEN, &LENDER_PORT.to_string(), "unshare"]);
        Machine::at(address, unshare, Stdio::null(), policy, "")
    }

    /// Each kind of user, in a home that has joined.
    pub fn borrowers(&self, machine: &Machine) -> Vec<Within> {
        let joined = |uid| {
            let (home, way) = (Home::new(), self.way());
            let mut join = Command::new(&way[0]);
            starts(join.args(&way[1..]), &home.capuchin());
            let line = machine.lab.invite("alice");
            run(join.args(["join", line.trim(), "--password-file"]).arg(home.password_file(PASSWORD)));
            Within::at_home(home, uid, self.ways(uid).concat())
        };
        users().into_iter().map(joined).collect()
    }

    /// Everything that was on any device here, and that no driver lost, and who came to a service.
    pub fn seen(&mut self) -> Seen {
        self.watch.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        let mut others = Vec::new();
        loop {
            let line = self.watch.wait_for_line("");
            match line.strip_prefix("to the lender ") {
                Some(count) => return Seen { to_lender: count.parse().unwrap(), others },
                None => others.push(line),
            }
        }
    }
}
