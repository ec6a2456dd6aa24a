//! Opens a UDP socket as it was granted, and reads its errors.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket as StdSocket},
    os::fd::OwnedFd,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, socket_with, sockopt};
use tokio::{io::Interest, net::UdpSocket};

use crate::{
    lend::listen::bind_granted,
    policy::{Granted, Listen},
    proto::{Errno, UdpBind},
    sys,
};

/// A port that strangers may reach, and the grant for just this one.
pub(super) fn listening(
    grant: Granted<Listen>,
    wanted: &UdpBind,
) -> io::Result<(UdpSocket, SocketAddr, Granted<Listen>)> {
    let (socket, local, grant) = bind_granted(grant, wanted.address, || open(wanted))?;
    if wanted.address.ip().is_unspecified() {
        // Who asks at one address of the machine takes no answer from another.
        sys::note_destinations(&socket, wanted.address.is_ipv6())?;
    }
    Ok((UdpSocket::from_std(socket.into())?, local, grant))
}

/// Receives a datagram, and tells at which address of the machine it came, where the socket tells.
///
/// # Errors
/// As for any socket of tokio's.
pub(super) fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr, IpAddr)> {
    let receive = || sys::receive_datagram(socket, buffer);
    socket.try_io(Interest::READABLE, receive).map(|sys::Arrived { length, from, to, .. }| (length, from, to.ip()))
}

/// Sends a datagram by a socket of this family, from this address of the machine.
///
/// # Errors
/// As for any socket of tokio's.
pub(super) fn send_from(
    socket: &UdpSocket,
    is_ipv6: bool,
    source: IpAddr,
    to: SocketAddr,
    payload: &[u8],
) -> io::Result<usize> {
    let send = || sys::send_datagram_from(socket, is_ipv6, source, to, payload);
    socket.try_io(Interest::WRITABLE, send).map(|()| payload.len())
}

/// A socket to send from, at a port of the kernel's choice.
pub(super) fn sending(wanted: &UdpBind) -> io::Result<(UdpSocket, SocketAddr)> {
    let socket = open(wanted)?;
    bind(&socket, &SocketAddr::new(wanted.address.ip(), 0))?;
    let socket = StdSocket::from(socket);
    let local = socket.local_addr()?;
    Ok((UdpSocket::from_std(socket)?, local))
}

/// The next error of a datagram, and where that was sent to.
///
/// # Errors
/// `WouldBlock` when there is no more; `InvalidData` for one that is of no datagram.
pub(super) fn next_error(socket: &UdpSocket) -> io::Result<(SocketAddr, Errno)> {
    // By tokio, so that it waits for the next one when there is no more.
    let (destination, errno) = socket.try_io(Interest::ERROR, || sys::take_datagram_error(socket))?;
    let errno = u16::try_from(errno).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok((destination, Errno(errno)))
}

fn open(wanted: &UdpBind) -> io::Result<OwnedFd> {
    let is_ipv6 = wanted.address.is_ipv6();
    let family = if is_ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
    if is_ipv6 {
        sockopt::set_ipv6_v6only(&socket, wanted.v6_only)?;
    }
    // SO_BROADCAST stays off: the kernel refuses what the policy cannot know to be the broadcast address of a network.
    sys::keep_datagram_errors(&socket, is_ipv6)?;
    sys::hear_own_groups_only(&socket, is_ipv6)?;
    Ok(socket)
}
