//! An unmodified program on another machine's network: `capuchin run`.
//!
//! ```text
//!              outer (this process, tokio)              inner (a process of ours)         the program
//!   lender ◀── Borrower ── hold, carry ◀── sockets ──── doors, network, rules ─ starts ─▶ confined by filter
//!                              ▲                                                              │
//!                              └───────────── the kernel's TCP, on loopback alone ◀───────────┘
//! ```
//! The program gets a network namespace without any device but loopback, so that nothing *can* leave it. Every address that
//! the lender can reach is local there ([`network`]); a connection's first packet is held until the lender has connected
//! ([`hold`]), and what the kernel then accepts for the program's target is carried over the session ([`carry`]). No code
//! is injected, nothing is traced, and no privilege is needed.
//!
//! Datagrams go to a socket of the lender, one for each of the program's, and come back from the address that was sent to;
//! what it has bound to a port hears strangers too ([`flows`]).
//!
//! Names are the lender's as well: its resolver files stand in the place of ours ([`mask`]), and what is sent to port 53 is asked of
//! the lender ([`names`]).
//!
//! What it binds is bound at the lender first ([`listening`]), because the kernel asks before it does so ([`supervisor`]);
//! connections that come there come to the program from their true address.
//!
//! Where the kernel has no nf_tables with transparent proxying, a TUN device brings us what the program sends ([`tun`]), and
//! everything else is the same.
//! Where namespaces are forbidden there is a weaker mode, for who asks for it ([`without_namespaces`]).
//!
//! Its stdin and stdout are ours, or the two directions of a service that another borrower offers ([`stdio`]).
//!
//! # What a program cannot do
//! There is no way to groups and broadcast, and no datagram of more than 65,507 bytes, over IPv6 either. Of two sockets that
//! share a port by SO_REUSEPORT, that of a wildcard comes before that of one of its addresses. Where the lender has several
//! addresses, IP_PKTINFO names the first one for a datagram that came to another; the answer leaves from the right one. What
//! MSG_ERRQUEUE gives has no payload. IP_FREEBIND frees no bind to a port by its number, and io_uring is refused (`ENOSYS`):
//! who has nothing else fails at once. Ports below 1024 of its own loopback are the program's, whoever it is. Over a TUN
//! device, `::1` is the program's alone, and the lender's is not reached by it. `ping` runs and hears nobody: echo requests
//! are not lent.
//!
//! # Security
//! What keeps the program inside is the namespace, the capabilities that it does not have, the descriptors that it does not
//! inherit, and the [`filter`]; each is in force before its first instruction, or it does not start. The program is not
//! protected from its own user's other processes, nor they from it.

mod carry;
mod coming;
mod control;
mod datagram;
mod dialer;
mod doors;
mod error;
mod far_end;
mod filter;
mod find;
mod flows;
mod held_syns;
mod hold;
mod inner;
mod listeners;
mod listening;
mod local;
mod local_copy;
mod local_flows;
mod mask;
mod names;
mod netlink;
mod network;
mod outcome;
mod outer;
mod own_address;
mod packet;
mod probe;
mod questions;
mod read_out;
mod rules;
mod stdio;
mod supervisor;
mod tun;
mod way_in;
mod with_namespaces;
mod without_namespaces;

use std::{ffi::OsString, os::fd::OwnedFd, path::PathBuf, sync::Arc};

use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{Resource, Rlimit, Signal, getpid, getrlimit, set_child_subreaper, setrlimit},
};
use tokio::sync::Notify;

/// What reads a hostile program's bytes and no socket, for the fuzz targets.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub use super::{
        datagram::{packet, undelivered},
        listeners::cookie,
        netlink::{acknowledged, heard},
        packet::{Length, Syn, Unreachable, checksum},
        tun::{Outbound, Segment, Translations, read},
    };
}

