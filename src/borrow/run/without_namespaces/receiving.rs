//! recvfrom, recvmsg and recvmmsg of a program's UDP sockets: a datagram comes from a relay of ours, and the program hears whose it
//! is.

use std::{net::SocketAddr, os::fd::OwnedFd, time::Duration};

use rustix::{
    fs::{OFlags, fcntl_getfl},
    net::sockopt,
};

use super::{
    address,
    calls::{Calls, program_socket},
    messages::{ENOBUFS, MANY_BYTES, MESSAGES_MAX},
    names_of_sockets,
    thread::Thread,
};
use crate::{
    borrow::run::{
        listening::program_socket::{ProgramSocket, Transport},
        supervisor::{Caller, memory_of, out_of_reach},
    },
    proto::Errno,
    sys::{self, ReceivedMessage},
};

/// Longest datagram, in bytes.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;
/// Control messages of one datagram, in bytes.
const CONTROL_BYTES_MAX: usize = 4096;
/// Pieces of one message (UIO_MAXIOV).
const PARTS_MAX: usize = 1024;
/// Of a `timespec`.
const SPAN_BYTES: usize = 16;
/// In a second.
const NANOSECONDS: u32 = 1_000_000_000;
const HEADER_BYTES: usize = 56;
const LENGTH_AT: u64 = 56;

/// How a program receives.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// recvfrom(2).
    From {
        /// Its arguments.
        arguments: [u64; 6],
    },
    /// recvmsg(2).
    Message {
        /// Where the `msghdr` is.
        place: u64,
        /// Its flags.
        flags: i32,
    },
    /// recvmmsg(2).
    Many {
        /// Its arguments.
        arguments: [u64; 6],
        /// The time that it has.
        patience: Option<Duration>,
    },
}

/// Receives what is there, and waits for more where the socket waits.
pub fn begin(calls: &Calls, socket: OwnedFd, wanted: Wanted, thread: Thread, caller: Caller) {
    let socket = match program_socket(socket) {
        Ok(socket) if socket.transport == Transport::Udp && calls.datagrams.knows(socket.cookie) => socket,
        // Nothing of the lender's can come to it.
        Ok(_) | Err(_) => return caller.pass(),
    };
    if wanted.flags() & libc::MSG_ERRQUEUE != 0 {
        return caller.pass();
    }
    match wanted.receive(calls, &socket, &thread) {
        Err(Errno::EAGAIN) if wanted.flags() & libc::MSG_DONTWAIT == 0 && is_waiting(&socket) => {
            let calls = calls.parts();
            calls.runtime.clone().spawn(async move { wait(calls, socket, wanted, thread, caller).await });
        }
        received => {
            drop(socket);
            tell(received, caller);
        }
    }
}

async fn wait(calls: Calls, socket: ProgramSocket, wanted: Wanted, thread: Thread, caller: Caller) {
    let patience = sockopt::socket_timeout(&socket.fd, sockopt::Timeout::Recv).ok().flatten().or(wanted.patience());
    let Ok(watched) = socket.fd.try_clone().and_then(sys::await_socket) else { return caller.hear(Err(ENOBUFS)) };
    let late = async {
        match patience {
            Some(patience) => tokio::time::sleep(patience).await,
            None => std::future::pending().await,
        }
    };
    let mut late = std::pin::pin!(late);
    let received = loop {
        let come = async {
            if let Ok(mut ready) = watched.readable().await {
                ready.clear_ready();
            }
        };
        tokio::select! {
            () = come => {}
            () = &mut late => break Err(Errno::EAGAIN),
            () = super::waiting::gone(|| !caller.is_waiting()) => return,
        }
        if !caller.is_waiting() {
            // Its number may be somebody else's by now.
            return;
        }
        match wanted.receive(&calls, &socket, &thread) {
            Err(Errno::EAGAIN) => {}
            received => break received,
        }
    };
    drop((watched, socket));
    tell(received, caller);
}

fn tell(received: Result<usize, Errno>, caller: Caller) {
    match received {
        Ok(count) => caller.give(count as i64),
        Err(errno) => caller.hear(Err(errno)),
    }
}

fn is_waiting(socket: &ProgramSocket) -> bool {
    fcntl_getfl(&socket.fd).is_ok_and(|flags| !flags.contains(OFlags::NONBLOCK))
}

impl Wanted {
    /// A recvmmsg(2) of `thread`.
    ///
    /// # Errors
    /// What the program hears: `EINVAL` for a time that is none, before anything is received.
    pub fn many(thread: &Thread, arguments: [u64; 6]) -> Result<Self, Errno> {
        let [_, _, _, _, place, _] = arguments;
        let patience = match place {
            0 => None,
            place => Some(span(&memory_of(thread.0, place, SPAN_BYTES)?).ok_or(Errno::EINVAL)?),
        };
        Ok(Self::Many { arguments, patience })
    }

    fn flags(&self) -> i32 {
        match self {
            Self::From { arguments: [_, _, _, flags, ..] } | Self::Many { arguments: [_, _, _, flags, ..], .. } => {
                *flags as i32
            }
            Self::Message { flags, .. } => *flags,
        }
    }

    fn patience(&self) -> Option<Duration> {
        match self {
            Self::Many { patience, .. } => *patience,
            Self::From { .. } | Self::Message { .. } => None,
        }
    }

