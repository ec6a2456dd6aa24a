//! Connections that come to what we listen on at the lender: told apart by listener, and handed to it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{
    proto::{Accepted, Answer, ErrorKind, PENDING_MAX, Ready, Refusal, Reset, StreamId},
    session::{Crew, OpenError, Session, Stream},
};

/// From a stream's first frame to the end of its first message, which is in that frame.
const FIRST_MESSAGE_MAX: Duration = Duration::from_secs(20);

/// The listeners of a session.
#[derive(Clone, Default)]
pub(super) struct Arrivals {
    listeners: Arc<Mutex<HashMap<u64, mpsc::Sender<Arrival>>>>,
    /// Begins with the first listener, and ends with the last handle of the session that could listen.
    task: Arc<OnceLock<Crew<()>>>,
}

/// A connection that has come and is not accepted.
pub(super) struct Arrival {
    pub(super) stream: Stream,
    pub(super) accepted: Accepted,
}

/// A listener that was asked for.
pub(super) struct Opened {
    pub(super) stream: Stream,
    pub(super) expected: Expected,
    pub(super) arrival_rx: mpsc::Receiver<Arrival>,
}

impl Arrivals {
    /// Asks on `session` for something that connections come to; `first` is the request.
    pub(super) fn open(&self, session: &Session, first: Bytes) -> Result<Opened, OpenError> {
        // Before the lender can have heard of it.
        session.take_streams();
        let stream = session.open(first)?;
        // Before anything is awaited, so that the first connection finds it.
        let (expected, arrival_rx) = self.expect(session, stream.id());
        Ok(Opened { stream, expected, arrival_rx })
    }

    /// Hands what comes to the listener with this stream to whoever has the receiver.
    fn expect(&self, session: &Session, listener: StreamId) -> (Expected, mpsc::Receiver<Arrival>) {
        let (arrival_tx, arrival_rx) = mpsc::channel(PENDING_MAX);
        self.lock().insert(listener.number(), arrival_tx);
        self.task.get_or_init(|| {
            let (arrivals, session) = (Self { task: Arc::default(), ..self.clone() }, session.clone());
            let mut task = Crew::new();
            task.spawn(&session.clone(), async move {
                while let Some(stream) = session.accept().await {
                    arrivals.hand_over(stream).await;
                }
            });
            task
        });
        (Expected { arrivals: self.clone(), listener }, arrival_rx)
    }

    async fn hand_over(&self, stream: Stream) {
        let first = tokio::time::timeout(FIRST_MESSAGE_MAX, stream.read_message_bytes("first message")).await;
        let Ok(Ok(first)) = first else { return stream.reset(Reset::Refused) };
        let accepted = match Accepted::decode(&first) {
            Ok(accepted) => accepted,
            Err(error) => {
                let refusal = Refusal::new(ErrorKind::Version, error.to_string());
                // If it cannot be told, it is gone already.
                let _ = stream.write_message(&Answer::<Ready>::Refused(refusal)).await;
                return;
            }
        };
        let listener = self.lock().get(&accepted.listener).cloned();
        match listener {
            Some(listener) => {
                // A lender that keeps to the bound always finds a place.
                if let Err(unwanted) = listener.try_send(Arrival { stream, accepted }) {
                    unwanted.into_inner().stream.reset(Reset::Refused);
                }
            }
            // It was closed meanwhile.
            None => stream.reset(Reset::Refused),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, mpsc::Sender<Arrival>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A listener that connections are handed to, until it is dropped.
pub(super) struct Expected {
    arrivals: Arrivals,
    listener: StreamId,
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.arrivals.lock().remove(&self.listener.number());
    }
}
