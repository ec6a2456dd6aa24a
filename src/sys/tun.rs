//! A TUN device: a network device whose wire is a descriptor of ours.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::fs::{Mode, OFlags, open};

/// Makes a TUN device of this name in the network namespace of this process. Each read from what this gives, which does not
/// wait, is one packet that was sent by the device, from its IP header on. The device is gone with the last descriptor.
///
/// # Errors
/// `ENOENT` or `ENODEV` without the driver or its node, `EACCES` where the node is not this user's to open, `EPERM` without
/// power over the network namespace.
pub fn tun_device(name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let device = open("/dev/net/tun", flags, Mode::empty())?;
    // SAFETY: an ifreq of zeroes is a valid one: it has integers and arrays of them only.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays the zero that ends the name.
    let (_, room) = request.ifr_name.split_last_mut().unwrap_or((&mut 0, &mut []));
    for (slot, byte) in room.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the operation reads and writes one ifreq through the pointer, which outlives the call.
    match unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, &raw mut request) } {
        0 => Ok(device),
        _ => Err(io::Error::last_os_error()),
    }
}
