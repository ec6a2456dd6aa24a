//! Connections that are begun and never ended, by the thousand.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpStream},
};

/// Connections of a flood, all open at the same time.
pub const HALF_OPEN: usize = 10_000;
/// Where they come from, so that no share of a single source bounds them.
pub const SOURCES: u8 = 10;

/// Lets this process hold all of them; what the test runner and its children need comes on top.
pub fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    const WANTED: u64 = HALF_OPEN as u64 + 2_000;
    let mut limits = getrlimit(Resource::Nofile);
    if limits.current.is_some_and(|current| current < WANTED) {
        limits.current = Some(WANTED);
        limits.maximum = limits.maximum.map(|most| most.max(WANTED));
        setrlimit(Resource::Nofile, limits).expect("12,000 descriptors: raise `ulimit -Hn`, or run the tests as root");
    }
}

/// One of a flood, by its number: half of them begin a handshake, and never end it.
pub fn half_open(number: usize, to: SocketAddr) -> TcpStream {
    let source = Ipv4Addr::new(127, 0, 26, 1 + (number % usize::from(SOURCES)) as u8);
    let mut socket = connect_from(source, to);
    if number.is_multiple_of(2) {
        // One that is closed already cannot be written to.
        let _ = socket.write_all(&[0x16, 0x03, 0x01]);
    }
    socket
}

/// A connection from this address of the machine that says nothing.
pub fn connect_from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
    // Not for the daemons that other tests start meanwhile, one of which has few descriptors.
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    bind(&socket, &SocketAddr::from((source, 0))).unwrap();
    connect(&socket, &to).unwrap();
    socket.into()
}
