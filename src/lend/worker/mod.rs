//! What needs a user's identity, or a process of its own, is done by the worker: jobs in, answers and descriptors out.
//!
//! ```text
//!   capuchind (many threads)      worker (one thread, same binary)    supervisor (one a program)    program
//!     ── one end of a socket ────▶ forks ──────────────────────────▶ ◀── Job ── capuchind
//!                                                                     ── forks, becomes the user ──▶ runs
//!     ◀── Started, and the lender's ends of its streams ────────────
//!     ── Order: signal, detach, end ───────────────────────────────▶
//!     ◀── how it ended ─────────────────────────────────────────────
//! ```
//! A daemon with threads cannot fork and go on, so it starts its own binary again, which has one. Bytes never pass through
//! here: they move between the daemon and the program on descriptors that are handed over.
//!
//! Invariants: a supervisor is the reaper of everything below its program, whatever forks, double-forks or calls setsid,
//! and ends only when nothing is left. When its socket closes, because the handle went or the daemon did, it ends them all.
//! What a supervisor leaves that was killed itself falls to the worker, which kills it.
//!
//! A Unix socket that a user of a root daemon's machine connects or listens with comes from here, too (`unix_socket`).
//!
//! # Security
//! The worker of root stays root, so that no user's program can end its supervisor; only the program itself becomes the
//! user. In the daemon of a user both are that user, and so are its programs: they could as well end the daemon.

mod child;
mod job;
mod pool;
mod supervisor;
mod terminal;
mod unix_socket;

pub use child::serve_as_worker;
pub(super) use job::{Job, Use};
pub(super) use pool::{Failed, Keeper, Running, Worker};
