//! One authenticated relationship between a borrower and a lender, and the streams in it; the same code at both ends.
//!
//! ```text
//!   TLS ── greet ──▶ Session ── open/accept ──▶ Stream ── relay ──▶ a socket
//!                       │
//!                     driver: the one that owns the connection; `rounds` runs it and the relays in one task
//! ```
//! Nothing is decided here: `proto` decides what a frame means, `lend` and `borrow` what a stream is for.

#![forbid(unsafe_code)]

mod backoff;
mod block;
#[cfg(test)]
mod both_ends;
mod close;
mod confirm;
mod crew;
mod datagrams;
mod dial;
mod door;
mod driver;
mod greet;
mod halves;
mod home;
mod meter;
mod passwd;
#[cfg(any(feature = "run", feature = "lend"))]
mod pipe;
#[cfg(any(feature = "run", feature = "lend"))]
mod pipe_writer;
#[cfg(any(feature = "borrow", feature = "lend"))]
mod reachable;
mod relay;
mod rounds;
mod socket;
mod socket_file;
mod splice;
mod stream;
mod taken_back;
pub mod terminal;
#[cfg(feature = "run")]
mod unended;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncWrite};

use crate::proto::{ErrorKind, Goaway, Reset, StreamId, mux};

pub use backoff::Backoff;
#[cfg(test)]
pub use both_ends::{both_ends, both_ends_of_a_stream};
pub use close::close_gently;
pub use crew::{Crew, Panicked};
pub use datagrams::{DatagramQueue, DatagramReader, QUEUE_BYTES, receive_datagrams, receive_datagrams_by};
pub use dial::{ATTEMPTS_MAX, DialError, READ_BYTES, TLS_BUFFER_BYTES, dial, dial_unix, socket_options};
pub use door::{DOOR, own_door, runtime_folder, system_door};
pub use greet::{GreetError, Greeter};
pub use halves::{ReadHalf, WriteHalf};
pub use home::{config_folder, folder_named_by, home_folder, listed_home, state_folder};
pub use meter::{Meter, Pace};
pub use passwd::{passwd, passwd_lines};
#[cfg(any(feature = "run", feature = "lend"))]
pub use pipe::{Stalled, pipe_to_stream, stream_to_pipe, widen_pipe};
#[cfg(any(feature = "run", feature = "lend"))]
pub use pipe_writer::{PipeWriter, write_some};
#[cfg(any(feature = "borrow", feature = "lend"))]
pub use reachable::Reachable;
pub use relay::{abandoned, relay, relay_unanswered};
pub use rounds::let_driver_send;
pub use socket::Socket;
pub use socket_file::{SocketFile, short_name};
pub use splice::{Metered, copy, splice};
pub use stream::Stream;
pub use taken_back::TakenBack;
#[cfg(feature = "run")]
pub use unended::Unended;

/// What a borrower says that ends a session in good order.
pub const CLOSED: &str = "the borrower closed the session";

/// A session. Clones are the same session; it ends when the last clone and the last stream are gone, which a borrower's tells the
/// lender.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
    _owner: Arc<Owner>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// Why a session is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Ended {
    /// Which of the error kinds.
    pub kind: ErrorKind,
    /// One line; where the peer wrote it, it still has to be escaped.
    pub text: String,
    /// The peer ended it, and wrote kind and text.
    pub by_peer: bool,
}

