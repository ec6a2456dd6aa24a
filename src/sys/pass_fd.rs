//! Descriptors that are passed to another process over a Unix socket (SCM_RIGHTS).

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Most descriptors in one message.
const PASSED_MAX: usize = 64;

/// Sends bytes, and with the first of them the descriptors; gives how many bytes have left: all of them where the socket keeps
/// messages apart.
///
/// # Errors
/// If the other end is gone.
pub fn send_with_fds(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Receives bytes of a stream into `buffer`, and the descriptors that came with them, which close at exec; those that this
/// process has no room for are missing. Gives how many bytes have come: none, and the other end is gone.
///
/// # Errors
/// `WouldBlock` where nothing has come and the socket does not wait.
#[cfg(feature = "lend")]
pub fn receive_with_fds(socket: impl AsFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    receive(socket, buffer, fds, RecvFlags::empty()).map(|(bytes, _)| bytes)
}

/// Receives one message into `buffer`, and gives its length and the descriptors that came with it, all closed at exec. No
/// bytes and no descriptors: the other end is gone.
///
/// # Errors
/// `WouldBlock` where nothing has come and the socket does not wait, `EMSGSIZE` for a message that is longer than
/// `buffer`, `EMFILE` where there is no room for all descriptors that came with it.
#[cfg(feature = "run")]
pub fn receive_message(socket: impl AsFd, buffer: &mut [u8], wait: bool) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut fds = Vec::new();
    let (bytes, flags) =
        receive(socket, buffer, &mut fds, if wait { RecvFlags::empty() } else { RecvFlags::DONTWAIT })?;
    if flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    if flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok((bytes, fds))
}

fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
    flags: RecvFlags,
) -> io::Result<(usize, ReturnFlags)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PASSED_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags | RecvFlags::CMSG_CLOEXEC)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    Ok((received.bytes, received.flags))
}

#[cfg(all(test, feature = "lend"))]
mod tests {
    use std::{
        io::{Read, Write},
        os::unix::net::UnixStream,
    };

    use super::*;

    #[test]
    fn a_descriptor_arrives_with_its_bytes() {
        let (near, far) = UnixStream::pair().unwrap();
        let (mut kept, given) = UnixStream::pair().unwrap();
        assert_eq!(send_with_fds(&near, b"x", &[given.as_fd()]).unwrap(), 1);
        drop(given);
        let (mut byte, mut came) = ([0; 1], Vec::new());
        assert_eq!((receive_with_fds(&far, &mut byte, &mut came).unwrap(), byte), (1, *b"x"));
        UnixStream::from(came.remove(0)).write_all(b"through").unwrap();
        let mut text = String::new();
        kept.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
        drop(near);
        assert_eq!(receive_with_fds(&far, &mut byte, &mut came).unwrap(), 0, "the end");
    }
}
