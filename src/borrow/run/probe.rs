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
    doors::Doors,
    filter,
    network::{self, Network},
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

/// Tries each thing that `run` needs, up to the first that this machine does not give. To be called before any thread exists.
///
/// # Errors
/// No process can be started.
pub fn probe() -> Result<Vec<Tried>, RunError> {
    let failed = |error: io::Error| RunError::local("cannot start a second process", error);
    let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.map_err(|error| failed(error.into()))?;
    let child = match sys::fork().map_err(failed)? {
        Forked::Child => {
            let said = match take_steps() {
                Ok(()) => FromInner::Ready,
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
        Some((FromInner::Ready, _)) => Ok(TRIED.map(|(name, _)| (name, Ok(()))).into()),
        Some((FromInner::Failed(step, errno), _)) => {
            // The loopback device is part of a namespace that one may use.
            let step = if step == Step::Loopback { Step::Namespaces } else { step };
            let taken = TRIED.iter().take_while(|(_, tried)| *tried != step);
            let mut all: Vec<_> = taken.map(|(name, _)| (*name, Ok(()))).collect();
            let name = TRIED.iter().find(|(_, tried)| *tried == step).map_or("run", |(name, _)| name);
            all.push((name, Err(RunError::of_step(step, errno, ""))));
            Ok(all)
        }
        _ => Err(RunError::Lost),
    }
}

fn take_steps() -> Result<(), (Step, io::Error)> {
    let is_root = sys::enter_borrowed_network().map_err(|error| (Step::Namespaces, error))?;
    network::set_loopback_up().map_err(|error| (Step::Loopback, error))?;
    let _doors = Doors::build()?;
    // Addresses for documentation (RFC 5737, RFC 3849), and a way from them to everywhere.
    let (v4, v6) = (Ipv4Addr::new(192, 0, 2, 1), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    let routes = vec![(Ipv4Net::default().into(), v4.into()), (Ipv6Net::default().into(), v6.into())];
    let network = Network { addresses: vec![v4.into(), v6.into()], routes };
    network.set_up().map_err(|error| (Step::Network, error))?;
    let confine = |error| (Step::Confine, error);
    sys::give_up_privileges(is_root).map_err(confine)?;
    sys::install_filter(&mut filter::filter(is_root)).map(drop).map_err(confine)
}
