//! Finds out that the other end of a connection that is lent has gone without a word.
//!
//! A machine that loses its power or its way says no more, and a connection on which nobody sends is never missed: its
//! descriptor, its stream and its line in `capuchind sessions` would stay for as long as the session lasts. So the kernel asks
//! (RFC 1122 §4.2.3.6, tcp(7)). What a session itself runs on has PINGs of its own, and needs that while its borrower is suspended
//! and answers none.

use std::{io, os::fd::AsFd, time::Duration};

use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};

/// How long nothing comes before the kernel asks, in whole seconds.
const IDLE: Duration = Duration::from_secs(60);
/// Pause between two questions, in whole seconds.
const INTERVAL: Duration = Duration::from_secs(15);
/// Questions without an answer after which the connection has failed with ETIMEDOUT: two minutes after the last sign of life.
const QUESTIONS_MAX: u32 = 4;

/// Has the kernel ask on this TCP connection, or on all that a listener accepts.
///
/// # Errors
/// It is no socket of TCP.
pub(super) fn keep_alive(socket: impl AsFd) -> io::Result<()> {
    set_tcp_keepidle(&socket, IDLE)?;
    set_tcp_keepintvl(&socket, INTERVAL)?;
    set_tcp_keepcnt(&socket, QUESTIONS_MAX)?;
    // Last: where it is on, the kernel asks as often as is said here.
    set_socket_keepalive(&socket, true)?;
    Ok(())
}
