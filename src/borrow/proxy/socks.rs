//! SOCKS5 (RFC 1928), SOCKS4 and 4a: what a client says, and the replies. Bytes in, bytes out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, Bytes, BytesMut};

use super::{Speech, Wish, Word};
use crate::proto::Target;

/// The reply of SOCKS5 that says yes (RFC 1928 §6).
pub(super) const GRANTED: u8 = 0;
const FAILURE: u8 = 1;
const COMMAND_NOT_SUPPORTED: u8 = 7;
const ADDRESS_NOT_SUPPORTED: u8 = 8;
/// Longest user of SOCKS4 and longest name of 4a, in bytes.
const TEXT_MAX: usize = 255;
const CONNECT: u8 = 1;

/// How the client may log in: not at all is all that there is.
pub(super) fn methods5(heard: &mut BytesMut) -> Word {
    let Some(count) = heard.get(1).map(|count| usize::from(*count)) else { return Word::More };
    let Some(methods) = heard.get(2..2 + count) else { return Word::More };
    let without = methods.contains(&0);
    heard.advance(2 + count);
    if without { Word::Say(vec![5, 0]) } else { Word::End(vec![5, 0xff]) }
}

/// What the client wants, after [`methods5`].
pub(super) fn request5(heard: &mut BytesMut) -> Word {
    let refuse = |code| Word::End(reply5(code, SocketAddr::from(([0, 0, 0, 0], 0))));
    if heard.first() != Some(&5) {
        return Word::End(Vec::new());
    }
    let [_, command, _, kind, rest @ ..] = &heard[..] else { return Word::More };
    let (host, taken) = match kind {
        1 => match rest.first_chunk::<4>() {
            Some(ip) => (Some(Ipv4Addr::from(*ip).to_string()), 4),
            None => return Word::More,
        },
        4 => match rest.first_chunk::<16>() {
            Some(ip) => (Some(Ipv6Addr::from(*ip).to_string()), 16),
            None => return Word::More,
        },
        3 => {
            let Some(length) = rest.first().map(|length| usize::from(*length)) else { return Word::More };
            let Some(name) = rest.get(1..1 + length) else { return Word::More };
            (text(name), 1 + length)
        }
        _ => return refuse(ADDRESS_NOT_SUPPORTED),
    };
    let Some(port) = rest.get(taken..).and_then(|rest| rest.first_chunk::<2>()) else { return Word::More };
    let port = u16::from_be_bytes(*port);
    if *command != CONNECT {
        return refuse(COMMAND_NOT_SUPPORTED);
    }
    heard.advance(4 + taken + 2);
    match host.filter(|host| !host.is_empty() && port > 0) {
        Some(host) => {
            Word::Connect(Wish { target: Target { host, port }, speech: Speech::Socks5, first: Bytes::new() })
        }
        None => refuse(FAILURE),
    }
}

/// What a client of SOCKS4 or 4a wants.
pub(super) fn request4(heard: &mut BytesMut) -> Word {
    let [_, command, high, low, a, b, c, d, rest @ ..] = &heard[..] else { return Word::More };
    let port = u16::from_be_bytes([*high, *low]);
    let address = Ipv4Addr::new(*a, *b, *c, *d);
    let (mut taken, command) = (8, *command);
    let refuse = || Word::End(reply4(false));
    let Ok(user) = until_nul(rest) else { return refuse() };
    let Some(user) = user else { return Word::More };
    taken += user.len() + 1;
    // 4a: an address of 0.0.0.x, and the name behind the user.
    let named = address.octets().starts_with(&[0, 0, 0]) && address.octets()[3] != 0;
    let host = if named {
        let Ok(name) = until_nul(&rest[user.len() + 1..]) else { return refuse() };
        let Some(name) = name else { return Word::More };
        taken += name.len() + 1;
        text(name)
    } else {
        Some(address.to_string())
    };
    heard.advance(taken);
    match host.filter(|host| command == CONNECT && port > 0 && !host.is_empty()) {
        Some(host) => {
            Word::Connect(Wish { target: Target { host, port }, speech: Speech::Socks4, first: Bytes::new() })
        }
        None => refuse(),
    }
}

pub(super) fn reply5(code: u8, bound: SocketAddr) -> Vec<u8> {
    let mut reply = vec![5, code, 0];
    match bound.ip() {
        IpAddr::V4(ip) => {
            reply.push(1);
            reply.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            reply.push(4);
            reply.extend(ip.octets());
        }
    }
    reply.extend(bound.port().to_be_bytes());
    reply
}

pub(super) fn reply4(granted: bool) -> Vec<u8> {
    vec![0, if granted { 90 } else { 91 }, 0, 0, 0, 0, 0, 0]
}

/// The bytes before a NUL; `None` when it has not come, and an error when it is too far away.
fn until_nul(bytes: &[u8]) -> Result<Option<&[u8]>, ()> {
    match bytes.iter().take(TEXT_MAX + 1).position(|byte| *byte == 0) {
        Some(end) => Ok(bytes.get(..end)),
        None if bytes.len() > TEXT_MAX => Err(()),
        None => Ok(None),
    }
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}
