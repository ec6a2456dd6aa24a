//! What one end allows the other, and what a mux promises whatever is done to it.

use std::time::Instant;

use bytes::Buf;
use capuchin::proto::{
    FRAME_PAYLOAD_MAX, Frame, FrameReader,
    mux::{BATCH_BYTES, Batch, Config, KEPT_BYTES_MAX, Mux, POOL_BYTES},
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};

/// What one end allows the other, kept small so that it is reached.
#[derive(Arbitrary, Clone, Copy, Debug)]
pub struct Limits {
    credit_kib: u8,
    streams: u8,
}

impl Limits {
    pub fn credit(self) -> u32 {
        (u32::from(self.credit_kib) + 1) * 1024
    }

    pub fn streams(self) -> u32 {
        u32::from(self.streams % 16) + 1
    }
}

pub fn config(ours: Limits, theirs: Limits) -> Config {
    Config {
        initial_credit: ours.credit(),
        peer_initial_credit: theirs.credit(),
        max_streams: ours.streams(),
        peer_max_streams: theirs.streams(),
        ..Config::default()
    }
}

/// What a mux promises whatever is done to it.
pub struct Bounds {
    streams: usize,
    unread: usize,
    /// RSTs that left; each may linger until it is acknowledged.
    resets: usize,
    reader: FrameReader,
}

impl Bounds {
    pub fn of(config: &Config) -> Self {
        // Handles of streams that are over on the wire count beside those that are open.
        let both = config.max_streams as usize + config.peer_max_streams as usize;
        let streams = 2 * both + config.max_streams as usize;
        let unread = streams * config.initial_credit as usize + POOL_BYTES as usize;
        Self { streams, unread, resets: 0, reader: FrameReader::new() }
    }

    pub fn check(&self, mux: &Mux) {
        assert!(mux.unread_bytes() <= self.unread, "{} unread", mux.unread_bytes());
        assert!(mux.stream_count() <= self.streams + self.resets, "{} streams", mux.stream_count());
        assert!(mux.kept_bytes() < KEPT_BYTES_MAX + BATCH_BYTES + FRAME_PAYLOAD_MAX, "{} kept", mux.kept_bytes());
    }

    /// One batch of a mux; it has whole frames only.
    pub fn transmit(&mut self, mux: &mut Mux, now: Instant) -> Vec<u8> {
        let (mut batch, mut out) = (Batch::default(), Vec::new());
        mux.poll_transmit(now, &mut batch);
        while batch.has_remaining() {
            out.extend_from_slice(batch.chunk());
            batch.advance(batch.chunk().len());
        }
        let mut rest = &out[..];
        while !rest.is_empty() {
            let (taken, frame) = self.reader.read(rest).expect("a mux sends what it would take");
            self.resets += usize::from(matches!(frame, Some(Frame::Rst { .. })));
            rest = &rest[taken..];
        }
        assert!(self.reader.is_between_frames());
        out
    }
}
