//! Many streams over one connection: the same state machine at both ends, without a socket or a clock.
//!
//! ```text
//!               handle_bytes ──▶ ┌─────┐ ──▶ poll_event      (opened, readable, writable, goaway)
//!   connection                   │ Mux │                      streams: open read write finish close
//!               poll_transmit ◀─ └─────┘ ◀── handle_timeout   (when poll_timeout is reached)
//! ```
//!
//! A stream's first bytes travel with its SYN, so that opening costs no round trip. A byte may be queued only when the
//! peer has granted credit for it, so everything that is queued can be sent, and a reader that stalls stops its own
//! writer and nobody else. Credit begins at [`Config::initial_credit`] and grows as `window` says; `schedule` says
//! whose turn it is; `keep` holds what was sent until the peer has taken it, and `flight` says how much that may be.
//!
//! Invariants: unread bytes never exceed `max_streams` x `initial_credit` + [`POOL_BYTES`], those of closed streams that
//! nobody has read yet included: such a stream keeps its place until it is read or dropped. Kept bytes never exceed
//! [`KEPT_BYTES_MAX`] by more than one batch; a closed stream leaves nothing behind but, until the peer has
//! acknowledged our RST, its number.

mod chunks;
mod config;
mod delivery;
mod flight;
mod flood;
mod keep;
mod keepalive;
mod outcome;
mod receive;
mod schedule;
mod stream;
mod transmit;
mod window;

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use bytes::{Bytes, BytesMut};

use self::{
    chunks::Chunks,
    flight::Flight,
    flood::Floods,
    keep::{Acknowledged, Kept, Lingering},
    keepalive::KeepAlive,
    schedule::Schedule,
    stream::{Incoming, Outgoing, Stream},
    window::CreditPool,
};
use super::{Goaway, Reset, StreamId};

pub use config::{Config, Role};
pub use delivery::Delivery;
pub use flight::FLIGHT_MIN;
pub use keep::{ACK_AFTER, ACK_BYTES, KEPT_BYTES_MAX};
pub use keepalive::{MISSES_MAX, PING_PERIOD};
pub use outcome::{Event, OpenError, Read, Write};
pub use schedule::QUANTUM_BYTES;
pub use stream::SEND_QUEUE_BYTES;
pub use transmit::{BATCH_BYTES, Batch};
pub use window::{CREDIT_MAX, POOL_BYTES};

/// The state machine. See the module's documentation.
pub struct Mux {
    role: Role,
    config: Config,
    reader: super::FrameReader,
    streams: HashMap<StreamId, Stream>,
    /// Streams that we reset, until the peer has acknowledged the RST: data for them may still be on its way.
    lingering: Lingering,
    opened_by_us: Opened,
    opened_by_peer: Opened,
    /// Streams that are closed on the wire and hold unread bytes.
    closed_unread: u32,
    schedule: Schedule,
    /// RST and WINDOW frames that go before any data, at most one of each for a stream.
    urgent: VecDeque<(StreamId, Urgent)>,
    goaway: Option<Goaway>,
    /// Our GOAWAY has left: nothing follows it.
    gone: bool,
    pool: CreditPool,
    kept: Kept,
    flight: Flight,
    acknowledged: Acknowledged,
    keepalive: KeepAlive,
    scratch: BytesMut,
    floods: Floods,
    events: VecDeque<Event>,
}

/// One side's opened streams.
#[derive(Default)]
struct Opened {
    /// The highest number so far; 0 for none.
    last: u64,
    /// How many of them are not closed on the wire.
    live: u32,
}

enum Urgent {
    Rst(Reset),
    /// For all that the stream owes by the time that it leaves.
    Window,
}

impl Mux {
    /// A session that begins `now`, after the greetings.
    pub fn new(role: Role, config: Config, now: Instant) -> Self {
        Self {
            role,
            reader: super::FrameReader::new(),
            streams: HashMap::new(),
            lingering: Lingering::default(),
            opened_by_us: Opened::default(),
            opened_by_peer: Opened::default(),
            closed_unread: 0,
            schedule: Schedule::default(),
            urgent: VecDeque::new(),
            goaway: None,
            gone: false,
            pool: CreditPool::new(),
            kept: Kept::default(),
            flight: Flight::new(),
            acknowledged: Acknowledged::default(),
            keepalive: KeepAlive::new(now, config.ping_period),
            scratch: BytesMut::new(),
            floods: Floods::new(now),
            events: VecDeque::new(),
            config,
        }
    }

