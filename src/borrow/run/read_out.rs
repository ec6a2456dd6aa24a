//! Reading what a program has sent, to the last, before something of it is taken to be over.
//!
//! When a program has ended, or closed a socket, all that it has sent by it is there to be read, and the kernel may tell of the end
//! before anybody has read it. That the reader has read nothing for a while does not say that it has read all.

use std::future::pending;

use tokio::sync::{mpsc, oneshot};

/// Calls that wait for the reader's next turn; more wait to be heard.
const CALLS_MAX: usize = 16;

/// Has everything read.
#[derive(Clone)]
pub struct ReadOut(mpsc::Sender<AllRead>);

/// Hears, where it is read, that it is to be.
pub struct ReadOutCalls(mpsc::Receiver<AllRead>);

/// What the reader drops when it has read all that was there.
pub type AllRead = oneshot::Sender<()>;

/// Both ends.
pub fn read_out() -> (ReadOut, ReadOutCalls) {
    let (call_tx, call_rx) = mpsc::channel(CALLS_MAX);
    (ReadOut(call_tx), ReadOutCalls(call_rx))
}

impl ReadOut {
    /// Waits until all that is there now has been read, or nobody reads any more.
    pub async fn all_read(&self) {
        let (all_read, read_rx) = oneshot::channel();
        if self.0.send(all_read).await.is_ok() {
            // It is dropped, which is all that it can tell.
            let _ = read_rx.await;
        }
    }
}

impl ReadOutCalls {
    /// The next one.
    ///
    /// # Cancellation
    /// None is lost.
    pub async fn next(&mut self) -> AllRead {
        match self.0.recv().await {
            Some(all_read) => all_read,
            None => pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn who_calls_waits_until_all_is_read_as_often_as_he_likes() {
        let (read_out, mut calls) = read_out();
        let read = AtomicUsize::new(0);
        let reader = async {
            loop {
                let all_read = calls.next().await;
                tokio::task::yield_now().await;
                read.fetch_add(1, Ordering::SeqCst);
                drop(all_read);
            }
        };
        let caller = async {
            for number in 1..=100 {
                read_out.all_read().await;
                assert_eq!(read.load(Ordering::SeqCst), number);
            }
        };
        tokio::select! {
            () = caller => {}
            () = reader => {}
        }
    }

    #[tokio::test]
    async fn nobody_waits_for_a_reader_that_is_gone() {
        let (read_out, calls) = read_out();
        let waiting = read_out.all_read();
        let leaving = async move { drop(calls) };
        tokio::join!(waiting, leaving);
        read_out.all_read().await;
    }
}
