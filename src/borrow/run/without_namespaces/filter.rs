//! Which system calls a program may make where no namespace holds it: whatever could open a way to this machine's network
//! waits for what the [`calls`](super::calls) say, and what cannot be looked at is missing.
//!
//! - connect, bind, listen, sendmsg, sendmmsg, and sendto with an address: done by the supervisor, always;
//! - what tells of the far end (getpeername, getsockname, SO_ERROR, recvfrom with an address, recvmsg, recvmmsg): answered by it, so that
//!   a program sees whom it speaks to and not how;
//! - sockets: TCP and UDP of the internet's families, unix, and two kinds of netlink;
//! - source routes: a packet would leave for the first stop on its way, wherever it is sent to;
//! - devices: what is sent to loopback by another device leaves by that, to whoever is on its wire; and a tap that the user has been
//!   given is a wire itself;
//! - groups of receivers: they would be those of this machine's network;
//! - as in the other mode, io_uring, pidfd_getfd and request_key are missing, and nobody types into the terminal; debugging and
//!   other namespaces are forbidden, since what is outside is not kept apart;
//! - the second system call table has no sockets at all.

use crate::{
    borrow::run::filter::{
        ALLOW, ARCHITECTURE, ARCHITECTURE_AT, ENOPROTOOPT, ENOSYS, EPERM, EPROTONOSUPPORT, ERRNO, JUMP_EQUAL, MISSING,
        NOTIFY, OTHERS, SECOND, SECOND_IOCTL, SECOND_OTHERS, answer, argument, each, families, head, jump, load,
        terminals, unless,
    },
    sys::Instruction,
};

/// Calls that the supervisor does.
const SUPERVISED: [libc::c_long; 9] = [
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
];
/// Of the second table: socket, connect, bind, listen, sendto, sendmsg, sendmmsg, socketcall, request_key.
#[cfg(target_arch = "x86_64")]
const SECOND_HIDDEN: [u32; 9] = [359, 362, 361, 363, 369, 370, 345, 102, 287];
#[cfg(target_arch = "aarch64")]
const SECOND_HIDDEN: [u32; 9] = [281, 283, 282, 284, 290, 296, 374, 102, 310];

const ALU_AND: u16 = 0x54;
/// The type of a socket, without its flags.
const TYPE_MASK: u32 = 0xf;
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_UDP: u32 = 17;
const ENODEV: u32 = 19;

/// Options of IPv4 and of IPv6 by which a socket joins a group: IP_ADD_MEMBERSHIP, IP_ADD_SOURCE_MEMBERSHIP, MCAST_JOIN_GROUP,
/// MCAST_JOIN_SOURCE_GROUP; IPV6_JOIN_GROUP, IPV6_JOIN_ANYCAST, and the latter two.
const JOINS: [(u32, [u32; 4]); 2] =
    [(libc::SOL_IP as u32, [35, 39, 42, 46]), (libc::SOL_IPV6 as u32, [20, 27, 42, 46])];
/// Options by which a packet takes a way of its own, past where it is sent to: SO_BINDTODEVICE, SO_BINDTOIFINDEX; IP_OPTIONS,
/// IP_UNICAST_IF; IPV6_2292RTHDR, IPV6_2292PKTOPTIONS, IPV6_NEXTHOP, IPV6_FLOWLABEL_MGR, IPV6_PKTINFO, IPV6_RTHDR,
/// IPV6_UNICAST_IF.
const WAYS: [(u32, &[u32]); 3] = [
    (libc::SOL_SOCKET as u32, &[25, 62]),
    (libc::SOL_IP as u32, &[4, 50]),
    (libc::SOL_IPV6 as u32, &[5, 6, 9, 32, 50, 57, 76]),
];
/// By which a descriptor becomes an end of a device: TUNSETIFF.
const TUN_SET: u32 = 0x4004_54ca;
/// By which the kernel would cut a datagram, after it was judged (udp(7)).
pub(super) const UDP_SEGMENT: u32 = 103;

/// The filter.
pub fn filter() -> Vec<Instruction> {
    let (second, ..) = SECOND;
    let mut program = vec![load(ARCHITECTURE_AT)];
    program.extend(unless(second, &second_table()));
    program.extend([jump(JUMP_EQUAL, ARCHITECTURE, 1, 0), answer(ERRNO | ENOSYS)]);
    program.extend(own_table());
    program
}

