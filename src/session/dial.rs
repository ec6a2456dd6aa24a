//! Reaching a peer: TCP to one of its addresses, with the options that every socket of ours has.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    task::Poll,
    time::Duration,
};

use tokio::net::{TcpStream, UnixStream};

use crate::proto::Errno;

/// Next address when the last one has not answered for so long (RFC 8305 §5 says 250 ms).
const DIAL_STEP: Duration = Duration::from_millis(250);

/// Read from a socket at once, in bytes: rustls by itself asks for 4 KiB.
pub const READ_BYTES: usize = 128 * 1024;
/// Plaintext and records that rustls holds for a slow socket, in bytes: two batches of the driver.
pub const TLS_BUFFER_BYTES: usize = 256 * 1024;

/// Addresses tried at once: a name with many that are silent must not cost a descriptor for each.
pub const ATTEMPTS_MAX: usize = 4;
/// All attempts together: what the kernel gives one that nobody answers (tcp(7), tcp_syn_retries).
const DIAL_MAX: Duration = Duration::from_secs(127);

/// A server of a Unix socket whose queue is full gives EAGAIN to who does not wait (unix(7)): asked again so often, for so
/// long.
const QUEUE_STEP: Duration = Duration::from_millis(10);
const QUEUE_TRIES: usize = 1000;

/// No address answered.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {source}")]
pub struct DialError {
    /// The address that was tried last.
    pub address: String,
    /// What it answered.
    pub source: io::Error,
}

/// Connects to the first of `addresses` that answers; each gets a head start of 250 ms over the next.
///
/// # Errors
/// The last failure, when all have failed; `None` for an empty list.
///
/// # Cancellation
/// Dropping the future gives up every attempt.
pub async fn dial(addresses: &[SocketAddr]) -> Result<TcpStream, Option<DialError>> {
    let late = || {
        let address = addresses.last().map_or_else(String::new, ToString::to_string);
        Some(DialError { address, source: Errno::ETIMEDOUT.into() })
    };
    tokio::time::timeout(DIAL_MAX, first_of(addresses)).await.unwrap_or_else(|_| Err(late()))
}

async fn first_of(addresses: &[SocketAddr]) -> Result<TcpStream, Option<DialError>> {
    // Not as tasks of their own: most have one address, and each task would be woken once more.
    let mut attempts: Vec<Pin<Box<dyn Future<Output = _> + Send>>> = Vec::new();
    let mut rest = addresses.iter().copied();
    let mut last = None;
    loop {
        match (attempts.len() < ATTEMPTS_MAX).then(|| rest.next()).flatten() {
            Some(address) => attempts.push(Box::pin(async move { (address, TcpStream::connect(address).await) })),
            None if attempts.is_empty() => return Err(last),
            None => {}
        }
        let waits = rest.len() == 0 || attempts.len() == ATTEMPTS_MAX;
        let step = async {
            // With no address left to start, or as many as may be, there is nothing to do but wait.
            if waits { std::future::pending().await } else { tokio::time::sleep(DIAL_STEP).await }
        };
        tokio::select! {
            biased;
            (address, result) = next_of(&mut attempts) => match result {
                Ok(socket) => {
                    socket_options(&socket);
                    return Ok(socket);
                }
                Err(source) => last = Some(DialError { address: address.to_string(), source }),
            },
            () = step => {}
        }
    }
}

/// Connects to a Unix socket, and waits while the queue of its server is full, as connect(2) does.
///
/// # Errors
/// What connect(2) says; ETIMEDOUT when the queue was full for 10 s.
pub async fn dial_unix(path: impl AsRef<Path>) -> io::Result<UnixStream> {
    for _ in 0..QUEUE_TRIES {
        match UnixStream::connect(path.as_ref()).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(QUEUE_STEP).await,
            connected => return connected,
        }
    }
    Err(Errno::ETIMEDOUT.into())
}

/// What the first of `attempts` gives that ends; it is taken out. Dropping the future loses nothing.
async fn next_of<T>(attempts: &mut Vec<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    poll_fn(|cx| {
        for (index, attempt) in attempts.iter_mut().enumerate() {
            if let Poll::Ready(result) = attempt.as_mut().poll(cx) {
                drop(attempts.swap_remove(index));
                return Poll::Ready(result);
            }
        }
        Poll::Pending
    })
    .await
}

/// What every socket of ours has.
///
/// TCP_NODELAY: without it a small write waits 40 ms for the acknowledgement of the one before it. On loopback, no
/// congestion control that paces what it sends, as BBR does: there is nothing to share the way with, and its timers
/// cost half of the throughput.
pub fn socket_options(socket: &TcpStream) {
    // A socket that refuses either still works, only slower.
    let _ = socket.set_nodelay(true);
    if socket.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback()) {
        // Every Linux has it, and lets every user have it (tcp(7)).
        let _ = rustix::net::sockopt::set_tcp_congestion(socket, "reno");
    }
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketType, bind, connect, getsockname, listen, socket};

    use super::*;

    /// An address that does not answer: the queue of its listener is full. It lasts as long as the sockets.
    fn silent() -> (SocketAddr, Vec<rustix::fd::OwnedFd>) {
        let stream = || socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let listener = stream();
        bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        listen(&listener, 0).unwrap();
        let address = SocketAddr::try_from(getsockname(&listener).unwrap()).unwrap();
        let fill = stream();
        connect(&fill, &address).unwrap();
        (address, vec![listener, fill])
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_that_are_silent_are_given_up_together() {
        let (silent, _kept): (Vec<_>, Vec<_>) = (0..6).map(|_| silent()).unzip();
        let began = tokio::time::Instant::now();
        let error = dial(&silent).await.unwrap_err().unwrap();
        assert_eq!(error.source.raw_os_error(), Some(Errno::ETIMEDOUT.0.into()));
        assert_eq!(began.elapsed().as_secs(), DIAL_MAX.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_answers_is_reached_behind_silent_ones_and_only_as_many_are_tried_at_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let (mut few, _kept): (Vec<_>, Vec<_>) = (0..ATTEMPTS_MAX - 1).map(|_| silent()).unzip();
        few.push(good);
        assert_eq!(dial(&few).await.unwrap().peer_addr().unwrap(), good);
        // Its turn would come when one of the four before it fails.
        few.insert(0, silent().0);
        let (more, _kept) = silent();
        few.insert(0, more);
        let late = dial(&few).await.unwrap_err().unwrap();
        assert_eq!((late.address, late.source.raw_os_error()), (good.to_string(), Some(Errno::ETIMEDOUT.0.into())));
    }
}
