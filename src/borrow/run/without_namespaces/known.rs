//! What is known of the program's sockets of TCP, by the kernel's number for each.
//!
//! ```text
//!   (none) ── connect ──▶ Dialing ── the lender is connected ──▶ Connected ──▶ (none): it connects again, or has asked for names
//!                            ├── it failed ──▶ Failed ──▶ (none): the program has asked why
//!                            └──▶ (none): the program has given up
//! ```
//! What nobody dials is forgotten where room is needed: nobody tells us when a socket is closed.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::proto::Errno;

/// Sockets that are known at once: as many as a session has streams by default. With so many that are being connected, one more hears
/// EAGAIN.
const KNOWN_MAX: usize = 4096;

/// The sockets of one program and of all that it starts.
#[derive(Default)]
pub struct Known {
    /// In the order of the numbers, which is that of the sockets.
    table: Mutex<BTreeMap<u64, Entry>>,
}

/// What is known of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The lender has not answered.
    Dialing,
    /// It could not connect, and the program has not asked why.
    Failed(Errno),
    /// With whom, and by which address, as the program is to see it.
    Connected { peer: SocketAddr, own: SocketAddr },
}

impl Known {
    /// What is known of a socket, if anything.
    pub fn of(&self, cookie: u64) -> Option<Entry> {
        self.table().get(&cookie).copied()
    }

    /// Notes it, instead of what was known of the socket; `false` where there is no room.
    pub fn insert(&self, cookie: u64, entry: Entry) -> bool {
        let mut table = self.table();
        if table.len() >= KNOWN_MAX && !table.contains_key(&cookie) {
            // Of those that are connected, the oldest is most likely gone.
            let oldest = table.iter().find(|(_, entry)| !matches!(entry, Entry::Dialing)).map(|(cookie, _)| *cookie);
            let Some(oldest) = oldest else { return false };
            table.remove(&oldest);
        }
        table.insert(cookie, entry);
        true
    }

    /// Knows nothing of a socket any more.
    pub fn forget(&self, cookie: u64) {
        self.table().remove(&cookie);
    }

    /// Why a socket was not connected, once.
    pub fn take_failure(&self, cookie: u64) -> Option<Errno> {
        let mut table = self.table();
        let Some(Entry::Failed(errno)) = table.get(&cookie).copied() else { return None };
        table.remove(&cookie);
        Some(errno)
    }

    fn table(&self) -> MutexGuard<'_, BTreeMap<u64, Entry>> {
        // Every change under the lock is complete by itself.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 80));

    #[test]
    fn a_failure_is_told_once() {
        let known = Known::default();
        assert!(known.insert(1, Entry::Failed(Errno::ENETUNREACH)));
        assert_eq!(known.take_failure(1), Some(Errno::ENETUNREACH));
        assert_eq!((known.take_failure(1), known.of(1)), (None, None));
    }

    #[test]
    fn with_no_room_the_oldest_that_nobody_dials_is_forgotten() {
        let known = Known::default();
        let count = KNOWN_MAX as u64;
        assert!((0..count).all(|cookie| known.insert(cookie, Entry::Dialing)));
        assert!(!known.insert(count, Entry::Dialing), "all of them are being dialled");
        for cookie in [9, 7] {
            assert!(known.insert(cookie, Entry::Connected { peer: PEER, own: PEER }), "it has its place");
        }
        assert!(known.insert(count, Entry::Dialing));
        assert_eq!((known.of(7), known.of(9).is_some(), known.of(count)), (None, true, Some(Entry::Dialing)));
    }
}