fn second_table() -> Vec<Instruction> {
    let mut program = head();
    program.extend(each(&SECOND_HIDDEN, ERRNO | ENOSYS));
    program.extend(each(&MISSING, ERRNO | ENOSYS));
    program.extend(each(&SECOND_OTHERS, ERRNO | EPERM));
    program.extend(unless(SECOND_IOCTL, &requests()));
    program.push(answer(ALLOW));
    program
}

fn own_table() -> Vec<Instruction> {
    let mut program = head();
    program.extend(each(&SUPERVISED.map(|number| number as u32), NOTIFY));
    program.extend(each(&MISSING, ERRNO | ENOSYS));
    program.extend(each(&[libc::SYS_request_key as u32], ERRNO | ENOSYS));
    program.extend(each(&OTHERS, ERRNO | EPERM));
    program.extend(unless(libc::SYS_ioctl as u32, &requests()));
    program.extend(unless(libc::SYS_sendto as u32, &with_address()));
    program.extend(unless(libc::SYS_recvfrom as u32, &with_address()));
    program.extend(unless(libc::SYS_getsockopt as u32, &asked_options()));
    program.extend(unless(libc::SYS_setsockopt as u32, &set_options()));
    program.extend(unless(libc::SYS_socket as u32, &sockets()));
    program.push(answer(ALLOW));
    program
}

/// ioctl: as in the other mode, and nothing becomes a device.
fn requests() -> Vec<Instruction> {
    let mut program = vec![load(argument(1))];
    program.extend(unless(TUN_SET, &[answer(ERRNO | EPERM)]));
    program.extend(terminals());
    program
}

/// sendto and recvfrom: without an address there is nothing to say about it.
fn with_address() -> Vec<Instruction> {
    let (lower, upper) = (argument(4), other_half(argument(4)));
    vec![load(lower), jump(JUMP_EQUAL, 0, 0, 2), load(upper), jump(JUMP_EQUAL, 0, 1, 0), answer(NOTIFY), answer(ALLOW)]
}

const fn other_half(offset: u32) -> u32 {
    offset ^ 4
}

/// getsockopt: SO_ERROR may be what the lender said.
fn asked_options() -> Vec<Instruction> {
    let mut program = vec![load(argument(1)), jump(JUMP_EQUAL, libc::SOL_SOCKET as u32, 1, 0), answer(ALLOW)];
    program.extend([load(argument(2)), jump(JUMP_EQUAL, libc::SO_ERROR as u32, 0, 1), answer(NOTIFY), answer(ALLOW)]);
    program
}

fn set_options() -> Vec<Instruction> {
    let mut program = vec![load(argument(1))];
    for (level, ways) in WAYS {
        let mut of_level = vec![load(argument(2))];
        of_level.extend(each(ways, ERRNO | EPERM));
        for (_, joins) in JOINS.iter().filter(|(of, _)| *of == level) {
            of_level.extend(each(joins, ERRNO | ENODEV));
        }
        of_level.push(answer(ALLOW));
        program.extend(unless(level, &of_level));
    }
    let segment = [load(argument(2)), jump(JUMP_EQUAL, UDP_SEGMENT, 0, 1), answer(ERRNO | ENOPROTOOPT), answer(ALLOW)];
    program.extend(unless(libc::SOL_UDP as u32, &segment));
    program.push(answer(ALLOW));
    program
}

