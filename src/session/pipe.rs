//! Copies between a stream and one end of a pipe or a terminal: one direction each, for each ends by itself.

use std::{
    io,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::{Buf, BufMut, BytesMut};
use rustix::{
    io::Errno,
    pipe::{fcntl_getpipe_size, fcntl_setpipe_size},
};
use tokio::{
    io::AsyncWriteExt,
    net::unix::pipe::{Receiver, Sender},
};

use super::{
    Meter, Stream,
    block::make_room,
    relay::{QUIET_BYTES, WRITE_BYTES, next_size},
    rounds::let_driver_send,
};
use crate::proto::mux::{Batch, COPY_BYTES_MAX};

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
    let mut buffer = BytesMut::new();
    let mut size = QUIET_BYTES;
    loop {
        tokio::select! {
            biased;
            ready = pipe.readable() => ready?,
            error = stream.write_closed() => return Err(error),
        }
        stalled.0.store(true, Ordering::Relaxed);
        let room = stream.write_room(size).await?;
        make_room(&mut buffer, room.min(size));
        // `room` first: what is read can then always be written, and a stalled stream stops the program.
        match pipe.try_read_buf(&mut (&mut buffer).limit(room)) {
            Ok(0) => break,
            Ok(length) => {
                if length <= COPY_BYTES_MAX {
                    stream.write_copy(&buffer);
                    buffer.clear();
                } else {
                    stream.write_bytes(buffer.split().freeze());
                }
                meter.went_to_stream(length);
                meter.keep_pace(length).await;
                // It has given what it had.
                if length < room.min(size) {
                    let_driver_send().await;
                }
                size = next_size(size, length);
            }
            // What is quiet holds no buffer.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => buffer = BytesMut::new(),
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
pub async fn stream_to_pipe(stream: &Stream, pipe: &mut Sender, meter: &Meter) -> io::Result<()> {
    let mut batch = Batch::default();
    while stream.read_batch(&mut batch, WRITE_BYTES).await? {
        let length = batch.remaining();
        meter.keep_pace(length).await;
        pipe.write_all_buf(&mut batch).await?;
        meter.went_from_stream(length);
    }
    Ok(())
}
