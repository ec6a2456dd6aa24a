//! Copies between two streams, of two sessions or of one, until both directions are done; half-close is kept.

use std::io;

use bytes::Buf;

use super::{Meter, Stream, TakenBack};
use crate::proto::{Errno, Reset, mux::Batch};

/// Passed on at once, in bytes.
const BYTES: usize = 128 * 1024;

/// A stream and who counts its bytes.
#[derive(Clone, Copy)]
pub struct Metered<'a> {
    /// The stream.
    pub stream: &'a Stream,
    /// What comes out of it and what goes into it.
    pub meter: &'a Meter,
}

/// Copies both ways until both have ended. What breaks one side breaks the other, but takes nothing back that came before: a
/// side that has got all of the other's bytes, and its end, is closed, and not reset.
///
/// # Cancellation
/// What was read has been passed on but for one batch of each direction.
pub async fn splice(near: Metered<'_>, far: Metered<'_>) {
    // That something was taken back is a word between one borrower and his lender.
    let end = |ended: Result<(), Reset>| {
        ended.map_err(|reset| match reset {
            Reset::TakenBack(_) => Reset::Cancelled,
            other => other,
        })
    };
    let (up, down) = tokio::join!(copy(near, far, |_| Ok(())), copy(far, near, |_| Ok(())));
    match (end(up), end(down)) {
        (Err(reset), Err(_)) => {
            tokio::join!(near.stream.reset_behind(reset), far.stream.reset_behind(reset));
        }
        (Ok(()), Err(reset)) => near.stream.reset_behind(reset).await,
        (Err(reset), Ok(())) => far.stream.reset_behind(reset).await,
        (Ok(()), Ok(())) => {}
    }
}

/// Copies one way until that direction has ended; `look` sees what is about to be passed on, and may end it.
///
/// # Errors
/// One of both has failed, or `look` does not like it: what the streams are to be reset with.
///
/// # Cancellation
/// As [`splice`].
pub async fn copy(
    from: Metered<'_>,
    to: Metered<'_>,
    mut look: impl FnMut(&[u8]) -> Result<(), Reset>,
) -> Result<(), Reset> {
    let mut batch = Batch::default();
    loop {
        let more = tokio::select! {
            biased;
            read = from.stream.read_batch(&mut batch, BYTES) => read.map_err(|error| reset_of(&error))?,
            error = to.stream.write_closed() => return Err(reset_of(&error)),
        };
        if !more {
            to.stream.finish();
            return Ok(());
        }
        let length = batch.remaining();
        from.meter.keep_pace(length).await;
        to.meter.keep_pace(length).await;
        while let Some(part) = batch.pop() {
            look(&part)?;
            to.stream.write_all_bytes(part).await.map_err(|error| reset_of(&error))?;
        }
        from.meter.went_from_stream(length);
        to.meter.went_to_stream(length);
    }
}

fn reset_of(error: &io::Error) -> Reset {
    if let Some(taken) = TakenBack::of(error) {
        return taken.into();
    }
    match Errno::of(error) {
        Some(Errno::ECONNRESET) | None => Reset::Cancelled,
        Some(errno) => Reset::Failed(errno.0),
    }
}
