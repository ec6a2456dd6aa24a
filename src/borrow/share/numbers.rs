//! Streams that a command's requests name by their numbers, which are others in the session.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use crate::{
    proto::{Request, SpawnStdio, message},
    session::Stream,
};

/// The programs of one command: its number of each, and the session's.
#[derive(Default)]
pub(super) struct Programs(Mutex<HashMap<u64, u64>>);

/// A program that is known until this is dropped.
pub(super) struct Known(Arc<Programs>, u64);

impl Programs {
    /// The first bytes of a request's stream, as the lender is to have them; `bytes` are the request. `None`: it names a
    /// program that there is not.
    pub(super) fn translate(&self, request: &Request, bytes: &[u8]) -> Option<Bytes> {
        if let Request::SpawnStdio(SpawnStdio { spawn, which }) = *request {
            let spawn = *self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&spawn)?;
            return Some(message::encode_prefixed(&Request::SpawnStdio(SpawnStdio { spawn, which })));
        }
        // As it is, should a newer command say more than is understood here.
        Some(message::prefixed(bytes))
    }

    pub(super) fn know(self: Arc<Self>, near: &Stream, far: &Stream) -> Known {
        let number = near.id().number();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number, far.id().number());
        Known(self, number)
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}
