//! What a socket of the program is called: its far end and its own, as they are with the lender.

use std::{net::SocketAddr, os::fd::OwnedFd};

use super::{
    address,
    calls::{Calls, number_of},
    thread::Thread,
};
use crate::{
    borrow::run::{
        listening::program_socket::{ProgramSocket, Transport},
        supervisor::{Caller, out_of_reach},
    },
    proto::Errno,
    sys,
};

/// What there is to say; `None`: as the kernel has it.
type Named = Option<Result<Vec<u8>, Errno>>;

/// getpeername (`peer`) or getsockname.
pub fn name(calls: &Calls, socket: OwnedFd, peer: bool) -> Named {
    let socket = ProgramSocket::new(socket).ok()?;
    let written = |address: SocketAddr| address::bytes(address::of_family(address, socket.is_ipv6));
    if socket.transport == Transport::Udp && peer {
        return calls.datagrams.peer(socket.cookie).map(|peer| Ok(written(peer)));
    }
    if let Some(named) = calls.connections.name(&socket, peer) {
        return Some(named.map(written));
    }
    // Of what is connected inside, the kernel knows.
    if peer || calls.datagrams.peer(socket.cookie).is_some() || socket.is_connected() {
        return None;
    }
    let (asked, bound) = (calls.own_ports.asked(socket.cookie)?, socket.bound()?);
    // The wildcard of IPv6 is no part of IPv4.
    Some(Ok(written(SocketAddr::new(asked, bound.port()))))
}

/// Writes it into the program's memory.
pub fn answer(thread: &Thread, named: Named, [place, length_place]: [u64; 2], caller: Caller) {
    match named {
        None => caller.pass(),
        Some(Err(errno)) => caller.hear(Err(errno)),
        Some(Ok(name)) => caller.hear(write(thread, &name, place, length_place)),
    }
}

/// Writes an address as the kernel does: as much as there is room for, and how long it is.
///
/// # Errors
/// What the program hears.
pub fn write(thread: &Thread, name: &[u8], place: u64, length_place: u64) -> Result<(), Errno> {
    let room = number_of(thread, length_place)? as i32;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let put =
        |place, bytes: &[u8]| sys::write_memory_of_thread(thread.0, place, bytes).map_err(|error| out_of_reach(&error));
    if let Some(fits) = name.get(..room.min(name.len())).filter(|fits| !fits.is_empty()) {
        put(place, fits)?;
    }
    put(length_place, &(name.len() as u32).to_ne_bytes())
}

/// SO_ERROR.
pub fn answer_error(thread: &Thread, error: Option<Errno>, [place, length_place]: [u64; 2], caller: Caller) {
    let Some(errno) = error else { return caller.pass() };
    let written = || {
        let room = number_of(thread, length_place)?.min(4);
        let number = u32::from(errno.0).to_ne_bytes();
        let fits = number.get(..room as usize).unwrap_or_default();
        let put = |place, bytes: &[u8]| {
            sys::write_memory_of_thread(thread.0, place, bytes).map_err(|error| out_of_reach(&error))
        };
        put(place, fits)?;
        put(length_place, &room.to_ne_bytes())
    };
    caller.hear(written());
}
