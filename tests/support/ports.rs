//! Ports of this machine that a test needs closed, or to itself.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, listen, socket_with, sockopt::set_socket_reuseaddr,
};

use super::wait_until;

/// Waits until nobody listens there any more. How fast that is, the benches say.
pub fn wait_for_close(address: SocketAddr) {
    wait_until(&format!("{address} is closed"), || TcpStream::connect(address).is_err());
}

/// A port at which nobody listens, and whose number the kernel gives to nobody else. Who asks for this very number may have
/// it, as a lender may that listens there.
pub struct ClosedPort {
    socket: OwnedFd,
    pub address: SocketAddr,
}

impl ClosedPort {
    /// One of 127.0.0.1. It is bound and does not listen, so that who connects is refused.
    pub fn new() -> Self {
        let socket = bound(SocketType::STREAM, "127.0.0.1:0".parse().unwrap());
        let address = rustix::net::getsockname(&socket).unwrap().try_into().unwrap();
        Self { socket, address }
    }

    /// Opens it.
    ///
    /// # Panics
    /// If somebody listens there.
    pub fn listen(self) -> TcpListener {
        listen(&self.socket, 128).unwrap();
        self.socket.into()
    }
}

/// A listener of 127.0.0.1 with a full queue: whoever connects is neither accepted nor refused.
pub struct FullListener {
    pub address: SocketAddr,
    _held: (OwnedFd, [OwnedFd; 4]),
}

impl FullListener {
    pub fn new() -> Self {
        let listener = bound(SocketType::STREAM, "127.0.0.1:0".parse().unwrap());
        listen(&listener, 0).unwrap();
        let address: SocketAddr = rustix::net::getsockname(&listener).unwrap().try_into().unwrap();
        let filling = [(); 4].map(|()| {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
            let _ = connect(&socket, &address);
            socket
        });
        Self { address, _held: (listener, filling) }
    }
}

/// The same as [`ClosedPort`] for datagrams; nobody else has its number before it is opened.
pub struct ClosedUdpPort {
    socket: UdpSocket,
    pub address: SocketAddr,
}

impl ClosedUdpPort {
    /// One of this address of loopback. It is connected to where nobody is and hears only from there, so that the kernel
    /// answers everybody else that the port is closed.
    pub fn at(ip: &str) -> Self {
        // Without SO_REUSEADDR: of two that have it the kernel may give both the same number.
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        socket.connect((address.ip(), 1)).unwrap();
        Self { socket, address }
    }

    /// Opens it.
    pub fn open(self) -> UdpSocket {
        // Bound while the first one keeps the number, for which both have to allow it.
        set_socket_reuseaddr(&self.socket, true).unwrap();
        let open = UdpSocket::from(bound(SocketType::DGRAM, self.address));
        drop(self.socket);
        open
    }
}

/// So many ports in a row, of an address of loopback's that nobody uses who has none of these.
pub struct PortRange {
    pub first: u16,
    /// The same ports of [`Self::GUARD`]: as long as they are held, nobody has one for every address, whom the kernel gives a
    /// number or who asks for it; and nobody else has this range.
    _held: Vec<OwnedFd>,
}

impl PortRange {
    pub const IP: Ipv4Addr = Ipv4Addr::new(127, 19, 4, 1);
    const GUARD: Ipv4Addr = Ipv4Addr::new(127, 19, 4, 2);

    /// `bind` says of which kind: [`TcpListener::bind`] or [`UdpSocket::bind`].
    pub fn new<S: Into<OwnedFd>>(count: u16, bind: impl Fn(SocketAddr) -> std::io::Result<S>) -> Self {
        let hold = |port| bind((Self::GUARD, port).into()).map(Into::into);
        let mut firsts = (20_000..30_000 - count).step_by(count.into());
        let found = firsts.find_map(|first| {
            let held = (first..first + count).map(hold).collect::<Result<_, _>>().ok()?;
            Some(Self { first, _held: held })
        });
        found.expect("nobody has them all")
    }
}

/// A UDP socket of any process, by the number that it alone has: whoever gets its port next has another one. Everybody may read
/// the kernel's list of them, while what a lender has open is for root to see.
pub struct ListedUdpSocket {
    inode: String,
}

impl ListedUdpSocket {
    /// The one that is bound to this address of IPv4.
    pub fn at(address: SocketAddr) -> Self {
        let SocketAddr::V4(address) = address else { panic!("{address} is none of IPv4") };
        // The address as it lies in memory, the port as a number.
        let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
        let mut inode = None;
        // The list is read in pieces, and one may be missed in it while others end.
        wait_until(&format!("a socket is bound to {address}"), || {
            inode = Self::inode_of(1, &local);
            inode.is_some()
        });
        Self { inode: inode.unwrap() }
    }

    pub fn is_open(&self) -> bool {
        Self::inode_of(9, &self.inode).is_some()
    }

    /// That of the first one in the list with this value in this column.
    fn inode_of(column: usize, value: &str) -> Option<String> {
        let table = std::fs::read_to_string("/proc/net/udp").unwrap();
        let mut rows = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
        rows.find(|row| row[column] == value).map(|row| row[9].to_owned())
    }
}

fn bound(kind: SocketType, address: SocketAddr) -> OwnedFd {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    set_socket_reuseaddr(&socket, true).unwrap();
    bind(&socket, &address).unwrap();
    socket
}
