//! A UDP socket of the lender: datagrams in and out here, the socket there.

use std::{
    io,
    net::SocketAddr,
    sync::{PoisonError, RwLock},
};

use tokio::sync::Mutex;

use super::{BorrowError, Borrower, answer};
use crate::{
    proto::{DATAGRAM_BYTES_MAX, Errno, ErrorKind, Listening, Refusal, Request, UdpBind, UdpBody, UdpMessage},
    session::{DatagramQueue, DatagramReader, QUEUE_BYTES, Stream},
};

impl Borrower {
    /// Opens a UDP socket at the lender. At port 0 it gets a port of the lender's choice, and hears only from where it has
    /// sent to; at any other, strangers may reach it, which the policy has to allow by `listen`.
    ///
    #[cfg_attr(feature = "lend", doc = "```")]
    #[cfg_attr(not(feature = "lend"), doc = "```text")]
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc_lab.rs"));
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// # let (profiles, _web, _folder) = lab().await?;
    /// # let lab = capuchin::Borrower::connect_with(&profiles, "lab").await?;
    /// # let there = std::net::UdpSocket::bind("127.0.0.1:0")?;
    /// # let server = there.local_addr()?;
    /// # std::thread::spawn(move || {
    /// #     let mut question = [0; 64];
    /// #     let (length, asker) = there.recv_from(&mut question)?;
    /// #     there.send_to(&question[..length], asker)
    /// # });
    ///
    /// let socket = lab.udp_bind("0.0.0.0:0").await?;
    /// socket.send_to(b"good day", server).await?;
    /// let mut answer = [0; 64];
    /// let (length, from) = socket.recv_from(&mut answer).await?;
    /// assert_eq!((&answer[..length], from), (&b"good day"[..], server));
    /// # Ok(())
    /// # })
    /// # }
    /// ```
    ///
    /// # Errors
    /// `address` is none; the policy refuses the port, or every destination there is ([`BorrowError::Refused`]); the
    /// lender's system refuses it ([`BorrowError::Listen`], with its EADDRINUSE, EACCES or EADDRNOTAVAIL).
    ///
    /// # Cancellation
    /// Dropping the future closes the socket.
    pub async fn udp_bind(&self, address: impl AsRef<str>) -> Result<UdpSocket, BorrowError> {
        let address = parse(address.as_ref())?;
        self.udp_bind_on(UdpBind { address, listen: address.port() > 0, v6_only: false }).await
    }

    /// As [`Self::udp_bind`], and strangers may reach it also at port 0, which then is one that the policy allows.
    ///
    /// # Errors
    /// As [`Self::udp_bind`].
    ///
    /// # Cancellation
    /// As [`Self::udp_bind`].
    pub async fn udp_listen(&self, address: impl AsRef<str>) -> Result<UdpSocket, BorrowError> {
        let address = parse(address.as_ref())?;
        self.udp_bind_on(UdpBind { address, listen: true, v6_only: false }).await
    }

    async fn udp_bind_on(&self, wanted: UdpBind) -> Result<UdpSocket, BorrowError> {
        let stream = self.open(&Request::UdpBind(wanted))?;
        let local = answer(self, &stream, wanted).await?;
        Ok(UdpSocket {
            borrower: self.clone(),
            stream,
            local,
            connected: RwLock::default(),
            incoming: Mutex::default(),
            outgoing: Mutex::default(),
        })
    }
}

/// The lender's answer to `wanted` on `stream`: the socket's address there.
///
/// # Cancellation
/// Dropping the future before the answer closes the socket.
pub(super) async fn answer(borrower: &Borrower, stream: &Stream, wanted: UdpBind) -> Result<SocketAddr, BorrowError> {
    let granted = answer::granted(stream, borrower.host(), &wanted.address.to_string()).await;
    granted.map(|Listening { local }| local.0).map_err(BorrowError::of_listener)
}

fn parse(text: &str) -> Result<SocketAddr, BorrowError> {
    let wrong = |_| BorrowError::usage(format!("{text:?} is not ADDRESS:PORT, as in 0.0.0.0:0"));
    text.parse().map_err(wrong)
}

/// A UDP socket that the lender has opened for us.
///
/// As on any UDP socket datagrams may be lost: one that a full link has no room for is dropped and not queued. What was sent
/// and could not be delivered is an error of a later [`recv_from`](Self::recv_from), with the destination that failed:
/// [`BorrowError::Dial`] has the error number (ECONNREFUSED where nobody listens), [`BorrowError::Refused`] is the policy's
/// no to a destination. The socket stays good.
///
/// # Cancellation
/// Dropping it closes the socket at the lender.
pub struct UdpSocket {
    borrower: Borrower,
    stream: Stream,
    local: SocketAddr,
    connected: RwLock<Option<SocketAddr>>,
    incoming: Mutex<DatagramReader>,
    outgoing: Mutex<DatagramQueue>,
}

