//! How many descriptors a command may open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// As many as this user may have at all. The soft limit is low for programs that call select(2), which these are not.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    // What is refused stays as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}
