//! Ways around a borrowed network that are shut however the program is held, each tried by name.

use std::{
    net::TcpListener,
    process::{Command, Stdio},
};

use crate::{
    machine::{INHERITED, Within, users},
    support::{Daemon, as_user, text},
};

/// How each way is tried; what it ends in is printed behind its name.
const TRIED: &str = r#"
import array, ctypes, errno, fcntl, os, platform, socket, struct, sys, termios, threading
def tried(way, act):
    try:
        act()
        print(way, "OPEN")
    except OSError as error:
        print(way, errno.errorcode.get(error.errno, error.errno))
libc = ctypes.CDLL(None, use_errno=True)
def called(way, result):
    print(way, errno.errorcode[ctypes.get_errno()] if result < 0 else "OPEN")
for name, arguments in {
    "vsock": (40, 1), "packet": (17, 3), "bluetooth": (31, 3), "xdp": (44, 3), "raw": (2, 3, 6), "netfilter": (16, 3, 12),
    "multipath": (2, 1, 262),
}.items():
    tried(name, lambda: socket.socket(*arguments))
called("io_uring", libc.syscall(425, 8, ctypes.create_string_buffer(200)))
# The kernel would ask a program of this machine's for the name.
request_key = {"x86_64": 249, "aarch64": 218}[platform.machine()]
called("request_key", libc.syscall(request_key, b"dns_resolver", b"LEAKED.example", b"", -3))
tried("typing", lambda: fcntl.ioctl(0, termios.TIOCSTI, b"x"))
tried("typing into a console", lambda: fcntl.ioctl(0, 0x541c, b"\x03"))
outsider = int(os.environ["OUTSIDER"])
"#;

/// The last ones: another process of the same user.
const OUTSIDER: &str = r#"
if os.getuid() == 0:
    # Real root can become whoever runs the process outside.
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
called("pidfd_getfd", libc.syscall(438, os.pidfd_open(outsider), 0, 0))
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
called("ptrace", libc.ptrace(16, outsider, None, None))
page = (ctypes.c_size_t * 2)(4096, 1)
for way in (libc.process_vm_readv, libc.process_vm_writev):
    called(way.__name__, way(outsider, page, 1, page, 1, 0))
print("all tried")
"#;

const SHUT: [&str; 16] = [
    "vsock EAFNOSUPPORT",
    "packet EAFNOSUPPORT",
    "bluetooth EAFNOSUPPORT",
    "xdp EAFNOSUPPORT",
    "raw EPERM",
    "netfilter EPROTONOSUPPORT",
    "multipath ENOPROTOOPT",
    "io_uring ENOSYS",
    "request_key ENOSYS",
    "typing EIO",
    "typing into a console EPERM",
    "pidfd_getfd ENOSYS",
    "ptrace EPERM",
    "process_vm_readv EPERM",
    "process_vm_writev EPERM",
    "all tried",
];

/// Tries all of them, and `more`, a Python program that knows `tried`, `called` and `outsider`. None is open, and the lines of
/// `shut` are said.
pub fn none_is_open(within: &Within, options: &[&str], more: &str, shut: &[&str], variables: &[(&str, String)]) {
    let mut outsider = Command::new("sleep");
    as_user(outsider.arg("1000").stdin(Stdio::null()), users().pop().unwrap());
    let outsider = Daemon::spawn(&mut outsider);
    let mut command = within.run_with(options, &["python3", "-c", &[TRIED, more, OUTSIDER].concat()]);
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.env("OUTSIDER", outsider.child.id().to_string()).env("INHERITED", INHERITED.to_string());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let output = within.holding_a_connection(listener.local_addr().unwrap(), &command).output().unwrap();
    assert!(listener.accept().is_ok(), "it has been made");
    let said = text(output.stdout) + &text(output.stderr);
    for way in SHUT.iter().chain(shut) {
        assert!(said.lines().any(|line| line.starts_with(way)), "{way} as {}: {said}", within.who());
    }
    assert!(!said.contains("OPEN"), "as {}: {said}", within.who());
}
