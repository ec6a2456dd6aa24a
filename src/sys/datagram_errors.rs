//! ICMP errors of a UDP socket, each with the destination that it is about (ip(7), `IP_RECVERR`).

use std::{
    io,
    mem::MaybeUninit,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd},
};

use super::socket_option::set_option;

/// Room for one control message of one extended error and its offender's address, in bytes, and aligned as they are.
#[repr(C, align(8))]
struct Control([u8; 128]);

/// Keeps the errors of a socket for [`take_datagram_error`].
///
/// # Errors
/// What setsockopt(2) says.
pub fn keep_datagram_errors(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
    // A socket of both families has those of IPv4 too.
    set_option(&socket, libc::SOL_IP, libc::IP_RECVERR, 1)?;
    if ipv6 { set_option(&socket, libc::SOL_IPV6, libc::IPV6_RECVERR, 1) } else { Ok(()) }
}

/// The next error, and where the datagram had been sent that failed.
///
/// # Errors
/// `WouldBlock` when there is no more.
pub fn take_datagram_error(socket: impl AsFd) -> io::Result<(SocketAddr, i32)> {
    let mut control = Control([0; 128]);
    let mut name = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    // SAFETY: all-zero bytes are a valid msghdr: null pointers with lengths of zero.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
    // SAFETY: `message` points to `name` and `control`, which outlive the call, with their sizes.
    if unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `message` is as the kernel left it, and `control` still lives.
    let errno = unsafe { extended_errno(&message) };
    // SAFETY: it was zeroed, and the kernel wrote at most all of it; every bit pattern is a sockaddr_storage.
    let name = unsafe { name.assume_init() };
    match (address(&name), errno) {
        (Some(destination), Some(errno)) => Ok((destination, errno)),
        // Of another kind (a timestamp, say), or without a destination: nothing of ours.
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// # Safety
/// `message` was filled by recvmsg(2), and its control buffer lives.
unsafe fn extended_errno(message: &libc::msghdr) -> Option<i32> {
    // SAFETY: the caller's promise; CMSG_FIRSTHDR and CMSG_NXTHDR stay inside of msg_controllen.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so that it is a header inside of the control buffer, which is aligned for it.
        let cmsg = unsafe { &*header };
        let kind = (cmsg.cmsg_level, cmsg.cmsg_type);
        let bytes = cmsg.cmsg_len as usize;
        let enough = bytes >= size_of::<libc::cmsghdr>() + size_of::<libc::sock_extended_err>();
        if enough && (kind == (libc::SOL_IP, libc::IP_RECVERR) || kind == (libc::SOL_IPV6, libc::IPV6_RECVERR)) {
            // SAFETY: the message has as many bytes behind its header, as was just checked.
            let error = unsafe { libc::CMSG_DATA(header).cast::<libc::sock_extended_err>().read_unaligned() };
            return i32::try_from(error.ee_errno).ok();
        }
        // SAFETY: as for the first.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}

fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let name: *const libc::sockaddr_storage = name;
    // SAFETY: a sockaddr_storage is as large as any address and aligned for each; the family says which one it is.
    unsafe {
        match i32::from((*name).ss_family) {
            libc::AF_INET => {
                let v4 = &*name.cast::<libc::sockaddr_in>();
                let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
                Some(SocketAddr::new(ip.into(), u16::from_be(v4.sin_port)))
            }
            libc::AF_INET6 => {
                let v6 = &*name.cast::<libc::sockaddr_in6>();
                let ip = IpAddr::from(Ipv6Addr::from(v6.sin6_addr.s6_addr)).to_canonical();
                Some(SocketAddr::new(ip, u16::from_be(v6.sin6_port)))
            }
            _ => None,
        }
    }
}