/// `socket(family, kind, protocol)`: of the internet's families TCP and UDP alone.
fn sockets() -> Vec<Instruction> {
    let mut program = families();
    program.extend([load(argument(1)), Instruction { code: ALU_AND, jt: 0, jf: 0, k: TYPE_MASK }]);
    for (kind, protocol) in [(SOCK_STREAM, IPPROTO_TCP), (SOCK_DGRAM, IPPROTO_UDP)] {
        let of_kind = [
            load(argument(2)),
            jump(JUMP_EQUAL, 0, 1, 0),
            jump(JUMP_EQUAL, protocol, 0, 1),
            answer(ALLOW),
            answer(ERRNO | EPROTONOSUPPORT),
        ];
        program.extend(unless(kind, &of_kind));
    }
    program.push(answer(ERRNO | EPERM));
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::borrow::run::filter::{EAFNOSUPPORT, X32, kernel};

    fn judge(architecture: u32, number: u32, arguments: &[u64]) -> u32 {
        kernel::judge(&filter(), architecture, number, arguments)
    }

    fn own(number: libc::c_long, arguments: &[u64]) -> u32 {
        judge(ARCHITECTURE, number as u32, arguments)
    }

    #[test]
    fn only_sockets_that_can_be_supervised_are_made() {
        let nonblocking = (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as u64;
        for (arguments, expected) in [
            ([1, 1, 0], ALLOW),
            ([2, 1, 0], ALLOW),
            ([10, 1 | nonblocking, 6], ALLOW),
            ([2, 2 | nonblocking, 17], ALLOW),
            ([2, 2, 1], ERRNO | EPROTONOSUPPORT),
            ([10, 2, 58], ERRNO | EPROTONOSUPPORT),
            ([2, 2, 136], ERRNO | EPROTONOSUPPORT),
            ([2, 1, 132], ERRNO | EPROTONOSUPPORT),
            ([2, 1, 262], ERRNO | ENOPROTOOPT),
            ([2, 5, 132], ERRNO | EPERM),
            ([2, 3, 6], ERRNO | EPERM),
            ([16, 3, 0], ALLOW),
            ([16, 3, 12], ERRNO | EPROTONOSUPPORT),
            ([40, 1, 0], ERRNO | EAFNOSUPPORT),
            ([17, 3, 0], ERRNO | EAFNOSUPPORT),
        ] {
            assert_eq!(own(libc::SYS_socket, &arguments), expected, "{arguments:?}");
        }
        assert_eq!(judge(SECOND.0, SECOND.1, &[1, 1, 0]), ERRNO | ENOSYS);
    }

    #[test]
    fn whatever_has_an_address_waits() {
        for number in SUPERVISED {
            assert_eq!(own(number, &[3]), NOTIFY, "{number}");
            assert_eq!(judge(ARCHITECTURE, X32 | number as u32, &[3]), ERRNO | ENOSYS, "{number}");
        }
        for number in [libc::SYS_sendto, libc::SYS_recvfrom] {
            assert_eq!(own(number, &[3, 0, 0, 0, 0, 16]), ALLOW, "{number}");
            for address in [1, 1 << 32, 0x7fff_0000_0000] {
                assert_eq!(own(number, &[3, 0, 0, 0, address, 16]), NOTIFY, "{number} {address:x}");
            }
        }
        assert_eq!(own(libc::SYS_getsockopt, &[3, 1, 4]), NOTIFY);
        assert_eq!(own(libc::SYS_getsockopt, &[3, 1, 3]), ALLOW);
        assert_eq!(own(libc::SYS_getsockopt, &[3, 6, 4]), ALLOW);
    }

    #[test]
    fn ways_around_are_missing_and_all_else_is_there() {
        for number in MISSING {
            assert_eq!(own(number.into(), &[]), ERRNO | ENOSYS);
            assert_eq!(judge(SECOND.0, number, &[]), ERRNO | ENOSYS);
        }
        for number in SECOND_HIDDEN {
            assert_eq!(judge(SECOND.0, number, &[]), ERRNO | ENOSYS, "{number}");
        }
        for (own_number, second) in OTHERS.into_iter().zip(SECOND_OTHERS) {
            assert_eq!(own(own_number.into(), &[]), ERRNO | EPERM);
            assert_eq!(judge(SECOND.0, second, &[]), ERRNO | EPERM);
        }
        assert_eq!(judge(0x1234, 1, &[]), ERRNO | ENOSYS);
        for (architecture, ioctl) in [(ARCHITECTURE, libc::SYS_ioctl as u32), (SECOND.0, SECOND_IOCTL)] {
            assert_eq!(judge(architecture, ioctl, &[3, TUN_SET.into()]), ERRNO | EPERM);
            assert_eq!(judge(architecture, ioctl, &[3, u64::from(libc::TIOCSTI as u32)]), ERRNO | libc::EIO as u32);
            assert_eq!(judge(architecture, ioctl, &[3, u64::from(libc::FIONREAD as u32)]), ALLOW);
        }
        for (level, options) in JOINS {
            for option in options {
                assert_eq!(own(libc::SYS_setsockopt, &[3, level.into(), option.into()]), ERRNO | ENODEV);
            }
            assert_eq!(own(libc::SYS_setsockopt, &[3, level.into(), 1]), ALLOW);
        }
        for (level, options) in WAYS {
            for option in options {
                assert_eq!(own(libc::SYS_setsockopt, &[3, level.into(), (*option).into()]), ERRNO | EPERM);
            }
        }
        assert_eq!(own(libc::SYS_setsockopt, &[3, 17, 103]), ERRNO | ENOPROTOOPT);
        assert_eq!(own(libc::SYS_setsockopt, &[3, 6, 1]), ALLOW);
        for number in [libc::SYS_execve, libc::SYS_openat, libc::SYS_write, libc::SYS_accept4, libc::SYS_socketpair] {
            assert_eq!(own(number, &[]), ALLOW, "{number}");
        }
    }
}
