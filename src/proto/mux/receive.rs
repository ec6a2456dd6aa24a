//! What a peer's bytes do to the state, and everything that they may not do.

use std::time::Instant;

use super::{Event, Incoming, Mux, Outgoing, Stream, window::CREDIT_MAX};
use crate::proto::{Frame, HEADER_BYTES, Kind, ProtocolError, Reset, StreamId};

impl Mux {
    /// Takes bytes from the connection, all of them.
    ///
    /// # Errors
    /// The peer broke the protocol: the session is over, and the error is what to tell it with a GOAWAY.
    pub fn handle_bytes(&mut self, now: Instant, mut bytes: &[u8]) -> Result<(), ProtocolError> {
        while !bytes.is_empty() {
            let (taken, frame) = self.reader.read(bytes)?;
            bytes = bytes.get(taken..).unwrap_or_default();
            if let Some(frame) = frame {
                self.handle_frame(now, frame)?;
            }
        }
        Ok(())
    }

    /// Whether the connection may end here without having cut a frame.
    pub fn is_between_frames(&self) -> bool {
        self.reader.is_between_frames()
    }

    fn handle_frame(&mut self, now: Instant, frame: Frame) -> Result<(), ProtocolError> {
        self.keepalive.handle_frame();
        match frame {
            Frame::Data { stream, syn, fin, payload } => {
                self.acknowledged.count(now, HEADER_BYTES + payload.len());
                self.handle_data(now, stream, syn, fin, payload)
            }
            Frame::Rst { stream, reset } => {
                self.acknowledged.count(now, HEADER_BYTES);
                self.handle_reset(now, stream, reset)
            }
            Frame::Window { stream, credit } => {
                self.acknowledged.count(now, HEADER_BYTES);
                self.handle_window(stream, credit)
            }
            Frame::Goaway(goaway) => {
                self.acknowledged.count(now, HEADER_BYTES);
                self.events.push_back(Event::Goaway(goaway));
                Ok(())
            }
            Frame::Ping(number) => {
                self.floods.count_ping(now)?;
                self.keepalive.handle_ping(number);
                Ok(())
            }
            Frame::Pong(number) => self.keepalive.handle_pong(now, number),
            Frame::Ack(frames) => {
                self.kept.handle_ack(frames)?;
                let (_, acked) = self.kept.bytes_sent_and_acked();
                self.flight.handle_ack(now, acked, self.keepalive.min_round_trip());
                self.lingering.handle_ack(frames);
                Ok(())
            }
        }
    }

    fn handle_data(
        &mut self,
        now: Instant,
        id: StreamId,
        syn: bool,
        fin: bool,
        payload: bytes::Bytes,
    ) -> Result<(), ProtocolError> {
        if id == StreamId::SESSION {
            let got = "DATA on the session".to_owned();
            return Err(ProtocolError::Unexpected { expected: "a stream's frame", got });
        }
        if syn {
            self.accept(id)?;
        } else if payload.is_empty() && !fin {
            self.floods.count_empty(now)?;
        }
        let not_open = ProtocolError::NotOpen { kind: Kind::Data, stream: id };
        let Some(stream) = self.streams.get_mut(&id) else {
            return if self.lingering.contains(id) { Ok(()) } else { Err(not_open) };
        };
        if stream.incoming != Incoming::Open {
            return Err(not_open);
        }
        if !stream.window.spend(payload.len()) {
            let credit = stream.window.left();
            return Err(ProtocolError::CreditOverrun { stream: id, length: payload.len(), credit });
        }
        let news = !syn && (stream.inbox.bytes() == 0 && !payload.is_empty() || fin);
        if !stream.abandoned {
            stream.inbox.push(payload);
        }
        if fin {
            stream.incoming = Incoming::Finished;
            if !stream.is_open_on_wire() {
                self.closed_on_wire(id);
            }
        }
        if news {
            self.events.push_back(Event::Readable(id));
        }
        Ok(())
    }

    fn accept(&mut self, id: StreamId) -> Result<(), ProtocolError> {
        if self.is_ours(id) {
            return Err(ProtocolError::WrongParity(id));
        }
        if id.number() <= self.opened_by_peer.last {
            return Err(ProtocolError::StreamReused(id));
        }
        let limit = self.config.max_streams;
        if self.opened_by_peer.live >= limit {
            return Err(ProtocolError::TooManyStreams { limit });
        }
        let mut stream = Stream::new(self.config.initial_credit, self.config.peer_initial_credit);
        // No fault of the peer's: streams that it has closed and nobody has read here, or that we opened, fill the room.
        let full = self.places() >= limit || self.streams.len() >= 2 * limit as usize;
        self.opened_by_peer.last = id.number();
        self.opened_by_peer.live += 1;
        if full {
            stream.abandoned = true;
            stream.outgoing = Outgoing::Resetting;
            self.urgent.push_back((id, super::Urgent::Rst(Reset::Refused)));
        } else {
            self.events.push_back(Event::Opened(id));
        }
        self.streams.insert(id, stream);
        Ok(())
    }

    fn handle_reset(&mut self, now: Instant, id: StreamId, reset: Reset) -> Result<(), ProtocolError> {
        let Some(stream) = self.streams.get_mut(&id) else { return self.check_was_open(Kind::Rst, id) };
        if !stream.is_open_on_wire() {
            return Ok(());
        }
        let wanted = stream.answered || (id.number() % 2 == 1) == (self.role == super::Role::Borrower);
        stream.outgoing = Outgoing::Reset;
        if stream.incoming == Incoming::Open {
            stream.incoming = Incoming::Reset(reset);
        }
        stream.out.clear();
        self.closed_on_wire(id);
        self.events.push_back(Event::Readable(id));
        self.events.push_back(Event::Writable(id));
        if wanted { Ok(()) } else { self.floods.count_reset(now) }
    }

    fn handle_window(&mut self, id: StreamId, credit: u32) -> Result<(), ProtocolError> {
        let Some(stream) = self.streams.get_mut(&id) else { return self.check_was_open(Kind::Window, id) };
        let sum = stream.out.credit.checked_add(credit).filter(|sum| credit > 0 && *sum <= CREDIT_MAX);
        stream.out.credit = sum.ok_or(ProtocolError::WrongCredit { stream: id, credit, limit: CREDIT_MAX })?;
        if std::mem::take(&mut stream.out.wanted) {
            self.events.push_back(Event::Writable(id));
        }
        Ok(())
    }

    /// RST and WINDOW may cross the end of their stream on the way; for a stream that never was they are an error.
    fn check_was_open(&self, kind: Kind, id: StreamId) -> Result<(), ProtocolError> {
        let last = if self.is_ours(id) { self.opened_by_us.last } else { self.opened_by_peer.last };
        if id.number() <= last { Ok(()) } else { Err(ProtocolError::NotOpen { kind, stream: id }) }
    }
}
