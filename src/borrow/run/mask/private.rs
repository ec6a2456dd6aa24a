//! The tmpfs that holds what is mounted over this machine's files. It is mounted nowhere itself where the kernel clones parts of
//! such a tree (from 6.15). Elsewhere it lies over `/proc`, where nothing is covered, while it is being filled.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, chmodat, mkdirat, openat},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
    },
};

/// Where it is while it is filled, if it has to be anywhere.
const PLACE: &str = "/proc";
/// What an overlay lays over /etc.
const ETC: &str = "etc";
/// How a part of a tree becomes one of its own.
pub(super) const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE.union(OpenTreeFlags::OPEN_TREE_CLOEXEC);
/// All that it may hold: the program may write to its files, and they are this machine's memory.
const SIZE: &str = "4m";

/// The tmpfs. It is to be dropped when nobody waits: to let go of a tree that is mounted nowhere the kernel waits for every core, some
/// milliseconds.
#[derive(Debug)]
pub struct Private {
    root: OwnedFd,
    /// Is there if the kernel clones what is mounted nowhere: the clone by which that was tried, held because of the same wait.
    clone: Option<OwnedFd>,
}

impl Private {
    pub(super) fn mount() -> io::Result<Self> {
        let attributes =
            MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let root = create("tmpfs", &[("mode", "0755"), ("size", SIZE)], attributes)?;
        let flags = CLONE | OpenTreeFlags::AT_EMPTY_PATH;
        let clone = open_tree(&root, "", flags).ok();
        if clone.is_none() {
            put(&root, Path::new(PLACE))?;
        }
        Ok(Self { root, clone })
    }

    /// Creates a file with this content, and the folders that lead to it.
    pub(super) fn write(&self, path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            self.create_folder(folder)?;
        }
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file = File::from(openat(&self.root, path, flags, Mode::from_raw_mode(mode | 0o200))?);
        file.write_all(content)?;
        // Whatever the umask is.
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))
    }

    pub(super) fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut so_far = PathBuf::new();
        for part in path.components() {
            so_far.push(part);
            match mkdirat(&self.root, &so_far, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) fn set_mode(&self, path: &Path, mode: u32) -> io::Result<()> {
        Ok(chmodat(&self.root, path, Mode::from_raw_mode(mode), AtFlags::empty())?)
    }

    /// Puts one of its files or folders in the place of `target`.
    pub(super) fn put(&self, name: impl AsRef<Path>, target: &Path) -> io::Result<()> {
        put(&open_tree(&self.root, name.as_ref(), CLONE)?, target)
    }

    /// Makes these files exist in /etc, where nothing is or a link that leads nowhere: an overlay without an upper folder,
    /// on which what was mounted below /etc is mounted again.
    pub(super) fn lay_over_etc(&self, names: &[&'static str], below: Vec<(PathBuf, OwnedFd)>) -> io::Result<()> {
        for name in names {
            self.write(&Path::new(ETC).join(name), b"", 0o644)?;
        }
        let place = match self.clone {
            Some(_) => format!("/proc/self/fd/{}", self.root.as_raw_fd()),
            None => PLACE.to_owned(),
        };
        let layers = format!("{place}/{ETC}:/etc");
        let overlay = create("overlay", &[("lowerdir", &layers)], MountAttrFlags::MOUNT_ATTR_NOSUID)?;
        put(&overlay, Path::new("/etc"))?;
        for (place, tree) in below {
            put(&tree, &place)?;
        }
        Ok(())
    }

    /// Shows /proc again, if that is covered; what was put in its place stays there.
    pub(super) fn leave(&self) -> io::Result<()> {
        match self.clone {
            Some(_) => Ok(()),
            None => Ok(unmount(PLACE, UnmountFlags::DETACH)?),
        }
    }
}

/// Mounts a tree that is mounted nowhere.
pub(super) fn put(tree: &impl AsFd, target: &Path) -> io::Result<()> {
    Ok(move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn create(kind: &str, options: &[(&str, &str)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(context.as_fd(), *key, *value)?;
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}
