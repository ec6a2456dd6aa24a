//! Which sockets of the program have which port.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Weak},
};

use tokio::sync::watch;

use super::{
    Transport,
    port::{Place, Port},
};
use crate::{BorrowError, borrow::TcpOptions};

/// The sockets, by the kernel's number for each, and the ports, by what makes sockets share one.
#[derive(Default)]
pub struct Holders {
    sockets: HashMap<u64, Holder>,
    ports: HashMap<Key, Open>,
}

/// Sockets share a port that have all of this: its kind, its address at the lender, whether it leaves IPv4 alone, and its number
/// inside, of which --publish may bring two to one at the lender: that is to say then that it is taken.
type Key = (Transport, SocketAddr, bool, u16);

struct Holder {
    listens: bool,
    held: Held,
    /// What it hears of IPv4 comes by this, if not by what it has itself.
    ipv4_half: Option<Arc<Port>>,
}

impl Holder {
    fn place(&self) -> Option<Place> {
        match &self.held {
            Held::Port(port) => Some(port.place()),
            Held::Refused(_) => None,
        }
    }
}

/// What a socket has.
pub enum Held {
    /// A port of the lender's, with all others that have it.
    Port(Arc<Port>),
    /// None: why, until that was told.
    Refused(Option<BorrowError>),
}

/// A port that was opened at the lender.
#[derive(Clone)]
pub struct Open {
    /// It, as long as a socket has it.
    pub port: Weak<Port>,
    /// Becomes an error when it is closed there.
    pub closed_rx: watch::Receiver<()>,
}

impl Holders {
    /// A port that is open at the lender from now on.
    pub fn open(&mut self, port: &Arc<Port>) {
        self.ports.retain(|_, open| open.closed_rx.has_changed().is_ok());
        let open = Open { port: Arc::downgrade(port), closed_rx: port.closed() };
        self.ports.insert(key(port.place()), open);
    }

    /// A socket has it.
    pub fn hold(&mut self, cookie: u64, held: Held) {
        self.sockets.insert(cookie, Holder { listens: false, held, ipv4_half: None });
    }

    /// A socket has it, and what it hears of IPv4 comes by another.
    pub fn hold_both(&mut self, cookie: u64, held: Held, ipv4_half: Arc<Port>) {
        self.sockets.insert(cookie, Holder { listens: false, held, ipv4_half: Some(ipv4_half) });
    }

    /// Whether anything is known of a socket.
    pub fn knows(&self, cookie: u64) -> bool {
        self.sockets.contains_key(&cookie)
    }

    /// The port of a socket, or why it has none; `None` if nothing is known of it.
    pub fn port(&mut self, cookie: u64) -> Option<Result<Arc<Port>, Option<BorrowError>>> {
        match &mut self.sockets.get_mut(&cookie)?.held {
            Held::Port(port) => Some(Ok(port.clone())),
            Held::Refused(why) => Some(Err(why.take())),
        }
    }

    /// The port by which more is met than what is bound there, and that as well.
    pub fn wider(&self, place: Place) -> Option<Arc<Port>> {
        let Place { at_lender, options, .. } = place;
        let every = |ip: IpAddr, v6_only| {
            let options = TcpOptions { v6_only, ..options };
            Place { at_lender: SocketAddr::new(ip, at_lender.port()), options, ..place }
        };
        let (v4, v6) = (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into());
        let (of_family, of_both) =
            (if at_lender.is_ipv4() { every(v4, false) } else { every(v6, true) }, every(v6, false));
        let is_wider = |wider: &Place| key(*wider) != key(place) && key(place) != key(of_both);
        [of_family, of_both].into_iter().filter(is_wider).find_map(|wider| self.at(wider))
    }

    /// What a socket hears of IPv4 by, if that is another port than its own.
    pub fn ipv4_half(&self, cookie: u64) -> Option<Arc<Port>> {
        self.sockets.get(&cookie)?.ipv4_half.clone()
    }

