//! How many descriptors the borrowers may have together. The rest is kept for the lender itself, so that whoever holds all
//! that can be had keeps out neither strangers who log in or join, nor the admin who takes it back.

use rustix::process::{Resource, getrlimit};
use tokio::sync::Semaphore;

use super::{admin, admission, resolve};
use crate::proto::{Errno, ErrorKind, Refusal};

/// Descriptors that the lender has for itself: what listens, the store, the log, the watches and the worker's socket are
/// some 30, and a file that is read or a path that is looked at takes one more for a moment.
const OWN: usize = 64;
/// Connections that are not logged in, of the network and as many of the door.
const STRANGERS: usize = 2 * (admission::PLACES + admission::WAITING_MAX);
/// Descriptors that borrowers do not get. A look-up holds one socket or one file at a time. Who comes to a listener is not
/// accepted before there is a place for him (`listen`).
const RESERVED: usize = OWN + STRANGERS + admin::PLACES + resolve::PLACES;
/// Places that there are even in a process that may open next to nothing; the reserve is then less than it should be.
const PLACES_LEAST: usize = 16;

/// What a borrower hears who wants one more.
pub(super) const NONE_LEFT: &str = "the lender has lent as many sockets as it can open";

/// The answer to a request for one more.
pub(super) fn none_left() -> Refusal {
    Refusal::new(ErrorKind::Busy, NONE_LEFT).with_errno(Some(Errno::EMFILE))
}

/// A place for each descriptor that borrowers may have: a session, a socket that is lent, a stream of a program.
pub(super) fn places() -> Semaphore {
    let most = getrlimit(Resource::Nofile).current.and_then(|most| usize::try_from(most).ok());
    Semaphore::new(places_of(most.unwrap_or(usize::MAX)))
}

/// Of so many that the process may open.
fn places_of(most: usize) -> usize {
    most.saturating_sub(RESERVED).clamp(PLACES_LEAST, Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_lender_needs_for_itself_is_kept() {
        assert_eq!(places_of(65_536), 65_536 - RESERVED);
        assert_eq!(places_of(RESERVED + PLACES_LEAST + 1), PLACES_LEAST + 1);
        assert_eq!((places_of(64), places_of(usize::MAX)), (PLACES_LEAST, Semaphore::MAX_PERMITS));
        // The usual limit of a process that nobody has given more.
        assert!(places_of(1024) > RESERVED - OWN, "{RESERVED} of 1,024 are reserved");
    }
}
