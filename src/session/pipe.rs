//! Copies between a stream and one end of a pipe or a terminal: one direction each, for each ends by itself.

use std::{
    io,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Buf;
use rustix::{
    io::Errno,
    pipe::{fcntl_getpipe_size, fcntl_setpipe_size},
};
use tokio::net::unix::pipe::Receiver;

use super::{Meter, PipeWriter, Stream, block::Block, relay::WRITE_BYTES, rounds::let_driver_send};
use crate::proto::mux::Batch;

/// Room in a pipe, in bytes: fewer switches between the programs at its ends than with the usual 64 KiB.
const PIPE_BYTES: usize = 256 * 1024;

/// Gives a pipe more room, where its user may still have pipes of that size; one that has more keeps it.
pub fn widen_pipe(pipe: impl AsFd) {
    if fcntl_getpipe_size(&pipe).is_ok_and(|bytes| bytes < PIPE_BYTES) {
        let _ = fcntl_setpipe_size(&pipe, PIPE_BYTES);
    }
}

/// Whether a copy waits for the peer and not for the pipe.
#[derive(Debug, Default)]
pub struct Stalled(AtomicBool);

impl Stalled {
    /// Whether it does now.
    pub fn is_stalled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// From a pipe into the stream, until the pipe ends, and the stream with it.
///
/// # Errors
/// The pipe fails, or nobody reads the stream any more.
///
/// # Cancellation
/// What was read has been sent.
pub async fn pipe_to_stream(pipe: &Receiver, stream: &Stream, meter: &Meter, stalled: &Stalled) -> io::Result<()> {
    let mut block = Block::new();
    loop {
        tokio::select! {
            biased;
            ready = pipe.readable() => ready?,
            error = stream.write_closed() => return Err(error),
        }
        stalled.0.store(true, Ordering::Relaxed);
        match pipe.try_read_buf(&mut block.room(stream).await?) {
            Ok(0) => break,
            Ok(length) => {
                let sent = block.send(stream);
                meter.went_to_stream(length);
                meter.keep_pace(length).await;
                if sent.is_all {
                    let_driver_send().await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => block.free(),
            // How a terminal says that nobody has its other end open any more.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::IO) => break,
            Err(error) => return Err(error),
        }
        // Not before: a pace that makes it wait is no silence of the program.
        stalled.0.store(false, Ordering::Relaxed);
    }
    stream.finish();
    Ok(())
}

/// From the stream into a pipe, until the stream ends.
///
/// # Errors
/// The stream fails, or nobody reads the pipe any more.
///
/// # Cancellation
/// Part of what was read may not have been written.
pub async fn stream_to_pipe(stream: &Stream, pipe: &mut PipeWriter, meter: &Meter) -> io::Result<()> {
    let mut batch = Batch::default();
    while stream.read_batch(&mut batch, WRITE_BYTES).await? {
        let length = batch.remaining();
        meter.keep_pace(length).await;
        pipe.write_all(&mut batch).await?;
        meter.went_from_stream(length);
    }
    Ok(())
}