impl Session {
    /// Starts a session on a connection whose greetings are over, with its driver as a task of the current runtime.
    ///
    /// A peer that answers nothing for two to three periods of PING is given up.
    pub fn start<C>(connection: C, role: mux::Role, config: mux::Config) -> Self
    where
        C: AsyncBufRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self::start_while(|_| false, connection, role, config)
    }

    /// As [`Self::start`], and a peer that answers nothing is given up only when its machine is gone as well: its process may be
    /// suspended, as by Ctrl-Z, and goes on later.
    #[cfg(any(feature = "borrow", feature = "lend"))]
    pub fn start_patient<C: Reachable>(connection: C, role: mux::Role, config: mux::Config) -> Self {
        Self::start_while(C::is_reachable, connection, role, config)
    }

    fn start_while<C>(is_there: fn(&C) -> bool, connection: C, role: mux::Role, config: mux::Config) -> Self
    where
        C: AsyncBufRead + AsyncWrite + Send + Unpin + 'static,
    {
        let shared = Arc::new(Shared::new(mux::Mux::new(role, config, std::time::Instant::now()), role));
        let driver = driver::Driver::new(connection, is_there, shared.clone());
        tokio::spawn(rounds::Rounds::new(driver, shared.roster.clone()));
        Self { _owner: Arc::new(Owner(shared.clone())), shared }
    }

    /// Where those sign who run in this session's task.
    fn roster(&self) -> &rounds::Roster {
        &self.shared.roster
    }

    /// Opens a stream; `first` travels with it.
    ///
    /// # Errors
    /// The session is over, or the peer allows no more streams.
    pub fn open(&self, first: Bytes) -> Result<Stream, OpenError> {
        let mut state = self.shared.lock();
        if let Some(ended) = &state.ended {
            return Err(OpenError::Ended(ended.clone()));
        }
        let id = state.mux.open(first)?;
        state.streams.insert(id, Wakers::default());
        state.wake_driver();
        drop(state);
        Ok(Stream::new(self.shared.clone(), id))
    }

    /// From here on the streams that the peer opens wait to be accepted; before, they are refused. A lender's wait from the start,
    /// and a borrower takes some once it has asked for something that connections come to.
    pub fn take_streams(&self) {
        self.shared.lock().takes_streams = true;
    }

    /// The next stream that the peer opens; `None` once the session is over. Dropping the future loses nothing.
    pub async fn accept(&self) -> Option<Stream> {
        let id = poll_fn(|cx| {
            let mut state = self.shared.lock();
            // What came before the end and was not looked at yet: nothing of it is begun any more.
            match state.accepted.pop_front() {
                _ if state.ended.is_some() => Poll::Ready(None),
                Some(id) => Poll::Ready(Some(id)),
                None => {
                    state.acceptor = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        });
        Some(Stream::new(self.shared.clone(), id.await?))
    }

    /// Whether everything has come that the peer says on a stream which somebody holds.
    #[cfg(feature = "lend")]
    pub fn has_come_whole(&self, stream: StreamId) -> bool {
        self.shared.lock().mux.has_come_whole(stream)
    }

    /// Streams of the peer's that are open on the wire.
    pub fn peer_streams(&self) -> u32 {
        self.shared.lock().mux.peer_streams()
    }

    /// Ends the session: the peer is told why, and every stream fails.
    pub fn end(&self, kind: ErrorKind, text: impl Into<String>) {
        let mut state = self.shared.lock();
        let ended = Ended { kind, text: text.into(), by_peer: false };
        state.mux.go_away(Goaway { kind, text: ended.text.clone() });
        state.end(ended);
        state.wake_driver();
    }

    /// Why the session is over, if it is.
    pub fn over(&self) -> Option<Ended> {
        self.shared.lock().ended.clone()
    }

    /// Waits until the session is over and its last words are said, and says why it ended.
    pub async fn ended(&self) -> Ended {
        self.watch_end().await
    }

    /// As [`Self::ended`], without keeping the session alive by waiting.
    pub fn watch_end(&self) -> impl Future<Output = Ended> + Send + use<> {
        let shared = self.shared.clone();
        async move {
            let mut over = shared.over.subscribe();
            // The sender lives in `shared`, so waiting cannot fail.
            let _ = over.wait_for(|over| *over).await;
            shared.lock().ended.clone().unwrap_or_else(driver::closed)
        }
    }
}

/// Why a stream could not be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The session is over.
    #[error(transparent)]
    Ended(Ended),
    /// Too many streams, or too long a request.
    #[error(transparent)]
    Mux(#[from] mux::OpenError),
}

/// What the driver and the handles share. The lock is never held over an await.
struct Shared {
    state: Mutex<State>,
    roster: rounds::Roster,
    /// Becomes true once, when the driver is done.
    over: tokio::sync::watch::Sender<bool>,
}

struct State {
    mux: mux::Mux,
    streams: HashMap<StreamId, Wakers>,
    /// Whether what the peer opens may wait in `accepted`.
    takes_streams: bool,
    accepted: VecDeque<StreamId>,
    acceptor: Option<Waker>,
    /// The driver, while it waits for something to send.
    driver: Option<Waker>,
    ended: Option<Ended>,
    /// Who waits for the peer to take what was written; looked at whenever anything has come or gone.
    closers: Vec<Waker>,
    /// The last words are with the connection, or nobody will say them.
    has_left: bool,
    /// The peer has closed its side of the connection in good order.
    confirmed: bool,
    /// No [`Session`] is left: the connection closes with the last stream.
    orphaned: bool,
}

/// Who waits for a stream.
#[derive(Default)]
struct Wakers {
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Shared {
    fn new(mux: mux::Mux, role: mux::Role) -> Self {
        let state = State {
            mux,
            streams: HashMap::new(),
            takes_streams: role == mux::Role::Lender,
            accepted: VecDeque::new(),
            acceptor: None,
            driver: None,
            ended: None,
            closers: Vec::new(),
            has_left: false,
            confirmed: false,
            orphaned: false,
        };
        Self {
            state: Mutex::new(state),
            roster: rounds::Roster::default(),
            over: tokio::sync::watch::Sender::new(false),
        }
    }

    /// A panic in another task must not hang this one: every change under the lock is complete by itself.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Marks the session as over; the driver wakes everybody once it has seen it.
    fn end(&mut self, ended: Ended) {
        self.ended.get_or_insert(ended);
    }
}

/// Dropped with the last clone of a [`Session`].
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.orphaned = true;
        while let Some(id) = state.accepted.pop_front() {
            state.mux.reset(id, Reset::Refused);
            state.streams.remove(&id);
        }
        state.wake_driver();
    }
}
