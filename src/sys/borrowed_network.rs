//! The empty network that a borrowed one is built in: namespaces(7) for this process, with its own user kept.

use std::{fs, io};

use rustix::{
    mount::{MountPropagationFlags, mount_change},
    process::{getegid, geteuid},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Moves this process into network and mount namespaces of its own; it keeps its user and group. Real root stays in the
/// user namespace that it is in, and gets `true`; everybody else gets one, in which the process has every capability. To
/// be called before any thread exists.
///
/// # Errors
/// `EPERM` or `ENOSPC` where user namespaces are forbidden or used up, `EINVAL` when there are threads.
pub fn enter_borrowed_network() -> io::Result<bool> {
    let (uid, gid) = (geteuid(), getegid());
    let network = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    // SAFETY: no descriptor table is unshared (FILES is not among the flags), which is all that can be unsound here.
    let is_root = uid.is_root() && unsafe { unshare_unsafe(network) }.is_ok();
    if !is_root {
        // SAFETY: as above.
        unsafe { unshare_unsafe(network | UnshareFlags::NEWUSER)? };
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("{0} {0} 1", uid.as_raw()))?;
        fs::write("/proc/self/gid_map", format!("{0} {0} 1", gid.as_raw()))?;
    }
    // What is mounted here is not seen outside; what is mounted outside is seen here.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    Ok(is_root)
}
