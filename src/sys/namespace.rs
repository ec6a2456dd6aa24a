//! A network of one's own: namespaces(7) for this process, with nothing in them but loopback.

use std::{fs, io, net::Ipv4Addr, path::Path};

use rustix::{
    fd::AsFd,
    mount::{MountPropagationFlags, mount_bind, mount_change},
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    process::{getegid, geteuid},
    thread::{UnshareFlags, unshare_unsafe},
};

/// Moves this process into network and mount namespaces of its own, as root in a user namespace of its own unless it is
/// root already. To be called before any thread exists.
///
/// # Errors
/// `EPERM` or `ENOSPC` where user namespaces are forbidden or used up, `EINVAL` when there are threads.
pub fn enter_private_network() -> io::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    let mut flags = UnshareFlags::NEWNET | UnshareFlags::NEWNS;
    if !uid.is_root() {
        flags |= UnshareFlags::NEWUSER;
    }
    // SAFETY: no descriptor table is unshared (FILES is not among the flags), which is all that can be unsound here.
    unsafe { unshare_unsafe(flags)? };
    if !uid.is_root() {
        fs::write("/proc/self/setgroups", "deny")?;
        fs::write("/proc/self/uid_map", format!("0 {} 1", uid.as_raw()))?;
        fs::write("/proc/self/gid_map", format!("0 {} 1", gid.as_raw()))?;
    }
    // Nothing that is mounted here may be seen outside.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}

/// Puts `file` in the place of `target`, as this mount namespace sees it.
///
/// # Errors
/// If one of them is missing, or the mount namespace is not our own.
pub fn bind_file(file: &Path, target: &Path) -> io::Result<()> {
    Ok(mount_bind(file, target)?)
}

/// Brings loopback up, and gives it one more address.
///
/// # Errors
/// If the network namespace is not our own.
pub fn set_up_loopback(address: Ipv4Addr) -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // netdevice(7): an alias of lo carries the second address.
    let mut up = request("lo");
    up.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    ioctl(&socket, libc::SIOCSIFFLAGS, &up)?;
    let mut with_address = request("lo:1");
    let octets = u32::from_ne_bytes(address.octets());
    let internet = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: octets },
        sin_zero: [0; 8],
    };
    // SAFETY: both are plain structures of 16 bytes, and the kernel reads the one by the family of the other.
    with_address.ifr_ifru.ifru_addr = unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(internet) };
    ioctl(&socket, libc::SIOCSIFADDR, &with_address)
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: an ifreq of zeroes is a valid one: it has integers and arrays of them only.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = byte as libc::c_char;
    }
    request
}

fn ioctl(socket: &impl AsFd, operation: libc::Ioctl, request: &libc::ifreq) -> io::Result<()> {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket.as_fd());
    // SAFETY: both operations of this file read one ifreq through the pointer, which outlives the call.
    match unsafe { libc::ioctl(fd, operation, std::ptr::from_ref(request)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
