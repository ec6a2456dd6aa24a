//! Whether somebody has a file open for writing.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// Which signal a lease sends; missing from the libc crate (`asm-generic/fcntl.h`).
const F_SETSIG: libc::c_int = 10;

/// Whether anybody has this regular file open for writing, by asking the kernel for a read lease (fcntl(2)), which it gives
/// only where nobody has, and giving it back at once. `true` also where a file system answers every such question with EAGAIN:
/// it cannot be told from a writer.
///
/// # Errors
/// EACCES if the file is another user's and we are not root; EINVAL where the file system knows no leases.
pub fn is_open_for_writing(file: impl AsFd) -> io::Result<bool> {
    let fd = file.as_fd().as_raw_fd();
    let fcntl = |command, argument: libc::c_int| {
        // SAFETY: fcntl(2) with F_SETSIG and F_SETLEASE takes numbers only, and the descriptor is borrowed and so open.
        match unsafe { libc::fcntl(fd, command, argument) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // Who opens it while we have the lease has a signal sent to us, SIGIO if nothing else is asked for, which would end the
    // process; this one is ignored unless somebody wants it.
    fcntl(F_SETSIG, libc::SIGURG)?;
    match fcntl(libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => fcntl(libc::F_SETLEASE, libc::F_UNLCK).map(|()| false),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Ok(true),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{File, OpenOptions};

    use super::*;

    #[test]
    fn who_writes_is_seen_and_who_reads_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let writer = File::create(&path).unwrap();
        let reader = File::open(&path).unwrap();
        assert!(is_open_for_writing(&reader).unwrap());
        let second = OpenOptions::new().append(true).open(&path).unwrap();
        drop(writer);
        assert!(is_open_for_writing(&reader).unwrap());
        drop(second);
        let _other = File::open(&path).unwrap();
        for _ in 0..2 {
            assert!(!is_open_for_writing(&reader).unwrap());
        }
    }

    #[test]
    fn who_opens_it_meanwhile_neither_waits_nor_ends_us() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        drop(File::create(&path).unwrap());
        let reader = File::open(&path).unwrap();
        std::thread::scope(|scope| {
            let opens = scope.spawn(|| {
                for _ in 0..2_000 {
                    drop(OpenOptions::new().append(true).open(&path).unwrap());
                }
            });
            while !opens.is_finished() {
                is_open_for_writing(&reader).unwrap();
            }
        });
    }
}
