//! When a store that could not be opened again is tried the next time.
//!
//! Opening reads the whole file and syncs it. A disk that is broken would have that done by each handshake, so between
//! two tries whoever only reads gets the error of the first. Whoever writes tries at once: an admin who has made room is
//! not to wait, and there are few of them.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{StoreError, storage};

/// Pause after a first failure; doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(100);
/// Longest pause: who has mended the disk hardly notices it.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The last failure, until the store is open again.
#[derive(Debug, Default)]
pub(super) struct Retry(Option<Failed>);

#[derive(Debug)]
struct Failed {
    until: Instant,
    pause: Duration,
    kind: io::ErrorKind,
    text: String,
}

impl Retry {
    /// The error of the last try, while another would come too soon.
    pub(super) fn too_soon(&self, now: Instant) -> Result<(), StoreError> {
        match &self.0 {
            Some(failed) if now < failed.until => {
                Err(storage(redb::StorageError::Io(io::Error::new(failed.kind, failed.text.clone()))))
            }
            _ => Ok(()),
        }
    }

    /// Notes how a try went.
    pub(super) fn note<T>(&mut self, tried: Result<T, StoreError>, now: Instant) -> Result<T, StoreError> {
        self.0 = tried.as_ref().err().map(|error| {
            let pause = self.0.as_ref().map_or(PAUSE, |failed| (failed.pause * 2).min(PAUSE_MAX));
            let text = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
            Failed { until: now + pause, pause, kind: error.io_kind().unwrap_or(io::ErrorKind::InvalidData), text }
        });
        tried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_its_bound_and_begins_anew_after_a_success() {
        let (mut retry, mut now) = (Retry::default(), Instant::now());
        let full = || Err::<(), _>(storage(redb::StorageError::Io(io::ErrorKind::StorageFull.into())));
        for pause in [100, 200, 400, 800, 1000, 1000].map(Duration::from_millis) {
            assert!(retry.too_soon(now).is_ok());
            retry.note(full(), now).unwrap_err();
            let again = retry.too_soon(now + pause - Duration::from_millis(1)).unwrap_err();
            assert_eq!(again.io_kind(), Some(io::ErrorKind::StorageFull), "it says what went wrong");
            now += pause;
        }
        retry.note(Ok(()), now).unwrap();
        retry.note(full(), now).unwrap_err();
        assert!(retry.too_soon(now + PAUSE).is_ok());
    }
}
