//! A stream in two handles, for two tasks.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;
use crate::proto::Reset;

impl Stream {
    /// Two handles for two tasks. Dropping the [`WriteHalf`] ends our half; when both are gone, so is the stream.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        let stream = Arc::new(self);
        (ReadHalf(stream.clone()), WriteHalf(stream))
    }
}

/// The reading half of a [`Stream`].
#[derive(Debug)]
pub struct ReadHalf(Arc<Stream>);

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_into(cx, buf)
    }
}

/// The writing half of a [`Stream`]; dropping it ends our half.
#[derive(Debug)]
pub struct WriteHalf(Arc<Stream>);

impl WriteHalf {
    /// As [`Stream::reset`].
    pub fn reset(&self, reset: Reset) {
        self.0.reset(reset);
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write_from(cx, bytes)
    }

    /// Written bytes leave by themselves.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.shut_down())
    }
}

impl Drop for WriteHalf {
    fn drop(&mut self) {
        self.0.finish();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc,
        task::{Wake, Waker},
        thread,
    };

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        proto::{Errno, ErrorKind},
        session::both_ends_of_a_stream,
    };

    #[tokio::test]
    async fn a_half_that_is_known_to_be_lost_does_not_end_in_good_order() {
        let [(_borrower, near), (_lender, far)] = both_ends_of_a_stream().await;
        far.reset(Reset::Failed(Errno::ETIMEDOUT.0));
        near.given_up().await;
        let (_reader, mut writer) = near.into_split();
        assert_eq!(writer.shutdown().await.unwrap_err().kind(), io::ErrorKind::TimedOut);

        let [(borrower, mut near), (lender, _far)] = both_ends_of_a_stream().await;
        lender.end(ErrorKind::Lost, "it goes");
        borrower.ended().await;
        assert_eq!(near.shutdown().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_half_whose_other_end_has_said_everything_and_gone_ends_in_good_order() {
        let [(_borrower, mut near), (_lender, far)] = both_ends_of_a_stream().await;
        far.write_all_bytes(Bytes::from_static(b"all")).await.unwrap();
        drop(far);
        near.given_up().await;
        let mut said = String::new();
        near.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "all");
        near.shutdown().await.unwrap();
    }

    #[tokio::test]
    async fn a_half_that_has_ended_may_be_ended_again() {
        let [(borrower, mut near), (lender, _far)] = both_ends_of_a_stream().await;
        near.shutdown().await.unwrap();
        lender.end(ErrorKind::Lost, "it goes");
        borrower.ended().await;
        near.shutdown().await.unwrap();
    }

    /// Looks at its stream as soon as it is woken, as an executor that polls at once does.
    struct Looks(Arc<Stream>);

    impl Wake for Looks {
        fn wake(self: Arc<Self>) {
            self.0.over();
        }
    }

    #[test]
    fn who_is_woken_by_a_reset_may_look_at_the_stream_at_once() {
        let (done_tx, done_rx) = mpsc::channel();
        // Should it wait for itself, then not here.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let [(_borrower, near), _there] = both_ends_of_a_stream().await;
                let near = Arc::new(near);
                let waker = Waker::from(Arc::new(Looks(near.clone())));
                let mut byte = [0];
                let mut reading = Box::pin(near.read_all(&mut byte));
                assert!(reading.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                near.reset(Reset::Cancelled);
            });
            done_tx.send(())
        });
        done_rx.recv_timeout(std::time::Duration::from_secs(30)).expect("it is reset");
    }
}
