//! Whether the machine at the other end of a session's connection is there, though its process says nothing.

use std::time::Duration;

use rustix::net::sockopt::socket_keepalive;
use tokio::{
    io::{AsyncBufRead, AsyncWrite, BufReader},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;

use crate::{proto::mux::PING_PERIOD, sys};

/// How long ago the other machine may have acknowledged anything while something is on its way to it: what a session waits for
/// a peer that says nothing.
const ACKNOWLEDGED_MAX: Duration = PING_PERIOD.saturating_mul(2);

/// A connection whose other end is known of although it says nothing.
pub trait Reachable: AsyncBufRead + AsyncWrite + Send + Unpin + 'static {
    /// Whether what is sent still arrives at the other end's machine. A process there that is suspended says nothing, and its
    /// kernel acknowledges.
    fn is_reachable(&self) -> bool;
}

impl Reachable for TlsStream<BufReader<TcpStream>> {
    fn is_reachable(&self) -> bool {
        let socket = self.get_ref().0.get_ref();
        // While nothing is on its way, only keep-alive asks.
        let is_asked = socket_keepalive(socket).unwrap_or(false);
        is_asked && sys::is_acknowledged(socket, ACKNOWLEDGED_MAX).unwrap_or(false)
    }
}

impl Reachable for BufReader<UnixStream> {
    /// A process of this machine: the kernel ends the connection with it.
    fn is_reachable(&self) -> bool {
        true
    }
}
