//! Tries what `run` needs of this machine, in processes that end with it: for `capuchin doctor`.

mod calls;
mod filter;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{Pid, WaitOptions, waitpid},
};

pub use self::filter::probe_filter;
use super::{
    RunError,
    control::{self, FromInner, Step},
    doors::{Doors, Way, is_missing},
    network::{self, Network},
    tun,
};
use crate::{
    proto::Machine,
    sys::{self, Forked},
};

/// What was tried, and what came of it.
pub type Tried = (&'static str, Result<(), RunError>);

/// What is tried, in this order: its name for a person, and the step that has then been taken.
const TRIED: [(&str, Step); 6] = [
    ("namespaces", Step::Namespaces),
    ("tproxy", Step::Sockets),
    ("nf_tables", Step::Rules),
    ("routes", Step::Network),
    ("seccomp", Step::Confine),
    ("listening", Step::Reach),
];
/// The same, where the program's packets cross a TUN device.
const TRIED_BY_TUN: [(&str, Step); 5] = [
    ("namespaces", Step::Namespaces),
    ("tun", Step::Tun),
    ("routes", Step::Network),
    ("seccomp", Step::Confine),
    ("listening", Step::Reach),
];

/// What this machine gives.
pub struct Probed {
    /// Each thing that `run` needs, up to the first that this machine does not give.
    pub tried: Vec<Tried>,
    /// What of nf_tables is missing, where a TUN device takes its place.
    pub without: Option<Tried>,
}

/// Tries what `run` needs, first with nf_tables and then, where this kernel has none, with a TUN device. To be called before
/// any thread exists.
///
/// # Errors
/// No process can be started.
pub fn probe() -> Result<Probed, RunError> {
    let (tried, why_not) = probe_way(Way::Nftables, &TRIED)?;
    let Some((step, errno)) = why_not.filter(|(step, errno)| is_missing(*step, &io::Error::from_raw_os_error(*errno)))
    else {
        return Ok(Probed { tried, without: None });
    };
    let name = TRIED.iter().find(|(_, tried)| *tried == step).map_or("run", |(name, _)| name);
    let without = Some((name, Err(RunError::of_step(step, errno, ""))));
    Ok(Probed { tried: probe_way(Way::Tun, &TRIED_BY_TUN)?.0, without })
}

/// The step that was not taken, and why not.
type NotTaken = (Step, i32);

/// Tries one way; with the step that was not taken, and why not.
fn probe_way(way: Way, tried: &'static [(&'static str, Step)]) -> Result<(Vec<Tried>, Option<NotTaken>), RunError> {
    let failed = |error: io::Error| RunError::local("cannot start a second process", error);
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.map_err(|error| failed(error.into()))?;
    let child = match sys::fork().map_err(failed)? {
        Forked::Child => {
            let told = take_steps(way).and_then(|calls| {
                control::send(&theirs, &FromInner::Confined(true), &[calls.as_fd()])
                    .map_err(|error| (Step::Control, error))?;
                // Else the call would wait for itself.
                drop(calls);
                calls::make().map_err(|error| (Step::Reach, error))
            });
            let said = match told {
                Ok(()) => FromInner::Started,
                Err((step, error)) => FromInner::Failed(step, error.raw_os_error().unwrap_or(libc::EIO)),
            };
            let _ = control::send(&theirs, &said, &[]);
            std::process::exit(0)
        }
        Forked::Parent(child) => child,
    };
    drop(theirs);
    let heard = hear(&ours, child);
    // Whatever it waits for, it hears that nobody is there.
    drop(ours);
    let _ = waitpid(Some(child), WaitOptions::empty());
    let Some((step, errno)) = heard? else {
        return Ok((tried.iter().map(|(name, _)| (*name, Ok(()))).collect(), None));
    };
    // The loopback device is part of a namespace that one may use; the sockets of every kind come with their way.
    let step = match step {
        Step::Loopback => Step::Namespaces,
        Step::Sockets if way == Way::Tun => Step::Tun,
        step => step,
    };
    let taken = tried.iter().take_while(|(_, tried)| *tried != step);
    let mut all: Vec<_> = taken.map(|(name, _)| (*name, Ok(()))).collect();
    let name = tried.iter().find(|(_, tried)| *tried == step).map_or("run", |(name, _)| name);
    all.push((name, Err(RunError::of_step(step, errno, ""))));
    Ok((all, Some((step, errno))))
}

/// What the child says at last, whose calls are done meanwhile; `None`: everything went well.
fn hear(child_rx: &OwnedFd, child: Pid) -> Result<Option<NotTaken>, RunError> {
    let failed = |error: io::Error| RunError::local("cannot hear a second process", error);
    let mut out_of_reach = None;
    loop {
        match control::receive::<FromInner>(child_rx, true).map_err(failed)? {
            Some((FromInner::Confined(_), fds)) => {
                let calls = fds.into_iter().next().ok_or(RunError::Lost)?;
                out_of_reach = calls::take(&calls, child).err();
            }
            Some((FromInner::Started, _)) => return Ok(None),
            // What it has heard of us is less than we know.
            Some((FromInner::Failed(step, errno), _)) => {
                let known = out_of_reach.and_then(|error| error.raw_os_error());
                return Ok(Some((step, known.unwrap_or(errno))));
            }
            _ => return Err(RunError::Lost),
        }
    }
}

/// To the last but one: gives where the calls of this process come, which is confined.
fn take_steps(way: Way) -> Result<OwnedFd, (Step, io::Error)> {
    let is_root = sys::enter_borrowed_network().map_err(|error| (Step::Namespaces, error))?;
    network::set_loopback_up().map_err(|error| (Step::Loopback, error))?;
    let has_ipv6 = sys::has_ipv6();
    let _doors = Doors::build(Some(way), has_ipv6)?;
    // Of a machine that tells nothing: from an address of each family to everywhere.
    let network = Network::of(&Machine::default(), &[], has_ipv6);
    network.set_up().map_err(|error| (Step::Network, error))?;
    if way == Way::Tun {
        tun::divert(&network).map_err(|error| (Step::Network, error))?;
    }
    let confine = |error| (Step::Confine, error);
    sys::give_up_privileges(is_root).map_err(confine)?;
    sys::install_filter(&mut super::filter::filter(is_root)).map(|(calls, _)| calls).map_err(confine)
}
