//! How many connections are made and not handed on yet: a program that is over may have written to such a one already.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// A number of connections.
#[derive(Default)]
pub struct Coming(Arc<AtomicUsize>);

/// One of them, until it is dropped.
pub struct OnItsWay(Arc<AtomicUsize>);

impl Coming {
    /// One more.
    pub fn one(&self) -> OnItsWay {
        self.0.fetch_add(1, Ordering::AcqRel);
        OnItsWay(self.0.clone())
    }

    /// Whether there is any; if not, each that was is where it was handed to.
    pub fn any(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }
}

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
