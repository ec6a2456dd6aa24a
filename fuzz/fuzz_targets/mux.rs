//! Sequences of operations on two muxes whose bytes cross, wait and come in pieces: honest ends never find each other
//! at fault, what arrives is what was written, and nothing stays behind. Beside them a third mux is given what no honest
//! end sends, and stays within its bounds.

#![no_main]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use bytes::Buf;
use capuchin::proto::{
    FRAME_PAYLOAD_MAX, Frame, FrameReader, Reset, StreamId,
    mux::{ACK_AFTER, BATCH_BYTES, Batch, Config, Event, KEPT_BYTES_MAX, Mux, POOL_BYTES, Read, Role, Write},
};
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

/// More would only be slower: every state is a few operations away.
const OPS_MAX: usize = 256;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    limits: [Limits; 2],
    ops: Vec<Op>,
    hostile: Vec<Hostile<'a>>,
}

/// What one end allows the other, kept small so that it is reached.
#[derive(Arbitrary, Clone, Copy, Debug)]
struct Limits {
    credit_kib: u8,
    streams: u8,
}

impl Limits {
    fn credit(self) -> u32 {
        (u32::from(self.credit_kib) + 1) * 1024
    }

    fn streams(self) -> u32 {
        u32::from(self.streams % 16) + 1
    }
}