    /// The port that is bound exactly so.
    pub fn at(&self, place: Place) -> Option<Arc<Port>> {
        self.ports.get(&key(place))?.port.upgrade()
    }

    /// A socket listens: the kernel lists it from now on.
    pub fn listens(&mut self, cookie: u64) {
        if let Some(holder) = self.sockets.get_mut(&cookie) {
            holder.listens = true;
        }
    }

    /// A socket is gone; the last one of a port closes it.
    pub fn gone(&mut self, cookie: u64) {
        self.sockets.remove(&cookie);
    }

    /// The ports inside of all sockets that have one; or of those whose port at the lender has this number.
    pub fn inside_ports(&self, at_lender: Option<u16>) -> Vec<(Transport, u16)> {
        let places = self.sockets.values().filter_map(Holder::place);
        let asked = places.filter(|place| at_lender.is_none_or(|number| place.at_lender.port() == number));
        let mut ports: Vec<_> = asked.map(|place| (place.transport, place.inside.bound.port())).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// Forgets sockets of a port inside that are not there any more. Where the kernel does not list sockets of TCP that are
    /// bound and no more (`lists_bound`), one that never listened is believed to be there.
    pub fn keep_only(&mut self, inside: (Transport, u16), lists_bound: bool, is_there: impl Fn(u64) -> bool) {
        self.sockets.retain(|cookie, holder| {
            let has_it = holder.place().is_some_and(|place| (place.transport, place.inside.bound.port()) == inside);
            let is_listed = lists_bound || holder.listens || inside.0 == Transport::Udp;
            !has_it || !is_listed || is_there(*cookie)
        });
    }

    /// The program's ports with this number at the lender, those that are being closed among them.
    pub fn with_number(&self, number: u16) -> Vec<Open> {
        let all = self.ports.iter().filter(|((_, at_lender, ..), _)| at_lender.port() == number);
        all.map(|(_, open)| open.clone()).collect()
    }
}

fn key(Place { transport, at_lender, options, inside }: Place) -> Key {
    // Elsewhere than at the wildcard it means nothing.
    let leaves_ipv4 = options.v6_only && at_lender.ip().is_unspecified();
    (transport, at_lender, leaves_ipv4, inside.bound.port())
}

#[cfg(test)]
mod tests {
    use super::{super::visitors::Inside, *};
    use crate::borrow::TcpOptions;

    fn port(transport: Transport, number: u16) -> Arc<Port> {
        let address = SocketAddr::from(([0; 4], number));
        let options = TcpOptions { v6_only: false, reuse_address: false };
        Port::of_nobody(Place { transport, at_lender: address, options, inside: Inside { bound: address } })
    }

    #[test]
    fn a_socket_that_is_bound_and_no_more_is_believed_where_the_kernel_lists_none_such() {
        for lists_bound in [false, true] {
            let mut holders = Holders::default();
            let (shared, datagrams, other) =
                (port(Transport::Tcp, 80), port(Transport::Udp, 80), port(Transport::Tcp, 81));
            for (cookie, port) in [(1, &shared), (2, &shared), (3, &datagrams), (4, &other)] {
                holders.hold(cookie, Held::Port(port.clone()));
            }
            holders.hold(5, Held::Refused(None));
            holders.listens(2);
            let known = |holders: &Holders| (1..=5).filter(|cookie| holders.knows(*cookie)).collect::<Vec<_>>();
            holders.keep_only((Transport::Tcp, 80), lists_bound, |_| false);
            assert_eq!(known(&holders), if lists_bound { vec![3, 4, 5] } else { vec![1, 3, 4, 5] });
            assert_eq!(Arc::strong_count(&shared), if lists_bound { 1 } else { 2 }, "it is open as long as one has it");
            holders.keep_only((Transport::Tcp, 81), lists_bound, |cookie| cookie == 4);
            holders.keep_only((Transport::Udp, 80), lists_bound, |_| false);
            assert_eq!(known(&holders), if lists_bound { vec![4, 5] } else { vec![1, 4, 5] });
        }
    }
}
