//! Connections of a borrowed program that stand: accepted from the kernel of its network, and carried until both ends have
//! finished.

use std::{net::SocketAddr, sync::Arc, task::Poll, time::Duration};

use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};

use super::hold::{Far, Hold};
use crate::session::{Backoff, Meter, relay, socket_options};

/// Copied at once for a connection that stays on this machine, in bytes.
const COPY_BYTES: usize = 64 * 1024;
/// What a program that is over had sent is delivered for as long as bytes move; after such a pause, nobody takes them.
const STALLED: Duration = Duration::from_secs(5);
/// How often it is looked whether bytes move.
const LOOK: Duration = Duration::from_millis(250);

/// The connections of one borrowed network.
pub struct Carrier {
    listener: TcpListener,
    hold: Arc<Hold>,
    connections: JoinSet<()>,
    meter: Arc<Meter>,
}

impl Carrier {
    /// Carries what `listener` accepts, whose far ends `hold` knows.
    pub fn new(listener: TcpListener, hold: Arc<Hold>) -> Self {
        Self { listener, hold, connections: JoinSet::new(), meter: Arc::default() }
    }

    /// Accepts and carries, for ever.
    ///
    /// # Cancellation
    /// The connections go on, and [`Self::drain`] waits for them.
    pub async fn serve(&mut self) {
        let mut backoff = Backoff::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((socket, from)) => {
                        backoff.reset();
                        self.carry(socket, from);
                    }
                    Err(error) => backoff.wait("run", &error).await,
                },
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    /// Carries on until all has been delivered, or nothing moves any more. For a program that is over: its sockets are
    /// closed, so that each connection ends when the other end has closed too.
    pub async fn drain(mut self) {
        // What the kernel has accepted for the program is ours, too; one look at what is ready, after the runtime's own.
        tokio::task::yield_now().await;
        while let Some(Ok((socket, from))) = ready(&self.listener).await {
            self.carry(socket, from);
        }
        let moved = |meter: &Meter| meter.to_stream() + meter.from_stream();
        let (mut before, mut since) = (moved(&self.meter), Instant::now());
        while !self.connections.is_empty() {
            tokio::select! {
                _ = self.connections.join_next() => since = Instant::now(),
                () = tokio::time::sleep(LOOK) => {}
            }
            let now = moved(&self.meter);
            if now != before {
                (before, since) = (now, Instant::now());
            } else if since.elapsed() > STALLED {
                tracing::debug!(
                    connections = self.connections.len(),
                    "ended with connections that the other end keeps"
                );
                return;
            }
        }
    }

    fn carry(&mut self, socket: TcpStream, from: SocketAddr) {
        let Ok(to) = socket.local_addr() else { return };
        let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        match self.hold.accepted(plain(from), plain(to)) {
            Some(Far::Lender(stream)) => {
                socket_options(&socket);
                let meter = self.meter.clone();
                self.connections.spawn(async move { relay(socket, &stream, &meter).await });
            }
            Some(Far::Here(far)) => {
                socket_options(&socket);
                self.connections.spawn(copy(socket, far));
            }
            Some(Far::Names) => {
                let hold = self.hold.clone();
                self.connections.spawn(async move { hold.answer_names(socket).await });
            }
            None => {
                tracing::debug!(%from, %to, "nobody waited for this connection");
                let _ = socket.set_zero_linger();
            }
        }
    }
}

/// The next connection that is there already.
async fn ready(listener: &TcpListener) -> Option<std::io::Result<(TcpStream, SocketAddr)>> {
    std::future::poll_fn(|cx| match listener.poll_accept(cx) {
        Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Between two sockets of this machine.
async fn copy(mut near: TcpStream, mut far: TcpStream) {
    if copy_bidirectional_with_sizes(&mut near, &mut far, COPY_BYTES, COPY_BYTES).await.is_err() {
        // Neither must see an orderly end where bytes are missing.
        let _ = near.set_zero_linger();
        let _ = far.set_zero_linger();
    }
}
