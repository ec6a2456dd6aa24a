//! Sockets of the borrowed network that can connect from any address: inner makes them when they get few.

use std::{
    os::fd::OwnedFd,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};

/// Made at once, for one message: as many descriptors as one has room for.
pub const BATCH: usize = 64;
/// With so few left, more are made while these are used: where every processor is busy, another process has its turn only after
/// some milliseconds, in which as many visitors come.
const FEW: usize = 32;
/// After such a time without one, inner is asked again: it may have had no descriptor left.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The sockets that wait to be used.
pub struct Stock {
    v4: Shelf,
    v6: Shelf,
    /// Gets the family (whether it is IPv6) of which more are needed.
    wanted_tx: mpsc::Sender<bool>,
}

struct Shelf {
    is_ipv6: bool,
    sockets: Mutex<Vec<OwnedFd>>,
    /// As many permits as there are sockets.
    count: Semaphore,
    /// Some are being made.
    asked: AtomicBool,
}

impl Stock {
    /// An empty one; `wanted_tx` hears which family is needed.
    pub fn new(wanted_tx: mpsc::Sender<bool>) -> Self {
        Self { v4: Shelf::new(false), v6: Shelf::new(true), wanted_tx }
    }

    /// One socket, once there is one.
    ///
    /// # Cancellation
    /// Dropping the future takes none.
    pub async fn take(&self, is_ipv6: bool) -> OwnedFd {
        let shelf = self.shelf(is_ipv6);
        loop {
            if shelf.count.available_permits() <= FEW {
                self.ask(shelf);
            }
            match timeout(ASK_AGAIN, shelf.count.acquire()).await {
                Ok(Ok(permit)) => {
                    permit.forget();
                    let taken = shelf.sockets.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    if let Some(socket) = taken {
                        return socket;
                    }
                }
                // Nobody closes it.
                Ok(Err(_)) => {}
                Err(_) => shelf.asked.store(false, Ordering::Relaxed),
            }
        }
    }

    /// What inner has made, which may be nothing.
    pub fn put(&self, is_ipv6: bool, made: Vec<OwnedFd>) {
        let shelf = self.shelf(is_ipv6);
        let count = made.len();
        shelf.sockets.lock().unwrap_or_else(PoisonError::into_inner).extend(made);
        shelf.count.add_permits(count);
        // Where none could be made, it is asked for again in a while.
        shelf.asked.store(count == 0, Ordering::Relaxed);
    }

    fn ask(&self, shelf: &Shelf) {
        if !shelf.asked.swap(true, Ordering::Relaxed) {
            // One question for each family is on its way at most, so that there is room.
            let _ = self.wanted_tx.try_send(shelf.is_ipv6);
        }
    }

    fn shelf(&self, is_ipv6: bool) -> &Shelf {
        if is_ipv6 { &self.v6 } else { &self.v4 }
    }
}

impl Shelf {
    fn new(is_ipv6: bool) -> Self {
        Self { is_ipv6, sockets: Mutex::default(), count: Semaphore::new(0), asked: AtomicBool::new(false) }
    }
}
