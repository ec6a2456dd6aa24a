//! Descriptors: passed to another process over a unix socket, and kept from a program that is about to start.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

/// Most descriptors in one message.
const PASSED_MAX: usize = 64;

/// Sends one message, and descriptors with it.
///
/// # Errors
/// If the other end is gone.
pub fn send_with_fds(socket: impl AsFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Receives one message into `buffer`, and gives its length and the descriptors that came with it, all closed at exec. No
/// bytes and no descriptors: the other end is gone.
///
/// # Errors
/// `WouldBlock` where nothing has come and the socket does not wait, `EMSGSIZE` for a message that is longer than
/// `buffer`, `EMFILE` where there is no room for all descriptors that came with it.
pub fn receive_with_fds(socket: impl AsFd, buffer: &mut [u8], wait: bool) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = if wait { RecvFlags::CMSG_CLOEXEC } else { RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT };
    let received = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    if received.flags.contains(rustix::net::ReturnFlags::TRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    if received.flags.contains(rustix::net::ReturnFlags::CTRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    Ok((received.bytes, fds))
}

/// Whether this process has a descriptor of this number.
pub fn is_open(fd: RawFd) -> bool {
    // SAFETY: fcntl(2) with F_GETFD takes a number, and fails with EBADF for a descriptor that is not open.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Keeps every descriptor above stderr from the next program, but for those in `keep`.
///
/// # Errors
/// `EBADF` if one of `keep` is not open.
pub fn close_at_exec(keep: &[RawFd]) -> io::Result<()> {
    // SAFETY: close_range(2) takes three numbers; with this flag it closes nothing now.
    let marked = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked != 0 {
        return Err(io::Error::last_os_error());
    }
    for fd in keep {
        // SAFETY: fcntl(2) with F_SETFD takes two numbers, and fails with EBADF for a descriptor that is not open.
        if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
