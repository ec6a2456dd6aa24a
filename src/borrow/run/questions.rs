//! Questions of names that a program sends in datagrams, and their answers, from the address that was asked.

use std::{io, os::fd::AsFd, sync::Arc};

use tokio::{io::Interest, net::UdpSocket, task::JoinSet};

use super::{datagram, hold::Hold, names::Names};
use crate::{Borrower, sys};

/// Longest question that is read, in bytes; one of more is answered as one that cannot be read.
const BUFFER_BYTES: usize = 1024;
/// Questions that are being answered at once; more are lost, as on any network.
const ANSWERING_MAX: usize = 1024;

/// Answers what arrives on `socket`, for ever.
///
/// # Errors
/// The socket fails.
///
/// # Cancellation
/// Questions that are on their way are given up.
pub async fn answer(socket: UdpSocket, names: Arc<Names>, borrower: Borrower, hold: Arc<Hold>) -> io::Result<()> {
    let mut answering = JoinSet::new();
    let mut buffer = [0; BUFFER_BYTES];
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
        if answering.len() >= ANSWERING_MAX {
            continue;
        }
        let query = buffer.get(..arrived.length).unwrap_or_default().to_vec();
        let (names, borrower, hold) = (names.clone(), borrower.clone(), hold.clone());
        answering.spawn(async move {
            let answer = if names.catches(arrived.to) {
                names.answer_datagram(Some(&borrower), &query).await
            } else {
                // Datagrams to others are not lent yet: the program hears so at once, and asks the next one.
                Names::refuse(&query)
            };
            let packet = answer.and_then(|answer| datagram::packet(arrived.to, arrived.from, &answer));
            if let Some(packet) = packet {
                hold.send_to_program(arrived.from.ip(), &packet);
            }
        });
    }
}
