//! Connections that came to a port at the lender, made once more inside, from the very address of the visitor.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    time::Duration,
};

use rustix::net::bind;
use tokio::{net::TcpStream, sync::mpsc, time::timeout};

use super::stock::Stock;
use crate::{
    borrow::{
        answer::Unanswered,
        arrivals::Arrival,
        run::{coming::Coming, far_end::FarEnd, network::LOOPBACK},
    },
    proto::{Errno, Reset},
    session::Stream,
};

/// Before a connection is tried again that the program's queue had no room for; doubles up to [`FULL_MAX`]. The kernel
/// itself would wait for a second, and all who come behind would wait with it.
const FULL: Duration = Duration::from_millis(10);
/// Longest such time.
const FULL_MAX: Duration = Duration::from_millis(250);

/// A visitor who is connected to the program.
pub struct Visitor {
    /// To the program.
    pub socket: TcpStream,
    /// To the visitor.
    pub stream: Stream,
    /// Who that is.
    pub far_end: FarEnd,
}

/// Where a program is met inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inside {
    /// What it has bound.
    pub bound: SocketAddr,
}

/// Lets visitors in.
pub struct Visitors {
    stock: Stock,
    visitor_tx: mpsc::Sender<Visitor>,
    /// Those who are being let in.
    coming: Coming,
}

impl Visitors {
    /// With sockets of `stock`; who is in goes to `visitor_tx`.
    pub fn new(stock: Stock, visitor_tx: mpsc::Sender<Visitor>) -> Self {
        Self { stock, visitor_tx, coming: Coming::default() }
    }

    /// Whether somebody is being let in: the program may have accepted and answered him already.
    pub fn are_coming(&self) -> bool {
        self.coming.any()
    }

    /// Where its sockets come from.
    pub fn stock(&self) -> &Stock {
        &self.stock
    }

    /// Connects a visitor to the program, and waits while the program has no room for him. `false`: nobody listens there
    /// any more, and he was sent away.
    pub async fn let_in(&self, Arrival { stream, accepted }: Arrival, Inside { bound }: Inside) -> bool {
        let (Some(peer), Some(local)) = (accepted.peer, accepted.local) else {
            stream.reset(Reset::Refused);
            return true;
        };
        let address = if bound.ip().is_unspecified() { local.0.ip() } else { bound.ip() };
        // Links of the lender's are none of the program's: it is met by loopback, from the very address all the same.
        let address = if is_of_a_link(address) { Ipv6Addr::LOCALHOST.into() } else { address.to_canonical() };
        let to = SocketAddr::new(address, bound.port());
        let mut from = SocketAddr::new(peer.0.ip().to_canonical(), peer.0.port());
        if let SocketAddr::V6(from) = &mut from
            && is_of_a_link((*from.ip()).into())
        {
            from.set_scope_id(LOOPBACK);
        }
        let _on_its_way = self.coming.one();
        // A port that is closed meanwhile sends him away.
        let unanswered = Unanswered(&stream);
        let connected = tokio::select! {
            connected = self.connect(from, to) => connected,
            () = stream.given_up() => return true,
        };
        std::mem::forget(unanswered);
        match connected {
            Ok(socket) => {
                // Whoever carries them ends after us.
                let _ = self.visitor_tx.send(Visitor { socket, stream, far_end: FarEnd::From(from.ip()) }).await;
                true
            }
            Err(error) => {
                tracing::debug!(%from, %to, %error, "a visitor was not let in");
                stream.reset(Reset::Refused);
                Errno::of(&error) != Some(Errno::ECONNREFUSED)
            }
        }
    }

    async fn connect(&self, mut from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
        let mut full = FULL;
        loop {
            let socket = self.stock.take(to.is_ipv6()).await;
            match connect(socket, from, to, full).await {
                Ok(Some(connected)) => return Ok(connected),
                Ok(None) => full = (full * 2).min(FULL_MAX),
                // The program has a connection between the same two ends: another port must do.
                Err(error) if from.port() > 0 && TAKEN.map(Some).contains(&Errno::of(&error)) => from.set_port(0),
                Err(error) => return Err(error),
            }
        }
    }
}

fn is_of_a_link(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

const TAKEN: [Errno; 2] = [Errno::EADDRINUSE, Errno::EADDRNOTAVAIL];

/// Connects; `None`: not within this time, since the program's queue is full, and nothing of it is left. The kernel connects
/// over loopback before connect(2) returns; it is only the word of it that may come late on a machine that is busy.
async fn connect(socket: OwnedFd, from: SocketAddr, to: SocketAddr, within: Duration) -> io::Result<Option<TcpStream>> {
    if from.is_ipv4() != to.is_ipv4() {
        // No lender says so.
        return Err(Errno::EAFNOSUPPORT.into());
    }
    bind(&socket, &from)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let stream = TcpStream::from_std(socket.into())?;
    if stream.peer_addr().is_ok() {
        return Ok(Some(stream));
    }
    let _ = timeout(within, stream.writable()).await;
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    // One that is connected must not be given up: the program would see a visitor come and go.
    Ok(stream.peer_addr().is_ok().then_some(stream))
}
