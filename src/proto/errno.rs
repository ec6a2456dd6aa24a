//! Error numbers on the wire: Linux's generic ones (`asm-generic/errno.h`), whatever the two machines are.

use std::{fmt, io};

/// One error number. 0 is never sent.
///
/// ```
/// use capuchin::proto::Errno;
/// let refused = std::io::Error::from(Errno::ECONNREFUSED);
/// assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
/// assert_eq!(Errno::of(&refused), Some(Errno::ECONNREFUSED));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(pub u16);

impl Errno {
    /// No such file or directory.
    pub const ENOENT: Self = Self(2);
    /// Argument list too long.
    pub const E2BIG: Self = Self(7);
    /// Try again: there is no room now.
    pub const EAGAIN: Self = Self(11);
    /// Permission denied: the policy says no.
    pub const EACCES: Self = Self(13);
    /// Invalid argument.
    pub const EINVAL: Self = Self(22);
    /// No descriptor is left.
    pub const EMFILE: Self = Self(24);
    /// Address already in use.
    pub const EADDRINUSE: Self = Self(98);
    /// Cannot assign requested address: the machine does not have it.
    pub const EADDRNOTAVAIL: Self = Self(99);
    /// Message too long.
    pub const EMSGSIZE: Self = Self(90);
    /// Address family not supported: a socket of IPv4 does not send to IPv6.
    pub const EAFNOSUPPORT: Self = Self(97);
    /// Network is unreachable.
    pub const ENETUNREACH: Self = Self(101);
    /// Connection reset by peer.
    pub const ECONNRESET: Self = Self(104);
    /// Connection timed out.
    pub const ETIMEDOUT: Self = Self(110);
    /// Connection refused.
    pub const ECONNREFUSED: Self = Self(111);
    /// No route to host.
    pub const EHOSTUNREACH: Self = Self(113);

    /// The number of an error of the operating system; `None` for an error that has none.
    ///
    /// Linux on x86, Arm, RISC-V, LoongArch, s390 and Power uses the generic numbers, so they pass as they are.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.raw_os_error().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0).map(Self)
    }
}

#[cfg(any(target_arch = "mips", target_arch = "mips64", target_arch = "sparc", target_arch = "sparc64"))]
compile_error!("this architecture has error numbers of its own: map them in proto/errno.rs first");

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0.into())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        io::Error::from(*self).fmt(f)
    }
}
