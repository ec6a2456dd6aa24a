//! Two honest ends, the bytes between them, and what must come of it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use capuchin::proto::{
    Reset, StreamId,
    mux::{ACK_AFTER, Config, Event, Mux, Read, Role, Write},
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};

use crate::bounds::{Bounds, Limits, config};

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Side {
    Borrower,
    Lender,
}

#[derive(Arbitrary, Debug)]
pub enum Op {
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

/// One honest end.
struct End {
    mux: Mux,
    /// Streams whose handle this end has.
    handles: Vec<StreamId>,
    /// Bytes that left this end and have not arrived.
    wire: VecDeque<u8>,
    limits: Bounds,
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
pub struct Pair {
    now: Instant,
    ends: [End; 2],
    halves: BTreeMap<(usize, StreamId), Half>,
    /// Streams of which both ends have heard.
    announced: BTreeSet<StreamId>,
    next_number: [u64; 2],
}

impl Pair {
    pub fn new(limits: [Limits; 2]) -> Self {
        let now = Instant::now();
        let [borrower, lender] = limits;
        let ends = [
            End::new(Role::Borrower, config(borrower, lender), now),
            End::new(Role::Lender, config(lender, borrower), now),
        ];
        Self { now, ends, halves: BTreeMap::new(), announced: BTreeSet::new(), next_number: [1, 2] }
    }

    /// `false`: an end has heard nothing for so long that it gives up, as it should.
    pub fn apply(&mut self, op: &Op) -> bool {
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
    pub fn drain(mut self) {
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
