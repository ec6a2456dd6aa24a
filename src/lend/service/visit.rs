//! One connection to a service, on its way from who connects to who offers it.

use std::{fmt, sync::Arc};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    lend::borrower::Handle,
    proto::{Answer, Errno, ErrorKind, Ready, Refusal, Reset, UserName},
    session::{Meter, Metered, Stream, splice},
};

/// A connection that somebody wants. Dropped, it is refused, or broken off where it stands already.
pub(in crate::lend) struct Visit {
    stream: Arc<Stream>,
    handle: Arc<Handle>,
    /// By whom, to what.
    user: UserName,
    name: String,
    place: Option<OwnedSemaphorePermit>,
    /// It stands.
    granted: bool,
    /// Hears of its end, or why there is none.
    end_tx: Option<oneshot::Sender<Result<(), Refusal>>>,
}

impl Visit {
    /// By a user to a service, on a stream that nobody else reads or writes until `end_tx` says so.
    pub(super) fn new(
        stream: Arc<Stream>,
        handle: Arc<Handle>,
        (user, name): (&UserName, &str),
        end_tx: oneshot::Sender<Result<(), Refusal>>,
    ) -> Self {
        Self {
            stream,
            handle,
            user: user.clone(),
            name: name.to_owned(),
            place: None,
            granted: false,
            end_tx: Some(end_tx),
        }
    }

    /// Whether its user has gone, so that it need not be announced.
    pub(super) fn is_gone(&self) -> bool {
        self.stream.is_write_closed()
    }

    /// Holds a place as long as it lasts.
    pub(super) fn takes(&mut self, place: OwnedSemaphorePermit) {
        self.place = Some(place);
    }

    /// Carries its bytes to and from `far`, once who offers the service has said yes; a no, or the end of either stream,
    /// ends it.
    ///
    /// Who gives up before the answer is heard of only after it, so that nobody who connects and goes can make us open and
    /// reset streams.
    pub(in crate::lend) async fn relay(
        mut self,
        far: &Stream,
        meter: &Meter,
        answer: impl Future<Output = Result<(), ()>>,
    ) -> Result<(), ()> {
        tokio::pin!(answer);
        let answered = tokio::select! {
            answered = &mut answer => Some(answered),
            _ = self.stream.write_closed() => None,
        };
        match answered {
            None => {
                answer.await?;
                far.reset(Reset::Cancelled);
                return Err(());
            }
            Some(Err(())) => {
                let text = "who offers the service has not accepted the connection";
                let refusal = Refusal::new(ErrorKind::Target, text).with_errno(Some(Errno::ECONNREFUSED));
                self.end(Err(refusal));
                return Err(());
            }
            Some(Ok(())) => {}
        }
        self.granted = true;
        if self.stream.write_message(&Answer::Granted(Ready {})).await.is_ok() {
            let near = Metered { stream: &self.stream, meter: &self.handle.meter };
            splice(near, Metered { stream: far, meter }).await;
        } else {
            far.reset(Reset::Cancelled);
        }
        self.end(Ok(()));
        Ok(())
    }

    fn end(&mut self, how: Result<(), Refusal>) {
        if let Some(end_tx) = self.end_tx.take() {
            // Who waits for it may have been taken back meanwhile.
            let _ = end_tx.send(how);
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if self.granted && self.end_tx.is_some() {
            self.stream.reset(Reset::Cancelled);
            self.end(Ok(()));
        }
    }
}

/// For the log and for `sessions`.
impl fmt::Display for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "user {} at service {}", self.user, self.name)
    }
}
