//! Where this user is at home.

use std::path::PathBuf;

/// The home folder of the user who runs this: what `HOME` says, and where it is not set, what the system's list of users does
/// (getpwuid(3)), as cron jobs and units of systemd have it. `None` where neither names one by its whole path.
pub fn home_folder() -> Option<PathBuf> {
    std::env::home_dir().filter(|home| home.is_absolute())
}
