//! The sockets on which a lender waits for borrowers: the one of lender.toml, or those that systemd opened and left to it.

use std::{
    env::VarError,
    future::poll_fn,
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::RawFd,
    sync::atomic::{AtomicUsize, Ordering},
    task::Poll,
};

use tokio::net::{TcpListener, TcpStream};

use super::{LendError, Listen, own_addresses::is_not_here};
use crate::sys;

/// The first that is passed on, by sd_listen_fds(3).
const FIRST_PASSED: RawFd = 3;

/// Sockets that listen for one lender, one at least.
pub struct Listeners {
    sockets: Vec<TcpListener>,
    /// Which is asked first the next time: a flood of one keeps nobody from the others.
    turn: AtomicUsize,
}

impl Listeners {
    /// Takes over the sockets that were passed to this very process, or opens `listen`.
    pub(super) async fn open(listen: Listen) -> Result<Self, LendError> {
        let sockets = match passed()? {
            Some(passed) => passed.open()?,
            None => vec![open(listen).await?],
        };
        Ok(Self { sockets, turn: AtomicUsize::new(0) })
    }

    /// Where they listen.
    pub(super) fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        self.sockets.iter().map(TcpListener::local_addr).collect()
    }

    /// The next connection to any of them. An IPv4 peer is told as one, also by a socket for both families.
    ///
    /// # Cancellation
    /// No connection is lost.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.sockets.len().max(1);
        let (before, from_turn) = self.sockets.split_at(turn);
        let (socket, peer) = poll_fn(|task| {
            let mut accepted = from_turn.iter().chain(before).map(|socket| socket.poll_accept(task));
            accepted.find(Poll::is_ready).unwrap_or(Poll::Pending)
        })
        .await?;
        Ok((socket, SocketAddr::new(peer.ip().to_canonical(), peer.port())))
    }
}

async fn open(listen: Listen) -> Result<TcpListener, LendError> {
    let failed = |source| LendError::Listen { address: listen.to_string(), source };
    match listen {
        Listen::Fd(fd) => TcpListener::from_std(sys::adopt_listener(fd)?),
        Listen::Address(address) => match TcpListener::bind(address).await {
            // A machine without IPv6 still has every IPv4 address.
            Err(error) if address.ip().is_unspecified() && is_not_here(&error) => {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
            }
            other => other,
        },
    }
    .map_err(failed)
}

/// So many sockets, from [`FIRST_PASSED`] on.
#[derive(Debug, PartialEq)]
struct Passed(RawFd);

impl Passed {
    fn open(&self) -> Result<Vec<TcpListener>, LendError> {
        let failed = |fd: RawFd| move |source| LendError::Listen { address: Listen::Fd(fd).to_string(), source };
        let open = |fd| {
            let socket = sys::adopt_listener(fd)
                .map_err(|source| LendError::Passed { value: self.0.to_string(), why: source.to_string() })?;
            TcpListener::from_std(socket).map_err(failed(fd))
        };
        (FIRST_PASSED..FIRST_PASSED.saturating_add(self.0)).map(open).collect()
    }
}

/// What was left to this very process (sd_listen_fds(3)); the variables may also be somebody else's.
fn passed() -> Result<Option<Passed>, LendError> {
    let for_us = std::env::var("LISTEN_PID").is_ok_and(|pid| pid.parse() == Ok(std::process::id()));
    match std::env::var("LISTEN_FDS") {
        Ok(value) if for_us => read_passed(&value),
        Err(VarError::NotUnicode(value)) if for_us => read_passed(&value.to_string_lossy()),
        _ => Ok(None),
    }
}

fn read_passed(value: &str) -> Result<Option<Passed>, LendError> {
    match value.parse() {
        Ok(0) => Ok(None),
        Ok(number) if number > 0 => Ok(Some(Passed(number))),
        _ => Err(LendError::Passed { value: value.to_owned(), why: "it is no number of sockets".to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn listeners(number: usize) -> (Listeners, Vec<SocketAddr>) {
        let mut sockets = Vec::new();
        for _ in 0..number {
            sockets.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let listeners = Listeners { sockets, turn: AtomicUsize::new(0) };
        let addresses = listeners.addresses().unwrap();
        (listeners, addresses)
    }

    #[tokio::test]
    async fn who_comes_to_the_last_is_accepted_behind_a_crowd_at_the_first() {
        let (listeners, addresses) = listeners(3).await;
        let mut crowd = Vec::new();
        for _ in 0..10 {
            crowd.push(TcpStream::connect(addresses[0]).await.unwrap());
        }
        let last = TcpStream::connect(addresses[2]).await.unwrap();
        let mut accepted = Vec::new();
        for _ in 0..listeners.sockets.len() {
            accepted.push(listeners.accept().await.unwrap().1);
        }
        assert!(accepted.contains(&last.local_addr().unwrap()), "{accepted:?}");
    }

    #[tokio::test]
    async fn whichever_is_connected_to_wakes_who_accepts() {
        let (listeners, addresses) = listeners(2).await;
        for address in addresses.iter().rev() {
            let (accepted, connected) = tokio::join!(listeners.accept(), TcpStream::connect(address));
            assert_eq!(accepted.unwrap().1, connected.unwrap().local_addr().unwrap());
        }
    }

    #[test]
    fn a_number_of_sockets_is_one_or_more_and_none_is_none() {
        assert_eq!(read_passed("2").unwrap(), Some(Passed(2)));
        assert_eq!(read_passed("0").unwrap(), None);
        for wrong in ["", "x", "-1", "1.5", " 1", "99999999999"] {
            assert!(matches!(read_passed(wrong), Err(LendError::Passed { .. })), "{wrong:?}");
        }
    }
}
