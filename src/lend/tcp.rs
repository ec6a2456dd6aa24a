//! Lends TCP connections: dials what the grant allows, answers with both addresses, and relays.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use tokio::net::TcpStream;

use super::{audit::Event, borrower::Borrower, descriptors, dispatch::refuse, gate, keepalive::keep_alive};
use crate::{
    policy::{Connect, Granted},
    proto::{Answer, Errno, ErrorKind, Refusal, Target, TcpConnected, WireAddr},
    session::{ATTEMPTS_MAX, DialError, Stream, dial, relay},
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
    let held = match borrower.hold(&stream, "tcp-connect", target.clone(), Box::new(still)) {
        Ok(held) => held,
        Err(refusal) => return refuse(&stream, refusal).await,
    };
    // A name with several addresses is dialled with several sockets.
    let attempts = grant.request().addresses.len().clamp(1, ATTEMPTS_MAX);
    let places = borrower.lender.shared.sockets.try_acquire_many(u32::try_from(attempts).unwrap_or(u32::MAX));
    let Ok(mut places) = places else {
        let why = Some(descriptors::NONE_LEFT.to_owned());
        let event = Event { target: Some(target), why, ..borrower.event("tcp-busy") };
        borrower.lender.shared.audit.bounded(&borrower.principal.user, event).await;
        return refuse(&stream, descriptors::none_left()).await;
    };
    // On the heap: its room is free again while the connection idles.
    let dialed = held.serve(&stream, Box::pin(connect(grant, &stream))).await;
    let (socket, answer) = match dialed.unwrap_or_else(|| Err(held.why_taken())) {
        Ok(connected) => connected,
        Err(why) => {
            return borrower.log("tcp-failed", target, why).await;
        }
    };
    drop(places.split(attempts - 1));
    let _ = reached.set(answer.peer.0.ip());
    held.serve(&stream, relay(socket, &stream, held.meter())).await;
    held.log("tcp-closed", answer.peer.0.to_string(), held.why_taken()).await;
}

/// Dials and answers. `Err`: why there is no connection, if the borrower has not simply gone.
async fn connect(grant: Granted<Connect>, stream: &Stream) -> Result<(TcpStream, TcpConnected), Option<String>> {
    let (Connect { host, port, addresses, .. }, _) = grant.into_parts();
    let addresses: Vec<SocketAddr> = addresses.into_iter().map(|address| (address, port).into()).collect();
    let dialed = tokio::select! {
        dialed = dial(&addresses) => dialed,
        _ = stream.write_closed() => return Err(None),
    };
    let connected = dialed.and_then(|socket| {
        let ends = socket.peer_addr().and_then(|peer| Ok((peer, socket.local_addr()?)));
        match ends {
            Ok((peer, local)) => {
                // A socket that refuses it still works.
                let _ = keep_alive(&socket);
                Ok((socket, TcpConnected { peer: WireAddr(peer), local: WireAddr(local) }))
            }
            Err(source) => Err(Some(DialError { address: format!("{host}:{port}"), source })),
        }
    });
    match connected {
        Ok((socket, answer)) => {
            stream.write_message(&Answer::Granted(answer)).await.map_err(|_| None)?;
            Ok((socket, answer))
        }
        Err(error) => {
            let refusal = down(error);
            let why = refusal.text().to_owned();
            refuse(stream, refusal).await;
            Err(Some(why))
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
