//! What a program sends in datagrams: questions of names are answered from the address that was asked, what is for a socket
//! of its own stays inside, and the rest goes to the lender.

use std::{io, os::fd::AsFd, sync::Arc};

use tokio::{io::Interest, net::UdpSocket, task::JoinSet};

use super::{
    datagram,
    flows::{Flows, Outgoing},
    hold::Hold,
    names::Names,
};
use crate::{
    Borrower,
    sys::{self, Arrived},
};

/// The longest datagram, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;
/// Questions that are being answered at once; more are lost, as on any network.
const ANSWERING_MAX: usize = 1024;

/// What becomes of a program's datagrams. Dropping it gives up the questions that are on their way.
pub struct Questions {
    names: Arc<Names>,
    borrower: Borrower,
    hold: Arc<Hold>,
    flows: Arc<Flows>,
    answering: JoinSet<()>,
    /// A port of ours, where nobody is to be met.
    own_port: Option<u16>,
}

impl Questions {
    /// Asks `borrower` what `names` catches; the program's own sockets are those that `hold` knows.
    pub fn new(names: Arc<Names>, borrower: Borrower, hold: Arc<Hold>, flows: Arc<Flows>) -> Self {
        Self { names, borrower, hold, flows, answering: JoinSet::new(), own_port: None }
    }

    /// Takes what arrives on `socket`, for ever.
    ///
    /// # Errors
    /// The socket fails.
    pub async fn serve(mut self, socket: UdpSocket) -> io::Result<()> {
        self.own_port = Some(socket.local_addr()?.port());
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let receive = socket.async_io(Interest::READABLE, || sys::receive_datagram(socket.as_fd(), &mut buffer));
            let arrived = match receive.await {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
                arrived => arrived?,
            };
            self.take(&arrived, buffer.get(..arrived.length).unwrap_or_default());
        }
    }

    /// Takes one datagram.
    pub fn take(&mut self, arrived: &Arrived, content: &[u8]) {
        while self.answering.try_join_next().is_some() {}
        // A resolver of the program's own is asked by itself.
        if !self.names.catches(arrived.to) || self.hold.keeps_datagram(arrived.to) {
            return self.pass_on(arrived, content);
        }
        if self.answering.len() >= ANSWERING_MAX {
            return;
        }
        let (query, from, to) = (content.to_vec(), arrived.from, arrived.to);
        let (names, borrower, hold) = (self.names.clone(), self.borrower.clone(), self.hold.clone());
        self.answering.spawn(async move {
            let answer = names.answer_datagram(Some(&borrower), &query).await;
            if let Some(packet) = answer.and_then(|answer| datagram::packet(to, from, &answer)) {
                hold.send_to_program(from.ip(), &packet);
            }
        });
    }

    /// A datagram that is no question of names.
    fn pass_on(&self, arrived: &Arrived, content: &[u8]) {
        let (from, to) = (arrived.from, arrived.to);
        let (receiver, packet) = if Some(to.port()) == self.own_port || self.hold.is_local(to) {
            (from, datagram::undelivered(from, to, None))
        } else if !self.flows.has_heard(from, to) && self.hold.keeps_datagram(to) {
            let packet = datagram::packet(from, to, content);
            (to, packet.map(|packet| datagram::with_header(packet, arrived.hops, arrived.class)))
        } else {
            return self.flows.send(Outgoing { from, to, content: content.to_vec() });
        };
        if let Some(packet) = packet {
            self.hold.send_to_program(receiver.ip(), &packet);
        }
    }
}
