//! Ports of this machine that a test needs closed, or to itself.

use std::{
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt::set_socket_reuseaddr};

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

/// The same for datagrams.
pub struct ClosedUdpPort {
    socket: UdpSocket,
    pub address: SocketAddr,
}

impl ClosedUdpPort {
    /// One of this address of loopback. It is connected to where nobody is and hears only from there, so that the kernel
    /// answers everybody else that the port is closed.
    pub fn at(ip: &str) -> Self {
        let socket = UdpSocket::from(bound(SocketType::DGRAM, SocketAddr::new(ip.parse().unwrap(), 0)));
        let address = socket.local_addr().unwrap();
        socket.connect((address.ip(), 1)).unwrap();
        Self { socket, address }
    }

    /// Opens it.
    pub fn open(self) -> UdpSocket {
        // Bound while the first one keeps the number.
        let open = UdpSocket::from(bound(SocketType::DGRAM, self.address));
        drop(self.socket);
        open
    }
}

/// So many ports in a row that are free, of those that the kernel gives to nobody by itself: the first of them. Tests that run
/// beside these begin their search elsewhere.
pub fn free_range(count: u16, is_free: impl Fn(u16) -> bool) -> u16 {
    let ranges = 10_000 / count;
    let begin = std::process::id() as usize % usize::from(ranges);
    let mut firsts = (0..ranges).cycle().skip(begin).take(ranges.into()).map(|range| 20_000 + range * count);
    firsts.find(|first| (*first..first + count).all(&is_free)).unwrap()
}

/// Whether a process has a UDP socket with this port of IPv4. Whoever gets the port next is another one.
pub fn has_udp_port(process: u32, port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    let of_port = table.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let of_port = of_port.filter(|fields| fields[1].ends_with(&format!(":{port:04X}")));
    let sockets: Vec<_> = of_port.map(|fields| format!("socket:[{}]", fields[9]).into()).collect();
    let files = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    // One that is closed while it is listed is none.
    files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok()).any(|link| sockets.contains(&link))
}

fn bound(kind: SocketType, address: SocketAddr) -> OwnedFd {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap();
    set_socket_reuseaddr(&socket, true).unwrap();
    bind(&socket, &address).unwrap();
    socket
}
