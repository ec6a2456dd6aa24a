//! What a program sends in datagrams: questions of names are answered from the address that was asked, what is for a socket
//! of its own stays inside, what `--local` keeps goes to this machine, and the rest to the lender.

use std::{io, os::fd::AsFd, sync::Arc};

use tokio::{io::Interest, net::UdpSocket, task::JoinSet};

use super::{
    datagram,
    flows::{Flows, Outgoing},
    hold::Hold,
    local_flows::LocalFlows,
    names::Names,
    read_out::ReadOutCalls,
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
    /// Of what stays on this machine.
    local: LocalFlows,
    answering: JoinSet<()>,
    /// A port of ours, which is nobody's to the program.
    own_port: Option<u16>,
}

impl Questions {
    /// Asks `borrower` what `names` catches; the program's own sockets are those that `hold` knows.
    pub fn new(names: Arc<Names>, borrower: Borrower, hold: Arc<Hold>, flows: Arc<Flows>) -> Self {
        let local = LocalFlows::new(hold.clone());
        Self { names, borrower, hold, flows, local, answering: JoinSet::new(), own_port: None }
    }

    /// Takes what arrives on `socket`, for ever, and all that is there when it is called to.
    ///
    /// # Errors
    /// The socket fails.
    pub async fn serve(mut self, socket: UdpSocket, mut calls: ReadOutCalls) -> io::Result<()> {
        self.own_port = Some(socket.local_addr()?.port());
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let receive = socket.async_io(Interest::READABLE, || sys::receive_datagram(socket.as_fd(), &mut buffer));
            tokio::select! {
                arrived = receive => self.take_arrived(arrived, &buffer)?,
                all_read = calls.next() => {
                    // The kernel is asked itself: what the runtime has heard of is not all that is there.
                    loop {
                        match sys::receive_datagram(socket.as_fd(), &mut buffer) {
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                            arrived => self.take_arrived(arrived, &buffer)?,
                        }
                    }
                    drop(all_read);
                }
            }
        }
    }

    fn take_arrived(&mut self, arrived: io::Result<Arrived>, buffer: &[u8]) -> io::Result<()> {
        match arrived {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
            arrived => {
                let arrived = arrived?;
                self.take(&arrived, buffer.get(..arrived.length).unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Takes one datagram.
    pub fn take(&mut self, arrived: &Arrived, content: &[u8]) {
        while self.answering.try_join_next().is_some() {}
        // A resolver of the program's own is asked by itself, as is one of this machine's that was named.
        let is_question = self.names.catches(arrived.to) && !self.hold.names_local_port(arrived.to);
        if !is_question || self.hold.keeps_datagram(arrived.from, arrived.to) {
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
    fn pass_on(&mut self, arrived: &Arrived, content: &[u8]) {
        let (from, to) = (arrived.from, arrived.to);
        let is_own = Some(to.port()) == self.own_port;
        if !is_own && !self.flows.has_heard(from, to) && self.hold.keeps_datagram(from, to) {
            if let Some(packet) = datagram::packet(from, to, content) {
                self.hold.send_to_program(to.ip(), &datagram::with_header(packet, arrived.hops, arrived.class));
            }
        } else if self.hold.is_local(to) {
            self.local.send(from, to, content);
        } else {
            self.flows.send(Outgoing { from, to, content: content.to_vec() });
        }
    }
}
