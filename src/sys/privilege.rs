//! Capabilities: what a borrowed program must not have over the network that it runs in.

use std::io;

use rustix::thread::{CapabilitySet, capabilities, set_capabilities, set_no_new_privs};

/// What a program of real root loses: whatever could change its network or leave it. The rest stays, so that daemons that
/// change their user, and low ports, still work.
const TAKEN_FROM_ROOT: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SYS_MODULE)
    .union(CapabilitySet::SYS_RAWIO)
    .union(CapabilitySet::SYS_BOOT)
    .union(CapabilitySet::BPF)
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::NET_RAW);

/// Takes capabilities from this process for good, those of the programs that it starts included: all, or, with
/// `keep_roots`, only those over networks and over the machine.
///
/// # Errors
/// What capset(2) says.
pub fn give_up_privileges(keep_roots: bool) -> io::Result<()> {
    // First: without it, a program of uid 0 would be given everything again at exec.
    set_no_new_privs(true)?;
    let mut sets = capabilities(None)?;
    let taken = if keep_roots { TAKEN_FROM_ROOT } else { CapabilitySet::all() };
    sets.effective.remove(taken);
    sets.permitted.remove(taken);
    sets.inheritable.remove(taken);
    Ok(set_capabilities(None, sets)?)
}
