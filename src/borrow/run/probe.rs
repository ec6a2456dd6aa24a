//! Tries what `run` needs of this machine, in a process that ends with it: for `capuchin doctor`.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{Ipv4Net, Ipv6Net};
use rustix::{
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
    process::{WaitOptions, waitpid},
};

use super::{
    RunError,
    control::{self, FromInner, Step},
    doors::{Doors, Way, is_missing},
    filter,
    network::{self, Network},
    tun,
};
use crate::sys::{self, Forked};

/// What was tried, and what came of it.
pub type Tried = (&'static str, Result<(), RunError>);

/// What is tried, in this order: its name for a person, and the step that has then been taken.
const TRIED: [(&str, Step); 5] = [
    ("namespaces", Step::Namespaces),
    ("tproxy", Step::Sockets),
    ("nf_tables", Step::Rules),
    ("routes", Step::Network),
    ("seccomp", Step::Confine),
];
/// The same, where the program's packets cross a TUN device.
const TRIED_BY_TUN: [(&str, Step); 4] =
    [("namespaces", Step::Namespaces), ("tun", Step::Tun), ("routes", Step::Network), ("seccomp", Step::Confine)];

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
            let said = match take_steps(way) {
                Ok(()) => FromInner::Ready(way),
                Err((step, error)) => FromInner::Failed(step, error.raw_os_error().unwrap_or(libc::EIO)),
            };
            let _ = control::send(&theirs, &said, &[]);
            std::process::exit(0)
        }
        Forked::Parent(child) => child,
    };
    drop(theirs);
    let heard = control::receive::<FromInner>(&ours, true).map_err(failed)?;
    let _ = waitpid(Some(child), WaitOptions::empty());
    match heard {
        Some((FromInner::Ready(_), _)) => Ok((tried.iter().map(|(name, _)| (*name, Ok(()))).collect(), None)),
        Some((FromInner::Failed(step, errno), _)) => {
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
        _ => Err(RunError::Lost),
    }
}

fn take_steps(way: Way) -> Result<(), (Step, io::Error)> {
    let is_root = sys::enter_borrowed_network().map_err(|error| (Step::Namespaces, error))?;
    network::set_loopback_up().map_err(|error| (Step::Loopback, error))?;
    let _doors = Doors::build(Some(way))?;
    // Addresses for documentation (RFC 5737, RFC 3849), and a way from them to everywhere.
    let (v4, v6) = (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    let routes = vec![(Ipv4Net::default().into(), v4.into()), (Ipv6Net::default().into(), v6.into())];
    let network = Network { addresses: vec![v4.into(), v6.into()], routes };
    network.set_up().map_err(|error| (Step::Network, error))?;
    if way == Way::Tun {
        tun::divert(&network).map_err(|error| (Step::Network, error))?;
    }
    let confine = |error| (Step::Confine, error);
    sys::give_up_privileges(is_root).map_err(confine)?;
    sys::install_filter(&mut filter::filter(is_root)).map(drop).map_err(confine)
}
