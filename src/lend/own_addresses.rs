//! Where this lender is itself: the addresses that it tells, and those that nobody connects to through it.

use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;

use super::{LendError, Lender, Listen};
use crate::proto::LENDER_ADDRESSES_MAX;

impl Lender {
    /// The addresses for a join line.
    pub(super) fn advertised(&self) -> Result<Vec<String>, LendError> {
        let config = &self.shared.config;
        if !config.advertise.is_empty() {
            return Ok(config.advertise.clone());
        }
        let bound = match (self.addresses(), config.listen) {
            ([], Listen::Address(address)) if address.port() != 0 => vec![address],
            ([], _) => return Err(LendError::NoAddress),
            (bound, _) => bound.to_vec(),
        };
        let mut told = Vec::new();
        for bound in bound {
            let address = if bound.ip().is_unspecified() { outward().unwrap_or(bound.ip()) } else { bound.ip() };
            let address = if address.is_unspecified() { std::net::Ipv4Addr::LOCALHOST.into() } else { address };
            let address = SocketAddr::new(address, bound.port()).to_string();
            // As where one socket has all of IPv4 and one all of IPv6.
            if !told.contains(&address) {
                told.push(address);
            }
        }
        told.truncate(LENDER_ADDRESSES_MAX);
        Ok(told)
    }

    /// Of `addresses`, those where connecting to `port` would reach this lender's own listener.
    pub(super) fn own_listeners(&self, addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
        let mut own = Vec::new();
        for bound in self.addresses().iter().filter(|bound| bound.port() == port) {
            own.push(*bound);
            if bound.ip().is_unspecified() {
                // Only an address that cannot be bound at all is another machine's; no packet is sent.
                let ours = |ip: &&IpAddr| !std::net::UdpSocket::bind((**ip, 0)).is_err_and(|error| is_not_here(&error));
                own.extend(addresses.iter().filter(ours).map(|ip| SocketAddr::new(*ip, port)));
            }
        }
        own
    }
}

/// Whether the address, or its whole family, is not one of this machine.
pub(super) fn is_not_here(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

/// The address of this machine that the world sees first: what the kernel would send from. Nothing is sent.
fn outward() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // TEST-NET-1 (RFC 5737): every default route covers it and nobody is there.
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_unspecified())
}
