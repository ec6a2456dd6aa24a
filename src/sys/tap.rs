//! A tap of the connections that programs begin: AF_PACKET with a filter in the kernel.

use std::{io, num::NonZeroU32, os::fd::OwnedFd};

use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

use super::{Instruction, socket_option::attach_filter};

/// What is kept of a packet, in bytes: an IP header and a TCP header, each with all of its options.
pub const TAPPED_BYTES_MAX: usize = 128;

// Classic BPF (linux/bpf_common.h): loads, the mask, and jumps.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const LOAD_BYTE_INDEXED: u16 = 0x50;
const LOAD_IP_HEADER_LENGTH: u16 = 0xb1;
const AND: u16 = 0x54;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;
/// Where the kernel's own fields of a packet are (linux/filter.h).
const MARK: u32 = 0xffff_f000 + 20;
const PACKET_TYPE: u32 = 0xffff_f000 + 4;
const PACKET_HOST: u32 = 0;
const TCP: u32 = 6;
const SYN: u32 = 0x02;
const SYN_AND_ACK: u32 = 0x12;
const FRAGMENT_OFFSET: u32 = 0x1fff;

/// A socket that sees each first packet (SYN) of a TCP connection in this network namespace once, from its IP header on.
///
/// Packets with any mark are not seen: they are those that were sent again by us, and to see them would send them for ever.
///
/// # Errors
/// `EPERM` without power over the network namespace.
pub fn syn_tap(ipv6: bool) -> io::Result<OwnedFd> {
    let ethertype = if ipv6 { libc::ETH_P_IPV6 } else { libc::ETH_P_IP } as u16;
    let protocol = NonZeroU32::new(ethertype.to_be().into()).map(Protocol::from_raw);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let mut filter = if ipv6 { ipv6_filter() } else { ipv4_filter() };
    let socket = socket_with(AddressFamily::PACKET, SocketType::DGRAM, flags, protocol)?;
    attach_filter(&socket, &mut filter)?;
    Ok(socket)
}

/// Unmarked, addressed to this host (and not the copy on its way out), TCP, no later fragment, SYN without ACK.
fn ipv4_filter() -> Vec<Instruction> {
    vec![
        step(LOAD_WORD, MARK),
        branch(JUMP_EQUAL, 0, 0, 11),
        step(LOAD_WORD, PACKET_TYPE),
        branch(JUMP_EQUAL, PACKET_HOST, 0, 9),
        step(LOAD_BYTE, 9),
        branch(JUMP_EQUAL, TCP, 0, 7),
        step(LOAD_HALF, 6),
        branch(JUMP_SET, FRAGMENT_OFFSET, 5, 0),
        step(LOAD_IP_HEADER_LENGTH, 0),
        step(LOAD_BYTE_INDEXED, 13),
        step(AND, SYN_AND_ACK),
        branch(JUMP_EQUAL, SYN, 0, 1),
        step(RETURN, TAPPED_BYTES_MAX as u32),
        step(RETURN, 0),
    ]
}

/// As above; TCP follows the fixed header at once, as it does for every connection that has no exotic options.
fn ipv6_filter() -> Vec<Instruction> {
    vec![
        step(LOAD_WORD, MARK),
        branch(JUMP_EQUAL, 0, 0, 8),
        step(LOAD_WORD, PACKET_TYPE),
        branch(JUMP_EQUAL, PACKET_HOST, 0, 6),
        step(LOAD_BYTE, 6),
        branch(JUMP_EQUAL, TCP, 0, 4),
        step(LOAD_BYTE, 40 + 13),
        step(AND, SYN_AND_ACK),
        branch(JUMP_EQUAL, SYN, 0, 1),
        step(RETURN, TAPPED_BYTES_MAX as u32),
        step(RETURN, 0),
    ]
}

fn step(code: u16, k: u32) -> Instruction {
    branch(code, k, 0, 0)
}

/// Jumps so many instructions further, by whether it is so.
fn branch(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}
