//! Random operations at both ends, random splits, random pauses: every stream delivers exactly what was written.

use std::collections::HashMap;

use super::*;

#[derive(Clone, Debug)]
enum Op {
    Open { by_lender: bool, bytes: usize },
    Write { by_lender: bool, which: usize, bytes: usize },
    Finish { by_lender: bool, which: usize },
    Reset { by_lender: bool, which: usize },
    Close { by_lender: bool, which: usize },
    Read { by_lender: bool, which: usize, most: usize },
    Deliver { cut: usize },
    Sleep { millis: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    let side = any::<bool>();
    prop_oneof![
        2 => (side, 0..40_000_usize).prop_map(|(by_lender, bytes)| Op::Open { by_lender, bytes }),
        8 => (side, 0..64_usize, 1..100_000_usize)
            .prop_map(|(by_lender, which, bytes)| Op::Write { by_lender, which, bytes }),
        1 => (side, 0..64_usize).prop_map(|(by_lender, which)| Op::Finish { by_lender, which }),
        1 => (side, 0..64_usize).prop_map(|(by_lender, which)| Op::Reset { by_lender, which }),
        1 => (side, 0..64_usize).prop_map(|(by_lender, which)| Op::Close { by_lender, which }),
        6 => (side, 0..64_usize, 1..80_000_usize)
            .prop_map(|(by_lender, which, most)| Op::Read { by_lender, which, most }),
        6 => (1..5000_usize).prop_map(|cut| Op::Deliver { cut }),
        2 => (0..200_u64).prop_map(|millis| Op::Sleep { millis }),
    ]
}

/// What one end wrote on one stream, and what the other has read of it.
#[derive(Default)]
struct Transcript {
    written: Vec<u8>,
    read: usize,
    /// A reset or a dropped handle: the rest need not arrive.
    cut: bool,
}

#[derive(Default)]
struct Model {
    ids: Vec<StreamId>,
    gone: HashMap<(bool, StreamId), ()>,
    transcripts: HashMap<(bool, StreamId), Transcript>,
    counter: u8,
}

impl Model {
    fn pick(&self, which: usize, by_lender: bool) -> Option<StreamId> {
        let id = *self.ids.get(which.checked_rem(self.ids.len())?)?;
        (!self.gone.contains_key(&(by_lender, id))).then_some(id)
    }

    fn fill(&mut self, bytes: usize) -> Vec<u8> {
        self.counter = self.counter.wrapping_add(1);
        (0..bytes).map(|index| self.counter.wrapping_add((index / 7) as u8)).collect()
    }

    fn wrote(&mut self, by_lender: bool, id: StreamId, bytes: &[u8]) {
        self.transcripts.entry((by_lender, id)).or_default().written.extend_from_slice(bytes);
    }

    fn check_read(&mut self, reader_is_lender: bool, id: StreamId, read: &Read) {
        let transcript = self.transcripts.entry((!reader_is_lender, id)).or_default();
        match read {
            Read::Bytes(bytes) => {
                let expected = &transcript.written[transcript.read..transcript.read + bytes.len()];
                assert_eq!(bytes, expected);
                transcript.read += bytes.len();
            }
            Read::End => assert_eq!(transcript.read, transcript.written.len(), "the end came early"),
            Read::Reset(_) | Read::Pending => {}
        }
    }
}

fn apply(pair: &mut Pair, model: &mut Model, op: Op) {
    match op {
        Op::Open { by_lender, bytes } => {
            let first = model.fill(bytes);
            let mux = if by_lender { &mut pair.lender } else { &mut pair.borrower };
            let id = mux.open(Bytes::from(first.clone())).unwrap();
            model.ids.push(id);
            model.wrote(by_lender, id, &first);
            pair.settle(); // both ends know it, so that either may act on it
        }
        Op::Write { by_lender, which, bytes } => {
            let Some(id) = model.pick(which, by_lender) else { return };
            let bytes = model.fill(bytes);
            let mux = if by_lender { &mut pair.lender } else { &mut pair.borrower };
            let room = write_some(mux, id, &bytes);
            model.wrote(by_lender, id, &bytes[..room]);
        }
        Op::Finish { by_lender, which } => {
            let Some(id) = model.pick(which, by_lender) else { return };
            if by_lender { pair.lender.finish(id) } else { pair.borrower.finish(id) }
        }
        Op::Reset { by_lender, which } | Op::Close { by_lender, which } => {
            let Some(id) = model.pick(which, by_lender) else { return };
            let mux = if by_lender { &mut pair.lender } else { &mut pair.borrower };
            if matches!(op, Op::Reset { .. }) {
                mux.reset(id, Reset::Failed(104))
            } else {
                mux.close(id)
            }
            model.gone.insert((by_lender, id), ());
            for side in [true, false] {
                model.transcripts.entry((side, id)).or_default().cut = true;
            }
        }
        Op::Read { by_lender, which, most } => {
            let Some(id) = model.pick(which, by_lender) else { return };
            let mux = if by_lender { &mut pair.lender } else { &mut pair.borrower };
            let read = mux.read(pair.now, id, most);
            if !matches!(read, Read::End) || !model.transcripts.get(&(!by_lender, id)).is_some_and(|t| t.cut) {
                model.check_read(by_lender, id, &read);
            }
        }
        Op::Deliver { cut } => {
            pair.step(cut);
        }
        Op::Sleep { millis } => {
            pair.now += Duration::from_millis(millis);
            assert!(pair.borrower.handle_timeout(pair.now) && pair.lender.handle_timeout(pair.now));
        }
    }
}

/// Reads everything at both ends until nothing moves, then gives every handle back.
fn drain(pair: &mut Pair, model: &mut Model) {
    for _ in 0..200 {
        pair.settle();
        for id in model.ids.clone() {
            for by_lender in [true, false] {
                if model.gone.contains_key(&(by_lender, id)) {
                    continue;
                }
                let mux = if by_lender { &mut pair.lender } else { &mut pair.borrower };
                while let read @ Read::Bytes(_) = mux.read(pair.now, id, usize::MAX) {
                    model.check_read(by_lender, id, &read);
                }
            }
        }
    }
    for ((by_lender, id), transcript) in &model.transcripts {
        assert!(transcript.cut || transcript.read == transcript.written.len(), "{id} from lender: {by_lender}");
    }
    for id in model.ids.clone() {
        pair.borrower.close(id);
        pair.lender.close(id);
    }
    pair.settle();
    pair.sleep(ACK_AFTER);
    pair.sleep(ACK_AFTER);
    assert_eq!((pair.borrower.stream_count(), pair.lender.stream_count()), (0, 0), "a stream was left behind");
    assert_eq!((pair.borrower.kept_bytes(), pair.lender.kept_bytes()), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn every_stream_delivers_exactly_what_was_written(ops in proptest::collection::vec(op(), 1..150)) {
        let mut pair = Pair::new();
        let mut model = Model::default();
        for op in ops {
            apply(&mut pair, &mut model, op);
        }
        drain(&mut pair, &mut model);
    }
}
