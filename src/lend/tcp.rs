//! Lends TCP connections: dials what the grant allows, answers with both addresses, and relays.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use tokio::net::TcpStream;

use super::{audit::Event, borrower::Borrower, dispatch::refuse, gate};
use crate::{
    policy::{Connect, Granted},
    proto::{Answer, Errno, ErrorKind, Refusal, Target, TcpConnected, WireAddr},
    session::{DialError, Stream, dial, relay},
};

/// Dials exactly the addresses that were judged, and relays until both directions have ended.
///
/// # Cancellation
/// A borrower that resets the stream ends the dial; a handle that is taken back ends dial and connection.
pub(super) async fn lend(borrower: &Borrower, grant: Granted<Connect>, stream: Stream) {
    let Connect { host, port, .. } = grant.request();
    let target = Target { host: host.to_string(), port: *port }.to_string();
    // What is judged again is the address that was reached: the other addresses of the name may come and go.
    let (granted, reached) = (grant.clone(), Arc::new(OnceLock::new()));
    let rests_on = reached.clone();
    let still = move |borrower: &Borrower| gate::still(borrower, &granted, rests_on.get().copied());
    let held = borrower.hold(&stream, "tcp-connect", target, Box::new(still));
    // On the heap: its room is free again while the connection idles.
    let Some(Some((socket, answer))) = held.serve(&stream, Box::pin(connect(grant, &stream))).await else { return };
    let _ = reached.set(answer.peer.0.ip());
    held.serve(&stream, relay(socket, &stream, held.meter())).await;
    let event = Event {
        target: Some(answer.peer.0.to_string()),
        bytes_in: Some(held.meter().from_stream()),
        bytes_out: Some(held.meter().to_stream()),
        why: held.why_taken(),
        ..borrower.event("tcp-closed")
    };
    borrower.lender.shared.audit.log(event).await;
}

/// Dials and answers; `None` when the borrower was told that it failed, or has gone.
async fn connect(grant: Granted<Connect>, stream: &Stream) -> Option<(TcpStream, TcpConnected)> {
    let (Connect { host, port, addresses, .. }, _) = grant.into_parts();
    let addresses: Vec<SocketAddr> = addresses.into_iter().map(|address| (address, port).into()).collect();
    let dialed = tokio::select! {
        dialed = dial(&addresses) => dialed,
        _ = stream.write_closed() => return None,
    };
    let connected = dialed.and_then(|socket| {
        let ends = socket.peer_addr().and_then(|peer| Ok((peer, socket.local_addr()?)));
        match ends {
            Ok((peer, local)) => Ok((socket, TcpConnected { peer: WireAddr(peer), local: WireAddr(local) })),
            Err(source) => Err(Some(DialError { address: format!("{host}:{port}"), source })),
        }
    });
    match connected {
        Ok((socket, answer)) => {
            stream.write_message(&Answer::Granted(answer)).await.ok()?;
            Some((socket, answer))
        }
        Err(error) => {
            refuse(stream, down(error)).await;
            None
        }
    }
}

fn down(error: Option<DialError>) -> Refusal {
    match error {
        Some(error) => {
            let errno = Errno::of(&error.source);
            Refusal::new(ErrorKind::Target, error.to_string()).with_errno(errno)
        }
        None => {
            Refusal::new(ErrorKind::Target, "there is no address to connect to").with_errno(Some(Errno::EHOSTUNREACH))
        }
    }
}
