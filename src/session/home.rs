//! Where this user is at home, and where what is his lies (the XDG base directories).

use std::{env, ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf};

use super::passwd::{passwd, passwd_lines};

/// The home folder of the user who runs this: what `HOME` says, and where it is not set, what the system's list of users does
/// (getpwuid(3)), as cron jobs and units of systemd have it. `None` where neither names one by its whole path.
pub fn home_folder() -> Option<PathBuf> {
    env::home_dir().filter(|home| home.is_absolute())
}

/// The home that /etc/passwd has for whom this runs as, whatever `HOME` says: ssh(1) looks into the listed one alone. `None` for who is
/// listed elsewhere (LDAP, systemd-homed): nobody is asked here.
pub fn listed_home() -> Option<PathBuf> {
    let (users, own) = (passwd(), rustix::process::getuid().as_raw().to_string());
    let [.., home, _] = passwd_lines(&users).find(|[_, _, uid, ..]| *uid == own.as_bytes())?;
    Some(PathBuf::from(OsStr::from_bytes(home))).filter(|home| home.is_absolute())
}

/// The folder for a user's settings: `XDG_CONFIG_HOME`, else `~/.config`. `None` without a home.
pub fn config_folder() -> Option<PathBuf> {
    folder_named_by("XDG_CONFIG_HOME").or_else(|| home_folder().map(|home| home.join(".config")))
}

/// The folder for what programs of a user keep: `XDG_STATE_HOME`, else `~/.local/state`. `None` without a home.
pub fn state_folder() -> Option<PathBuf> {
    folder_named_by("XDG_STATE_HOME").or_else(|| home_folder().map(|home| home.join(".local/state")))
}

/// What a variable names by its whole path; any other value is ignored, as the XDG specification has it.
pub fn folder_named_by(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}
