//! The end of a pipe or of a terminal that is written to.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, OwnedFd},
};

use bytes::Buf;
use rustix::io::Errno;
use tokio::{io::AsyncWriteExt, net::unix::pipe::Sender, task::coop};

use crate::sys::until_writable;

/// Pieces of one write.
const SLICES: usize = 64;

/// What is written to, and does not block.
///
/// epoll(7) tells who listens for room in a terminal of each key that is read at its other end: between a key and its echo, in
/// the way of both. So a terminal is listened to only while it has no room.
#[derive(Debug)]
pub enum PipeWriter {
    /// Of a pipe.
    Pipe(Sender),
    /// A terminal.
    Terminal(OwnedFd),
}

impl PipeWriter {
    /// Writes all of it.
    ///
    /// # Errors
    /// Nobody reads it any more; see write(2), and tty(4) for a terminal.
    ///
    /// # Cancellation
    /// What was written is no longer in `bytes`.
    pub async fn write_all(&mut self, bytes: &mut impl Buf) -> io::Result<()> {
        match self {
            Self::Pipe(sender) => sender.write_all_buf(bytes).await,
            Self::Terminal(terminal) => {
                while bytes.has_remaining() {
                    coop::consume_budget().await;
                    match write_some(&terminal, bytes) {
                        Err(Errno::AGAIN) => until_writable(terminal.as_fd()).await?,
                        written => written?,
                    }
                }
                Ok(())
            }
        }
    }
}

/// Writes what there is room for, and takes it out of `bytes`.
///
/// # Errors
/// See write(2); an interrupted one is none.
pub fn write_some(to: impl AsFd, bytes: &mut impl Buf) -> Result<(), Errno> {
    let mut slices = [IoSlice::new(&[]); SLICES];
    let filled = bytes.chunks_vectored(&mut slices);
    match rustix::io::writev(to, slices.get(..filled).unwrap_or_default()) {
        Ok(length) => bytes.advance(length),
        Err(Errno::INTR) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        future::Future,
        io::Read,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use rustix::{
        fs::{Mode, OFlags, open},
        pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
        termios::{OptionalActions, tcgetattr, tcsetattr},
    };

    use super::*;

    /// A terminal that does not block and has no echo, and its other end.
    fn terminal() -> (PipeWriter, File) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        rustix::io::ioctl_fionbio(&master, true).unwrap();
        let path = ptsname(&master, Vec::new()).unwrap();
        let other = open(path.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        let mut modes = tcgetattr(&other).unwrap();
        modes.make_raw();
        tcsetattr(&other, OptionalActions::Now, &modes).unwrap();
        (PipeWriter::Terminal(master), other.into())
    }

    #[test]
    fn a_terminal_with_room_is_not_listened_to() {
        let (mut writer, mut other) = terminal();
        // There is no runtime that could listen.
        let written = pin!(writer.write_all(&mut &b"key"[..])).poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(written, Poll::Ready(Ok(()))), "{written:?}");
        let mut read = [0; 3];
        other.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"key");
    }

    #[tokio::test]
    async fn what_a_terminal_has_no_room_for_is_written_as_it_is_read() {
        let (mut writer, mut other) = terminal();
        let said: Vec<u8> = (0..1 << 20).map(|index: u32| index.to_le_bytes()[index as usize % 3]).collect();
        let length = said.len();
        let reader = tokio::task::spawn_blocking(move || {
            let mut read = vec![0; length];
            other.read_exact(&mut read).map(|()| read)
        });
        writer.write_all(&mut said.as_slice()).await.unwrap();
        assert!(reader.await.unwrap().unwrap() == said);
    }
}
