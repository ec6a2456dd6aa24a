//! A UDP port of this machine with many clients, each answered from the address that it sent to.

use std::{
    cell::RefCell,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
};

use tokio::{io::Interest, net::UdpSocket};

use super::BorrowError;
use crate::sys;

/// Datagrams that are taken before others have their turn.
const RECEIVED_AT_ONCE: usize = 64;
/// The longest datagram, in bytes.
const RECEIVE_BYTES: usize = 64 * 1024;

/// Who sends, and to which address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Client {
    from: SocketAddr,
    to: IpAddr,
}

/// A bound port. Dropping it closes it.
pub(super) struct UdpPort {
    socket: UdpSocket,
    local: SocketAddr,
}

impl UdpPort {
    /// Binds; port 0 picks one.
    pub(super) async fn bind(address: SocketAddr) -> Result<Self, BorrowError> {
        let bind = async {
            let socket = UdpSocket::bind(address).await?;
            sys::note_destinations(&socket, address.is_ipv6())?;
            let local = socket.local_addr()?;
            Ok(Self { socket, local })
        };
        bind.await.map_err(|error| BorrowError::local(format!("cannot listen on {address}/udp"), error))
    }

    /// Its address, with the port that was picked.
    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Waits until something has come.
    ///
    /// # Errors
    /// What poll(2) says.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Hands out what has come, a number at a time.
    pub(super) fn receive(&self, mut take: impl FnMut(Client, &[u8])) {
        thread_local! {
            // One for all ports of a thread: nothing of it is kept.
            static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; RECEIVE_BYTES].into());
        }
        BUFFER.with_borrow_mut(|buffer| {
            for _ in 0..RECEIVED_AT_ONCE {
                let receive = || sys::receive_datagram(self.socket.as_fd(), buffer);
                match self.socket.try_io(Interest::READABLE, receive) {
                    Ok(sys::Arrived { length, from, to, .. }) => {
                        take(Client { from, to: to.ip() }, buffer.get(..length).unwrap_or_default());
                    }
                    // No more, or an error that is that of a datagram and gone with it.
                    Err(_) => break,
                }
            }
        });
    }

    /// Answers a client, or loses the answer where the system has no room for it.
    pub(super) fn answer(&self, client: Client, content: &[u8]) {
        let source = if self.local.ip().is_unspecified() { client.to } else { self.local.ip() };
        let send = || sys::send_datagram_from(self.socket.as_fd(), self.local.is_ipv6(), source, client.from, content);
        if let Err(error) = self.socket.try_io(Interest::WRITABLE, send) {
            tracing::trace!(%error, "an answer was not delivered");
        }
    }
}
