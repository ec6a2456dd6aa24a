//! The accept loop: outlives its errors, bounds what strangers may cost, one task for each connection.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use rustls::server::Acceptor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{Lender, audit::Event, join, login};
use crate::{
    session::socket_options,
    trust::{UnixTime, tls},
};

/// Connections that are not logged in yet; one more waits in the kernel's queue.
pub(super) const HANDSHAKES_MAX: usize = 128;
/// A TLS handshake takes at most this long: a few round trips and two signatures.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Pause after an accept that failed for want of descriptors or memory: trying at once would only spin.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Read at once from a connection, in bytes: rustls by itself reads 4 KiB at a time.
const READ_BYTES: usize = 64 * 1024;
/// Encrypted bytes that may wait for the socket, in bytes: two batches.
const TLS_BUFFER_BYTES: usize = 256 * 1024;

/// A TLS connection as the lender has it.
pub(super) type Connection = TlsStream<BufReader<TcpStream>>;

/// Accepts until `stop` is ready.
pub(super) async fn run(lender: &Lender, listener: TcpListener, stop: impl Future<Output = ()>) {
    let places = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let (stopping_tx, stopping) = tokio::sync::watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = async {
            // Never closed.
            let place = places.clone().acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        tokio::select! {
            () = &mut stop => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "a connection's task failed");
                }
            }
            (Some(place), accepted) = accepted => match accepted {
                Ok((socket, peer)) => {
                    let stopping = stopping.clone();
                    connections.spawn(serve(lender.clone(), socket, peer, place, stopping));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }
    drop(listener);
    stopping_tx.send_replace(true);
    // Sessions say good-bye; who does not within the time is cut with the set.
    let _ =
        tokio::time::timeout(Duration::from_secs(3), async { while connections.join_next().await.is_some() {} }).await;
}

/// One connection, from its first byte to its last.
async fn serve(
    lender: Lender,
    socket: TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
    stopping: tokio::sync::watch::Receiver<bool>,
) {
    socket_options(&socket);
    match tokio::time::timeout(HANDSHAKE_MAX, handshake(&lender, socket)).await {
        Ok(Ok((connection, true))) => join::serve(&lender, connection, peer).await,
        Ok(Ok((connection, false))) => login::serve(&lender, connection, peer, place, stopping).await,
        Ok(Err(error)) => refuse(&lender, peer, error).await,
        Err(_) => refuse(&lender, peer, "the handshake took too long".to_owned()).await,
    }
}

async fn refuse(lender: &Lender, peer: SocketAddr, why: String) {
    tracing::info!(%peer, why, "handshake refused");
    let event = Event { event: "handshake-refused", peer: Some(peer.to_string()), why: Some(why), ..Event::default() };
    lender.shared.audit.refused(peer.ip(), event).await;
}

/// Closes a connection whose handshake failed only once the peer has closed, or soon: what it sent behind its certificate
/// is unread, and closing at once would reset the connection and take the alert with it that says why.
async fn let_go(mut socket: BufReader<TcpStream>) {
    const MOMENT: Duration = Duration::from_secs(1);
    let _ = socket.shutdown().await;
    let mut rest = [0; 4096];
    let drain = async { while socket.read(&mut rest).await.is_ok_and(|length| length > 0) {} };
    let _ = tokio::time::timeout(MOMENT, drain).await;
}

/// TLS; `true` for a join. The ALPN of the client's first message decides which of the two it meets.
async fn handshake(lender: &Lender, socket: TcpStream) -> Result<(Connection, bool), String> {
    let socket = BufReader::with_capacity(READ_BYTES, socket);
    let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await.map_err(|error| error.to_string())?;
    let configs = lender.configs().map_err(|error| error.to_string())?;
    let join_offered = start.client_hello().alpn().into_iter().flatten().any(|protocol| protocol == tls::JOIN_ALPN);
    // Without an open invitation the join protocol does not exist.
    let until = lender.shared.store.joins_until(UnixTime::now()).map_err(|error| error.to_string())?;
    let joins = join_offered && until.is_some();
    let config = if joins { configs.join } else { configs.session };
    let mut connection = match start.into_stream(config).into_fallible().await {
        Ok(connection) => connection,
        Err((error, socket)) => {
            let_go(socket).await;
            return Err(error.to_string());
        }
    };
    let expected = if joins { tls::JOIN_ALPN } else { tls::ALPN };
    tls::check_alpn(connection.get_ref().1.alpn_protocol(), expected).map_err(|error| error.to_string())?;
    connection.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    Ok((connection, joins))
}
