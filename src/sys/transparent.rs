//! Sockets that speak for other addresses than the machine's own.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};

use super::socket_option::set_option;

/// Connections that may wait to be accepted; the kernel cuts it to somaxconn.
const BACKLOG: i32 = 4096;

/// Where our sockets are, of TCP and of UDP: below every port that a program binds by habit or gets from the kernel, which would find
/// it taken.
const PORT: u16 = 5;

/// Whether this network namespace has IPv6, once its loopback device is up: kernels are started without it
/// (`ipv6.disable=1`), and it is taken from devices (`disable_ipv6`).
pub fn has_ipv6() -> bool {
    UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// A listener for connections to any address of either family, or of IPv4 alone; where each was meant to go is its own address.
///
/// # Errors
/// `EPERM` without power over the network namespace.
pub fn transparent_listener(has_ipv6: bool) -> io::Result<TcpListener> {
    let socket = transparent(has_ipv6, SocketType::STREAM)?;
    // Once, instead of on each that it accepts: they have what it has.
    suit_loopback(&socket);
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// A socket for datagrams to any address of either family, or of IPv4 alone; each comes with where it was meant to go
/// (`IP_ORIGDSTADDR`, `IPV6_ORIGDSTADDR`), and with what its sender has set of its header.
///
/// # Errors
/// As [`transparent_listener`].
pub fn transparent_udp(has_ipv6: bool) -> io::Result<UdpSocket> {
    let socket = transparent(has_ipv6, SocketType::DGRAM)?;
    for option in [libc::IP_RECVORIGDSTADDR, libc::IP_RECVTTL, libc::IP_RECVTOS] {
        set_option(&socket, libc::SOL_IP, option, 1)?;
    }
    if has_ipv6 {
        for option in [libc::IPV6_RECVORIGDSTADDR, libc::IPV6_RECVHOPLIMIT, libc::IPV6_RECVTCLASS] {
            set_option(&socket, libc::SOL_IPV6, option, 1)?;
        }
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
    suit_loopback(&socket);
    Ok(socket)
}

/// What a TCP socket has whose connections never leave this machine, whatever their addresses say: a small write does not wait for the
/// acknowledgement of the one before it (TCP_NODELAY), and nothing is paced, as BBR does, since there is nothing to share the way with.
pub fn suit_loopback(socket: impl AsFd) {
    // A socket that refuses either still works, only slower. Every Linux has "reno", and lets every user have it (tcp(7)).
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    let _ = sockopt::set_tcp_congestion(&socket, "reno");
}

fn transparent(has_ipv6: bool, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if has_ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    set_option(&socket, libc::SOL_IP, libc::IP_TRANSPARENT, 1)?;
    let mut any: SocketAddr = (Ipv4Addr::UNSPECIFIED, PORT).into();
    if has_ipv6 {
        sockopt::set_ipv6_v6only(&socket, false)?;
        set_option(&socket, libc::SOL_IPV6, libc::IPV6_TRANSPARENT, 1)?;
        any.set_ip(Ipv6Addr::UNSPECIFIED.into());
    }
    // Without leave to have a low port, one that the kernel chooses does.
    bind(&socket, &any).or_else(|_| {
        any.set_port(0);
        bind(&socket, &any)
    })?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn what_a_listener_accepts_has_what_suits_loopback() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        suit_loopback(&listener);
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(accepted.nodelay().unwrap());
        assert_eq!(sockopt::tcp_congestion(&accepted).unwrap(), "reno");
    }
}
