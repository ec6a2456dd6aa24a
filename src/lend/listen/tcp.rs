//! Binds a TCP port that was granted; of port 0, one of those that the policy allows and no other, not even for a moment
//! in which it could be connected to: what is bound does not listen yet.

use std::{io, net::SocketAddr, os::fd::OwnedFd};

use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind as bind_socket, getsockname, ipproto, socket_with, sockopt,
};

use super::port::{Family, Port};
use crate::{
    lend::keepalive::keep_alive,
    policy::{Granted, Listen},
    proto::{Errno, TcpListen},
    trust::random,
};

/// Ports of a range that are tried for port 0: of a range with more that is so full, another try may find one.
const TRIES_MAX: usize = 1024;

/// Binds, and narrows the grant to the port.
pub(super) fn bind(grant: Granted<Listen>, wanted: &TcpListen) -> io::Result<(Port, SocketAddr, Granted<Listen>)> {
    let (socket, local, grant) = bind_granted(grant, wanted.address, || open(wanted))?;
    Ok((Port::Bound(socket, Family::Tcp), local, grant))
}

/// Binds a socket of `open` at `address`, or, where the grant is for any port, at one of those.
pub(in crate::lend) fn bind_granted(
    grant: Granted<Listen>,
    address: SocketAddr,
    open: impl Fn() -> io::Result<OwnedFd>,
) -> io::Result<(OwnedFd, SocketAddr, Granted<Listen>)> {
    let socket = open()?;
    bind_socket(&socket, &address)?;
    if !grant.request().any_port {
        return bound(socket, grant)?.ok_or_else(|| Errno::EACCES.into());
    }
    // The kernel's choice first: it keeps out of the way of ports that programs are known by.
    if let Some(bound) = bound(socket, grant.clone())? {
        return Ok(bound);
    }
    let mut last = io::Error::from(Errno::EADDRINUSE);
    for port in candidates(grant.request()) {
        let socket = open()?;
        match bind_socket(&socket, &SocketAddr::new(address.ip(), port)) {
            Ok(()) => return bound(socket, grant)?.ok_or_else(|| Errno::EACCES.into()),
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

fn open(wanted: &TcpListen) -> io::Result<OwnedFd> {
    let family = if wanted.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    if wanted.address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, wanted.v6_only)?;
    }
    sockopt::set_socket_reuseaddr(&socket, wanted.reuse_address)?;
    // What it accepts has it from here.
    keep_alive(&socket)?;
    Ok(socket)
}

/// `None`: it is not one of the ports that were granted, and is given back.
fn bound(socket: OwnedFd, grant: Granted<Listen>) -> io::Result<Option<(OwnedFd, SocketAddr, Granted<Listen>)>> {
    let local = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok(grant.at_port(local.port()).map(|grant| (socket, local, grant)))
}

/// Ports that were granted, from one that nobody can foresee onwards.
fn candidates(granted: &Listen) -> impl Iterator<Item = u16> + use<> {
    let ports: Vec<u16> = granted.ports.iter().cloned().flatten().collect();
    let start = usize::from(u16::from_ne_bytes(random::<2>())) % ports.len().max(1);
    let count = ports.len().min(TRIES_MAX);
    ports.into_iter().cycle().skip(start).take(count)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use tokio::net::TcpSocket;

    use super::*;
    use crate::{
        policy::{Facts, Policy, Principal, Transport, decide},
        proto::DeviceId,
    };

    fn grant(rule: &str, address: &str) -> (Granted<Listen>, TcpListen) {
        let policy = Policy::parse(&format!("[[allow]]\nwho = \"ana\"\nlisten = \"{rule}\""), "policy.toml").unwrap();
        let ana = Principal { user: "ana".parse().unwrap(), device: DeviceId::from_bytes([0; 8]) };
        let address: SocketAddr = address.parse().unwrap();
        let request = Listen::new(Transport::Tcp, address.ip(), address.port());
        let granted = decide(&policy, &ana, request, &Facts::default()).unwrap();
        (granted, TcpListen { address, backlog: None, v6_only: false, reuse_address: true })
    }

    fn bound() -> TcpSocket {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket
    }

    #[test]
    fn port_zero_gives_the_one_port_of_the_range_that_is_free() {
        // Bound and not listening: the kernel gives their numbers to nobody else, and who asks for one may listen there.
        let kept: Vec<TcpSocket> = (0..50).map(|_| bound()).collect();
        let mut taken: Vec<u16> = kept.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        taken.sort_unstable();
        // Two neighbours where possible; else one port that is its own range.
        let first = taken.windows(2).find(|pair| pair[1] == pair[0] + 1).map_or(taken[0], |pair| pair[0]);
        let last = if taken.contains(&(first + 1)) { first + 1 } else { first };
        let listens = |port: u16| TcpListener::bind(("127.0.0.1", port)).unwrap();
        let mut listening: Vec<_> = (first..=last).map(listens).collect();
        let (granted, wanted) = grant(&format!("127.0.0.1:{first}-{last}"), "127.0.0.1:0");
        let error = bind(granted.clone(), &wanted).map(|(_, local, _)| local).unwrap_err();
        assert_eq!(Errno::of(&error), Some(Errno::EADDRINUSE));
        drop(listening.pop());
        let (_port, local, granted) = bind(granted, &wanted).unwrap();
        assert_eq!(local.port(), last);
        assert_eq!(granted.request().ports, [last..=last]);
    }

    #[test]
    fn the_family_and_v6only_are_those_that_were_asked_for() {
        let (granted, wanted) = grant("*:1024-65535", "[::]:0");
        let (port, local, _) = bind(granted, &wanted).unwrap();
        assert!(local.is_ipv6() && local.ip().is_unspecified());
        let Port::Bound(socket, _) = &port else { panic!("it listens already") };
        assert!(!sockopt::ipv6_v6only(socket).unwrap());
        let (granted, wanted) = grant("*:1024-65535", "[::]:0");
        let (port, ..) = bind(granted, &TcpListen { v6_only: true, reuse_address: false, ..wanted }).unwrap();
        let Port::Bound(socket, _) = &port else { panic!("it listens already") };
        assert!(sockopt::ipv6_v6only(socket).unwrap() && !sockopt::socket_reuseaddr(socket).unwrap());
    }
}
