//! A connection of a borrowed program that stays on this machine: bytes between two sockets, counted as they move.

use std::{future::pending, io, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{oneshot, watch},
};

use crate::session::Meter;

/// Copied at once, in bytes.
const COPY_BYTES: usize = 64 * 1024;

/// Copies until both directions have ended, or, once `over_rx` says that the program is over, until `far` has been given
/// all of `near`'s: the kernel delivers it. `meter` takes the far end for the stream.
///
/// # Cancellation
/// Both see a reset: bytes are missing.
pub async fn copy(near: TcpStream, far: TcpStream, meter: Arc<Meter>, mut over_rx: watch::Receiver<bool>) {
    let mut ends = Ends { near, far, is_whole: false };
    ends.is_whole = {
        let (from_near, to_near) = ends.near.split();
        let (from_far, to_far) = ends.far.split();
        let (sent_tx, sent_rx) = oneshot::channel();
        let there = async {
            pass(from_near, to_far, |length| meter.went_to_stream(length)).await?;
            // Nobody waits for it where the copy ends at the same time.
            let _ = sent_tx.send(());
            Ok(())
        };
        let back = pass(from_far, to_near, |length| meter.went_from_stream(length));
        let enough = async {
            if sent_rx.await.is_err() || over_rx.wait_for(|over| *over).await.is_err() {
                pending().await
            }
        };
        tokio::select! {
            both = async { tokio::try_join!(there, back) } => both.is_ok(),
            () = enough => true,
        }
    };
}

/// One direction, to its end.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    moved: impl Fn(usize),
) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        let mut rest = buffer.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            // Each part counts by itself: a reader may be slow.
            let written = to.write(rest).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            moved(written);
            rest = rest.get(written..).unwrap_or_default();
        }
    }
}

/// Two sockets of which neither peer must see an orderly end where bytes are missing.
struct Ends {
    near: TcpStream,
    far: TcpStream,
    is_whole: bool,
}

impl Drop for Ends {
    fn drop(&mut self) {
        if !self.is_whole {
            let _ = self.near.set_zero_linger();
            let _ = self.far.set_zero_linger();
        }
    }
}
