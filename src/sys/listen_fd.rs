//! A listening socket that somebody else opened and left to us under a number.

use std::{
    io,
    net::TcpListener,
    os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::Mutex,
};

/// Why a descriptor cannot be served on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenFdError {
    /// 0, 1 and 2 are stdin, stdout and stderr.
    #[error("fd:{0} is not a descriptor that can be passed on: use 3 or above")]
    Standard(RawFd),
    /// It is not open, or not a socket that listens.
    #[error("fd:{fd} is not a listening TCP socket: {source}")]
    NotListening {
        /// The number.
        fd: RawFd,
        /// What the system says.
        source: io::Error,
    },
    /// It was taken before; a number stays taken when its listener is closed.
    #[error("fd:{0} is in use already")]
    Taken(RawFd),
}

/// Takes over an inherited listening TCP socket by its number, as `LISTEN_FDS` (sd_listen_fds(3)) passes them.
///
/// # Errors
/// If it is not a listening socket, or was taken before.
pub fn adopt_listener(fd: RawFd) -> Result<TcpListener, ListenFdError> {
    static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());
    if fd <= 2 {
        return Err(ListenFdError::Standard(fd));
    }
    let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if taken.contains(&fd) {
        return Err(ListenFdError::Taken(fd));
    }
    let not_listening = |source: io::Error| ListenFdError::NotListening { fd, source };
    // SAFETY: the number is above 2, and the borrow ends before anything in this process could close it: the calls
    // below fail with EBADF if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let listens = rustix::net::sockopt::socket_acceptconn(borrowed).map_err(|error| not_listening(error.into()))?;
    if !listens {
        return Err(not_listening(io::ErrorKind::InvalidInput.into()));
    }
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC).map_err(|error| not_listening(error.into()))?;
    taken.push(fd);
    // SAFETY: it is open, as the calls above have shown, it was inherited, so nothing else in this process owns it, and
    // the list above keeps it from being taken twice.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    let listener = TcpListener::from(owned);
    // A Unix socket has no such address.
    listener.local_addr().map_err(not_listening)?;
    listener.set_nonblocking(true).map_err(not_listening)?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn a_listening_socket_is_taken_once() {
        let inherited = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = inherited.local_addr().unwrap();
        let fd = inherited.into_raw_fd();
        let adopted = adopt_listener(fd).unwrap();
        assert_eq!(adopted.local_addr().unwrap(), address);
        assert!(matches!(adopt_listener(fd), Err(ListenFdError::Taken(_))));
        // The number must not come back as the neighbour test's file.
        std::mem::forget(adopted);
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let file = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        assert!(matches!(adopt_listener(file), Err(ListenFdError::NotListening { .. })));
        let folder = tempfile::tempdir().unwrap();
        let unix = std::os::unix::net::UnixListener::bind(folder.path().join("s")).unwrap().into_raw_fd();
        assert!(matches!(adopt_listener(unix), Err(ListenFdError::NotListening { .. })));
        assert!(matches!(adopt_listener(987_654), Err(ListenFdError::NotListening { .. })));
        assert!(matches!(adopt_listener(1), Err(ListenFdError::Standard(1))));
    }
}
