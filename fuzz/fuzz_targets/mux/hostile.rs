//! A mux alone with somebody who sends what no honest end sends.

use std::time::{Duration, Instant};

use capuchin::proto::{
    FRAME_PAYLOAD_MAX, Reset, StreamId,
    mux::{Event, Mux, Role, Write},
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};

use crate::bounds::{Bounds, Limits, config};

#[derive(Arbitrary, Debug)]
pub enum Hostile<'a> {
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

/// A mux alone with somebody who sends what he likes, while its own application does what it likes.
pub fn endure(limits: [Limits; 2], hostile: &[Hostile<'_>]) {
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
