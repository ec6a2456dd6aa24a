//! A socket beside another of the program's own that is bound to more (SO_REUSEPORT; of datagrams also SO_REUSEADDR): to every address
//! where it is to have one, or to both families where it is to have one of them, as haproxy has `bind :80` and `bind :::80`. The
//! lender's system would not give the program both. What comes for either comes by the port that is there, and which of them hears it,
//! or whether the two may be, the program's own kernel knows.
//!
//! The port stays as wide as it is until the last of them is gone: a visitor whom only the wider socket would have heard is then let in at
//! the lender, and reset.

use std::{net::SocketAddr, sync::Arc};

use super::{
    Ports,
    holders::Holders,
    port::{Place, Port},
};

impl Ports {
    /// The port of the program's own by which a socket would be met that is bound there.
    pub fn shared(&self, place: Place) -> Option<Arc<Port>> {
        if let Some(same) = self.holders().at(place) {
            return Some(same);
        }
        let at_lender = place.at_lender;
        // Elsewhere the lender is to say that it has no such address.
        if !at_lender.ip().is_unspecified() && !self.surroundings.flows.is_own(at_lender.ip()) {
            return None;
        }
        // One that was closed a moment ago would leave the port wider than the program has it.
        self.still_there(at_lender, |holders| holders.wider(place))
    }

    /// The port of the program's own that `find` finds, with a number at the lender, if it has not been closed meanwhile.
    pub fn still_there(
        &self,
        at_lender: SocketAddr,
        find: impl Fn(&Holders) -> Option<Arc<Port>>,
    ) -> Option<Arc<Port>> {
        if find(&self.holders()).is_some() {
            self.settle(Some(at_lender.port()));
        }
        find(&self.holders())
    }
}
