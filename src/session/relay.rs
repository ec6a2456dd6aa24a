//! Copies between a socket and a stream until both directions are done; half-close is kept.
//!
//! Bytes are read straight into the block that is sent and kept, and nothing is held for a connection that is quiet.

use std::io;

use bytes::{Buf, BufMut, BytesMut};
use tokio::{
    io::AsyncWriteExt,
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
};

use super::Stream;
use crate::proto::{
    Errno, FRAME_PAYLOAD_MAX, Reset,
    mux::{Batch, COPY_BYTES_MAX},
};

/// Read at once from a busy socket, in bytes: four full frames.
const BUSY_BYTES: usize = 4 * FRAME_PAYLOAD_MAX;
/// Read at once from a socket that sends little, in bytes.
const QUIET_BYTES: usize = 4 * 1024;
/// Written at once to a socket, in bytes.
const WRITE_BYTES: usize = 128 * 1024;

/// How many bytes went each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relayed {
    /// From the socket into the stream, in bytes.
    pub to_stream: u64,
    /// From the stream into the socket, in bytes.
    pub from_stream: u64,
}

/// Relays until both directions have ended; a failure of one end reaches the other as a reset.
///
/// # Cancellation
/// Dropping the future drops both ends.
pub async fn relay(mut socket: TcpStream, stream: &Stream) -> Relayed {
    let (reader, writer) = socket.split();
    let (up, down) = tokio::join!(to_stream(reader, stream), from_stream(stream, writer));
    let relayed = Relayed { to_stream: up.0, from_stream: down.0 };
    if down.1.is_err() {
        // The socket's peer must see a reset and not an orderly end: bytes are missing.
        let _ = socket.set_zero_linger();
    }
    relayed
}

/// From the socket into the stream, until the socket ends or the stream is closed.
pub async fn to_stream(reader: ReadHalf<'_>, stream: &Stream) -> (u64, io::Result<()>) {
    let mut copied = 0;
    let result = copy_to_stream(&reader, stream, &mut copied).await;
    match &result {
        Ok(()) => stream.finish(),
        Err(error) => stream.reset(reset_of(error)),
    }
    (copied, result)
}

async fn copy_to_stream(reader: &ReadHalf<'_>, stream: &Stream, copied: &mut u64) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    let mut size = QUIET_BYTES;
    loop {
        tokio::select! {
            biased;
            ready = reader.readable() => ready?,
            closed = stream.write_closed() => return Err(closed),
        }
        let room = stream.write_room(size).await?;
        buffer.reserve(room.min(size));
        // `room` first: what is read can then always be written, and a stalled stream stops the socket.
        match reader.try_read_buf(&mut (&mut buffer).limit(room)) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                *copied += length as u64;
                if length <= COPY_BYTES_MAX {
                    stream.write_copy(&buffer);
                    buffer.clear();
                } else {
                    stream.write_bytes(buffer.split().freeze());
                }
                size = next_size(size, length);
            }
            // A quiet connection holds no buffer.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => buffer = BytesMut::new(),
            Err(error) => return Err(error),
        }
    }
}

/// A socket that fills what it is given gets more, one that does not gets less.
fn next_size(size: usize, filled: usize) -> usize {
    if filled >= size {
        (size * 4).min(BUSY_BYTES)
    } else if filled < size / 4 {
        (size / 2).max(QUIET_BYTES)
    } else {
        size
    }
}

/// From the stream into the socket, until the stream ends or either fails.
pub async fn from_stream(stream: &Stream, mut writer: WriteHalf<'_>) -> (u64, io::Result<()>) {
    let (mut copied, mut batch) = (0, Batch::default());
    let result = loop {
        match stream.read_batch(&mut batch, WRITE_BYTES).await {
            Ok(true) => {
                let length = batch.remaining() as u64;
                if let Err(error) = writer.write_all_buf(&mut batch).await {
                    break Err(error);
                }
                copied += length;
            }
            // An end that cannot be passed on has been seen by the socket's peer already.
            Ok(false) => break writer.shutdown().await.or(Ok(())),
            Err(error) => break Err(error),
        }
    };
    (copied, result)
}

fn reset_of(error: &io::Error) -> Reset {
    Errno::of(error).map_or(Reset::Cancelled, |errno| Reset::Failed(errno.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_sizes_follow_what_the_socket_gives() {
        let busy = (0..4).fold(QUIET_BYTES, |size, _| next_size(size, size));
        assert_eq!(busy, BUSY_BYTES);
        let quiet = (0..8).fold(busy, |size, _| next_size(size, 10));
        assert_eq!(quiet, QUIET_BYTES);
        assert_eq!(next_size(8192, 4096), 8192);
    }
}
