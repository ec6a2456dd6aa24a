//! A descriptor whose readiness tokio waits for.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// Registers a descriptor that will be waited on until it can be read. Needs a tokio runtime.
///
/// # Errors
/// If it is of a kind that cannot be waited for, as a plain file is.
pub fn await_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, is always the same descriptor, and is closed by nobody but the AsyncFd that owns it now.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Waits until a descriptor can be written to, and listens to it for no longer. Needs a tokio runtime.
///
/// # Errors
/// If it is of a kind that cannot be waited for, or is waited for already.
pub async fn until_writable(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: what is borrowed is open and the same descriptor for as long as the AsyncFd, which does not close it.
    let waited_for = unsafe { AsyncFd::register_with_interest(fd, Interest::WRITABLE) }?;
    waited_for.writable().await?.retain_ready();
    Ok(())
}

/// Waits until `read` has something to give; `read` says `WouldBlock` as long as it has not.
///
/// Each read costs the task some of its budget, which waiting for readiness alone does not: a loop over a descriptor that is
/// always ready, such as a tap whose program floods it, would never let another task of its worker have a turn.
///
/// # Errors
/// What `read` says.
///
/// # Cancellation
/// Nothing is lost: what was read is returned at once.
#[cfg(feature = "run")]
pub async fn read_when_ready<R>(fd: &AsyncFd<OwnedFd>, read: impl FnMut(&OwnedFd) -> io::Result<R>) -> io::Result<R> {
    fd.async_io(Interest::READABLE, read).await
}

#[cfg(all(test, feature = "run"))]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// More than any budget of a task.
    const READS: u64 = 100_000;

    #[tokio::test]
    async fn a_descriptor_that_is_always_ready_leaves_others_their_turns() {
        // Each read takes one of a number that does not end.
        let flags = rustix::event::EventfdFlags::SEMAPHORE | rustix::event::EventfdFlags::NONBLOCK;
        let always = rustix::event::eventfd(0, flags).unwrap();
        rustix::io::write(&always, &(2 * READS).to_ne_bytes()).unwrap();
        let always = await_readable(always).unwrap();
        let (reads, turns) = (Cell::new(0), Cell::new(0));
        let flood = async {
            while reads.get() < READS {
                read_when_ready(&always, |fd| Ok(rustix::io::read(fd, &mut [0_u8; 8])?)).await.unwrap();
                reads.set(reads.get() + 1);
            }
        };
        let other = async {
            while reads.get() < READS {
                turns.set(turns.get() + 1);
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(flood, other);
        assert!(turns.get() > 10, "{} turns of another beside {READS} reads", turns.get());
    }
}