pub use doors::Way;
pub use error::{RunError, WITHOUT, apparmor_profile};
pub use find::find;
pub use inner::Plan;
pub use listening::{Publish, PublishedPort};
pub use local::Local;
pub use mask::{Mask, MaskError};
pub use outer::Serve;
pub use probe::{Probed, Tried, probe, probe_filter};
pub use stdio::{ProgramPipes, ServiceFeed};
pub use without_namespaces::WEAKER;

use crate::sys::{self, Forked};

/// In the environment of a borrowed program: the host whose network it has.
pub const HOST_VARIABLE: &str = "CAPUCHIN_RUN";

/// What is passed on to the program when it is sent to us, and what we must not die of before it did. Not those that the kernel
/// sends for what we did ourselves (SIGXCPU, SIGSEGV), and not the real-time ones, which no program is sent by habit.
const PASSED_ON: [Signal; 14] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::TSTP,
    Signal::WINCH,
    Signal::ALARM,
    Signal::VTALARM,
    Signal::PROF,
    Signal::IO,
    Signal::POWER,
    Signal::URG,
];

/// What a shell adds to a signal's number for the exit status of a program that it ended.
const SIGNALLED: u8 = 128;

/// A program that is about to start: its network is being made by another process.
pub struct Run {
    control: OwnedFd,
    program: String,
    lender_variables: Vec<String>,
    local_unix: Vec<PathBuf>,
    pipes: Option<ProgramPipes>,
    /// Is told once the program has begun.
    began: Arc<Notify>,
}

impl Run {
    /// Starts to make the network. Before any thread exists: both processes are copies of this one.
    ///
    /// # Errors
    /// Inside another borrowed network, for a descriptor to keep that is not open, or where no process can be started.
    pub fn start(plan: &Plan) -> Result<Self, RunError> {
        if let Some(host) = std::env::var_os(HOST_VARIABLE) {
            return Err(RunError::Nested(host.to_string_lossy().into_owned()));
        }
        if filter::is_in_force() {
            return Err(RunError::Nested("HOST".to_owned()));
        }
        // Before any is ours: a number that is free now would be one of ours by then.
        if let Some(closed) = plan.keep_fds.iter().find(|fd| !sys::is_open(**fd)) {
            return Err(RunError::NotOpen(*closed));
        }
        let failed = |error| RunError::local("cannot start a second process", error);
        sys::block_signals(&PASSED_ON).map_err(failed)?;
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let (control, theirs) = pair.map_err(|error| failed(error.into()))?;
        let pipes = plan.piped.then(stdio::pipes).transpose().map_err(failed)?;
        let (pipes, ends) = pipes.unzip();
        match sys::fork().map_err(failed)? {
            Forked::Child => {
                drop((control, pipes));
                inner::run(&theirs, plan, ends);
                std::process::exit(0)
            }
            Forked::Parent(_) => {
                raise_descriptor_limit();
                // What inner looks after is ours to end, should inner be killed.
                set_child_subreaper(Some(getpid())).map_err(|error| failed(error.into()))?;
                let program = plan.program.first().map(OsString::as_os_str).unwrap_or_default();
                let program = program.to_string_lossy().into_owned();
                let (lender_variables, local_unix) = (plan.lender_variables.clone(), plan.local_unix.clone());
                let began = pipes.as_ref().map(ProgramPipes::began).unwrap_or_default();
                Ok(Self { control, program, lender_variables, local_unix, pipes, began })
            }
        }
    }
}

impl Run {
    /// Our ends of the program's stdin and stdout, if the plan says that they are piped; once.
    pub fn take_pipes(&mut self) -> Option<ProgramPipes> {
        self.pipes.take()
    }
}

/// Every connection of the program is a socket of ours too. The program's own limit was copied before.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    // What is refused stays as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Runs `ask` on this thread with the signals let through that `run` keeps to itself: at a prompt they end the program.
///
/// # Errors
/// What sigprocmask(2) says.
pub fn at_a_prompt<T>(ask: impl FnOnce() -> T) -> Result<T, RunError> {
    sys::with_signals_open(&PASSED_ON, ask).map_err(|error| RunError::local("cannot ask", error))
}
