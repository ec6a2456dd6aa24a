//! Whether the other end of a TCP connection acknowledges what it is sent, from TCP_INFO (tcp(7)).

use std::{
    io,
    mem::{MaybeUninit, size_of},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

/// Times that the kernel may have asked, or have sent the same again, without an answer: the next one may come yet.
const UNANSWERED_MAX: u8 = 2;

/// Whether all that was sent has arrived, or something did within this time, or what has not was sent only now.
///
/// # Errors
/// What getsockopt(2) says: it is no socket of TCP.
pub fn is_acknowledged(socket: impl AsFd, within: Duration) -> io::Result<bool> {
    let info = tcp_info(socket)?;
    let is_recent = u128::from(info.tcpi_last_ack_recv) <= within.as_millis();
    // What was sent within a round trip is not late, however long nothing was sent before.
    let is_late = info.tcpi_unacked > 0 && info.tcpi_retransmits > UNANSWERED_MAX;
    Ok(info.tcpi_probes <= UNANSWERED_MAX && (is_recent || !is_late))
}

/// Whether all that was sent, and the end if there was one, is with the other end's kernel.
///
/// # Errors
/// What ioctl(2) says: it is no socket.
pub fn is_all_acknowledged(socket: impl AsFd) -> io::Result<bool> {
    let mut waiting: libc::c_int = 0;
    // SAFETY: the operation (SIOCOUTQ, which has this number) writes one int.
    match unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut waiting) } {
        0 => Ok(waiting == 0),
        _ => Err(io::Error::last_os_error()),
    }
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
        env,
        io::Write,
        net::{TcpListener, TcpStream},
        process::Command,
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

    fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !holds() {
            assert!(Instant::now() < end, "not within 30 s: {what}");
            thread::sleep(SOON / 10);
        }
    }

    /// Where the kernel gives a TCP socket a filter: to root of the network alone.
    const OWN_NETWORK: &str = "TEST_OF_ITS_OWN_NETWORK";

    #[test]
    fn a_peer_that_reads_nothing_acknowledges_and_one_that_is_gone_does_not() {
        if env::var_os(OWN_NETWORK).is_some() {
            return goes_without_a_word();
        }
        let mut again = Command::new("unshare");
        again.args(["--map-root-user", "--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]);
        again.arg(env::current_exe().unwrap()).args(["--exact", thread::current().name().unwrap()]);
        let output = again.env(OWN_NETWORK, "").output().unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
    }

    fn goes_without_a_word() {
        // A thread that waits long for a processor looks too late.
        let (near, _far) = (0..20).find_map(|_| just_lost()).expect("a look within 500 ms");
        wait_until("nothing arrives any more", || !is_acknowledged(&near, SOON).unwrap());
    }

    /// Both ends of a connection; one has sent something, the other is gone, and it is not late yet. None if this thread looked
    /// so late itself that it may well have been.
    fn just_lost() -> Option<(TcpStream, TcpStream)> {
        let (mut near, far) = pair();
        near.write_all(b"unread").unwrap();
        wait_until("it has arrived", || tcp_info(&near).unwrap().tcpi_unacked == 0);
        wait_until("it did so a while ago", || {
            u128::from(tcp_info(&near).unwrap().tcpi_last_ack_recv) > SOON.as_millis()
        });
        assert!(is_acknowledged(&near, SOON).unwrap(), "nothing more is on its way");
        unplug(&far);
        let sent = Instant::now();
        near.write_all(b"lost").unwrap();
        let is_good = is_acknowledged(&near, SOON).unwrap();
        if sent.elapsed() > Duration::from_millis(500) {
            return None;
        }
        assert!(is_good, "it may have arrived, and the word of it be on its way");
        Some((near, far))
    }

    #[test]
    fn a_peer_without_room_is_there() {
        let (mut near, _far) = pair();
        near.set_nonblocking(true).unwrap();
        wait_until("all that the peer has room for has arrived", || {
            while near.write(&[0; 64 * 1024]).is_ok() {}
            tcp_info(&near).unwrap().tcpi_unacked == 0
        });
        assert!(is_acknowledged(&near, Duration::from_secs(10)).unwrap());
    }
}
