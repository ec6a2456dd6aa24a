//! Where a session comes from: over the network, or from a process of this machine.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use super::audit::Source;

/// The other end of a connection, as logs and lists show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Network(SocketAddr),
    /// As the kernel knows it, from when it connected. A pid of 0 is a process that this namespace does not see.
    Local {
        uid: u32,
        pid: i32,
    },
}

impl Peer {
    /// What its refusals are counted by.
    pub(super) fn source(&self) -> Source {
        match self {
            Self::Network(address) => address.ip().into(),
            Self::Local { uid, .. } => Source::Local(*uid),
        }
    }
}

/// What of an address is one source: an IPv4 address, or the /64 that one IPv6 host has for itself.
pub(super) fn network_of(peer: IpAddr) -> IpAddr {
    // A socket for both families shows IPv4 peers as ::ffff:a.b.c.d, which would all be one /64.
    match peer.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self::Network(address)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(address) => address.fmt(f),
            Self::Local { uid, pid } => write!(f, "uid {uid} pid {pid}"),
        }
    }
}
