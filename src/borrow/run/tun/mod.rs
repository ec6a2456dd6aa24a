//! A borrowed network where the kernel has no nf_tables with transparent proxying: everything that a program sends leaves by
//! a TUN device, whose other end we are, and comes in again by loopback.
//!
//! ```text
//!   program ── packet ──▶ TUN device ══▶ outbound: what is it? ─┬─ SYN ──────▶ hold: the lender dials
//!      ▲                                                        ├─ datagram ─▶ questions, flows
//!      │                                                        └─ the rest ─▶ translations: of a connection with us?
//!      └──── loopback ◀── raw socket, marked ◀── as it is, or with other ports ◀───────────────────────────┘
//! ```
//! Routes and rules ([`routes`]) decide instead of a packet filter: unmarked packets find the TUN device, marked ones, which only
//! we can send, the addresses of loopback. The kernel still does all of TCP, at both ends: the program's connection is with our
//! listener, which has the target's address, but another port, so that the ports of each packet between them are
//! written anew ([`translations`]). What the program sends to itself, and to visitors, comes in again as it is.
//!
//! # What is other than with nf_tables
//! Each packet crosses this process, which costs speed; nothing else gets weaker, since no way out is there either. `::1` is
//! the program's alone: the kernel takes no packet to it from any other device, so that what listens there at the lender is
//! not met, `--local` cannot keep it, and who sends a datagram from there to a server of the program hears no answer. The longest datagram over IPv6 has 65,487 bytes: longer ones leave in pieces, and are lost.

mod outbound;
mod routes;
mod translations;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
    sync::Arc,
    time::Instant,
};

use tokio::io::unix::AsyncFd;

#[cfg(not(fuzzing))]
use self::outbound::Outbound;
#[cfg(fuzzing)]
pub use self::outbound::{Outbound, Segment, read};
pub use self::{
    routes::{DEVICE, PACKET_BYTES_MAX, WAITING_MAX, divert, prepare},
    translations::Translations,
};
use super::{hold::Hold, questions::Questions, read_out::ReadOutCalls, way_in::Translator};
use crate::{
    proto::Machine,
    sys::{self, Arrived},
};

/// What serves a TUN device.
pub struct Tun {
    /// Takes SYNs, and sends to sockets of the network.
    pub hold: Arc<Hold>,
    /// Takes datagrams.
    pub questions: Questions,
    /// Knows the connections with our listener.
    pub translator: Arc<Translator>,
}

impl Tun {
    /// Serves the device, for ever, and all that is there when it is called to.
    ///
    /// # Errors
    /// It fails.
    pub async fn serve(mut self, device: OwnedFd, mut calls: ReadOutCalls) -> io::Result<()> {
        let device = sys::await_readable(device)?;
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        loop {
            tokio::select! {
                length = receive(&device, &mut buffer) => {
                    let length = length?;
                    self.take(buffer.get_mut(..length).unwrap_or_default());
                }
                all_read = calls.next() => {
                    // What has come is read before what comes meanwhile; the kernel is asked itself, since what the runtime has heard
                    // of is not all that is there.
                    for _ in 0..WAITING_MAX {
                        match rustix::io::read(device.get_ref(), &mut buffer) {
                            Ok(length) => self.take(buffer.get_mut(..length).unwrap_or_default()),
                            Err(rustix::io::Errno::AGAIN) => break,
                            Err(error) => return Err(error.into()),
                        }
                    }
                    drop(all_read);
                }
            }
        }
    }

    fn take(&mut self, packet: &mut [u8]) {
        match outbound::read(packet) {
            Outbound::Syn(syn) => self.hold.take(syn),
            Outbound::Segment(segment) => {
                let now = Instant::now();
                let ports = self.translator.table().translate(segment.from, segment.to, segment.flags, now);
                if let Some((source, destination)) = ports {
                    segment.set_ports(packet, source, destination);
                }
                self.hold.send_to_program(segment.to.ip(), packet);
            }
            Outbound::Datagram { from, to, content, hops, class } => {
                let arrived = Arrived { length: content.len(), from, to, hops: Some(hops), class: Some(class) };
                self.questions.take(&arrived, content);
            }
            Outbound::Other(to) => self.hold.send_to_program(to, packet),
            Outbound::Lost => {}
        }
    }
}

/// The machine as it can be made here: its resolver at `::1`, where no question is seen, is asked at another address.
pub fn within_reach(mut machine: Machine) -> Machine {
    for resolver in &mut machine.resolvers {
        if is_out_of_reach(*resolver) {
            *resolver = Ipv4Addr::LOCALHOST.into();
        }
    }
    machine
}

/// Whether nothing that is sent to `address` comes to us.
pub fn is_out_of_reach(address: IpAddr) -> bool {
    address == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

async fn receive(device: &AsyncFd<OwnedFd>, packet: &mut [u8]) -> io::Result<usize> {
    sys::read_when_ready(device, |device| Ok(rustix::io::read(device, &mut *packet)?)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_that_no_question_reaches_is_asked_where_one_does() {
        let resolvers = ["::1", "10.0.0.2", "fd00::53"].map(|text| text.parse().unwrap()).to_vec();
        let machine = within_reach(Machine { resolvers, ..Machine::default() });
        assert_eq!(
            machine.resolvers,
            ["127.0.0.1", "10.0.0.2", "fd00::53"].map(|text| text.parse::<IpAddr>().unwrap())
        );
    }
}