    /// Opens a stream; `first` goes with the SYN.
    ///
    /// # Errors
    /// The peer's limit of streams is reached, or `first` is longer than a new stream's credit.
    pub fn open(&mut self, first: Bytes) -> Result<StreamId, OpenError> {
        let limit = self.config.peer_max_streams;
        if self.opened_by_us.live >= limit {
            return Err(OpenError::TooMany { limit });
        }
        if self.places() >= self.config.max_streams {
            return Err(OpenError::TooMany { limit: self.config.max_streams });
        }
        let most = self.config.peer_initial_credit as usize;
        if first.len() > most {
            return Err(OpenError::TooLong { length: first.len(), limit: most });
        }
        let number = match (self.opened_by_us.last, self.role) {
            (0, Role::Borrower) => 1,
            (last, _) => last + 2,
        };
        let id = StreamId::new(number).ok_or(OpenError::Exhausted)?;
        self.opened_by_us.last = number;
        self.opened_by_us.live += 1;
        let mut stream = Stream::new(self.config.initial_credit, self.config.peer_initial_credit);
        stream.out.unannounced = true;
        stream.out.push(first);
        self.streams.insert(id, stream);
        self.schedule.open(id);
        Ok(id)
    }

    /// The next bytes of a stream, at most `most`; hands their credit back to the peer.
    pub fn read(&mut self, now: Instant, id: StreamId, most: usize) -> Read {
        let Some(stream) = self.streams.get_mut(&id) else { return Read::Reset(Reset::Cancelled) };
        let Some(bytes) = stream.inbox.pop(most) else {
            if stream.abandoned {
                return Read::Reset(Reset::Cancelled);
            }
            return match stream.incoming {
                Incoming::Open => Read::Pending,
                Incoming::Finished => Read::End,
                Incoming::Reset(reset) => Read::Reset(reset),
            };
        };
        if stream.inbox.bytes() == 0 && !stream.is_open_on_wire() {
            stream.release(&mut self.pool);
            self.closed_unread -= 1;
        }
        if stream.incoming == Incoming::Open
            && let Some(credit) =
                stream.window.consume(now, bytes.len(), self.keepalive.min_round_trip(), &mut self.pool)
        {
            // One at a time: whoever sends and takes nothing from us would let them pile up.
            if stream.owed_credit == 0 {
                self.urgent.push_back((id, Urgent::Window));
            }
            stream.owed_credit = stream.owed_credit.saturating_add(credit);
        }
        Read::Bytes(bytes)
    }

    /// How much of `wanted` bytes can be queued on a stream now.
    pub fn poll_write(&mut self, id: StreamId, wanted: usize) -> Write {
        let Some(stream) = self.streams.get_mut(&id) else { return Write::Closed(Reset::Cancelled) };
        if let Some(reset) = stream.write_closed() {
            return Write::Closed(reset);
        }
        match stream.out.room().min(wanted) {
            0 if wanted > 0 => {
                stream.out.wanted = true;
                Write::Pending
            }
            room => Write::Room(room),
        }
    }

