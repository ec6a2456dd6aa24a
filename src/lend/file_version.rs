//! What tells one version of a file from another, however it was written.

use std::{fs::Metadata, os::unix::fs::MetadataExt};

/// Device, inode, size and time of the last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileVersion(u64, u64, u64, i64, i64);

impl From<Metadata> for FileVersion {
    fn from(file: Metadata) -> Self {
        Self(file.dev(), file.ino(), file.size(), file.ctime(), file.ctime_nsec())
    }
}
