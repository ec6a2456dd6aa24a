//! Socket options that the safe libraries do not offer.

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd},
};

/// setsockopt(2) with one number.
///
/// # Errors
/// What the kernel says.
pub(super) fn set_option(
    socket: impl AsFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is one int that outlives the call, and `size` is its size.
    match unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const value).cast(), size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets a socket of datagrams hear only groups that it has joined itself, and not those that the machine has joined for others
/// (ip(7), IP_MULTICAST_ALL).
///
/// # Errors
/// What the kernel says.
#[cfg(feature = "lend")]
pub fn hear_own_groups_only(socket: impl AsFd, ipv6: bool) -> io::Result<()> {
    // A socket of both families hears those of IPv4 too.
    set_option(&socket, libc::SOL_IP, libc::IP_MULTICAST_ALL, 0)?;
    if ipv6 { set_option(&socket, libc::SOL_IPV6, libc::IPV6_MULTICAST_ALL, 0) } else { Ok(()) }
}

/// Has the kernel judge what comes for this socket by a program of classic BPF (socket(7), SO_ATTACH_FILTER).
///
/// # Errors
/// What the kernel says; more instructions than it takes.
#[cfg(any(feature = "run", test))]
pub(super) fn attach_filter(socket: impl AsFd, filter: &mut [libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    let size = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let (socket, level, option) = (socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    // SAFETY: the value is one sock_fprog, whose pointer is to `length` instructions; the kernel copies both in the call.
    match unsafe { libc::setsockopt(socket, level, option, (&raw const program).cast(), size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
