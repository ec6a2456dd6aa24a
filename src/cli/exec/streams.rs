//! Between our own stdin, stdout and stderr and a program's.
//!
//! They belong to others, too: to make them non-blocking would do so for the shell that started us. So reads block in a
//! thread of their own, and writes where they are done.

use std::{
    io::{self, IoSlice},
    os::fd::BorrowedFd,
};

use bytes::{Buf, Bytes};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc;

use crate::{borrow::ReadBatch, proto::mux::Batch};

/// Read and written at once, in bytes: what a batch of frames carries.
const BYTES: usize = 128 * 1024;
/// Pieces of one write.
const SLICES: usize = 64;
/// What was read and waits to be sent: one on its way and one behind it.
const READ_AHEAD: usize = 2;

/// What stdin gives, from a thread that reads it; the end is the end of the channel.
pub fn read_stdin() -> mpsc::Receiver<Bytes> {
    let (bytes_tx, bytes_rx) = mpsc::channel(READ_AHEAD);
    // It ends with the process: nothing can wake a read of a terminal.
    std::thread::spawn(move || {
        let mut buffer = vec![0; BYTES];
        loop {
            buffer.resize(BYTES, 0);
            match rustix::io::read(rustix::stdio::stdin(), buffer.as_mut_slice()) {
                Ok(0) => return,
                Ok(length) => {
                    let bytes = if length < BYTES / 4 {
                        Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default())
                    } else {
                        let mut filled = std::mem::take(&mut buffer);
                        filled.truncate(length);
                        filled.into()
                    };
                    if bytes_tx.blocking_send(bytes).is_err() {
                        return;
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => wait_for(rustix::stdio::stdin(), PollFlags::IN),
                // A terminal that was hung up, or a stdin that is none, has no more to say.
                Err(_) => return,
            }
        }
    });
    bytes_rx
}

/// Writes what a program says to one of our streams until its end.
///
/// # Errors
/// Ours cannot be written to. A stream of the program that breaks off is its end; why is said elsewhere.
pub async fn write_out(from: &impl ReadBatch, to: BorrowedFd<'static>) -> io::Result<()> {
    let mut batch = Batch::default();
    while let Ok(true) = from.read_batch(&mut batch, BYTES).await {
        tokio::task::block_in_place(|| write_all(&mut batch, to))?;
    }
    Ok(())
}

fn write_all(batch: &mut Batch, to: BorrowedFd<'_>) -> io::Result<()> {
    while batch.has_remaining() {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = batch.chunks_vectored(&mut slices);
        match rustix::io::writev(to, slices.get(..filled).unwrap_or_default()) {
            Ok(length) => batch.advance(length),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => wait_for(to, PollFlags::OUT),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Somebody has made it non-blocking.
fn wait_for(fd: BorrowedFd<'_>, what: PollFlags) {
    let _ = poll(&mut [PollFd::new(&fd, what)], None);
}
