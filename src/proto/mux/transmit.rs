//! What goes out next: the session's own frames, then RST and WINDOW, then data in its turn.

use std::{collections::VecDeque, time::Instant};

use bytes::{Buf, Bytes, BytesMut};

use super::{Event, Mux, Outgoing, Schedule, Urgent, flight::Room, keep::Kept};
use crate::proto::{COPY_BYTES_MAX, FRAME_PAYLOAD_MAX, HEADER_BYTES, Header, Kind, ProtocolError, Reset, StreamId};

/// A batch ends when it has this many bytes: enough for one system call to be worth it, little enough to stay in the
/// processor's cache. As seven full TLS records it fits into two of the largest segments that Linux makes, of just below
/// 64 KiB; eight would leave a third behind them of a few hundred bytes, which costs nearly what a full one does.
pub const BATCH_BYTES: usize = 112 * 1024;
/// The last payload of a batch is cut so that the batch ends there, but not below this, in bytes: one full TLS record.
const LAST_PAYLOAD_MIN: usize = 16 * 1024 - HEADER_BYTES;

/// Bytes for one write, in order, as slices that need no copying.
#[derive(Default)]
pub struct Batch {
    parts: VecDeque<Bytes>,
    bytes: usize,
}

impl Batch {
    /// Adds bytes at the end.
    pub fn push(&mut self, part: Bytes) {
        self.bytes += part.len();
        self.parts.push_back(part);
    }

    /// Takes the first bytes out, as they were put in or what is left of them.
    pub fn pop(&mut self) -> Option<Bytes> {
        let part = self.parts.pop_front()?;
        self.bytes -= part.len();
        Some(part)
    }
}

impl Buf for Batch {
    fn remaining(&self) -> usize {
        self.bytes
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| part)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [std::io::IoSlice<'a>]) -> usize {
        let pairs = slices.iter_mut().zip(&self.parts);
        pairs.map(|(slice, part)| *slice = std::io::IoSlice::new(part)).count()
    }

    fn advance(&mut self, mut count: usize) {
        self.bytes = self.bytes.saturating_sub(count);
        while count > 0
            && let Some(part) = self.parts.front_mut()
        {
            let step = count.min(part.len());
            part.advance(step);
            count -= step;
            if part.is_empty() {
                self.parts.pop_front();
            }
        }
    }
}

impl Mux {
    /// Adds what is due to `batch`, up to [`BATCH_BYTES`] and one frame.
    pub fn poll_transmit(&mut self, now: Instant, batch: &mut Batch) {
        if self.gone {
            return;
        }
        self.transmit_session(now, batch);
        let mut log = Log { scratch: std::mem::take(&mut self.scratch), complete: 0, batch };
        if let Some(goaway) = self.goaway.take() {
            log.frame(header(StreamId::SESSION, Kind::Goaway), &goaway.encode());
            self.gone = true;
        }
        while !self.gone && log.len() < BATCH_BYTES && !self.kept.is_full() {
            if let Some((id, urgent)) = self.urgent.pop_front() {
                self.transmit_urgent(id, urgent, &mut log);
            } else if let Some(id) = self.next_stream() {
                self.transmit_data(id, &mut log);
            } else {
                break;
            }
        }
        // An answer takes it along, so that nobody is woken for it alone; not so a full batch, which it would make longer.
        let is_small = !log.scratch.is_empty() && log.len() <= COPY_BYTES_MAX && !self.gone;
        log.seal(&mut self.kept);
        self.scratch = log.scratch;
        if is_small && let Some(number) = self.acknowledged.report() {
            batch.push(Bytes::copy_from_slice(&session_frame(Kind::Ack, number)));
        }
        let (sent, acked) = self.kept.bytes_sent_and_acked();
        self.flight.handle_sent(now, sent, acked);
    }

    /// Whether a WINDOW or RST waits to be sent, which reading may have caused.
    pub fn has_urgent(&self) -> bool {
        !self.urgent.is_empty()
    }

    /// Fails when the peer lets so many resets pile up unacknowledged that it must be doing so on purpose.
    pub fn check_backlog(&self) -> Result<(), ProtocolError> {
        if self.lingering.is_too_long() { Err(ProtocolError::ResetFlood) } else { Ok(()) }
    }

    /// Whose data is next, if as much as that may be on its way.
    fn next_stream(&mut self) -> Option<StreamId> {
        let room = self.flight.room(self.kept.bytes());
        if room == Room::None {
            return None;
        }
        self.schedule.next_opening().or_else(|| self.schedule.next(&mut self.streams, room == Room::All))
    }

