//! How many descriptors a command may open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::report::Failure;
use crate::proto::ErrorKind;

/// What every command needs: the runtime has eight of its own, and panics where it cannot have them.
const DESCRIPTORS_MIN: u64 = 16;

/// Whether a command may open enough of them to begin at all.
pub fn check_limit() -> Result<(), Failure> {
    match getrlimit(Resource::Nofile).current {
        Some(most) if most < DESCRIPTORS_MIN => {
            let text = format!("cannot start with {most} open files: allow at least {DESCRIPTORS_MIN} (ulimit -n)");
            Err(Failure::new(ErrorKind::Local, text))
        }
        _ => Ok(()),
    }
}

/// As many as this user may have at all. The soft limit is low for programs that call select(2), which these are not.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    // What is refused stays as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
