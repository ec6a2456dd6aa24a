//! Sockets that speak for other addresses than the machine's own.

use std::{
    io,
    net::{Ipv6Addr, SocketAddrV6, TcpListener, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

/// Connections that may wait to be accepted; the kernel cuts it to somaxconn.
const BACKLOG: i32 = 4096;

/// A listener for connections to any address of either family; where each was meant to go is its own address. Port 0: the
/// kernel chooses.
///
/// # Errors
/// `EPERM` without power over the network namespace.
pub fn transparent_listener() -> io::Result<TcpListener> {
    let socket = transparent(SocketType::STREAM)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// A socket for datagrams to any address of either family; each comes with where it was meant to go
/// (`IP_ORIGDSTADDR`, `IPV6_ORIGDSTADDR`), and with what its sender has set of its header.
///
/// # Errors
/// As [`transparent_listener`].
pub fn transparent_udp() -> io::Result<UdpSocket> {
    let socket = transparent(SocketType::DGRAM)?;
    set_option(&socket, libc::SOL_IP, libc::IP_RECVORIGDSTADDR, 1)?;
    set_option(&socket, libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR, 1)?;
    for (level, option) in [
        (libc::SOL_IP, libc::IP_RECVTTL),
        (libc::SOL_IP, libc::IP_RECVTOS),
        (libc::SOL_IPV6, libc::IPV6_RECVHOPLIMIT),
        (libc::SOL_IPV6, libc::IPV6_RECVTCLASS),
    ] {
        set_option(&socket, level, option, 1)?;
    }
    Ok(socket.into())
}

/// A socket that sends whole IP packets with this mark.
///
/// # Errors
/// As [`transparent_listener`].
pub fn raw_socket(ipv6: bool, mark: u32) -> io::Result<OwnedFd> {
    let family = if ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::RAW, flags, Some(rustix::net::ipproto::RAW))?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_MARK, mark as libc::c_int)?;
    Ok(socket)
}

/// A TCP socket that may connect from any address, with this mark on its packets.
///
/// # Errors
/// As [`transparent_listener`].
pub fn visitor_socket(ipv6: bool, mark: u32) -> io::Result<OwnedFd> {
    let family = if ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    match ipv6 {
        true => set_option(&socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)?,
        false => set_option(&socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1)?,
    }
    set_option(&socket, libc::SOL_SOCKET, libc::SO_MARK, mark as libc::c_int)?;
    // A connection that came from there before may linger.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    Ok(socket)
}

fn transparent(kind: SocketType) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::INET6, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_ipv6_v6only(&socket, false)?;
    set_option(&socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1)?;
    set_option(&socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)?;
    bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0))?;
    Ok(socket)
}

fn set_option(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is one int that outlives the call, and `size` is its size.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
