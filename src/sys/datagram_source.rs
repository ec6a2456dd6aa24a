//! Datagrams on a socket of every address of the machine: to which one each came, and from which one an answer goes.

use std::{
    io,
    mem::{size_of, zeroed},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
};

use super::socket_option::set_option;

/// Room for one control message with an address, aligned as the kernel reads it.
#[repr(C)]
union Control {
    bytes: [u8; 64],
    _header: libc::cmsghdr,
}

/// Lets [`receive_datagram`](super::receive_datagram) tell where each datagram was sent to.
///
/// # Errors
/// What setsockopt(2) says.
pub fn note_destinations(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
    // A socket of both families tells those of IPv4 by the option of IPv4.
    set_option(&socket, libc::SOL_IP, libc::IP_RECVORIGDSTADDR, 1)?;
    if ipv6 { set_option(&socket, libc::SOL_IPV6, libc::IPV6_RECVORIGDSTADDR, 1) } else { Ok(()) }
}

/// Sends a datagram from `source`, an address of this machine, without waiting; `ipv6` is the socket's family.
///
/// # Errors
/// `InvalidInput` where the socket's family cannot write an address, and what sendmsg(2) says.
pub fn send_datagram_from(
    socket: impl AsFd,
    ipv6: bool,
    source: IpAddr,
    to: SocketAddr,
    content: &[u8],
) -> io::Result<()> {
    let mut name = Name::of(to, ipv6).ok_or(io::ErrorKind::InvalidInput)?;
    let mut part = libc::iovec { iov_base: content.as_ptr().cast_mut().cast(), iov_len: content.len() };
    let mut control = Control { bytes: [0; 64] };
    // SAFETY: a msghdr of zeroes is a valid one: null pointers with lengths of 0.
    let mut message: libc::msghdr = unsafe { zeroed() };
    (message.msg_name, message.msg_namelen) = name.parts();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    let length = match (ipv6, source) {
        (false, IpAddr::V4(source)) => {
            // SAFETY: zeroes are a valid in_pktinfo.
            let mut info: libc::in_pktinfo = unsafe { zeroed() };
            info.ipi_spec_dst.s_addr = u32::from(source).to_be();
            put(&mut message, libc::SOL_IP, libc::IP_PKTINFO, info)
        }
        (true, source) => {
            let source = match source {
                IpAddr::V4(source) => source.to_ipv6_mapped(),
                IpAddr::V6(source) => source,
            };
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: source.octets() },
                // Where the route leads.
                ipi6_ifindex: 0,
            };
            put(&mut message, libc::SOL_IPV6, libc::IPV6_PKTINFO, info)
        }
        (false, IpAddr::V6(_)) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    message.msg_controllen = length as _;
    // SAFETY: each pointer is to a value above, with its size beside it, and outlives the call; the content is only read.
    match unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, libc::MSG_DONTWAIT) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Writes the one control message, and gives how long it is.
fn put<T: Copy>(message: &mut libc::msghdr, level: libc::c_int, kind: libc::c_int, value: T) -> usize {
    const { assert!(size_of::<T>() + 2 * size_of::<libc::cmsghdr>() <= size_of::<Control>()) };
    let bytes = size_of::<T>() as libc::c_uint;
    // SAFETY: the control buffer has room for a header and the value, as was just shown, and is aligned for a header.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(bytes) as _;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        libc::CMSG_SPACE(bytes) as usize
    }
}

/// An address as the kernel reads it.
enum Name {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl Name {
    fn of(address: SocketAddr, ipv6: bool) -> Option<Self> {
        let scope = if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 };
        let ip = match (ipv6, address.ip()) {
            (false, IpAddr::V4(ip)) => {
                // SAFETY: zeroes are a valid sockaddr_in.
                let mut name: libc::sockaddr_in = unsafe { zeroed() };
                name.sin_family = libc::AF_INET as libc::sa_family_t;
                name.sin_port = address.port().to_be();
                name.sin_addr.s_addr = u32::from(ip).to_be();
                return Some(Self::V4(name));
            }
            (false, IpAddr::V6(_)) => return None,
            (true, IpAddr::V4(ip)) => ip.to_ipv6_mapped(),
            (true, IpAddr::V6(ip)) => ip,
        };
        // SAFETY: zeroes are a valid sockaddr_in6.
        let mut name: libc::sockaddr_in6 = unsafe { zeroed() };
        name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        name.sin6_port = address.port().to_be();
        name.sin6_addr.s6_addr = ip.octets();
        name.sin6_scope_id = scope;
        Some(Self::V6(name))
    }

    fn parts(&mut self) -> (*mut libc::c_void, libc::socklen_t) {
        match self {
            Self::V4(name) => ((&raw mut *name).cast(), size_of::<libc::sockaddr_in>() as libc::socklen_t),
            Self::V6(name) => ((&raw mut *name).cast(), size_of::<libc::sockaddr_in6>() as libc::socklen_t),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::sys::receive_datagram;

    /// All of 127.0.0.0/8 is an address of every machine.
    #[test]
    fn an_answer_comes_from_the_address_that_was_asked() {
        for (bind, asked, ipv6) in
            [("0.0.0.0:0", "127.7.7.7", false), ("[::]:0", "127.7.7.7", true), ("[::]:0", "::1", true)]
        {
            let socket = UdpSocket::bind(bind).unwrap();
            note_destinations(&socket, ipv6).unwrap();
            let to = SocketAddr::new(asked.parse().unwrap(), socket.local_addr().unwrap().port());
            let client = UdpSocket::bind(if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
            client.send_to(b"question", to).unwrap();
            let mut buffer = [0; 64];
            let arrived = receive_datagram(&socket, &mut buffer).unwrap();
            let expected = (8, client.local_addr().unwrap(), to);
            assert_eq!((arrived.length, arrived.from, arrived.to), expected, "{bind}");
            send_datagram_from(&socket, ipv6, arrived.to.ip(), arrived.from, b"answer").unwrap();
            assert_eq!(client.recv_from(&mut buffer).unwrap(), (6, to), "{bind}");
        }
    }
}
