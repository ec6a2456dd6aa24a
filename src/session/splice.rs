//! Copies between two streams, of two sessions or of one, until both directions are done; half-close is kept.

use std::io;

use bytes::Buf;

use super::{Meter, Stream};
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

/// Copies both ways until both have ended. What breaks one side breaks the other, but takes nothing back that came before:
/// a side whose bytes have all been passed on is closed, and not reset.
///
/// # Cancellation
/// What was read has been passed on but for one batch of each direction.
pub async fn splice(near: Metered<'_>, far: Metered<'_>) {
    match tokio::join!(copy(near, far), copy(far, near)) {
        (Err(reset), Err(_)) => {
            near.stream.reset(reset);
            far.stream.reset(reset);
        }
        (Ok(()), Err(reset)) => near.stream.reset(reset),
        (Err(_), Ok(())) | (Ok(()), Ok(())) => {}
    }
}

async fn copy(from: Metered<'_>, to: Metered<'_>) -> Result<(), Reset> {
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
        let bytes = batch.copy_to_bytes(length);
        to.stream.write_all_bytes(bytes).await.map_err(|error| reset_of(&error))?;
        from.meter.went_from_stream(length);
        to.meter.went_to_stream(length);
    }
}

fn reset_of(error: &io::Error) -> Reset {
    match Errno::of(error) {
        Some(Errno::ECONNRESET) | None => Reset::Cancelled,
        Some(errno) => Reset::Failed(errno.0),
    }
}