impl UdpSocket {
    /// The lender's address, with its port.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Where it is connected to.
    ///
    /// # Errors
    /// It is not: `NotConnected`.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        let connected = *self.connected.read().unwrap_or_else(PoisonError::into_inner);
        connected.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// From here on [`Self::send`] sends to `peer`, and nothing else is received. Nothing is sent by this.
    pub fn connect(&self, peer: SocketAddr) {
        *self.connected.write().unwrap_or_else(PoisonError::into_inner) = Some(peer);
    }

    /// Sends a datagram, and gives its length. It waits while the stream has no room, as a socket does whose buffer is full.
    ///
    /// # Errors
    /// It is longer than UDP takes (EMSGSIZE); the session is over. What the lender or the policy says comes later.
    ///
    /// # Cancellation
    /// The datagram is sent whole or not at all, a part of it with the next one.
    pub async fn send_to(&self, payload: &[u8], peer: SocketAddr) -> Result<usize, BorrowError> {
        if payload.len() > DATAGRAM_BYTES_MAX {
            let refusal = Refusal::new(ErrorKind::Target, "a datagram has at most 65,507 bytes")
                .with_errno(Some(Errno::EMSGSIZE));
            return Err(BorrowError::refused(self.borrower.host(), &peer.to_string(), &refusal));
        }
        let message = UdpMessage::datagram(as_told(peer), payload);
        let mut queue = self.outgoing.lock().await;
        loop {
            queue.drain(&self.stream).await.map_err(|error| self.failed(error))?;
            if queue.push(&self.stream, &message) {
                break;
            }
            self.stream.queued_down_to(QUEUE_BYTES - message.wire_bytes()).await.map_err(|error| self.failed(error))?;
        }
        queue.flush(&self.stream).map_err(|error| self.failed(error))?;
        queue.drain(&self.stream).await.map_err(|error| self.failed(error))?;
        Ok(payload.len())
    }

    /// As [`Self::send_to`], to where it is connected to.
    ///
    /// # Errors
    /// As [`Self::send_to`]; it is not connected ([`BorrowError::Usage`]).
    pub async fn send(&self, payload: &[u8]) -> Result<usize, BorrowError> {
        let peer = self.peer_addr().map_err(|_| BorrowError::usage("send needs a socket that is connected"))?;
        self.send_to(payload, peer).await
    }

    /// The next datagram: its length, of which `buffer` has what fits, and where it came from.
    ///
    /// # Errors
    /// One that we sent could not be delivered, the policy refuses its destination, or the session is over.
    ///
    /// # Cancellation
    /// Dropping the future loses no datagram.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> Result<(usize, SocketAddr), BorrowError> {
        let mut reader = self.incoming.lock().await;
        loop {
            while let Some(UdpMessage { peer, body }) = reader.next_message().map_err(|error| self.failed(error))? {
                if self.peer_addr().is_ok_and(|connected| as_told(connected) != peer) {
                    continue;
                }
                let host = self.borrower.host();
                match body {
                    UdpBody::Datagram(payload) => {
                        let length = payload.len().min(buffer.len());
                        let (to, from) = (buffer.split_at_mut(length).0, payload.split_at(length).0);
                        to.copy_from_slice(from);
                        return Ok((length, peer));
                    }
                    UdpBody::Failed(errno) => {
                        let refusal = Refusal::new(ErrorKind::Target, errno.to_string()).with_errno(Some(errno));
                        return Err(BorrowError::refused(host, &peer.to_string(), &refusal));
                    }
                    UdpBody::Refused(refusal) => {
                        return Err(BorrowError::refused(host, &peer.to_string(), &refusal));
                    }
                    UdpBody::Unknown => {}
                }
            }
            if !reader.fill(&self.stream).await.map_err(|error| self.failed(error))? {
                return Err(self.failed(Errno::ECONNRESET.into()));
            }
        }
    }

    /// As [`Self::recv_from`], without the address.
    ///
    /// # Errors
    /// As [`Self::recv_from`].
    ///
    /// # Cancellation
    /// As [`Self::recv_from`].
    pub async fn recv(&self, buffer: &mut [u8]) -> Result<usize, BorrowError> {
        Ok(self.recv_from(buffer).await?.0)
    }

    fn failed(&self, error: io::Error) -> BorrowError {
        BorrowError::answer(self.borrower.host(), &self.local.to_string(), error).of_listener()
    }
}

/// An address as the lender and we tell it each other: IPv4 as such, and no more than address and port.
fn as_told(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
