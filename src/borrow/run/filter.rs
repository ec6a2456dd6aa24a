//! Which system calls a borrowed program may make, as a seccomp filter.
//!
//! A network namespace holds what goes over IP. This filter takes what would leave it by another way, and what the rest of
//! the machinery cannot see:
//!
//! - sockets of any family but the internet's, unix and two kinds of netlink: AF_VSOCK reaches the host of a virtual
//!   machine, whatever the namespace;
//! - bind and listen, which wait for what the [`supervisor`](super::supervisor) says;
//! - io_uring, whose own `bind` and `listen` no filter sees: it is said to be missing, and programs fall back;
//! - Multipath TCP, whose connections are no plain TCP: said to be missing, and programs fall back;
//! - pidfd_getfd, which takes a socket out of a process that is on another network;
//! - request_key, by which the kernel has this machine look up a name (`dns_resolver`);
//! - what types into the terminal, whose next reader is the person's own shell;
//! - for a program of real root, which has no user namespace of its own, what reads and writes the memory of such a process, and
//!   setns: the network of a container of a user that it becomes is none of the lender's;
//! - a second system call table (i386 by `int 0x80`, x32), as far as it would be a way around the above.

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketType, ipproto, socket},
};

use super::listeners::NETLINK_SOCK_DIAG;
use crate::sys::Instruction;

// Classic BPF on `struct seccomp_data` (linux/seccomp.h): a number, an architecture, six arguments of 8 bytes.
pub(super) const LOAD_WORD: u16 = 0x20;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
pub(super) const NUMBER_AT: u32 = 0;
pub(super) const ARCHITECTURE_AT: u32 = 4;
pub(super) const ALLOW: u32 = 0x7fff_0000;
pub(super) const NOTIFY: u32 = 0x7fc0_0000;
pub(super) const ERRNO: u32 = 0x0005_0000;

#[cfg(target_arch = "x86_64")]
pub(super) const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(super) const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!(
    "`run` knows the system calls of x86-64 and arm64: add those of this architecture to borrow/run/filter.rs"
);

/// Into other processes, or into what they are in: ptrace, process_vm_readv, process_vm_writev, setns.
pub(super) const OTHERS: [u32; 4] = [
    libc::SYS_ptrace as u32,
    libc::SYS_process_vm_readv as u32,
    libc::SYS_process_vm_writev as u32,
    libc::SYS_setns as u32,
];
/// The same of the other architecture below.
#[cfg(target_arch = "x86_64")]
pub(super) const SECOND_OTHERS: [u32; 4] = [26, 347, 348, 346];
#[cfg(target_arch = "aarch64")]
pub(super) const SECOND_OTHERS: [u32; 4] = [26, 376, 377, 375];
/// The architecture that a 64-bit kernel serves besides its own, with the numbers of its socket, and of its socketcall, bind,
/// listen and request_key.
#[cfg(target_arch = "x86_64")]
pub(super) const SECOND: (u32, u32, [u32; 4]) = (0x4000_0003, 359, [102, 361, 363, 287]);
#[cfg(target_arch = "aarch64")]
pub(super) const SECOND: (u32, u32, [u32; 4]) = (0x4000_0028, 281, [102, 282, 284, 310]);
/// Its ioctl.
pub(super) const SECOND_IOCTL: u32 = 54;
/// x32 calls have this bit in their number.
pub(super) const X32: u32 = 0x4000_0000;
/// Said to be missing, with the same number on every architecture: io_uring_setup, io_uring_enter, io_uring_register,
/// pidfd_getfd.
pub(super) const MISSING: [u32; 4] = [425, 426, 427, 438];

/// What types into a terminal, or into a console (TIOCSTI, TIOCLINUX), and what is said of it: the first as by a kernel where that is
/// switched off (`dev.tty.legacy_tiocsti`).
const TYPING: [(u32, u32); 2] = [(0x5412, libc::EIO as u32), (0x541c, EPERM)];

const AF_UNIX: u32 = 1;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const AF_NETLINK: u32 = 16;
const NETLINK_ROUTE: u32 = 0;
const IPPROTO_MPTCP: u32 = 262;

pub(super) const EPERM: u32 = 1;
pub(super) const ENOSYS: u32 = 38;
pub(super) const ENOPROTOOPT: u32 = 92;
pub(super) const EPROTONOSUPPORT: u32 = 93;
pub(super) const EAFNOSUPPORT: u32 = 97;

