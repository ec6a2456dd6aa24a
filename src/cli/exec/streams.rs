//! Between our own stdin, stdout and stderr and a program's.
//!
//! They belong to others, too: to make them non-blocking would do so for the shell that started us. So a pipe or a
//! terminal is opened once more, and its bytes move in the task of the session: a key that crossed threads would be late.
//! What cannot be opened again, as a socket, and files, whose position is shared, may block a thread.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use bytes::{Buf, Bytes, BytesMut};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{FileType, Mode, OFlags, fstat, open},
    termios::isatty,
};
use tokio::{
    net::unix::pipe::{Receiver, Sender},
    sync::mpsc,
};

use crate::{
    borrow::ProgramStream,
    proto::mux::Batch,
    session::{PipeWriter, widen_pipe, write_some},
};

/// Read and written at once, in bytes: what a batch of frames carries.
const BYTES: usize = 128 * 1024;
/// What is shorter is copied, in bytes, so that little does not hold a whole block.
const COPIED_BYTES: usize = BYTES / 4;
/// What was read and waits to be sent: one on its way and one behind it.
const READ_AHEAD: usize = 2;

/// Our stdin.
pub enum Input {
    Reopened(Receiver, BytesMut),
    /// From a thread that reads it; the end is the end of the channel.
    Blocking(mpsc::Receiver<io::Result<Bytes>>),
}

impl Input {
    /// # Errors
    /// It blocks, and there can be no thread that reads it.
    pub fn open() -> io::Result<Self> {
        match reopen(rustix::stdio::stdin(), OFlags::RDONLY).map(Receiver::from_owned_fd_unchecked) {
            Some(Ok(receiver)) => Ok(Self::Reopened(receiver, BytesMut::new())),
            _ => read_stdin().map(Self::Blocking),
        }
    }

    pub fn may_block(&self) -> bool {
        matches!(self, Self::Blocking(_))
    }

    /// The next bytes, as they come. A terminal that was hung up, or a stdin that is none, has no more to say; what fails
    /// otherwise, as a disk does, is no end of it.
    ///
    /// # Cancellation
    /// Nothing is lost.
    pub async fn read(&mut self) -> Option<io::Result<Bytes>> {
        match self {
            Self::Blocking(bytes_rx) => bytes_rx.recv().await,
            Self::Reopened(receiver, buffer) => loop {
                receiver.readable().await.ok()?;
                buffer.reserve(BYTES);
                match receiver.try_read_buf(buffer) {
                    Ok(0) => return None,
                    Ok(length) if length < COPIED_BYTES => {
                        let bytes = Bytes::copy_from_slice(buffer);
                        buffer.clear();
                        return Some(Ok(bytes));
                    }
                    Ok(_) => return Some(Ok(buffer.split().freeze())),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return None,
                }
            },
        }
    }
}

/// Our stdout or stderr.
pub enum Output {
    Reopened(PipeWriter),
    Blocking(BorrowedFd<'static>),
}

impl Output {
    pub fn open(fd: BorrowedFd<'static>) -> Self {
        let writer = reopen(fd, OFlags::WRONLY).and_then(|reopened| match isatty(fd) {
            true => Some(PipeWriter::Terminal(reopened)),
            false => Sender::from_owned_fd_unchecked(reopened).ok().map(PipeWriter::Pipe),
        });
        writer.map_or(Self::Blocking(fd), Self::Reopened)
    }

    pub fn may_block(&self) -> bool {
        matches!(self, Self::Blocking(_))
    }

    async fn write_all(&mut self, batch: &mut Batch) -> io::Result<()> {
        match self {
            Self::Reopened(writer) => writer.write_all(batch).await,
            Self::Blocking(fd) => tokio::task::block_in_place(|| write_all(batch, *fd)),
        }
    }
}

/// Writes what a program says to one of our streams until its end, and gives why it broke off where that was none.
///
/// # Errors
/// Ours cannot be written to.
pub async fn write_out(from: impl ProgramStream, mut to: Output) -> io::Result<io::Result<()>> {
    let mut batch = Batch::default();
    loop {
        match from.stream().read_batch(&mut batch, BYTES).await {
            Ok(true) => to.write_all(&mut batch).await?,
            Ok(false) => return Ok(Ok(())),
            Err(broke_off) => return Ok(Err(broke_off)),
        }
    }
}

/// A pipe or a terminal in an open file description of our own (open(2)), which does not block. `None`: it is neither, or
/// it is another user's.
fn reopen(fd: BorrowedFd<'_>, access: OFlags) -> Option<OwnedFd> {
    let is_pipe = FileType::from_raw_mode(fstat(fd).ok()?.st_mode) == FileType::Fifo;
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = (is_pipe || isatty(fd)).then(|| open(path, flags, Mode::empty()).ok())??;
    if is_pipe {
        widen_pipe(&opened);
    }
    Some(opened)
}

/// What stdin gives, from a thread that reads it.
fn read_stdin() -> io::Result<mpsc::Receiver<io::Result<Bytes>>> {
    let (bytes_tx, bytes_rx) = mpsc::channel(READ_AHEAD);
    // It ends with the process: nothing can wake a read of a terminal.
    std::thread::Builder::new().spawn(move || {
        let mut buffer = vec![0; BYTES];
        loop {
            buffer.resize(BYTES, 0);
            match rustix::io::read(rustix::stdio::stdin(), buffer.as_mut_slice()) {
                Ok(0) => return,
                Ok(length) => {
                    let bytes = if length < COPIED_BYTES {
                        Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default())
                    } else {
                        let mut filled = std::mem::take(&mut buffer);
                        filled.truncate(length);
                        filled.into()
                    };
                    if bytes_tx.blocking_send(Ok(bytes)).is_err() {
                        return;
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => wait_for(rustix::stdio::stdin(), PollFlags::IN),
                // It is not open for reading, as nohup(1) leaves it, or nothing that could be read.
                Err(rustix::io::Errno::BADF | rustix::io::Errno::ISDIR) => return,
                Err(_) if isatty(rustix::stdio::stdin()) => return,
                Err(error) => return drop(bytes_tx.blocking_send(Err(error.into()))),
            }
        }
    })?;
    Ok(bytes_rx)
}

fn write_all(batch: &mut Batch, to: BorrowedFd<'_>) -> io::Result<()> {
    while batch.has_remaining() {
        match write_some(to, batch) {
            Err(rustix::io::Errno::AGAIN) => wait_for(to, PollFlags::OUT),
            written => written?,
        }
    }
    Ok(())
}

/// Somebody has made it non-blocking.
fn wait_for(fd: BorrowedFd<'_>, what: PollFlags) {
    let _ = poll(&mut [PollFd::new(&fd.as_fd(), what)], None);
}