    /// Queues bytes that [`Self::poll_write`] made room for.
    ///
    /// # Panics
    /// In debug builds, when there is no room for them.
    pub fn write(&mut self, id: StreamId, bytes: Bytes) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        debug_assert!(bytes.len() <= stream.out.room());
        if stream.write_closed().is_none() && !bytes.is_empty() {
            stream.out.push(bytes);
            self.schedule.activate(id, stream);
        }
    }

    /// As [`Self::write`], for bytes that the caller keeps: small ones share memory with those queued before.
    pub fn write_copy(&mut self, id: StreamId, bytes: &[u8]) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        debug_assert!(bytes.len() <= stream.out.room());
        if stream.write_closed().is_none() && !bytes.is_empty() {
            stream.out.push_copy(bytes);
            self.schedule.activate(id, stream);
        }
    }

    /// Whether at most `most` bytes are queued on a stream: room for nothing, or [`Event::Writable`] follows.
    pub fn poll_queued(&mut self, id: StreamId, most: usize) -> Write {
        let Some(stream) = self.streams.get_mut(&id) else { return Write::Closed(Reset::Cancelled) };
        match stream.write_closed() {
            Some(reset) => Write::Closed(reset),
            None if stream.out.queued() <= most => Write::Room(0),
            None => {
                stream.out.wanted = true;
                Write::Pending
            }
        }
    }

    /// Bytes that are queued on a stream and have not left.
    pub fn queued(&self, id: StreamId) -> usize {
        self.streams.get(&id).map_or(0, |stream| stream.out.queued())
    }

    /// Why the peer has reset this stream, if it has; asked while the stream is held.
    pub fn reset_by_peer(&self, id: StreamId) -> Option<Reset> {
        match self.streams.get(&id)?.incoming {
            Incoming::Reset(reset) => Some(reset),
            Incoming::Open | Incoming::Finished => None,
        }
    }

    /// Whether the peer has reset this stream.
    pub fn was_reset(&self, id: StreamId) -> bool {
        self.streams.get(&id).is_none_or(|stream| stream.outgoing == Outgoing::Reset)
    }

    /// Ends our half: the peer reads the end after what was written.
    pub fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.outgoing == Outgoing::Open
        {
            stream.outgoing = Outgoing::Finishing;
            self.schedule.activate(id, stream);
        }
    }

    /// Drops what is queued and tells the peer at once that the stream is over.
    pub fn reset(&mut self, id: StreamId, reset: Reset) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.out.clear();
        if !stream.is_open_on_wire() {
            self.forget_closed(id);
        } else if stream.out.unannounced {
            // The peer has never heard of it.
            self.streams.remove(&id);
            self.schedule.forget_opening(id);
            self.opened_by_us.live -= 1;
        } else {
            if stream.outgoing != Outgoing::Resetting {
                self.urgent.push_back((id, Urgent::Rst(reset)));
            }
            stream.outgoing = Outgoing::Resetting;
            stream.abandoned = true;
            stream.inbox = Chunks::default();
        }
    }

    /// Gives the stream back: what was written still goes out, then the peer is told that nobody reads any more.
    pub fn close(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.is_open_on_wire() {
            return self.forget_closed(id);
        }
        if stream.outgoing == Outgoing::Resetting {
            return;
        }
        stream.abandoned = true;
        stream.inbox = Chunks::default();
        if stream.outgoing == Outgoing::Open {
            stream.outgoing = Outgoing::Finishing;
        }
        self.schedule.activate(id, stream);
    }

    /// Ends the session: the next frame says why, and nothing follows it. What is queued stays here, as the peer would
    /// not look at it any more.
    pub fn go_away(&mut self, goaway: Goaway) {
        self.goaway.get_or_insert(goaway);
    }

    /// The next thing for the application to look at.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] wants to be called next.
    pub fn poll_timeout(&self) -> Instant {
        let ping = self.keepalive.poll_timeout();
        self.acknowledged.due().map_or(ping, |ack| ack.min(ping))
    }

    /// Sends what is due. `false`: the peer has been silent for too long and must be given up.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        self.acknowledged.handle_timeout(now);
        self.keepalive.handle_timeout(now)
    }

    /// Bytes that were sent and are kept until the peer has taken them.
    pub fn kept_bytes(&self) -> usize {
        self.kept.bytes()
    }

    /// Bytes that the peer sent and nobody has read.
    pub fn unread_bytes(&self) -> usize {
        self.streams.values().map(|stream| stream.inbox.bytes()).sum()
    }

    /// Which end this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Streams that this end still holds something for.
    pub fn stream_count(&self) -> usize {
        self.streams.len() + self.lingering.len()
    }

    /// Streams that the peer opened and that are open on the wire.
    pub fn peer_streams(&self) -> u32 {
        self.opened_by_peer.live
    }

    fn opened_by(&mut self, id: StreamId) -> &mut Opened {
        if self.is_ours(id) { &mut self.opened_by_us } else { &mut self.opened_by_peer }
    }

    fn is_ours(&self, id: StreamId) -> bool {
        (id.number() % 2 == 1) == (self.role == Role::Borrower)
    }

    /// Streams that hold memory, or may come to: open ones, and closed ones that were not read.
    fn places(&self) -> u32 {
        self.opened_by_us.live + self.opened_by_peer.live + self.closed_unread
    }

    /// Called when a stream has just closed on the wire. What nobody has read yet keeps its place and its credit.
    fn closed_on_wire(&mut self, id: StreamId) {
        self.opened_by(id).live -= 1;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.abandoned {
            stream.release(&mut self.pool);
            self.streams.remove(&id);
        } else if stream.inbox.bytes() > 0 {
            self.closed_unread += 1;
        } else {
            stream.release(&mut self.pool);
        }
    }

    /// Drops a stream that is closed on the wire, with whatever it still holds.
    fn forget_closed(&mut self, id: StreamId) {
        let Some(mut stream) = self.streams.remove(&id) else { return };
        stream.release(&mut self.pool);
        if stream.inbox.bytes() > 0 {
            self.closed_unread -= 1;
        }
    }
}

#[cfg(test)]
mod tests;
