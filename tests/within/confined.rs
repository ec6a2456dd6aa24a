//! Ways around the borrowed network, each tried by name.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd,
    process::{Command, Stdio},
};

use crate::{
    machine::Machine,
    support::{Daemon, as_user, fails, run, text},
};

/// Prints what each way ends in.
const WAYS: &str = r#"
import ctypes, errno, os, socket
def name(code):
    return errno.errorcode.get(code, code)
def ask(way, family, kind, protocol=0):
    try:
        socket.socket(family, kind, protocol)
        print(way, "OPEN")
    except OSError as error:
        print(way, name(error.errno))
ask("vsock", 40, socket.SOCK_STREAM)
ask("packet", 17, socket.SOCK_RAW)
ask("bluetooth", 31, socket.SOCK_RAW)
ask("xdp", 44, socket.SOCK_RAW)
ask("raw", socket.AF_INET, socket.SOCK_RAW, 6)
ask("netfilter", 16, socket.SOCK_RAW, 12)
ask("multipath", socket.AF_INET, socket.SOCK_STREAM, 262)
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall(425, 8, ctypes.create_string_buffer(200))
print("io_uring", name(ctypes.get_errno()))
try:
    os.fstat(int(os.environ["INHERITED"]))
    print("inherited OPEN")
except OSError as error:
    print("inherited", name(error.errno))
s = socket.socket()
try:
    s.setsockopt(socket.SOL_SOCKET, 36, 0xca90002)
    print("mark OPEN")
except OSError as error:
    print("mark", name(error.errno))
libc.unshare.argtypes = [ctypes.c_int]
try:
    fd = os.open("/proc/%s/ns/net" % os.environ["OUTSIDE"], os.O_RDONLY)
    print("setns", "OPEN" if libc.setns(fd, 0x40000000) == 0 else name(ctypes.get_errno()))
except OSError as error:
    print("setns", name(error.errno))
if os.getuid() == 0:
    # Real root can become whoever runs the process outside.
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
outsider = int(os.environ["OUTSIDER"])
taken = libc.syscall(438, os.pidfd_open(outsider), 0, 0)
print("pidfd_getfd", "OPEN" if taken >= 0 else name(ctypes.get_errno()))
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
print("ptrace", "OPEN" if libc.ptrace(16, outsider, None, None) == 0 else name(ctypes.get_errno()))
page = (ctypes.c_size_t * 2)(4096, 1)
for way in (libc.process_vm_readv, libc.process_vm_writev):
    print(way.__name__, "OPEN" if way(outsider, page, 1, page, 1, 0) >= 0 else name(ctypes.get_errno()))
"#;

#[test]
fn no_way_around_is_open() {
    let machine = Machine::start();
    let (listener, outside) = (TcpListener::bind("127.0.0.1:0").unwrap(), std::process::id().to_string());
    let inherited = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).unwrap();
    for within in machine.everybody() {
        let mut outsider = Command::new("sleep");
        as_user(outsider.arg("1000").stdin(Stdio::null()), machine.anybody().uid);
        let outsider = Daemon::spawn(&mut outsider);
        let mut command = within.python(WAYS);
        command.env("INHERITED", inherited.as_raw_fd().to_string()).env("OUTSIDE", &outside);
        command.env("OUTSIDER", outsider.child.id().to_string());
        let output = command.output().unwrap();
        let said = text(output.stdout) + &text(output.stderr);
        for way in [
            "vsock EAFNOSUPPORT",
            "packet EAFNOSUPPORT",
            "bluetooth EAFNOSUPPORT",
            "xdp EAFNOSUPPORT",
            "raw EPERM",
            "netfilter EPROTONOSUPPORT",
            "multipath ENOPROTOOPT",
            "io_uring ENOSYS",
            "inherited EBADF",
            "mark EPERM",
            "setns E",
            "pidfd_getfd ENOSYS",
            "ptrace EPERM",
            "process_vm_readv EPERM",
            "process_vm_writev EPERM",
        ] {
            assert!(said.contains(way), "{way} as {}: {said}", within.who());
        }
        assert!(!said.contains("OPEN"), "as {}: {said}", within.uid);
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
    let within = machine.anybody();
    let (source, program) = (within.home.folder.path().join("way.c"), within.home.folder.path().join("way"));
    fs::write(&source, INT_80).unwrap();
    run(Command::new("cc").arg("-o").arg(&program).arg(&source));
    let tried = run(&mut within.run(&[program.to_str().unwrap()]));
    // A kernel that has no such table kills the program instead, which `run` above would have told.
    assert_eq!(text(tried.stdout), "-97 -38 -38 -38 -38\n");
}

#[test]
fn a_descriptor_is_passed_on_where_it_was_asked_for() {
    let machine = Machine::start();
    let within = machine.anybody();
    let (mut reader, writer) = std::io::pipe().unwrap();
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
    let number = writer.as_raw_fd().to_string();
    let program = format!("import os; os.write({number}, b'through')");
    run(&mut within.run_with(&["--keep-fd", &number], &["python3", "-c", &program]));
    drop(writer);
    assert_eq!(std::io::read_to_string(&mut reader).unwrap(), "through");
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
