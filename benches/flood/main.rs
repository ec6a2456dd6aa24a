//! How long a good borrower waits at the door of a lender that is flooded: `cargo bench --bench flood`.
//!
//! A real daemon; 10,000 half-open connections from ten addresses, all open at the same time; and 100 logins by ticket from
//! 127.0.0.2 meanwhile, each from its SYN to the lender's welcome. At most 1 s is promised, as the 99th of the 100: where it
//! is missed the bench fails. Nothing of it is left afterwards: no descriptor, and of the memory no more than the allocator keeps.

use std::{process::ExitCode, time::Instant};

#[path = "../../tests/support/mod.rs"]
mod lab;
#[path = "../support/mod.rs"]
mod support;

use lab::{
    LOOPBACK, Lab,
    costs::{descriptors, memory_kib},
    half_open::{HALF_OPEN, half_open, raise_descriptors},
    peer::Peer,
    wait_until,
};
use support::{p99, row};

const LOGINS: usize = 100;
/// Seconds that are promised.
const PROMISED: f64 = 1.0;
/// What the lender may hold more than before, in MiB.
const MEMORY_MIB: f64 = 16.0;

fn main() -> ExitCode {
    raise_descriptors();
    let lab = Lab::start(LOOPBACK);
    let home = lab.join("alice");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let log_in = || {
        let began = Instant::now();
        drop(runtime.block_on(Peer::logged_in(lab.address, &home, "alice")));
        began.elapsed().as_secs_f64()
    };
    // Twice, so that what the first login allocates is not taken for a leak.
    log_in();
    log_in();
    let (descriptors_before, memory_before) =
        (descriptors(lab.daemon.child.id()), memory_kib(lab.daemon.child.id(), "VmRSS"));

    let mut open = Vec::with_capacity(HALF_OPEN);
    let mut waits = Vec::with_capacity(LOGINS);
    for number in 0..HALF_OPEN {
        open.push(half_open(number, lab.address));
        if number % (HALF_OPEN / LOGINS) == 0 {
            waits.push(log_in());
        }
    }
    let met = row("login in a flood, s, p99", "-", p99(&mut waits), PROMISED, false);
    drop(open);
    wait_until("the flood is forgotten", || descriptors(lab.daemon.child.id()) <= descriptors_before);
    let more = memory_kib(lab.daemon.child.id(), "VmRSS").saturating_sub(memory_before) as f64 / 1024.0;
    let flat = row("memory after it, MiB more", "-", more, MEMORY_MIB, false);
    if met && flat { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
