//! seccomp(2): which system calls a program may make, and which wait for somebody else's answer.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

/// One instruction of a classic BPF program.
pub type Instruction = libc::sock_filter;

/// Binds this process, and every program that it starts, to `filter`, and gives the descriptor on which the calls arrive
/// that the filter notifies of. The process must have given up new privileges. `false`: this kernel (before Linux 5.19)
/// interrupts such a call by any signal, so that its answer must not take long.
///
/// # Errors
/// `EINVAL` for a program that the kernel does not take, `EBUSY` where another process is asked about this one's calls.
pub fn install_filter(filter: &mut [Instruction]) -> io::Result<(OwnedFd, bool)> {
    let with_listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    match install(filter, with_listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok((install(filter, with_listener)?, false)),
        installed => Ok((installed?, true)),
    }
}

fn install(filter: &mut [Instruction], flags: libc::c_ulong) -> io::Result<OwnedFd> {
    let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // SAFETY: the pointer is to `length` instructions that outlive the call, and the kernel copies them.
    let listener =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    match RawFd::try_from(listener) {
        // SAFETY: with this flag the call gives a new descriptor, which nobody else owns.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}
