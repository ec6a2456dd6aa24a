//! The far end of a program's connection, as the person is told of it who started the program.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

/// Whom the program is connected with.
#[derive(Clone, Copy, Debug)]
pub enum FarEnd {
    /// Where it connected to.
    To(SocketAddr),
    /// Who came to a port of it; which port he came from says nothing.
    From(IpAddr),
}

impl fmt::Display for FarEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::To(address) => {
                write!(f, "the connection to {}", SocketAddr::new(address.ip().to_canonical(), address.port()))
            }
            Self::From(ip) => write!(f, "a connection from {}", ip.to_canonical()),
        }
    }
}
