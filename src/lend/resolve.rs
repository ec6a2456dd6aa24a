//! Names to addresses, once for each request, by the lender's own resolver; and other look-ups that may take their time.
//!
//! The system's resolver blocks, and nothing can stop it: a thread that waits for a name server that has gone waits on when
//! nobody wants its answer any more. So a place goes back when its thread is done, and not when its borrower is; and one
//! user has only a part of the places.

use std::{
    net::{IpAddr, ToSocketAddrs},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

use super::shares::Shares;
use crate::{
    policy::{ADDRESSES_MAX, Host},
    proto::{Errno, ErrorKind, Refusal, UserName},
};

/// The resolver's own time-outs add up to 30 s and more; nobody waits so long for a name.
const RESOLVE_MAX: Duration = Duration::from_secs(10);
/// Look-ups at once: each holds a thread while it waits.
pub(super) const PLACES: usize = 64;
/// Of those, for one user: a program that opens many connections at once, and three quarters are left for the others.
const PLACES_OF_USER: usize = 16;

/// The look-ups of a lender.
pub(super) struct LookUps {
    threads: Shares,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum NoAnswer {
    #[error("no answer within {} s", RESOLVE_MAX.as_secs())]
    Late,
    #[error("too much is being looked up")]
    Busy,
}

impl NoAnswer {
    /// What a borrower hears who wanted something else than a name's addresses.
    pub(super) fn refusal(&self, what: &str) -> Refusal {
        let kind = match self {
            Self::Late => ErrorKind::Target,
            Self::Busy => ErrorKind::Busy,
        };
        Refusal::new(kind, format!("{what}: {self}")).with_errno(Some(self.errno()))
    }

    /// What a system call would have said.
    pub(super) fn errno(&self) -> Errno {
        match self {
            Self::Late => Errno::ETIMEDOUT,
            Self::Busy => Errno::EAGAIN,
        }
    }
}

impl LookUps {
    pub(super) fn new() -> Self {
        Self { threads: Shares::new(PLACES, PLACES_OF_USER) }
    }

    /// What the host is, for this user; an address is itself.
    pub(super) async fn resolve(&self, user: &UserName, host: &Host) -> Result<Vec<IpAddr>, Refusal> {
        let name = match host {
            Host::Address(address) => return Ok(vec![*address]),
            Host::Name(name) => name.as_str(),
        };
        let asked = name.to_owned();
        let look_up = move || (asked.as_str(), 0).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        let found = match self.run(user, look_up).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                let text = error.to_string();
                // std puts what failed before what getaddrinfo(3) says of the name.
                return Err(unknown(name, text.rsplit_once("information: ").map_or(text.as_str(), |(_, why)| why)));
            }
            Err(late @ NoAnswer::Late) => return Err(unknown(name, &late.to_string())),
            Err(busy @ NoAnswer::Busy) => {
                return Err(refused(ErrorKind::Busy, name, &busy.to_string()).with_errno(Some(Errno::EAGAIN)));
            }
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in found.iter().map(std::net::SocketAddr::ip).take(ADDRESSES_MAX) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Ok(addresses)
    }

    /// Runs what blocks on a thread, once there is a place for it.
    ///
    /// # Cancellation
    /// What was begun goes on, and keeps its place until it is done.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        user: &UserName,
        look_up: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let end = Instant::now() + RESOLVE_MAX;
        let place = timeout_at(end, self.threads.take(user)).await.map_err(|_| NoAnswer::Busy)?;
        let looking = tokio::task::spawn_blocking(move || {
            let found = look_up();
            drop(place);
            found
        });
        match timeout_at(end, looking).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime is stopping, or it took too long.
            Ok(Err(_)) | Err(_) => Err(NoAnswer::Late),
        }
    }
}

/// The refusal of a name that is not known, or that nobody tells us anything of.
pub(super) fn unknown(name: &str, why: &str) -> Refusal {
    refused(ErrorKind::Target, name, why).with_errno(Some(Errno::EHOSTUNREACH))
}

fn refused(kind: ErrorKind, name: &str, why: &str) -> Refusal {
    Refusal::new(kind, format!("the lender cannot resolve {name}: {why}"))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc};

    use super::*;

    /// Look-ups that hang until the sender is dropped.
    fn hang(released: &Arc<Mutex<mpsc::Receiver<()>>>) -> impl FnOnce() + Send + use<> {
        let released = released.clone();
        move || drop(released.lock().map(|released| released.recv()))
    }

    // Time is moved by hand: it does not go by itself while a thread is busy.
    #[tokio::test(start_paused = true)]
    async fn a_look_up_that_hangs_keeps_its_place_and_takes_none_from_another_user() {
        let (look_ups, alice): (_, UserName) = (Arc::new(LookUps::new()), "alice".parse().unwrap());
        let bob = "bob".parse().unwrap();
        let (release, released) = mpsc::channel();
        let released = Arc::new(Mutex::new(released));
        let mut hanging = tokio::task::JoinSet::new();
        for _ in 0..PLACES_OF_USER {
            let (look_ups, alice, look_up) = (look_ups.clone(), alice.clone(), hang(&released));
            hanging.spawn(async move { look_ups.run(&alice, look_up).await });
        }
        while look_ups.threads.free() > PLACES - PLACES_OF_USER {
            tokio::task::yield_now().await;
        }
        tokio::time::advance(RESOLVE_MAX).await;
        while let Some(ended) = hanging.join_next().await {
            assert_eq!(ended.unwrap(), Err(NoAnswer::Late));
        }
        // Nobody waits for them any more, and yet they are there.
        assert_eq!(look_ups.threads.free(), PLACES - PLACES_OF_USER);
        let (one_more, ()) = tokio::join!(look_ups.run(&alice, || 1), tokio::time::advance(RESOLVE_MAX));
        assert_eq!(one_more, Err(NoAnswer::Busy));
        assert_eq!(look_ups.run(&bob, || 2).await, Ok(2));
        drop(release);
        assert_eq!(look_ups.run(&alice, || 3).await, Ok(3));
    }
}
