//! What a call is answered, in the kernel's words.

use std::io;

use super::address;
use crate::proto::Errno;

/// What the kernel says of an address that it cannot read.
pub fn wrong(given: &[u8]) -> Errno {
    match address::family_of(given) {
        Some(libc::AF_INET | libc::AF_INET6) | None => Errno::EINVAL,
        Some(_) => Errno::EAFNOSUPPORT,
    }
}

/// As a call's answer.
pub fn plain(done: io::Result<()>) -> Result<(), Errno> {
    done.map_err(|error| Errno::of(&error).unwrap_or(Errno::EINVAL))
}

// Those that no frame of the lender's carries.
pub const EISCONN: Errno = Errno(libc::EISCONN as u16);
pub const EALREADY: Errno = Errno(libc::EALREADY as u16);
pub const EINPROGRESS: Errno = Errno(libc::EINPROGRESS as u16);
pub const ENOTCONN: Errno = Errno(libc::ENOTCONN as u16);