/// The filter. `is_root`: the program shares its user namespace with what is outside, which a debugger could therefore
/// reach once it has changed its user; in a namespace of its own the kernel keeps it apart.
pub fn filter(is_root: bool) -> Vec<Instruction> {
    let (second, second_socket, second_hidden) = SECOND;
    let forbidden = |others: &'static [u32]| if is_root { others } else { &[] };
    let supervised = [libc::SYS_bind as u32, libc::SYS_listen as u32];
    let hidden = |of_table: &[u32]| of_table.iter().copied().chain(MISSING).collect::<Vec<_>>();
    let (own, own_hidden) =
        ((libc::SYS_socket as u32, libc::SYS_ioctl as u32), hidden(&[libc::SYS_request_key as u32]));
    let own = calls(own, &own_hidden, forbidden(&OTHERS), &supervised);
    let other = (second_socket, SECOND_IOCTL);
    let other = calls(other, &hidden(&second_hidden), forbidden(&SECOND_OTHERS), &[]);
    let mut program = vec![load(ARCHITECTURE_AT)];
    program.extend(unless(second, &other));
    program.extend(unless(ARCHITECTURE, &own));
    program.push(answer(ERRNO | ENOSYS));
    program
}

/// Whether this process is under such a filter already: the kernel says that it is under one, and a family of sockets that
/// `run` itself needs is answered as ours answers.
pub fn is_in_force() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let netfilter = rustix::net::netlink::NETFILTER;
    status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"]))
        && socket(AddressFamily::NETLINK, SocketType::RAW, Some(netfilter)).err() == Some(Errno::PROTONOSUPPORT)
        && socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::MPTCP)).err() == Some(Errno::NOPROTOOPT)
}

/// What a program of one architecture may do, of which these are socket and ioctl.
fn calls((socket, ioctl): (u32, u32), hidden: &[u32], forbidden: &[u32], supervised: &[u32]) -> Vec<Instruction> {
    let mut program = head();
    program.extend(each(hidden, ERRNO | ENOSYS));
    program.extend(each(forbidden, ERRNO | EPERM));
    program.extend(each(supervised, NOTIFY));
    program.extend(unless(ioctl, &terminals()));
    program.extend(unless(socket, &sockets()));
    program.push(answer(ALLOW));
    program
}

/// `ioctl(fd, request, …)`, whose request is an unsigned int: whatever does not type for somebody else.
pub(super) fn terminals() -> Vec<Instruction> {
    let mut program = vec![load(argument(1))];
    for (request, errno) in TYPING {
        program.extend(unless(request, &[answer(ERRNO | errno)]));
    }
    program.push(answer(ALLOW));
    program
}

/// Loads the number, and lets no call of a third table through.
pub(super) fn head() -> Vec<Instruction> {
    // Numbers of the table itself are far below.
    vec![load(NUMBER_AT), jump(JUMP_AT_LEAST, X32, 0, 1), answer(ERRNO | ENOSYS)]
}

/// Answers each of these calls so.
pub(super) fn each(numbers: &[u32], value: u32) -> Vec<Instruction> {
    numbers.iter().flat_map(|number| unless(*number, &[answer(value)])).collect()
}

/// `socket(family, kind, protocol)`: nothing that would leave a network namespace.
fn sockets() -> Vec<Instruction> {
    let mut program = families();
    program.push(answer(ALLOW));
    program
}

/// The families of sockets, each decided but for the internet's: what follows is about those. Each argument of socket(2) is an
/// int, so that its lower half is all of it.
pub(super) fn families() -> Vec<Instruction> {
    let mut program = vec![load(argument(0)), jump(JUMP_EQUAL, AF_UNIX, 0, 1), answer(ALLOW)];
    program.extend(unless(AF_NETLINK, &netlink()));
    program.extend([
        jump(JUMP_EQUAL, AF_INET, 2, 0),
        jump(JUMP_EQUAL, AF_INET6, 1, 0),
        answer(ERRNO | EAFNOSUPPORT),
        load(argument(2)),
        jump(JUMP_EQUAL, IPPROTO_MPTCP, 0, 1),
        answer(ERRNO | ENOPROTOOPT),
    ]);
    program
}

/// The protocols of netlink that look and change nothing, without a capability.
fn netlink() -> Vec<Instruction> {
    vec![
        load(argument(2)),
        jump(JUMP_EQUAL, NETLINK_ROUTE, 1, 0),
        jump(JUMP_EQUAL, NETLINK_SOCK_DIAG, 0, 1),
        answer(ALLOW),
        answer(ERRNO | EPROTONOSUPPORT),
    ]
}

/// Passes over `program` unless what was loaded is `value`. `program` must end in an answer.
pub(super) fn unless(value: u32, program: &[Instruction]) -> Vec<Instruction> {
    // Jumps reach 255 instructions; the longest piece has about 60.
    let mut whole = vec![jump(JUMP_EQUAL, value, 0, program.len() as u8)];
    whole.extend_from_slice(program);
    whole
}

pub(super) const fn argument(number: u32) -> u32 {
    let lower_half = if cfg!(target_endian = "little") { 0 } else { 4 };
    16 + number * 8 + lower_half
}

pub(super) fn load(offset: u32) -> Instruction {
    jump(LOAD_WORD, offset, 0, 0)
}

pub(super) fn answer(value: u32) -> Instruction {
    jump(RETURN, value, 0, 0)
}

pub(super) fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// What the kernel does with a filter.
#[cfg(test)]
pub(super) mod kernel {
    use super::*;

    const ALU_AND: u16 = 0x54;

