//! The thread of a program that makes a call, as far as it matters whose place we take.

use std::{
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, open, openat},
    process::{getegid, geteuid},
};

use crate::proto::Errno;

/// A thread, by its number, for as long as its call waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread(pub i32);

impl Thread {
    /// Whether it acts as the user and the group that we are: else what we do in its place could be more than it may do.
    pub fn is_our_user(&self) -> bool {
        let status = self.status();
        let all = |field: &str, own: u32| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            line.is_some_and(|ids| ids.split_whitespace().all(|id| id.parse() == Ok(own)))
        };
        all("Uid:", geteuid().as_raw()) && all("Gid:", getegid().as_raw())
    }

    /// Its umask.
    pub fn umask(&self) -> Option<Mode> {
        let status = self.status();
        let octal = status.lines().find_map(|line| line.strip_prefix("Umask:"))?.trim();
        u32::from_str_radix(octal, 8).ok().map(Mode::from_raw_mode)
    }

    /// Its root folder.
    ///
    /// # Errors
    /// `EACCES` where we may not look.
    pub fn root(&self) -> Result<OwnedFd, Errno> {
        let path = format!("/proc/{}/root", self.0);
        openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|_| Errno::EACCES)
    }

    /// Whether it sees the files that we see, by the names that we know.
    pub fn has_our_root(&self) -> bool {
        let same = |path: String| fs::read_link(path).ok();
        let own_root = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).and_then(rustix::fs::fstat);
        let their_root = self.root().map(rustix::fs::fstat);
        let (own, their) = (same("/proc/self/ns/mnt".into()), same(format!("/proc/{}/ns/mnt", self.0)));
        let is_same = matches!((own_root, their_root), (Ok(own), Ok(Ok(their))) if (own.st_dev, own.st_ino) == (their.st_dev, their.st_ino));
        is_same && own.is_some() && own == their
    }

    /// Its working directory.
    pub fn folder(&self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/cwd", self.0)).ok()
    }

    /// A path as it means it, from the root.
    pub fn absolute(&self, path: &Path) -> Option<PathBuf> {
        if path.is_absolute() { Some(path.to_owned()) } else { Some(self.folder()?.join(path)) }
    }

    fn status(&self) -> String {
        fs::read_to_string(format!("/proc/{}/status", self.0)).unwrap_or_default()
    }
}
