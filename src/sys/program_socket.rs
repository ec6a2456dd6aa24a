//! What is done to a socket in the place of the program that has it.

use std::{
    io,
    mem::size_of,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

use super::socket_option::set_option;

/// bind(2) with the bytes that the program gave.
///
/// # Errors
/// What the kernel would have told the program.
pub fn bind_as_given(socket: impl AsFd, address: &[u8]) -> io::Result<()> {
    let length = address.len() as libc::socklen_t;
    // SAFETY: the pointer is to `length` bytes that outlive the call; what they mean the kernel finds out by itself.
    match unsafe { libc::bind(socket.as_fd().as_raw_fd(), address.as_ptr().cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// connect(2) with the bytes that the program gave. It waits where the socket does.
///
/// # Errors
/// What the kernel would have told the program.
pub fn connect_as_given(socket: impl AsFd, address: &[u8]) -> io::Result<()> {
    let length = address.len() as libc::socklen_t;
    // SAFETY: as in `bind_as_given`.
    match unsafe { libc::connect(socket.as_fd().as_raw_fd(), address.as_ptr().cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Lets the next connect(2) send at once, whatever the program has set (TCP_FASTOPEN_CONNECT).
pub fn connect_without_delay(socket: impl AsFd) {
    // A socket without the option does not delay.
    let _ = set_option(socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 0);
}

/// getsockname(2), or getpeername(2), as bytes.
///
/// # Errors
/// What the kernel would have told the program.
pub fn name_of_socket(socket: impl AsFd, peer: bool) -> io::Result<Vec<u8>> {
    let mut name = vec![0_u8; size_of::<libc::sockaddr_storage>()];
    let mut length = name.len() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    let ask = if peer { libc::getpeername } else { libc::getsockname };
    // SAFETY: the pointer is to `length` bytes that outlive the call.
    if unsafe { ask(fd, name.as_mut_ptr().cast(), &raw mut length) } != 0 {
        return Err(io::Error::last_os_error());
    }
    name.truncate(length as usize);
    Ok(name)
}

/// A message to be sent in the place of the program.
pub struct OutgoingMessage<'a> {
    /// To whom, as the kernel reads it; empty: to whom the socket is connected.
    pub name: &'a [u8],
    /// What it holds.
    pub content: &'a [u8],
    /// Control messages, as bytes for the kernel.
    pub control: &'a [u8],
}

/// sendmsg(2), without waiting and without a signal; gives how many bytes were taken.
///
/// # Errors
/// `WouldBlock` where there is no room, and what the kernel would have told the program.
pub fn send_as_given(socket: impl AsFd, message: &OutgoingMessage<'_>, flags: i32) -> io::Result<usize> {
    let OutgoingMessage { name, content, control } = message;
    let mut part = libc::iovec { iov_base: content.as_ptr().cast_mut().cast(), iov_len: content.len() };
    // SAFETY: a msghdr of zeroes is a valid one: null pointers with lengths of 0.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    if !name.is_empty() {
        (header.msg_name, header.msg_namelen) = (name.as_ptr().cast_mut().cast(), name.len() as libc::socklen_t);
    }
    (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
    if !control.is_empty() {
        (header.msg_control, header.msg_controllen) = (control.as_ptr().cast_mut().cast(), control.len() as _);
    }
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: each pointer is to bytes with their length beside them, which outlive the call and are only read.
    let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const header, flags) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// A datagram that was received in the place of the program.
pub struct ReceivedMessage {
    /// What it holds, as much as there was room for.
    pub content: Vec<u8>,
    /// What recvmsg(2) gives: the length, or, with MSG_TRUNC asked for, the true one.
    pub length: usize,
    /// Who sent it.
    pub name: Vec<u8>,
    /// Control messages, as the kernel writes them.
    pub control: Vec<u8>,
    /// The flags of the `msghdr`.
    pub flags: i32,
}

/// recvmsg(2) on a socket of the internet's families, without waiting, into so much room.
///
/// # Errors
/// `WouldBlock` where there is nothing, and what the kernel would have told the program.
pub fn receive_as_given(
    socket: impl AsFd,
    content_bytes: usize,
    control_bytes: usize,
    flags: i32,
) -> io::Result<ReceivedMessage> {
    let (mut content, mut name) = (vec![0_u8; content_bytes], vec![0_u8; size_of::<libc::sockaddr_storage>()]);
    // Of words, so that it is aligned for a cmsghdr.
    let mut control = vec![0_u64; control_bytes.div_ceil(size_of::<u64>())];
    let mut part = libc::iovec { iov_base: content.as_mut_ptr().cast(), iov_len: content.len() };
    // SAFETY: a msghdr of zeroes is a valid one: null pointers with lengths of 0.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    (header.msg_name, header.msg_namelen) = (name.as_mut_ptr().cast(), name.len() as libc::socklen_t);
    (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
    if control_bytes > 0 {
        (header.msg_control, header.msg_controllen) = (control.as_mut_ptr().cast(), control_bytes as _);
    }
    // SAFETY: each pointer is to bytes with their length beside them, which outlive the call.
    let received = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut header, flags | libc::MSG_DONTWAIT) };
    let length = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    content.truncate(length);
    name.truncate(header.msg_namelen as usize);
    let mut control: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).collect();
    control.truncate(if control_bytes > 0 { header.msg_controllen as usize } else { 0 });
    Ok(ReceivedMessage { content, length, name, control, flags: header.msg_flags })
}

/// Gives the calling thread a working directory and a umask of its own, that no other thread of this process has.
///
/// # Errors
/// What unshare(2) says.
pub fn own_folder_and_mask() -> io::Result<()> {
    // SAFETY: the call takes a number; threads that share no working directory are sound.
    match unsafe { libc::unshare(libc::CLONE_FS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Registers a socket of the program's that will be waited on; dropped, it is no more waited on. Needs a tokio runtime.
///
/// # Errors
/// What epoll_ctl(2) says.
pub fn await_socket(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, is always the same descriptor, and is closed by nobody but the AsyncFd that owns it now.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE | Interest::WRITABLE) }?)
}

/// Which network namespace a socket belongs to: a number that no other has.
///
/// # Errors
/// `ENOPROTOOPT` where the kernel (before Linux 5.14) has none.
pub fn network_of(socket: impl AsFd) -> io::Result<u64> {
    let (mut cookie, mut size) = (0_u64, size_of::<u64>() as libc::socklen_t);
    let option = (libc::SOL_SOCKET, libc::SO_NETNS_COOKIE);
    // SAFETY: the value is 8 bytes that outlive the call, and `size` says so.
    let got = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), option.0, option.1, (&raw mut cookie).cast(), &raw mut size)
    };
    if got == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
