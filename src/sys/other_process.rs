//! What a thread of another process has: its descriptors and its memory, as far as ptrace(2) would let us look.

use std::{
    fs, io,
    os::fd::{OwnedFd, RawFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open};

/// A descriptor for a thread and not for its process (`PIDFD_THREAD`, Linux 6.9): threads may have files of their own.
const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL as u32);

/// A duplicate of descriptor `fd` of a thread: the same open file.
///
/// # Errors
/// `EBADF` if it has none of that number, `EPERM` if it is out of our reach, `ESRCH` if it is gone.
pub fn duplicate_of_thread(thread: i32, fd: RawFd) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(thread).ok_or(io::ErrorKind::InvalidInput)?;
    if fd < 0 {
        // Numbers below 0 have meanings of their own to who calls.
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    Ok(pidfd_getfd(watch(pid)?, fd, PidfdGetfdFlags::empty())?)
}

/// A descriptor for a thread, or on an older kernel for its process, whose files are the thread's own but for the oddest of programs.
fn watch(thread: Pid) -> io::Result<OwnedFd> {
    // A kernel learns nothing while it runs.
    static IS_OLD: AtomicBool = AtomicBool::new(false);
    if !IS_OLD.load(Ordering::Relaxed) {
        match pidfd_open(thread, THREAD) {
            // From a newer kernel it may mean that the thread has ended. This one has not.
            Err(rustix::io::Errno::INVAL) => {
                let here = pidfd_open(rustix::thread::gettid(), THREAD);
                IS_OLD.store(here.is_err_and(|error| error == rustix::io::Errno::INVAL), Ordering::Relaxed);
            }
            opened => return Ok(opened?),
        }
    }
    watch_process_of(thread)
}

/// The first thread of a process has its number: most programs have no other, and need no look into /proc.
fn watch_process_of(thread: Pid) -> io::Result<OwnedFd> {
    match pidfd_open(thread, PidfdFlags::empty()) {
        // Before Linux 6.9 EINVAL, ENOENT since.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {
            Ok(pidfd_open(process_of(thread.as_raw_nonzero().get())?, PidfdFlags::empty())?)
        }
        opened => Ok(opened?),
    }
}

/// Reads memory of a thread's process into `buffer`, all of it.
///
/// # Errors
/// `EFAULT` where there is no such memory, and as [`duplicate_of_thread`].
pub fn read_memory_of_thread(thread: i32, address: u64, buffer: &mut [u8]) -> io::Result<()> {
    let wanted = buffer.len();
    let ours = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: wanted };
    let theirs = libc::iovec { iov_base: std::ptr::without_provenance_mut(address as usize), iov_len: wanted };
    // SAFETY: the first piece is `buffer`, which is borrowed for writing; the second is an address of the other process,
    // which the kernel checks and nobody here follows.
    let read = unsafe { libc::process_vm_readv(thread, &raw const ours, 1, &raw const theirs, 1, 0) };
    match usize::try_from(read) {
        Ok(read) if read == wanted => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Writes `bytes` into memory of a thread's process, all of them.
///
/// # Errors
/// As [`read_memory_of_thread`].
pub fn write_memory_of_thread(thread: i32, address: u64, bytes: &[u8]) -> io::Result<()> {
    let wanted = bytes.len();
    let ours = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: wanted };
    let theirs = libc::iovec { iov_base: std::ptr::without_provenance_mut(address as usize), iov_len: wanted };
    // SAFETY: the first piece is `bytes`, which is only read; the second is an address of the other process, which the
    // kernel checks and nobody here follows.
    let written = unsafe { libc::process_vm_writev(thread, &raw const ours, 1, &raw const theirs, 1, 0) };
    match usize::try_from(written) {
        Ok(written) if written == wanted => Ok(()),
        Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Sends a signal to a thread of another process.
///
/// # Errors
/// What tgkill(2) says.
pub fn signal_thread(thread: i32, signal: Signal) -> io::Result<()> {
    let process = process_of(thread)?.as_raw_nonzero().get();
    // SAFETY: the call takes numbers only.
    match unsafe { libc::syscall(libc::SYS_tgkill, process, thread, signal.as_raw()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The process of a thread, by proc_pid_status(5).
fn process_of(thread: i32) -> io::Result<Pid> {
    let status = fs::read_to_string(format!("/proc/{thread}/status"))?;
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
    process.and_then(Pid::from_raw).ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn own_thread() -> i32 {
        rustix::thread::gettid().as_raw_nonzero().get()
    }

    #[test]
    fn a_thread_has_the_files_and_the_memory_of_its_process() {
        let file = fs::File::open("/dev/null").unwrap();
        // Not the first of its threads, where tests run.
        assert_eq!(process_of(own_thread()).unwrap(), rustix::process::getpid());
        let other = duplicate_of_thread(own_thread(), file.as_raw_fd()).unwrap();
        // As an older kernel has it: of this thread, and of the first one.
        for thread in [rustix::thread::gettid(), rustix::process::getpid()] {
            pidfd_getfd(watch_process_of(thread).unwrap(), file.as_raw_fd(), PidfdGetfdFlags::empty()).unwrap();
        }
        assert_ne!(other.as_raw_fd(), file.as_raw_fd());
        let bad = duplicate_of_thread(own_thread(), 1 << 30).unwrap_err();
        assert_eq!(bad.raw_os_error(), Some(libc::EBADF));
        let (said, mut heard) = (*b"in memory", [0; 9]);
        read_memory_of_thread(own_thread(), said.as_ptr() as u64, &mut heard).unwrap();
        assert_eq!(heard, said);
        let mut written = [0; 9];
        write_memory_of_thread(own_thread(), written.as_mut_ptr() as u64, b"in memory").unwrap();
        assert_eq!(std::hint::black_box(written), said);
        let nowhere = read_memory_of_thread(own_thread(), 8, &mut heard).unwrap_err();
        assert_eq!(nowhere.raw_os_error(), Some(libc::EFAULT));
    }
}
