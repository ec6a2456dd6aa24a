//! Every process that came of this one, however far down, as /proc tells. With a subreaper (prctl(2)) above them, none can
//! leave.

use std::{collections::HashMap, fs};

use rustix::process::{Pid, Signal, getpid, kill_process};

/// Sends a signal to every descendant of this process. One that starts another at this moment may be missed: whoever
/// must get them all comes again.
pub fn signal_descendants(signal: Signal) {
    let parents = parents();
    let own = getpid().as_raw_nonzero().get();
    for pid in parents.keys().filter(|pid| descends(**pid, own, &parents)) {
        if let Some(pid) = Pid::from_raw(*pid) {
            let _ = kill_process(pid, signal);
        }
    }
}

/// Whether `ancestor` is above `pid`.
fn descends(pid: i32, ancestor: i32, parents: &HashMap<i32, i32>) -> bool {
    let mut at = pid;
    // A list that was read while it changed might go round in a circle.
    for _ in 0..parents.len() {
        match parents.get(&at) {
            Some(parent) if *parent == ancestor => return true,
            Some(parent) => at = *parent,
            None => return false,
        }
    }
    false
}

/// The parent of every process that can be seen.
fn parents() -> HashMap<i32, i32> {
    let mut parents = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(parent) = fs::read_to_string(entry.path().join("stat")).ok().and_then(|stat| parent_in(&stat)) {
            parents.insert(pid, parent);
        }
    }
    parents
}

/// The fourth field of proc_pid_stat(5), behind a name that may hold anything.
fn parent_in(stat: &str) -> Option<i32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_lie_about_the_parent() {
        assert_eq!(parent_in("12 (a) S 1 (b) R 34 5 6"), Some(34));
        assert_eq!(parent_in("12 (sh) S 7 12 12"), Some(7));
        assert_eq!(parent_in("12 (sh"), None);
    }

    #[test]
    fn descent_goes_any_way_down_and_ends() {
        let parents = HashMap::from([(2, 1), (3, 2), (4, 3), (9, 8), (8, 9)]);
        assert!(descends(4, 2, &parents) && descends(3, 1, &parents));
        assert!(!descends(2, 2, &parents) && !descends(9, 2, &parents));
    }
}
