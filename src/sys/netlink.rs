//! A conversation with the kernel in netlink(7).

use std::{io, os::fd::AsFd, time::Duration};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
    netlink::SocketAddrNetlink,
    recv, send, socket_with,
    sockopt::{Timeout, set_socket_recv_buffer_size, set_socket_timeout},
};

/// Largest answer of the kernel, in bytes: it cuts a dump into pieces of this size at the most.
pub const NETLINK_ANSWER_BYTES_MAX: usize = 32 * 1024;
/// The kernel answers before `send` returns; a bound for the kernel that does not.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// What may wait to be heard, in bytes; of more the kernel says that it was lost.
const TOLD_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Opens a netlink socket of a protocol, in the network namespace of this process for as long as it lives.
///
/// # Errors
/// If the kernel does not know the protocol.
pub fn netlink_socket(protocol: u32) -> io::Result<std::os::fd::OwnedFd> {
    let protocol = std::num::NonZeroU32::new(protocol).map(Protocol::from_raw);
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_MAX))?;
    Ok(socket)
}

/// Opens a netlink socket that hears what the kernel tells these groups (a bit for each), without waiting.
///
/// # Errors
/// `EPERM` without power over the network namespace.
pub fn netlink_listener(protocol: u32, groups: u32) -> io::Result<std::os::fd::OwnedFd> {
    let protocol = std::num::NonZeroU32::new(protocol).map(Protocol::from_raw);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    // The kernel cuts it to what it allows.
    set_socket_recv_buffer_size(&socket, TOLD_BYTES_MAX)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// Sends `request`, and hands each datagram of the answer to `hear` until it says that it has heard enough.
///
/// # Errors
/// That of `hear`, or that the kernel takes or answers nothing.
pub fn netlink_exchange(
    socket: impl AsFd,
    request: &[u8],
    hear: impl FnMut(&[u8]) -> io::Result<bool>,
) -> io::Result<()> {
    netlink_exchange_in(socket, request, &mut vec![0; NETLINK_ANSWER_BYTES_MAX], hear)
}

/// As [`netlink_exchange`], for who asks often: with `room` for each datagram, [`NETLINK_ANSWER_BYTES_MAX`] at the most.
///
/// # Errors
/// As [`netlink_exchange`].
pub fn netlink_exchange_in(
    socket: impl AsFd,
    request: &[u8],
    room: &mut [u8],
    mut hear: impl FnMut(&[u8]) -> io::Result<bool>,
) -> io::Result<()> {
    send(&socket, request, SendFlags::empty())?;
    loop {
        let (length, _) = recv(&socket, &mut *room, RecvFlags::empty())?;
        if hear(room.get(..length).unwrap_or_default())? {
            return Ok(());
        }
    }
}
