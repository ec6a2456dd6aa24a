//! Keys that the kernel keeps (keyrings(7)): who has a keyring of another user's may use what is in it, whoever owns the keys.

use std::io;

/// An empty session keyring in the place of the one that was inherited. Allocates nothing.
///
/// # Errors
/// There is no room for one.
pub(super) fn leave_session_keyring() -> io::Result<()> {
    // SAFETY: the call takes numbers, and a null pointer for a keyring without a name.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) };
    match (joined, io::Error::last_os_error()) {
        (-1, error) if !matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Err(error),
        // Where the kernel has no keys, or a container forbids them, a program gets at none either.
        _ => Ok(()),
    }
}
