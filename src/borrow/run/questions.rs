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
use crate::{Borrower, sys};

/// The longest datagram, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;
/// Questions that are being answered at once; more are lost, as on any network.
const ANSWERING_MAX: usize = 1024;

/// Answers what arrives on `socket`, for ever.
///
/// # Errors
/// The socket fails.
///
/// # Cancellation
/// Questions that are on their way are given up.
pub async fn answer(
    socket: UdpSocket,
    names: Arc<Names>,
    borrower: Borrower,
    hold: Arc<Hold>,
    flows: Arc<Flows>,
) -> io::Result<()> {
    let mut answering = JoinSet::new();
    let own_port = socket.local_addr()?.port();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let receive = socket.async_io(Interest::READABLE, || sys::receive_datagram(socket.as_fd(), &mut buffer));
        let arrived = tokio::select! {
            arrived = receive => arrived,
            Some(_) = answering.join_next() => continue,
        };
        let arrived = match arrived {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => continue,
            arrived => arrived?,
        };
        let content = buffer.get(..arrived.length).unwrap_or_default();
        // A resolver of the program's own is asked by itself.
        if !names.catches(arrived.to) || hold.keeps_datagram(arrived.to) {
            pass_on(&arrived, content, own_port, &hold, &flows);
            continue;
        }
        if answering.len() >= ANSWERING_MAX {
            continue;
        }
        let query = content.to_vec();
        let (names, borrower, hold) = (names.clone(), borrower.clone(), hold.clone());
        answering.spawn(async move {
            let answer = names.answer_datagram(Some(&borrower), &query).await;
            let packet = answer.and_then(|answer| datagram::packet(arrived.to, arrived.from, &answer));
            if let Some(packet) = packet {
                hold.send_to_program(arrived.from.ip(), &packet);
            }
        });
    }
}

/// A datagram that is no question of names.
fn pass_on(arrived: &sys::Arrived, content: &[u8], own_port: u16, hold: &Hold, flows: &Arc<Flows>) {
    let (from, to) = (arrived.from, arrived.to);
    let (receiver, packet) = if to.port() == own_port || hold.is_local(to) {
        (from, datagram::undelivered(from, to, None))
    } else if !flows.has_heard(from, to) && hold.keeps_datagram(to) {
        let packet = datagram::packet(from, to, content);
        (to, packet.map(|packet| datagram::with_header(packet, arrived.hops, arrived.class)))
    } else {
        return flows.send(Outgoing { from, to, content: content.to_vec() });
    };
    if let Some(packet) = packet {
        hold.send_to_program(receiver.ip(), &packet);
    }
}
