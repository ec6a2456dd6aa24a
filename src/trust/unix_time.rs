//! A point in time that survives a restart: whole seconds since 1970, UTC.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970. Code that decides takes one as an argument and never looks at the clock itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, minicbor::Encode, minicbor::Decode)]
#[cbor(transparent)]
pub struct UnixTime(#[n(0)] pub u64);

impl UnixTime {
    /// What the clock says. A clock before 1970 counts as 1970: every certificate is then "not yet valid".
    pub fn now() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
    }

    /// This much later, in whole seconds.
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later.as_secs()))
    }

    /// This much earlier, in whole seconds.
    pub fn minus(self, earlier: Duration) -> Self {
        Self(self.0.saturating_sub(earlier.as_secs()))
    }
}
