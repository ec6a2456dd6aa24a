//! Where a session comes from: over the network, or from a process of this machine.

use std::{fmt, net::SocketAddr};

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
