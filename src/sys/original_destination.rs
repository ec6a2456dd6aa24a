//! Datagrams that were meant for somebody else, with whom they were meant for.

use std::{
    io,
    mem::{MaybeUninit, size_of},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    os::fd::{AsFd, AsRawFd},
};

/// A datagram that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// Its length, in bytes; what did not fit into the buffer is lost.
    pub length: usize,
    /// Who sent it; a link-local address has its link.
    pub from: SocketAddr,
    /// Where it was sent to.
    pub to: SocketAddr,
    /// How many machines it may pass, where the socket tells (`IP_RECVTTL`, `IPV6_RECVHOPLIMIT`).
    pub hops: Option<u8>,
    /// Its type of service or traffic class, where the socket tells (`IP_RECVTOS`, `IPV6_RECVTCLASS`).
    pub class: Option<u8>,
}

/// Room for one address and its header, aligned as the kernel writes them.
#[repr(C)]
union Control {
    bytes: [u8; 128],
    _header: libc::cmsghdr,
}

/// Receives a datagram on a socket of either family with `IP_RECVORIGDSTADDR` and `IPV6_RECVORIGDSTADDR`, without waiting.
///
/// # Errors
/// `WouldBlock` where there is none, and what recvmsg(2) says.
pub fn receive_datagram(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Arrived> {
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = Control { bytes: [0; 128] };
    // SAFETY: a msghdr of zeroes is a valid one: null pointers with lengths of 0.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: each pointer is to a value above, with its size beside it, and outlives the call.
    let length = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "a datagram without its addresses");
    // SAFETY: all of it was zeroes before the kernel wrote an address to it, and any bytes are a valid array.
    let name: [u8; size_of::<libc::sockaddr_storage>()] = unsafe { std::mem::transmute(name) };
    let from = socket_address(&name).map(|from| with_link(from, &name)).ok_or_else(broken)?;
    let (mut to, mut hops, mut class) = (None, None, None);
    // SAFETY: the header is what recvmsg filled in; its control buffer is aligned for a cmsghdr and still there.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: not null, so it is a whole cmsghdr inside of the control buffer.
        let kind = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        let bytes = match kind {
            (libc::SOL_IP, libc::IP_ORIGDSTADDR) => size_of::<libc::sockaddr_in>(),
            (libc::SOL_IPV6, libc::IPV6_ORIGDSTADDR) => size_of::<libc::sockaddr_in6>(),
            (libc::SOL_IP, libc::IP_TTL) | (libc::SOL_IPV6, libc::IPV6_HOPLIMIT | libc::IPV6_TCLASS) => {
                size_of::<libc::c_int>()
            }
            (libc::SOL_IP, libc::IP_TOS) => size_of::<u8>(),
            _ => 0,
        };
        // SAFETY: the kernel writes a whole value of this type behind a header of this kind.
        let value = unsafe { std::slice::from_raw_parts(libc::CMSG_DATA(header), bytes) };
        // An int that holds a byte.
        let byte = || value.first_chunk().and_then(|int| u8::try_from(libc::c_int::from_ne_bytes(*int)).ok());
        match kind {
            (libc::SOL_IP, libc::IP_TTL) | (libc::SOL_IPV6, libc::IPV6_HOPLIMIT) => hops = byte(),
            (libc::SOL_IPV6, libc::IPV6_TCLASS) => class = byte(),
            (libc::SOL_IP, libc::IP_TOS) => class = value.first().copied(),
            _ if bytes > 0 => to = socket_address(value),
            _ => {}
        }
        // SAFETY: as for the first one.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Ok(Arrived { length, from, to: to.ok_or_else(broken)?, hops, class })
}

/// A `sockaddr_in` or `sockaddr_in6`, with a v4-mapped address as what it is: family in the byte order of the machine, port,
/// then four bytes of address, or four that say nothing here and sixteen.
fn socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let family = libc::c_int::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let address: IpAddr = match family {
        libc::AF_INET => Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(4..8)?).ok()?).into(),
        libc::AF_INET6 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(8..24)?).ok()?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

/// Without its link a link-local address cannot be answered.
fn with_link(address: SocketAddr, bytes: &[u8]) -> SocketAddr {
    match (address, bytes.get(24..28).and_then(|scope| scope.try_into().ok())) {
        (SocketAddr::V6(v6), Some(scope)) if v6.ip().is_unicast_link_local() => {
            SocketAddrV6::new(*v6.ip(), v6.port(), 0, u32::from_ne_bytes(scope)).into()
        }
        _ => address,
    }
}
