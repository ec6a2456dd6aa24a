//! A socket for every address of both families beside one of the program's own for every IPv4 address (SO_REUSEPORT; of datagrams also
//! SO_REUSEADDR). The lender's system would not give the program both: it binds the rest, and what comes by IPv4 comes by the
//! port that is there. Which of the two hears it, the program's own kernel knows.
//! The other way round, see [`wider`](super::wider).

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use super::{
    Ports, ProgramSocket,
    holders::Held,
    not_bound::NotBound,
    port::{Place, Port},
};
use crate::proto::Errno;

impl Ports {
    /// The program's port of every IPv4 address, for a socket that is to have both families.
    pub fn ipv4_half(&self, place: Place) -> Option<Arc<Port>> {
        let Place { at_lender, options, .. } = place;
        if at_lender.ip() != Ipv6Addr::UNSPECIFIED || options.v6_only {
            return None;
        }
        let half = Place { at_lender: (Ipv4Addr::UNSPECIFIED, at_lender.port()).into(), ..place };
        // One that was closed a moment ago is in nobody's way.
        self.still_there(at_lender, |holders| holders.at(half))
    }

    /// Binds `socket` beside `half`.
    pub async fn bind_beside(
        &self,
        socket: &ProgramSocket,
        address: &[u8],
        mut place: Place,
        half: Arc<Port>,
    ) -> Result<(), NotBound> {
        place.options.v6_only = true;
        let shared = self.holders().at(place);
        let port = match shared {
            Some(port) => port,
            None => match self.open(place).await {
                Ok(port) => self.opened(port),
                // All of it that there is at the lender is open.
                Err(error) if error.is_for_want_of_ipv6() => half.clone(),
                Err(error) => return Err(self.not_opened(error, place)),
            },
        };
        socket.bind(address).map_err(|error| Errno::of(&error).unwrap_or(Errno::EINVAL))?;
        self.holders().hold_both(socket.cookie, Held::Port(port), half);
        Ok(())
    }

    /// Notes a port that was opened at the lender.
    pub fn opened(&self, port: Port) -> Arc<Port> {
        let port = Arc::new(port);
        self.holders().open(&port);
        port
    }

    /// The other port by which `socket` is to listen, beside `port`.
    pub fn half_of(&self, socket: &ProgramSocket, port: &Arc<Port>) -> Option<(Arc<Port>, ProgramSocket)> {
        let half = self.holders().ipv4_half(socket.cookie).filter(|half| !Arc::ptr_eq(half, port))?;
        let again = socket.fd.try_clone().and_then(ProgramSocket::new).ok()?;
        Some((half, again))
    }
}
