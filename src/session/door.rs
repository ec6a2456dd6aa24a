//! Where the door of a lender is, the socket for users of its own machine: both ends look in the same place.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::home::{folder_named_by, state_folder};

/// The socket's name in its folder.
pub const DOOR: &str = "door.sock";

/// The door of root's lender, which is every user's.
pub fn system_door() -> PathBuf {
    Path::new("/run/capuchin").join(DOOR)
}

/// The door of the lender that this user runs: root's is [`system_door`], others have theirs in their [`runtime_folder`].
/// `None` without a home.
pub fn own_door() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(system_door());
    }
    Some(runtime_folder()?.join("capuchin").join(DOOR))
}

/// The folder for what lives no longer than this user's programs, which each user has for himself: `XDG_RUNTIME_DIR`, else
/// `/run/user/UID` if that is ours, else `run` below `XDG_STATE_HOME` or `~/.local/state`. It may still have to be made.
pub fn runtime_folder() -> Option<PathBuf> {
    let we = rustix::process::geteuid().as_raw();
    let of_login = || {
        let folder = PathBuf::from(format!("/run/user/{we}"));
        folder.metadata().is_ok_and(|found| found.is_dir() && found.uid() == we).then_some(folder)
    };
    let of_state = || state_folder().map(|state| state.join("run"));
    folder_named_by("XDG_RUNTIME_DIR").or_else(of_login).or_else(of_state)
}
