//! A place on loopback where a connection stays on its way until its far end is known.
//!
//! ```text
//!   program ── SYN ──▶ held: a listener whose queue is full, and stays so      the kernel drops it: connect(2) waits
//!      ▲                                                                          (EINPROGRESS, and not writable)
//!      └──── SYN ──── ours, from the held address to the program's own ──▶ both ends open at once: it is connected
//! ```
//! Two ends that connect to each other at the same time are one connection (RFC 9293 §3.5, simultaneous open), so that no privilege
//! is needed to let a `connect` take as long as the lender takes, and no timer of TCP is waited for. Who is connected to is
//! known by the addresses, which no other pair of sockets can have: the program's own socket, or nobody.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, listen, socket_with, sockopt},
};
use tokio::net::TcpStream;

use crate::sys;

/// The one connection that fills the queue is there within microseconds; a bound for a machine that is very busy.
const FILLED_MAX: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// The held address of one family.
pub struct Held {
    address: SocketAddr,
    _listener: OwnedFd,
    _filling: OwnedFd,
}

impl Held {
    /// Makes one.
    ///
    /// # Errors
    /// What the kernel says; a machine may have no IPv6.
    pub fn new(is_ipv6: bool) -> io::Result<Self> {
        let loopback =
            if is_ipv6 { (Ipv6Addr::LOCALHOST, 0).into() } else { SocketAddr::from((Ipv4Addr::LOCALHOST, 0)) };
        let listener = shared(loopback)?;
        // Room for one.
        listen(&listener, 0)?;
        let address = SocketAddr::try_from(getsockname(&listener)?)?;
        let filling = socket_with(family(is_ipv6), SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        connect(&filling, &address)?;
        // It counts from when the listener has it.
        let mut ready = [PollFd::new(&listener, PollFlags::IN)];
        if poll(&mut ready, Some(&FILLED_MAX))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(Self { address, _listener: listener, _filling: filling })
    }

    /// Where the program's socket is to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connects to the program's socket, which is connecting to the held address from `program`.
    ///
    /// # Errors
    /// `ECONNREFUSED` if it is not there any more.
    pub async fn meet(&self, program: SocketAddr) -> io::Result<TcpStream> {
        let socket = shared(self.address)?;
        sys::suit_loopback(&socket);
        match connect(&socket, &program) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let stream = TcpStream::from_std(socket.into())?;
        stream.writable().await?;
        match stream.take_error()? {
            Some(error) => Err(error),
            None => Ok(stream),
        }
    }
}

/// A socket that does not wait, at an address that more sockets of this user have.
fn shared(address: SocketAddr) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family(address.is_ipv6()), SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    bind(&socket, &address)?;
    Ok(socket)
}

fn family(is_ipv6: bool) -> AddressFamily {
    if is_ipv6 { AddressFamily::INET6 } else { AddressFamily::INET }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpSocket,
        time::timeout,
    };

    use super::*;

    #[tokio::test]
    async fn a_connection_is_on_its_way_until_it_is_met() {
        let held = Held::new(false).unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let own = socket.local_addr().unwrap();
        let mut connecting = std::pin::pin!(socket.connect(held.address()));
        assert!(timeout(Duration::from_millis(50), &mut connecting).await.is_err(), "nobody has met it");
        let (near, far) = tokio::join!(connecting, held.meet(own));
        let (mut near, mut far) = (near.unwrap(), far.unwrap());
        near.write_all(b"there").await.unwrap();
        far.write_all(b"and back").await.unwrap();
        near.shutdown().await.unwrap();
        far.shutdown().await.unwrap();
        let (mut at_near, mut at_far) = (String::new(), String::new());
        near.read_to_string(&mut at_near).await.unwrap();
        far.read_to_string(&mut at_far).await.unwrap();
        assert_eq!((at_near.as_str(), at_far.as_str()), ("and back", "there"));
        let gone = held.meet(own).await.unwrap_err();
        assert!(matches!(gone.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::AddrNotAvailable), "{gone}");
    }
}
