//! Ways around the borrowed network, each tried by name.

use std::{fs, net::TcpListener, process::Command};

use crate::{
    around::none_is_open,
    machine::{Machine, Within},
    support::{Daemon, fails, run, text},
};

/// Ways out of a network namespace.
const WAYS: &str = r#"
tried("inherited", lambda: os.fstat(int(os.environ["INHERITED"])))
tried("mark", lambda: socket.socket().setsockopt(socket.SOL_SOCKET, 36, 0xca90002))
try:
    network = os.open("/proc/%s/ns/net" % os.environ["OUTSIDE"], os.O_RDONLY)
    called("setns", libc.setns(network, 0x40000000))
except OSError as error:
    print("setns", errno.errorcode[error.errno])
"#;

#[test]
fn no_way_around_is_open() {
    let machine = Machine::start();
    let variables = [("OUTSIDE", std::process::id().to_string())];
    for within in machine.everybody() {
        none_is_open(&within, &[], WAYS, &["inherited EBADF", "mark EPERM", "setns E"], &variables);
    }
}

/// NET_ADMIN, NET_RAW, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_ADMIN, SYS_BOOT, PERFMON and BPF, by their numbers in capabilities(7).
const TAKEN_FROM_ROOT: [u32; 9] = [12, 13, 16, 17, 19, 21, 22, 38, 39];

#[test]
fn a_user_has_no_capability_and_root_none_over_networks_and_over_the_machine() {
    let machine = Machine::start();
    let field = |status: &str, name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":")).unwrap();
        u64::from_str_radix(value.trim(), 16).unwrap()
    };
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let taken = TAKEN_FROM_ROOT.iter().fold(0, |set, number| set | 1_u64 << number);
    let check = |within: &Within, options: &[&str]| {
        let status = text(run(&mut within.run_with(options, &["cat", "/proc/self/status"])).stdout);
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            // What root has here he keeps, but for those.
            let expected = if within.uid == 0 { field(&own, set) & !taken } else { 0 };
            assert_eq!(field(&status, set), expected, "{set} {options:?} as {}: {status}", within.who());
        }
        assert_eq!(field(&status, "NoNewPrivs"), 1, "{options:?} as {}", within.who());
        assert_eq!(field(&status, "Seccomp"), 2, "a filter: {options:?} as {}", within.who());
    };
    for within in machine.everybody() {
        check(&within, &[]);
    }
    for within in machine.borrowers() {
        check(&within, &["--no-netns"]);
    }
}

/// The i386 calls of a 64-bit program: socket(AF_VSOCK), and socketcall, bind, listen and io_uring_setup.
#[cfg(target_arch = "x86_64")]
pub const INT_80: &str = r#"
#include <stdio.h>
static long call(long number, long a, long b, long c) {
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
    return result;
}
int main(void) {
    printf("%ld %ld %ld %ld %ld\n", call(359, 40, 1, 0), call(102, 1, 0, 0), call(361, 0, 0, 0), call(363, 0, 0, 0), call(425, 1, 0, 0));
    return 0;
}
"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn the_second_system_call_table_is_no_way_around() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let (source, program) = (within.home.folder.path().join("way.c"), within.home.folder.path().join("way"));
        fs::write(&source, INT_80).unwrap();
        run(Command::new("cc").arg("-o").arg(&program).arg(&source));
        let tried = run(&mut within.run(&[program.to_str().unwrap()]));
        // A kernel that has no such table kills the program instead, which `run` above would have told.
        assert_eq!(text(tried.stdout), "-97 -38 -38 -38 -38\n");
    }
}

#[test]
fn a_descriptor_is_passed_on_where_it_was_asked_for() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        passes_on(&within, &[]);
        // Numbers that capuchin's own descriptors would have by then.
        for number in 3..=9 {
            let script = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; exec \"$@\"";
            let number = number.to_string();
            let inner = within.run_with(&["--keep-fd", &number], &["true"]);
            let mut command = within.beside("sh");
            command.args(["-c", script, "sh"]).arg(inner.get_program()).args(inner.get_args());
            assert!(fails(&mut command, 255).starts_with("error[usage]: descriptor "), "{number}");
        }
        let missing = within.run_with(&["--keep-fd", "987"], &["true"]).output().unwrap();
        assert_eq!(missing.status.code(), Some(255));
        assert!(text(missing.stderr).contains("--keep-fd takes numbers of open descriptors"));
    }
}

#[test]
fn sockets_that_a_service_manager_passes_are_the_programs_where_it_keeps_them() {
    let machine = Machine::start();
    for within in machine.borrowers() {
        let whose = "if [ $LISTEN_PID = $$ ]; then echo its own; else echo of $LISTEN_FDS others; fi";
        let passes = "export LISTEN_PID=$$ LISTEN_FDS=2; exec \"$@\" 3</dev/null 4</dev/null";
        for (options, said) in [
            (&["--keep-fd", "3", "--keep-fd", "4"][..], "its own\n"),
            (&["--keep-fd", "3", "--keep-fd", "4", "--no-netns"], "its own\n"),
            (&["--keep-fd", "4"], "of 2 others\n"),
        ] {
            let inner = within.run_with(options, &["sh", "-c", whose]);
            let mut command = within.beside("sh");
            command.args(["-c", passes, "sh"]).arg(inner.get_program()).args(inner.get_args());
            assert_eq!(text(run(&mut command).stdout), said, "{options:?}");
        }
    }
}

/// What the program writes to a descriptor that a shell has opened comes out of it, and of no other.
pub fn passes_on(within: &Within, options: &[&str]) {
    let options = [options, &["--keep-fd", "9"]].concat();
    let inner = within.run_with(&options, &["python3", "-c", "import os; os.write(9, b'through')"]);
    let mut command = within.beside("sh");
    command.args(["-c", "exec \"$@\" 9>&1 >/dev/null", "sh"]).arg(inner.get_program()).args(inner.get_args());
    assert_eq!(text(run(&mut command).stdout), "through");
}

#[test]
fn nothing_reaches_this_machines_network_with_the_lender_or_without() {
    for network in 0..2 {
        nothing_reaches_this_machine(network);
    }
}

fn nothing_reaches_this_machine(network: usize) {
    let mut machine = Machine::start();
    let within = &machine.anybody_in_each_network()[network];
    let here = TcpListener::bind("0.0.0.0:0").unwrap();
    here.set_nonblocking(true).unwrap();
    let port = here.local_addr().unwrap().port();
    let program = format!(
        r#"
import socket, sys
for round in range(2):
    for host in ("127.0.0.1", "10.77.0.1", "10.255.255.1"):
        s = socket.socket()
        s.settimeout(5)
        s.connect_ex((host, {port}))
    print("tried", flush=True)
    sys.stdin.readline()
"#
    );
    let mut command = within.python(&program);
    let mut program = Daemon::spawn(command.stdin(std::process::Stdio::piped()));
    program.wait_for_line("tried");
    machine.lab.daemon.kill();
    std::io::Write::write_all(program.stdin.as_mut().unwrap(), b"\n").unwrap();
    program.wait_for_line("tried");
    assert_eq!(here.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}