    fn receive(&self, calls: &Calls, socket: &ProgramSocket, thread: &Thread) -> Result<usize, Errno> {
        match *self {
            Self::From { arguments: [_, place, length, flags, name_place, length_place] } => {
                let most = (length as usize).min(DATAGRAM_BYTES_MAX);
                let received = take(socket, most, 0, flags as i32)?;
                put(thread, place, &received.content)?;
                let name = calls.true_name(socket, &received);
                names_of_sockets::write(thread, &name, name_place, length_place)?;
                Ok(received.length)
            }
            Self::Message { place, flags } => one(calls, socket, thread, place, flags),
            Self::Many { arguments: [_, place, count, flags, ..], .. } => {
                let mut received = 0;
                for number in 0..(count as u32 as usize).min(MESSAGES_MAX) {
                    let place = place.wrapping_add(number as u64 * MANY_BYTES);
                    match one(calls, socket, thread, place, flags as i32 & !libc::MSG_WAITFORONE) {
                        Ok(length) => put(thread, place.wrapping_add(LENGTH_AT), &(length as u32).to_ne_bytes())?,
                        Err(errno) if number == 0 => return Err(errno),
                        Err(_) => break,
                    }
                    received += 1;
                }
                Ok(received)
            }
        }
    }
}

/// A `timespec`, if it is one that the kernel takes (`timespec64_valid`).
fn span(bytes: &[u8]) -> Option<Duration> {
    let (seconds, rest) = bytes.split_first_chunk()?;
    let seconds = u64::try_from(i64::from_ne_bytes(*seconds)).ok()?;
    let nanoseconds = u32::try_from(u64::from_ne_bytes(*rest.first_chunk()?)).ok()?;
    (nanoseconds < NANOSECONDS).then(|| Duration::new(seconds, nanoseconds))
}

/// Receives into the `msghdr` at `place`.
fn one(calls: &Calls, socket: &ProgramSocket, thread: &Thread, place: u64, flags: i32) -> Result<usize, Errno> {
    let header = memory_of(thread.0, place, HEADER_BYTES)?;
    let word =
        |at: usize| header.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_ne_bytes(*word));
    let (name_at, name_room) = (word(0), word(8) as u32 as usize);
    let (parts_at, count, control_at) = (word(16), word(24) as usize, word(32));
    let control_room = if control_at == 0 { 0 } else { (word(40) as usize).min(CONTROL_BYTES_MAX) };
    if count > PARTS_MAX {
        return Err(Errno::EMSGSIZE);
    }
    let parts = memory_of(thread.0, parts_at, count * 16)?;
    let (parts, _) = parts.as_chunks::<16>();
    let parts: Vec<(u64, usize)> = parts
        .iter()
        .map(|part| {
            let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |word| u64::from_ne_bytes(*word));
            let (at, length) = part.split_at(8);
            (word(at), word(length) as usize)
        })
        .collect();
    let room = parts.iter().fold(0_usize, |sum, (_, length)| sum.saturating_add(*length)).min(DATAGRAM_BYTES_MAX);
    let received = take(socket, room, control_room, flags)?;
    let mut rest = received.content.as_slice();
    for (at, length) in parts {
        let (here, behind) = rest.split_at(length.min(rest.len()));
        put(thread, at, here)?;
        rest = behind;
    }
    let name = calls.true_name(socket, &received);
    if name_at != 0 {
        put(thread, name_at, name.get(..name_room.min(name.len())).unwrap_or_default())?;
        put(thread, place.wrapping_add(8), &(name.len() as u32).to_ne_bytes())?;
    }
    put(thread, control_at, &received.control)?;
    put(thread, place.wrapping_add(40), &(received.control.len() as u64).to_ne_bytes())?;
    put(thread, place.wrapping_add(48), &received.flags.to_ne_bytes())?;
    Ok(received.length)
}

fn take(socket: &ProgramSocket, room: usize, control_room: usize, flags: i32) -> Result<ReceivedMessage, Errno> {
    let received = sys::receive_as_given(&socket.fd, room, control_room, flags);
    received.map_err(|error| Errno::of(&error).unwrap_or(Errno::EINVAL))
}

fn put(thread: &Thread, place: u64, bytes: &[u8]) -> Result<(), Errno> {
    if bytes.is_empty() {
        return Ok(());
    }
    sys::write_memory_of_thread(thread.0, place, bytes).map_err(|error| out_of_reach(&error))
}

impl Calls {
    /// Who has sent it.
    fn true_name(&self, socket: &ProgramSocket, received: &ReceivedMessage) -> Vec<u8> {
        let from: Option<SocketAddr> = socket.reads(&received.name);
        let true_one = from.and_then(|from| self.datagrams.behind(socket.cookie, from));
        match true_one {
            Some(peer) => address::bytes(address::of_family(peer, socket.is_ipv6)),
            None => received.name.clone(),
        }
    }

    /// The same, for a call that waits.
    pub fn parts(&self) -> Self {
        Self {
            connections: self.connections.clone(),
            datagrams: self.datagrams.clone(),
            own_ports: self.own_ports.clone(),
            unix: self.unix.clone(),
            runtime: self.runtime.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_what_the_kernel_takes_for_one() {
        let time = |seconds: i64, nanoseconds: i64| span(&[seconds.to_ne_bytes(), nanoseconds.to_ne_bytes()].concat());
        assert_eq!(time(2, 5), Some(Duration::new(2, 5)));
        assert_eq!(time(i64::MAX, 999_999_999), Some(Duration::new(i64::MAX as u64, 999_999_999)));
        for (seconds, nanoseconds) in [(-1, 0), (-1, 1_000_000_000), (0, 1_000_000_000), (0, -1), (i64::MAX, i64::MAX)]
        {
            assert_eq!(time(seconds, nanoseconds), None, "{seconds} {nanoseconds}");
        }
    }
}