    /// PING, PONG and ACK are neither counted nor kept, and never wait.
    fn transmit_session(&mut self, now: Instant, batch: &mut Batch) {
        let mut out = BytesMut::new();
        let mut put = |kind, number| out.extend_from_slice(&session_frame(kind, number));
        if let Some(number) = self.acknowledged.poll() {
            put(Kind::Ack, number);
        }
        if let Some(number) = self.keepalive.poll_ping(now) {
            put(Kind::Ping, number);
        }
        while let Some(number) = self.keepalive.poll_pong() {
            put(Kind::Pong, number);
        }
        if !out.is_empty() {
            batch.push(out.freeze());
        }
    }

    fn transmit_urgent(&mut self, id: StreamId, urgent: Urgent, log: &mut Log<'_>) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_open_on_wire()) else { return };
        match urgent {
            Urgent::Window => {
                let credit = std::mem::take(&mut stream.owed_credit);
                log.frame(header(id, Kind::Window), &credit.to_be_bytes());
            }
            Urgent::Rst(reset) => {
                stream.outgoing = Outgoing::Reset;
                self.transmit_reset(id, reset, log);
            }
        }
    }

    fn transmit_reset(&mut self, id: StreamId, reset: Reset, log: &mut Log<'_>) {
        log.frame(header(id, Kind::Rst), &reset.encode());
        self.lingering.push(self.kept.sent() + log.frames_pending(), id);
        self.closed_on_wire(id);
    }

    /// One DATA frame of a stream, and the RST behind its FIN when nobody reads any more.
    fn transmit_data(&mut self, id: StreamId, log: &mut Log<'_>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let room = BATCH_BYTES.saturating_sub(log.len() + HEADER_BYTES).max(LAST_PAYLOAD_MIN);
        let length = stream.out.bytes().min(FRAME_PAYLOAD_MAX).min(room);
        let syn = std::mem::take(&mut stream.out.unannounced);
        let fin = stream.outgoing == Outgoing::Finishing && length == stream.out.bytes();
        if syn || fin || length > 0 {
            stream.answered = true;
            let length = u16::try_from(length).unwrap_or(u16::MAX);
            log.begin(Header { syn, fin, length, ..header(id, Kind::Data) });
            let mut left = usize::from(length);
            while left > 0
                && let Some(chunk) = stream.out.pop(left)
            {
                left -= chunk.len();
                log.payload(chunk, &mut self.kept);
            }
            log.end(&mut self.kept);
            Schedule::sent(&mut stream.turn, HEADER_BYTES + usize::from(length));
            if std::mem::take(&mut stream.out.wanted) {
                self.events.push_back(Event::Writable(id));
            }
        }
        if fin {
            stream.outgoing = Outgoing::Finished;
        }
        if stream.owes_reset() {
            stream.outgoing = Outgoing::Reset;
            self.transmit_reset(id, Reset::Cancelled, log);
        } else if fin && !stream.is_open_on_wire() {
            self.closed_on_wire(id);
        } else if syn && stream.has_something_to_send() {
            self.schedule.activate(id, stream);
        }
    }
}

/// PING, PONG or ACK.
fn session_frame(kind: Kind, number: u64) -> [u8; 16] {
    let mut frame = [0; 16];
    let (head, payload) = frame.split_at_mut(HEADER_BYTES);
    head.copy_from_slice(&Header { length: 8, ..header(StreamId::SESSION, kind) }.encode());
    payload.copy_from_slice(&number.to_be_bytes());
    frame
}

fn header(stream: StreamId, kind: Kind) -> Header {
    Header { stream, kind, syn: false, fin: false, length: 0 }
}

/// Counted frames on their way into the batch and the kept ones: headers and small payloads gather in `scratch`.
struct Log<'a> {
    scratch: BytesMut,
    /// Frames that end in `scratch`.
    complete: u64,
    batch: &'a mut Batch,
}

impl Log<'_> {
    fn len(&self) -> usize {
        self.batch.bytes + self.scratch.len()
    }

    /// Frames that are whole and not yet among the kept ones.
    fn frames_pending(&self) -> u64 {
        self.complete
    }

    /// A whole frame whose payload is small.
    fn frame(&mut self, header: Header, payload: &[u8]) {
        let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
        self.begin(Header { length, ..header });
        self.scratch.extend_from_slice(payload);
        self.complete += 1;
    }

    fn begin(&mut self, header: Header) {
        self.scratch.extend_from_slice(&header.encode());
    }

    fn payload(&mut self, chunk: Bytes, kept: &mut Kept) {
        if chunk.len() <= COPY_BYTES_MAX {
            self.scratch.extend_from_slice(&chunk);
        } else {
            self.seal(kept);
            self.batch.push(chunk.clone());
            kept.push(chunk, 0);
        }
    }

    fn end(&mut self, kept: &mut Kept) {
        if self.scratch.is_empty() { kept.end_frame() } else { self.complete += 1 }
    }

    fn seal(&mut self, kept: &mut Kept) {
        if !self.scratch.is_empty() {
            let part = self.scratch.split().freeze();
            self.batch.push(part.clone());
            kept.push(part, std::mem::take(&mut self.complete));
        }
    }
}
