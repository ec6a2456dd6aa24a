//! landlock(7): what a process gives up for good, for itself and for what it starts, without any privilege.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use rustix::thread::set_no_new_privs;

// linux/landlock.h.
const CREATE_RULESET_VERSION: u32 = 1;
const NET_BIND_TCP: u64 = 1;
const NET_CONNECT_TCP: u64 = 2;
const SCOPE_SIGNAL: u64 = 2;
/// The first version that knows the network (Linux 6.7), and the first that knows scopes (Linux 6.12).
const KNOWS_NETWORK: i64 = 4;
const KNOWS_SCOPES: i64 = 6;

/// `landlock_ruleset_attr`, of which an older kernel knows the beginning.
#[repr(C)]
struct Ruleset {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// Leaves this process, and every program that it starts, no TCP by its own calls, no look at or into processes that it has not
/// started (ptrace(2), /proc/PID/mem), and, where the kernel knows how, no signals to them. Files stay as they are. `false`: this
/// kernel has no such lock (before Linux 6.7, or switched off), and nothing has changed.
///
/// # Errors
/// What landlock_restrict_self(2) says.
pub fn keep_to_itself() -> io::Result<bool> {
    // SAFETY: with this flag the call takes no structure, and gives a number.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<Ruleset>(), 0_usize, CREATE_RULESET_VERSION)
    };
    if version < KNOWS_NETWORK {
        return Ok(false);
    }
    let knows_scopes = version >= KNOWS_SCOPES;
    let scoped = if knows_scopes { SCOPE_SIGNAL } else { 0 };
    let ruleset = Ruleset { handled_access_fs: 0, handled_access_net: NET_BIND_TCP | NET_CONNECT_TCP, scoped };
    let known = size_of::<Ruleset>() - if knows_scopes { 0 } else { size_of::<u64>() };
    // SAFETY: the structure outlives the call, and has at least as many bytes as are said.
    let made = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &raw const ruleset, known, 0_u32) };
    let made = match RawFd::try_from(made) {
        // SAFETY: the call gives a new descriptor, which nobody else owns.
        Ok(fd) if fd >= 0 => unsafe { OwnedFd::from_raw_fd(fd) },
        _ => return Err(io::Error::last_os_error()),
    };
    set_no_new_privs(true)?;
    // SAFETY: the call takes numbers only.
    match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, made.as_raw_fd(), 0_u32) } {
        0 => Ok(true),
        _ => Err(io::Error::last_os_error()),
    }
}
