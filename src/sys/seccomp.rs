//! seccomp(2): which system calls a program may make.

use std::io;

/// One instruction of a classic BPF program.
pub type Instruction = libc::sock_filter;

/// Binds this process, and every program that it starts, to `filter`. The process must have given up new privileges.
///
/// # Errors
/// `EINVAL` for a program that the kernel does not take.
pub fn install_filter(filter: &mut [Instruction]) -> io::Result<()> {
    let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // SAFETY: the pointer is to `length` instructions that outlive the call, and the kernel copies them.
    let installed = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    if installed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
