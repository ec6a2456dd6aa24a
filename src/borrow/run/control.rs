//! What the two halves of `run` say to each other, over a socket pair that nobody else has.
//!
//! ```text
//!   outer                                    inner
//!     │ ◀──────────────── Ready, descriptors ──┤   the network stands
//!     ├─ Begin ───────────────────────────────▶│
//!     │ ◀───────── Confined, descriptor ───────┤   from the process that becomes the program
//!     │ ◀────────────────── Started or Failed ─┤
//!     ├─ Signal ──────────────────────────────▶│   any number of times
//!     ├─ Sockets ─────────────────────────────▶│   any number of times
//!     │ ◀───────────────── Sockets, descriptors┤   as many times
//!     │ ◀────────────────────────────── Stopped┤   any number of times
//!     │ ◀─────────── Ended, Background, Alone ─┤   the program; what of it is in the background, if there is any; then nothing
//! ```
//! Both are this program, so that a message which cannot be read is a fault of ours.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use minicbor::{Decode, Encode};

use super::doors::Way;
use crate::proto::Machine;

/// Largest message, in bytes: a lender's whole profile, which is itself one message on a stream, with room to spare.
const MESSAGE_BYTES_MAX: usize = 128 * 1024;

/// From outer to inner.
#[derive(Clone, Debug, Encode, Decode)]
pub enum ToInner {
    /// Start the program, in a network that looks like that of this machine.
    #[n(0)]
    Begin(#[n(0)] Machine),
    /// Send it this signal.
    #[n(1)]
    Signal(#[n(0)] i32),
    /// Make more sockets that can connect from any address; of IPv6, or of IPv4.
    #[n(2)]
    Sockets(#[n(0)] bool),
}

/// From inner to outer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum FromInner {
    /// The network stands, in this way, with IPv6 or without; the descriptors of [`Doors`](super::doors::Doors) come with it.
    #[n(0)]
    Ready(#[n(0)] Way, #[n(1)] bool),
    /// A step of the set-up failed, and inner is gone.
    #[n(1)]
    Failed(#[n(0)] Step, #[n(1)] i32),
    /// The program runs.
    #[n(2)]
    Started,
    /// The program was stopped, and waits to be continued.
    #[n(3)]
    Stopped,
    /// The program is over, with this exit status, or 128 and the number of the signal that ended it.
    #[n(4)]
    Ended(#[n(0)] u8),
    /// Nothing of what it started is left.
    #[n(5)]
    Alone,
    /// The program is about to begin, under its filter; the descriptor of its calls comes with it. `false`: they cannot wait
    /// for long (see [`install_filter`](crate::sys::install_filter)).
    #[n(6)]
    Confined(#[n(0)] bool),
    /// Sockets of a family, as they were asked for; they come with it, as many as could be made.
    #[n(7)]
    Sockets(#[n(0)] bool),
    /// The program is to have no network of its own, and nothing is to be served in one.
    #[n(8)]
    NoNetwork,
    /// The program is over, and what went into the background is told to end as well.
    #[n(9)]
    Background,
}

/// A step of the set-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Step {
    /// unshare(2) and the maps.
    #[n(0)]
    Namespaces,
    /// The loopback device.
    #[n(1)]
    Loopback,
    /// Sockets that the outer half serves.
    #[n(2)]
    Sockets,
    /// The packet filter.
    #[n(3)]
    Rules,
    /// The TUN device, where there is no packet filter.
    #[n(10)]
    Tun,
    /// Addresses and routes.
    #[n(4)]
    Network,
    /// fork(2).
    #[n(5)]
    Fork,
    /// The resolver files of the lender, and covers over services of this machine.
    #[n(9)]
    Mask,
    /// Capabilities, the seccomp filter, descriptors.
    #[n(6)]
    Confine,
    /// execve(2).
    #[n(7)]
    Exec,
    /// The socket pair itself.
    #[n(8)]
    Control,
    /// Looking at the program, of which without namespaces everything depends.
    #[n(11)]
    Reach,
}

/// Sends one message.
///
/// # Errors
/// If the other half is gone.
pub fn send<M: Encode<()>>(socket: impl AsFd, message: &M, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = minicbor::to_vec(message).map_err(io::Error::other)?;
    crate::sys::send_with_fds(socket, &bytes, fds).map(drop)
}

/// Receives one message; `None` when the other half is gone.
///
/// # Errors
/// `WouldBlock` where nothing has come and `wait` is `false`.
pub fn receive<M: for<'b> Decode<'b, ()>>(socket: impl AsFd, wait: bool) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    let (length, fds) = match crate::sys::receive_message(socket, &mut buffer, wait) {
        // Its end was closed with something unread.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
        received => received?,
    };
    if length == 0 {
        return Ok(None);
    }
    let message = minicbor::decode(buffer.get(..length).unwrap_or_default()).map_err(io::Error::other)?;
    Ok(Some((message, fds)))
}