    /// The answer of `program` to a call; an argument that is not given is 0.
    pub fn judge(program: &[Instruction], architecture: u32, number: u32, arguments: &[u64]) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            match code {
                LOAD_WORD => {
                    loaded = match k {
                        NUMBER_AT => number,
                        ARCHITECTURE_AT => architecture,
                        k => {
                            let argument = arguments.get((k as usize - 16) / 8).copied().unwrap_or(0);
                            let bytes = argument.to_ne_bytes();
                            let half = if k % 8 == 0 { &bytes[..4] } else { &bytes[4..] };
                            u32::from_ne_bytes(half.try_into().unwrap())
                        }
                    }
                }
                JUMP_EQUAL => at += usize::from(if loaded == k { jt } else { jf }),
                JUMP_AT_LEAST => at += usize::from(if loaded >= k { jt } else { jf }),
                ALU_AND => loaded &= k,
                RETURN => return k,
                other => panic!("{other:x}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(architecture: u32, number: u32, arguments: [u32; 3]) -> u32 {
        judge_of(false, architecture, number, arguments)
    }

    fn judge_of(is_root: bool, architecture: u32, number: u32, arguments: [u32; 3]) -> u32 {
        kernel::judge(&filter(is_root), architecture, number, &arguments.map(u64::from))
    }

    #[test]
    fn only_families_that_stay_inside_are_allowed() {
        let socket = libc::SYS_socket as u32;
        for (family, protocol, expected) in [
            (AF_UNIX, 0, ALLOW),
            (AF_INET, 0, ALLOW),
            (AF_INET6, 17, ALLOW),
            (AF_NETLINK, NETLINK_ROUTE, ALLOW),
            (AF_NETLINK, NETLINK_SOCK_DIAG, ALLOW),
            (AF_NETLINK, 12, ERRNO | EPROTONOSUPPORT),
            (AF_INET, IPPROTO_MPTCP, ERRNO | ENOPROTOOPT),
            (AF_INET6, IPPROTO_MPTCP, ERRNO | ENOPROTOOPT),
            (libc::AF_VSOCK as u32, 0, ERRNO | EAFNOSUPPORT),
            (libc::AF_PACKET as u32, 0, ERRNO | EAFNOSUPPORT),
            (libc::AF_BLUETOOTH as u32, 0, ERRNO | EAFNOSUPPORT),
        ] {
            assert_eq!(judge(ARCHITECTURE, socket, [family, 1, protocol]), expected, "{family} {protocol}");
            assert_eq!(judge(SECOND.0, SECOND.1, [family, 1, protocol]), expected, "{family} {protocol}");
        }
    }

    #[test]
    fn only_a_program_of_root_may_not_debug_or_enter_namespaces() {
        let other = SECOND_OTHERS.map(|number| (SECOND.0, number));
        for (architecture, number) in OTHERS.map(|number| (ARCHITECTURE, number)).into_iter().chain(other) {
            assert_eq!(judge_of(true, architecture, number, [0; 3]), ERRNO | EPERM, "{number}");
            assert_eq!(judge_of(false, architecture, number, [0; 3]), ALLOW, "{number}");
        }
    }

    #[test]
    fn ways_around_are_missing_and_all_else_is_there() {
        for number in MISSING.into_iter().chain([libc::SYS_request_key as u32]) {
            assert_eq!(judge(ARCHITECTURE, number, [0; 3]), ERRNO | ENOSYS);
        }
        for number in MISSING {
            assert_eq!(judge(SECOND.0, number, [0; 3]), ERRNO | ENOSYS);
        }
        for number in SECOND.2 {
            assert_eq!(judge(SECOND.0, number, [0; 3]), ERRNO | ENOSYS);
        }
        assert_eq!(judge(ARCHITECTURE, X32 | libc::SYS_socket as u32, [AF_INET, 1, 0]), ERRNO | ENOSYS);
        assert_eq!(judge(0x1234, 1, [0; 3]), ERRNO | ENOSYS);
        for (request, expected) in [
            (libc::TIOCSTI as u32, ERRNO | libc::EIO as u32),
            (0x541c, ERRNO | EPERM),
            (libc::TIOCGWINSZ as u32, ALLOW),
        ] {
            for (architecture, ioctl) in [(ARCHITECTURE, libc::SYS_ioctl as u32), (SECOND.0, SECOND_IOCTL)] {
                assert_eq!(judge(architecture, ioctl, [0, request, 0]), expected, "{request:x}");
            }
        }
        for number in [libc::SYS_connect, libc::SYS_execve, libc::SYS_openat] {
            assert_eq!(judge(ARCHITECTURE, number as u32, [0; 3]), ALLOW, "{number}");
        }
        for number in [libc::SYS_bind, libc::SYS_listen] {
            assert_eq!(judge(ARCHITECTURE, number as u32, [0; 3]), NOTIFY, "{number}");
            assert_eq!(judge(ARCHITECTURE, X32 | number as u32, [0; 3]), ERRNO | ENOSYS, "{number}");
        }
    }
}
