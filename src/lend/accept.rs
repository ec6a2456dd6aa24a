//! The accept loop: outlives its errors, bounds what strangers may cost, one task for each connection.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::server::Acceptor;
use tokio::{
    io::BufReader,
    net::TcpStream,
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use super::{
    LendError, Lender, Listeners,
    admission::{Admission, Offence, Place},
    audit::{Event, Source},
    join,
    keepalive::keep_alive,
    login, overdue, stranger,
};
use crate::{
    session::{Backoff, READ_BYTES, TLS_BUFFER_BYTES, close_gently, socket_options},
    trust::{
        UnixTime,
        tls::{self, TlsError},
    },
};

/// A TLS handshake takes at most this long: a few round trips and two signatures.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Joins at once, of all places: whoever has no certificate at all must not keep out those who have one.
const JOINS_MAX: usize = 32;
/// How long sessions may take to say good-bye when the lender stops.
pub(super) const STOP_MAX: Duration = Duration::from_secs(3);

/// A TLS connection as the lender has it.
pub(super) type Connection = TlsStream<BufReader<TcpStream>>;

/// What connections share.
#[derive(Clone)]
struct Entrance {
    lender: Lender,
    admission: Admission,
    joins: Arc<Semaphore>,
    stopping: watch::Receiver<bool>,
}

/// Accepts until `stop` is ready.
pub(super) async fn run(lender: &Lender, listeners: Listeners, stop: impl Future<Output = ()>) {
    let (stopping_tx, stopping) = watch::channel(false);
    let entrance = Entrance {
        lender: lender.clone(),
        admission: Admission::new(lender.config().per_source, lender.config().penalties),
        joins: Arc::new(Semaphore::new(JOINS_MAX)),
        stopping,
    };
    let mut connections = JoinSet::new();
    let mut backoff = Backoff::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "a connection's task failed");
                }
            }
            (socket, peer) = accept(lender, &mut backoff, || listeners.accept()) => {
                let arrival = entrance.admission.arrive(peer.ip(), Instant::now());
                let visit = entrance.clone();
                stranger::let_in(lender, &entrance.admission, arrival, &mut connections, move |place| {
                    visit.serve(socket, peer, place)
                });
            }
        }
    }
    drop(listeners);
    stopping_tx.send_replace(true);
    // Sessions say good-bye; who does not within the time is cut with the set.
    let _ = tokio::time::timeout(STOP_MAX, async { while connections.join_next().await.is_some() {} }).await;
}

/// The next connection, whatever comes between.
pub(super) async fn accept<T, F: Future<Output = io::Result<T>>>(
    lender: &Lender,
    backoff: &mut Backoff,
    next: impl Fn() -> F,
) -> T {
    loop {
        match next().await {
            Ok(accepted) => {
                backoff.reset();
                return accepted;
            }
            Err(error) => {
                if backoff.is_first() && error.kind() != io::ErrorKind::ConnectionAborted {
                    let why = Some(error.to_string());
                    lender.shared.audit.note(Source::Accept, Event { event: "accept-failed", why, ..Event::default() });
                }
                backoff.wait("lender", &error).await;
            }
        }
    }
}

impl Entrance {
    /// One connection, from its first byte to its last.
    async fn serve(self, socket: TcpStream, peer: SocketAddr, place: Place) {
        let lender = &self.lender;
        socket_options(&socket);
        let outcome = tokio::time::timeout(HANDSHAKE_MAX, handshake(lender, socket)).await;
        match outcome.unwrap_or(Err(HandshakeError::Late)) {
            Ok((connection, Protocol::Join)) => join::serve(lender, connection, peer, place, &self.joins).await,
            Ok((connection, Protocol::Renewal)) => overdue::serve(lender, connection, peer, place).await,
            Ok((connection, Protocol::Session)) => {
                let who = login::certificate_of(&connection);
                // Where a session is quiet because its peer is suspended, the kernel looks whether that machine is there; if it
                // cannot, the session does not wait for such a peer.
                let _ = keep_alive(connection.get_ref().0.get_ref());
                login::serve(lender, connection, who, peer.into(), place, self.stopping).await;
            }
            // A port that was looked at; a line for each would let anybody fill the log.
            Err(HandshakeError::Gone(error)) => tracing::debug!(%peer, %error, "gone in the handshake"),
            Err(error) => {
                let why = error.to_string();
                tracing::info!(%peer, why, "handshake refused");
                let event = Event {
                    event: "handshake-refused",
                    peer: Some(peer.to_string()),
                    why: Some(why),
                    ..Event::default()
                };
                lender.shared.audit.note(peer.ip(), event);
                stranger::blame(lender, &place, error.offence());
            }
        }
    }
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    /// It was begun and not ended.
    #[error("the handshake took too long")]
    Late,
    /// The peer hung up without a word.
    #[error("{0}")]
    Gone(io::Error),
    /// What rustls says of what came.
    #[error("{0}")]
    Tls(io::Error),
    /// It agreed on no protocol of ours.
    #[error("{0}")]
    Alpn(TlsError),
    /// The lender itself.
    #[error("{0}")]
    Lender(LendError),
}

impl HandshakeError {
    /// What the source has done. Protocols that do not meet are nobody's fault.
    fn offence(&self) -> Option<Offence> {
        match self {
            Self::Late => Some(Offence::Deadline),
            Self::Gone(_) | Self::Alpn(_) | Self::Lender(_) => None,
            Self::Tls(error) => stranger::tls_offence(error),
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let judged = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
        if judged { Self::Tls(error) } else { Self::Gone(error) }
    }
}

/// What is spoken on a connection; each has a TLS configuration of its own, and no way to another.
#[derive(Clone, Copy)]
enum Protocol {
    Session,
    Join,
    Renewal,
}

/// TLS. The ALPN of the client's first message decides which protocol it meets.
async fn handshake(lender: &Lender, socket: TcpStream) -> Result<(Connection, Protocol), HandshakeError> {
    let socket = BufReader::with_capacity(READ_BYTES, socket);
    let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
    let configs = lender.configs().await.map_err(HandshakeError::Lender)?;
    let hello = start.client_hello();
    let offers = |wanted| hello.alpn().into_iter().flatten().any(|protocol| protocol == wanted);
    // Without an open invitation the join protocol does not exist. Whether there is one, a store that cannot be read does not
    // say: whoever comes goes on, with a certificate or to join, and is told so.
    let joins = match lender.look(|store| store.joins_until(UnixTime::now())).await {
        Ok(until) => until.is_some(),
        Err(error) if error.is_of_disk() => {
            tracing::warn!(error = &error as &dyn std::error::Error, "the invitations cannot be read");
            true
        }
        Err(error) => return Err(HandshakeError::Lender(error.into())),
    };
    let (protocol, config, expected) = if joins && offers(tls::JOIN_ALPN) {
        (Protocol::Join, configs.join, tls::JOIN_ALPN)
    } else if offers(tls::RENEWAL_ALPN) {
        (Protocol::Renewal, configs.renewal, tls::RENEWAL_ALPN)
    } else {
        (Protocol::Session, configs.session, tls::ALPN)
    };
    let mut connection = match start.into_stream(config).into_fallible().await {
        Ok(connection) => connection,
        Err((error, mut socket)) => {
            // What it sent behind its certificate is unread, and the alert must arrive that says why.
            close_gently(&mut socket, b"").await;
            return Err(error.into());
        }
    };
    tls::check_alpn(connection.get_ref().1.alpn_protocol(), expected).map_err(HandshakeError::Alpn)?;
    connection.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    Ok((connection, protocol))
}
