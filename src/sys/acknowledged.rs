//! Whether the other end of a TCP connection acknowledges what it is sent, from TCP_INFO (tcp(7)).

use std::{
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

/// Questions of the kernel's, to a peer that is quiet or has no room, that may be without an answer: the next one may come yet.
const PROBES_MAX: u8 = 2;

/// Whether all that was sent has arrived, or something did within this time.
///
/// # Errors
/// What getsockopt(2) says: it is no socket of TCP.
pub fn is_acknowledged(socket: impl AsFd, within: Duration) -> io::Result<bool> {
    let info = tcp_info(socket)?;
    let is_recent = u128::from(info.tcpi_last_ack_recv) <= within.as_millis();
    Ok(info.tcpi_probes <= PROBES_MAX && (info.tcpi_unacked == 0 || is_recent))
}

fn tcp_info(socket: impl AsFd) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut size = size_of::<libc::tcp_info>() as libc::socklen_t;
    let (socket, level, option) = (socket.as_fd().as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO);
    // SAFETY: the kernel writes at most `size` bytes, which is how large the value is.
    match unsafe { libc::getsockopt(socket, level, option, info.as_mut_ptr().cast(), &raw mut size) } {
        // SAFETY: its fields are numbers, zero where an older kernel wrote nothing.
        0 => Ok(unsafe { info.assume_init() }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        net::{TcpListener, TcpStream},
        thread,
        time::Instant,
    };

    use super::*;
    use crate::sys::socket_option::attach_filter;

    const SOON: Duration = Duration::from_millis(100);

    /// The kernel drops all that comes for this socket, as if its machine were gone.
    fn unplug(socket: &TcpStream) {
        let mut drop_all = [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
        attach_filter(socket, &mut drop_all).unwrap();
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn a_peer_that_reads_nothing_acknowledges_and_one_that_is_gone_does_not() {
        let (mut near, far) = pair();
        near.write_all(b"unread").unwrap();
        thread::sleep(2 * SOON);
        assert!(is_acknowledged(&near, SOON).unwrap(), "it has arrived, and nothing more is on its way");
        unplug(&far);
        near.write_all(b"lost").unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        while is_acknowledged(&near, SOON).unwrap() {
            assert!(Instant::now() < end, "nothing arrives any more");
            thread::sleep(SOON / 10);
        }
    }

    #[test]
    fn a_peer_without_room_is_there() {
        let (mut near, _far) = pair();
        near.set_nonblocking(true).unwrap();
        while near.write(&[0; 64 * 1024]).is_ok() {}
        thread::sleep(2 * SOON);
        while near.write(&[0; 64 * 1024]).is_ok() {}
        assert!(is_acknowledged(&near, Duration::from_secs(10)).unwrap());
    }
}