fn config(ours: Limits, theirs: Limits) -> Config {
    Config {
        initial_credit: ours.credit(),
        peer_initial_credit: theirs.credit(),
        max_streams: ours.streams(),
        peer_max_streams: theirs.streams(),
        ..Config::default()
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Side {
    Borrower,
    Lender,
}

#[derive(Arbitrary, Debug)]
enum Op {
    Open {
        side: Side,
        bytes: u16,
    },
    Write {
        side: Side,
        which: u8,
        bytes: u16,
        copied: bool,
    },
    Finish {
        side: Side,
        which: u8,
    },
    Reset {
        side: Side,
        which: u8,
    },
    Close {
        side: Side,
        which: u8,
    },
    Read {
        side: Side,
        which: u8,
        most: u16,
    },
    /// One batch leaves an end.
    Transmit {
        side: Side,
    },
    /// So many bytes reach an end, in pieces of `cut`.
    Deliver {
        side: Side,
        bytes: u16,
        cut: u16,
    },
    Sleep {
        millis: u8,
    },
}

#[derive(Arbitrary, Debug)]
enum Hostile<'a> {
    Raw(&'a [u8]),
    Frame {
        stream: u8,
        flags: u8,
        payload: &'a [u8],
    },
    /// Many bytes without many in the input.
    Data {
        stream: u8,
        flags: u8,
        length: u16,
    },
    Open {
        bytes: u8,
    },
    Write {
        which: u8,
        bytes: u16,
    },
    Read {
        which: u8,
        most: u16,
    },
    Finish {
        which: u8,
    },
    Reset {
        which: u8,
    },
    Close {
        which: u8,
    },
    Transmit,
    Sleep {
        millis: u16,
    },
}

/// One honest end.
struct End {
    mux: Mux,
    /// Streams whose handle this end has.
    handles: Vec<StreamId>,
    /// Bytes that left this end and have not arrived.
    wire: VecDeque<u8>,
    limits: Bounds,
}

/// What a mux promises whatever is done to it.
struct Bounds {
    streams: usize,
    unread: usize,
    /// RSTs that left; each may linger until it is acknowledged.
    resets: usize,
    reader: FrameReader,
}

impl Bounds {
    fn of(config: &Config) -> Self {
        // Handles of streams that are over on the wire count beside those that are open.
        let both = config.max_streams as usize + config.peer_max_streams as usize;
        let streams = 2 * both + config.max_streams as usize;
        let unread = streams * config.initial_credit as usize + POOL_BYTES as usize;
        Self { streams, unread, resets: 0, reader: FrameReader::new() }
    }

    fn check(&self, mux: &Mux) {
        assert!(mux.unread_bytes() <= self.unread, "{} unread", mux.unread_bytes());
        assert!(mux.stream_count() <= self.streams + self.resets, "{} streams", mux.stream_count());
        assert!(mux.kept_bytes() < KEPT_BYTES_MAX + BATCH_BYTES + FRAME_PAYLOAD_MAX, "{} kept", mux.kept_bytes());
    }

    /// One batch of a mux; it has whole frames only.
    fn transmit(&mut self, mux: &mut Mux, now: Instant) -> Vec<u8> {
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

impl End {
    fn new(role: Role, config: Config, now: Instant) -> Self {
        let limits = Bounds::of(&config);
        Self { mux: Mux::new(role, config, now), handles: Vec::new(), wire: VecDeque::new(), limits }
    }

    fn pick(&self, which: u8) -> Option<StreamId> {
        self.handles.get(usize::from(which).checked_rem(self.handles.len())?).copied()
    }

    fn drop_handle(&mut self, id: StreamId) {
        self.handles.retain(|handle| *handle != id);
    }

    /// `false`: nothing was there to send.
    fn transmit(&mut self, now: Instant) -> bool {
        let out = self.limits.transmit(&mut self.mux, now);
        self.wire.extend(&out);
        !out.is_empty()
    }
}

/// What was written on one half of a stream, and how far its reader got.
#[derive(Default)]
struct Half {
    written: usize,
    read: usize,
    /// Somebody gave up: the rest need not arrive.
    cut: bool,
}

/// Two ends, the bytes between them, and what must come of it. Halves are named by who writes.
struct Pair {
    now: Instant,
    ends: [End; 2],
    halves: BTreeMap<(usize, StreamId), Half>,
    /// Streams of which both ends have heard.
    announced: BTreeSet<StreamId>,
    next_number: [u64; 2],
}

impl Pair {
    fn new(limits: [Limits; 2]) -> Self {
        let now = Instant::now();
        let [borrower, lender] = limits;
        let ends = [
            End::new(Role::Borrower, config(borrower, lender), now),
            End::new(Role::Lender, config(lender, borrower), now),
        ];
        Self { now, ends, halves: BTreeMap::new(), announced: BTreeSet::new(), next_number: [1, 2] }
    }

    /// `false`: an end has heard nothing for so long that it gives up, as it should.
    fn apply(&mut self, op: &Op) -> bool {
        match *op {
            Op::Open { side, bytes } => self.open(side as usize, bytes.into()),
            Op::Write { side, which, bytes, copied } => {
                self.on(side, which, |pair, side, id| pair.write(side, id, bytes.into(), copied));
            }
            Op::Finish { side, which } => self.on(side, which, |pair, side, id| pair.ends[side].mux.finish(id)),
            Op::Reset { side, which } => self.on(side, which, |pair, side, id| {
                pair.ends[side].mux.reset(id, Reset::Failed(104));
                pair.gave_up(side, id, true);
            }),
            Op::Close { side, which } => self.on(side, which, |pair, side, id| {
                pair.ends[side].mux.close(id);
                pair.gave_up(side, id, false);
            }),
            Op::Read { side, which, most } => {
                self.on(side, which, |pair, side, id| {
                    pair.read(side, id, usize::from(most).max(1));
                });
            }
            Op::Transmit { side } => drop(self.ends[side as usize].transmit(self.now)),
            Op::Deliver { side, bytes, cut } => self.deliver(side as usize, bytes.into(), cut.into()),
            Op::Sleep { millis } => return self.sleep(Duration::from_millis(millis.into())),
        }
        true
    }

    fn on(&mut self, side: Side, which: u8, act: impl FnOnce(&mut Self, usize, StreamId)) {
        if let Some(id) = self.ends[side as usize].pick(which) {
            act(self, side as usize, id);
        }
    }

    fn open(&mut self, side: usize, bytes: usize) {
        let id = StreamId::new(self.next_number[side]).expect("far below 40 bits");
        let content: Vec<u8> = (0..bytes).map(|at| byte_at(side, id, at)).collect();
        let Ok(opened) = self.ends[side].mux.open(content.into()) else { return };
        assert_eq!(opened, id, "numbers go up by two, and none is wasted");
        self.next_number[side] += 2;
        self.ends[side].handles.push(id);
        self.halves.insert((side, id), Half { written: bytes, ..Half::default() });
        self.halves.insert((1 - side, id), Half::default());
    }

    fn write(&mut self, side: usize, id: StreamId, bytes: usize, copied: bool) {
        let Write::Room(room) = self.ends[side].mux.poll_write(id, bytes) else { return };
        assert!(room <= bytes);
        let half = self.halves.get_mut(&(side, id)).expect("every handle has its halves");
        let content: Vec<u8> = (half.written..half.written + room).map(|at| byte_at(side, id, at)).collect();
        half.written += room;
        let mux = &mut self.ends[side].mux;
        if copied { mux.write_copy(id, &content) } else { mux.write(id, content.into()) }
    }

    /// `false`: there is nothing to read now, or ever.
    fn read(&mut self, side: usize, id: StreamId, most: usize) -> bool {
        let read = self.ends[side].mux.read(self.now, id, most);
        let half = self.halves.get_mut(&(1 - side, id)).expect("every handle has its halves");
        match read {
            Read::Bytes(bytes) => {
                assert!(!bytes.is_empty() && bytes.len() <= most);
                assert!(half.read + bytes.len() <= half.written, "more came than was written");
                for (index, byte) in bytes.iter().enumerate() {
                    assert_eq!(*byte, byte_at(1 - side, id, half.read + index), "stream {id}");
                }
                half.read += bytes.len();
                true
            }
            Read::End => {
                assert!(half.cut || half.read == half.written, "the end of stream {id} came early");
                false
            }
            Read::Reset(reset) => {
                // A lender of streams that has no room for one more refuses it; the rest was said by an operation.
                assert!(half.cut || reset == Reset::Refused || self.other_gave_up(side, id), "stream {id}: {reset:?}");
                if reset == Reset::Refused {
                    self.cut(id);
                }
                false
            }
            Read::Pending => false,
        }
    }

    fn other_gave_up(&self, side: usize, id: StreamId) -> bool {
        self.announced.contains(&id) && !self.ends[1 - side].handles.contains(&id)
    }

    /// A reset cuts both halves; a handle that is merely given back cuts only what it would have read.
    fn gave_up(&mut self, side: usize, id: StreamId, both: bool) {
        self.ends[side].drop_handle(id);
        for writer in [0, 1] {
            if both || writer != side {
                self.halves.get_mut(&(writer, id)).expect("every handle has its halves").cut = true;
            }
        }
    }

    fn cut(&mut self, id: StreamId) {
        for writer in [0, 1] {
            self.halves.get_mut(&(writer, id)).expect("every handle has its halves").cut = true;
        }
    }

    fn deliver(&mut self, side: usize, bytes: usize, cut: usize) {
        let wire = &mut self.ends[1 - side].wire;
        let arriving: Vec<u8> = wire.drain(..bytes.min(wire.len())).collect();
        for piece in arriving.chunks(cut.max(1)) {
            let mux = &mut self.ends[side].mux;
            mux.handle_bytes(self.now, piece).expect("an honest end is never at fault");
            mux.check_backlog().expect("an honest end acknowledges");
        }
        while let Some(event) = self.ends[side].mux.poll_event() {
            match event {
                Event::Opened(id) => {
                    self.announced.insert(id);
                    self.ends[side].handles.push(id);
                }
                Event::Readable(_) | Event::Writable(_) => {}
                Event::Goaway(goaway) => unreachable!("nobody said {goaway:?}"),
            }
        }
        self.ends[side].limits.check(&self.ends[side].mux);
    }

    fn sleep(&mut self, time: Duration) -> bool {
        self.now += time;
        self.ends.iter_mut().all(|end| end.mux.handle_timeout(self.now))
    }

    /// Moves bytes until neither end has anything to say.
    fn settle(&mut self) {
        loop {
            let sent = [0, 1].map(|side| self.ends[side].transmit(self.now));
            let waiting = self.ends.iter().any(|end| !end.wire.is_empty());
            if sent == [false, false] && !waiting {
                return;
            }
            for side in [0, 1] {
                self.deliver(side, usize::MAX, usize::MAX);
            }
        }
    }

    /// Reads all that was written, gives every handle back, and looks for what stayed behind.
    fn drain(mut self) {
        let mut moved = true;
        while moved {
            self.settle();
            moved = false;
            for side in [0, 1] {
                for id in self.ends[side].handles.clone() {
                    while self.read(side, id, usize::MAX) {
                        moved = true;
                    }
                }
            }
        }
        for ((writer, id), half) in &self.halves {
            let heard = self.ends[1 - writer].handles.contains(id);
            assert!(half.cut || !heard || half.read == half.written, "stream {id}: {} of {}", half.read, half.written);
        }
        for end in &mut self.ends {
            for id in std::mem::take(&mut end.handles) {
                end.mux.close(id);
            }
        }
        for _ in 0..3 {
            self.settle();
            assert!(self.sleep(ACK_AFTER), "both ends were heard");
        }
        self.settle();
        for end in &self.ends {
            assert_eq!((end.mux.stream_count(), end.mux.kept_bytes(), end.mux.unread_bytes()), (0, 0, 0));
        }
    }
}

/// The content of a half is a function of the place, so that nothing needs to be remembered.
fn byte_at(side: usize, id: StreamId, at: usize) -> u8 {
    let seed = id.number() as usize * 131 + side * 57;
    (seed + at * 7 + (at >> 8) * 13) as u8
}

/// A mux alone with somebody who sends what he likes, while its own application does what it likes.
fn endure(limits: [Limits; 2], hostile: &[Hostile<'_>]) {
    let mut now = Instant::now();
    let config = config(limits[0], limits[1]);
    let mut bounds = Bounds::of(&config);
    let mut mux = Mux::new(Role::Lender, config, now);
    let mut handles: Vec<StreamId> = Vec::new();
    for step in hostile {
        let pick = |which: u8| handles.get(usize::from(which).checked_rem(handles.len())?).copied();
        let mut wire = Vec::new();
        match *step {
            Hostile::Raw(bytes) => wire.extend_from_slice(bytes),
            Hostile::Frame { stream, flags, payload } => frame(&mut wire, stream, flags, payload),
            Hostile::Data { stream, flags, length } => {
                let length = usize::from(length).min(FRAME_PAYLOAD_MAX);
                frame(&mut wire, stream, flags & 0x30, &vec![stream; length]);
            }
            Hostile::Open { bytes } => handles.extend(mux.open(vec![1; bytes.into()].into())),
            Hostile::Write { which, bytes } => {
                if let Some(id) = pick(which)
                    && let Write::Room(room) = mux.poll_write(id, bytes.into())
                {
                    mux.write(id, vec![2; room].into());
                }
            }
            Hostile::Read { which, most } => drop(pick(which).map(|id| mux.read(now, id, usize::from(most).max(1)))),
            Hostile::Finish { which } => drop(pick(which).map(|id| mux.finish(id))),
            Hostile::Reset { which } | Hostile::Close { which } => {
                if let Some(id) = pick(which) {
                    handles.retain(|handle| *handle != id);
                    if matches!(step, Hostile::Reset { .. }) { mux.reset(id, Reset::Cancelled) } else { mux.close(id) }
                }
            }
            Hostile::Transmit => drop(bounds.transmit(&mut mux, now)),
            Hostile::Sleep { millis } => {
                now += Duration::from_millis(millis.into());
                if !mux.handle_timeout(now) {
                    return;
                }
            }
        }
        let taken = mux.handle_bytes(now, &wire).and_then(|()| mux.check_backlog());
        while let Some(event) = mux.poll_event() {
            if let Event::Opened(id) = event {
                handles.push(id);
            }
        }
        bounds.check(&mux);
        if taken.is_err() {
            return;
        }
    }
}

fn frame(wire: &mut Vec<u8>, stream: u8, flags: u8, payload: &[u8]) {
    wire.extend_from_slice(&[0, 0, 0, 0, stream, flags]);
    wire.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    wire.extend_from_slice(payload);
}

fuzz_target!(|input: Input<'_>| {
    endure(input.limits, &input.hostile);
    let mut pair = Pair::new(input.limits);
    if input.ops.iter().take(OPS_MAX).all(|op| pair.apply(op)) {
        pair.drain();
    }
});
