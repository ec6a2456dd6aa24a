//! Everything below a process: a signal for it, and whether it has gone into the background.

use std::{collections::HashMap, fs};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Sends a signal to every process below `root` that has not ended, except those in `spared`, and what is below them.
pub fn signal_descendants(root: Pid, spared: &[Pid], signal: Signal) {
    let parents = parents();
    for (pid, parent) in below(root, spared, &parents) {
        // The number may be another process by now: the descriptor holds on to one, and its parent says whose it is. An
        // orphan has fallen to the root meanwhile.
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if parent_of(pid).is_some_and(|now| now == parent || now == root) {
            // Who has ended meanwhile needs no signal, and who may not be sent one has gained privileges by permission.
            let _ = pidfd_send_signal(&handle, signal);
        }
    }
}

/// Whether a process below `root` has begun a session of its own (setsid(2)), as who goes into the background for good.
#[cfg(feature = "run")]
pub fn is_left_by_descendants(root: Pid) -> bool {
    let session = |pid| Some(parent_and_session_of(pid)?.1);
    let own = session(root);
    below(root, &[], &parents()).into_iter().any(|(pid, _)| session(pid).is_some_and(|its| Some(its) != own))
}

fn below(root: Pid, spared: &[Pid], parents: &HashMap<Pid, Pid>) -> Vec<(Pid, Pid)> {
    let mut children: HashMap<Pid, Vec<Pid>> = HashMap::new();
    for (pid, parent) in parents {
        children.entry(*parent).or_default().push(*pid);
    }
    let (mut found, mut next) = (Vec::new(), vec![root]);
    while let Some(parent) = next.pop() {
        // Each process has one parent, so none is met twice; taken out, not even a table that was torn makes a circle.
        for pid in children.remove(&parent).unwrap_or_default() {
            if !spared.contains(&pid) {
                found.push((pid, parent));
                next.push(pid);
            }
        }
    }
    found
}

/// Every process that has not ended, with its parent.
fn parents() -> HashMap<Pid, Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return HashMap::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    pids.filter_map(|pid| Some((pid, parent_of(pid)?))).collect()
}

fn parent_of(pid: Pid) -> Option<Pid> {
    Pid::from_raw(parent_and_session_of(pid)?.0)
}

/// Its parent and its session; `None` for who has ended. Either is 0 where it is outside of this PID namespace, as a container's
/// shell may be.
fn parent_and_session_of(pid: Pid) -> Option<(i32, i32)> {
    parse_parent_and_session(&fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?)
}

/// Of a line of proc_pid_stat(5), in which the name may hold anything.
fn parse_parent_and_session(stat: &[u8]) -> Option<(i32, i32)> {
    let behind = stat.iter().rposition(|byte| *byte == b')')? + 1;
    let mut fields = std::str::from_utf8(stat.get(behind..)?).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    (state != "Z" && state != "X").then_some(())?;
    let parent = fields.next()?.parse().ok()?;
    let _group = fields.next()?;
    let session = fields.next()?.parse().ok()?;
    Some((parent, session))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pid(number: i32) -> Pid {
        Pid::from_raw(number).unwrap()
    }

    #[test]
    fn a_name_cannot_lie_about_the_parent() {
        assert_eq!(parse_parent_and_session(b"7 (sh) S 3 6 5 0 -1"), Some((3, 5)));
        assert_eq!(parse_parent_and_session(b"7 (a) S 1 (b) R 5 7 8"), Some((5, 8)));
        assert_eq!(parse_parent_and_session(b"7 (\xff\n)) T 5 7 8"), Some((5, 8)));
        assert_eq!(parse_parent_and_session(b"7 (init) S 0 0 0 0 -1"), Some((0, 0)));
        for none in [&b"7 (sh) Z 3 7 7"[..], b"7 (sh", b"7 (sh)", b"7 (sh) S", b"7 (sh) S x 7 7", b"7 (sh) S 3 7", b""]
        {
            assert_eq!(parse_parent_and_session(none), None);
        }
    }

    #[test]
    fn below_is_whoever_descends_and_no_one_else() {
        let parents = [(2, 1), (3, 2), (4, 3), (5, 2), (9, 8), (6, 5)].map(|(of, parent)| (pid(of), pid(parent)));
        let parents = HashMap::from(parents);
        let numbers = |root: i32, spared: &[Pid]| {
            let mut found: Vec<_> =
                below(pid(root), spared, &parents).into_iter().map(|(pid, _)| pid.as_raw_nonzero().get()).collect();
            found.sort_unstable();
            found
        };
        assert_eq!(numbers(2, &[]), [3, 4, 5, 6]);
        assert_eq!(numbers(2, &[pid(5)]), [3, 4]);
        assert_eq!(numbers(9, &[]), [0; 0]);
    }
}
