//! Sequences of operations on two muxes whose bytes cross, wait and come in pieces: honest ends never find each other
//! at fault, what arrives is what was written, and nothing stays behind. Beside them a third mux is given what no honest
//! end sends, and stays within its bounds.

#![no_main]

mod bounds;
mod hostile;
mod pair;

use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

use crate::{
    bounds::Limits,
    hostile::{Hostile, endure},
    pair::{Op, Pair},
};

/// More would only be slower: every state is a few operations away.
const OPS_MAX: usize = 256;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    limits: [Limits; 2],
    ops: Vec<Op>,
    hostile: Vec<Hostile<'a>>,
}

fuzz_target!(|input: Input<'_>| {
    endure(input.limits, &input.hostile);
    let mut pair = Pair::new(input.limits);
    if input.ops.iter().take(OPS_MAX).all(|op| pair.apply(op)) {
        pair.drain();
    }
});
