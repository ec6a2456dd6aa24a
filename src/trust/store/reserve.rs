//! Room that is kept free beside the store, for what takes something back while the disk is full.
//!
//! A file of zeros that the store lets go bit by bit, and fills again once there is room. It is the best that can be done
//! from here: a file system that copies what it overwrites (btrfs, ZFS) may want more, and whoever else writes to a full
//! disk may be faster. What is not written then is said to be not written.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
};

use rustix::{fs::FallocateFlags, io::Errno};

use crate::trust::keyfile;

/// Room that is kept, in bytes: for revoking a user with thousands of devices.
pub(super) const RESERVE_BYTES: u64 = 1024 * 1024;
/// What is let go at a time, in bytes.
const STEP_BYTES: u64 = 128 * 1024;

/// How often something is let go until nothing is left.
pub(super) const LET_GO_MAX: u64 = RESERVE_BYTES / STEP_BYTES;

#[derive(Debug)]
pub(super) struct Reserve {
    /// None where it could not be opened: then nothing is kept.
    file: Option<File>,
    kept: u64,
}

impl Reserve {
    /// Takes the reserve of the store at `path`, and fills it as far as there is room.
    pub(super) fn open(path: &Path) -> Self {
        let mut path = path.as_os_str().to_owned();
        path.push(".reserve");
        let file = keyfile::open_secret(Path::new(&path))
            .inspect_err(|error| tracing::warn!(%error, "no room can be kept for taking back on a full disk"))
            .ok();
        let kept = file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |about| about.len());
        let mut reserve = Self { file, kept };
        reserve.fill();
        reserve
    }

    /// Takes what is lacking, as far as there is room.
    pub(super) fn fill(&mut self) {
        let Some(file) = &self.file else { return };
        while self.kept < RESERVE_BYTES {
            let step = STEP_BYTES.min(RESERVE_BYTES - self.kept);
            if let Err(error) = extend(file, self.kept, step) {
                tracing::debug!(%error, kept = self.kept, "the store's reserve is not full");
                let _ = file.set_len(self.kept);
                return;
            }
            self.kept += step;
        }
    }

    /// Gives some of it to the disk. `false` if there is nothing left.
    pub(super) fn let_go(&mut self) -> bool {
        let Some(file) = &self.file else { return false };
        if self.kept == 0 {
            return false;
        }
        self.kept = self.kept.saturating_sub(STEP_BYTES);
        // Synced: some file systems give the room back only with their next transaction.
        file.set_len(self.kept).and_then(|()| file.sync_all()).is_ok()
    }
}

fn extend(mut file: &File, from: u64, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), from, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            io::Seek::seek(&mut file, io::SeekFrom::Start(from))?;
            for _ in 0..bytes / 4096 {
                file.write_all(&[0; 4096])?;
            }
            Ok(())
        }
        done => Ok(done?),
    }
}
