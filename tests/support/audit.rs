//! What a lender's audit log says, and waiting for it.

use std::{
    fs::read_to_string,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{Lab, PATIENCE};

impl Lab {
    /// Every audit line so far, of older files too; one that is being written counts when it is whole.
    pub fn audit(&self) -> Vec<Value> {
        let folder = self.dir().join("audit");
        loop {
            let older = older_files(&folder);
            let newest = folder.join("audit.jsonl");
            let text: String =
                older.iter().chain([&newest]).map(|path| read_to_string(path).unwrap_or_default()).collect();
            // Else the newest has become an older one meanwhile, as at midnight.
            if older_files(&folder) == older {
                let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
                return whole.map(|line| serde_json::from_str(line).unwrap()).collect();
            }
        }
    }

    /// Waits for an audit line that fits; the kernel tells of each that is written.
    pub fn wait_for_audit(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.wait_for_audit_within(PATIENCE, what, fits)
    }

    /// As [`Self::wait_for_audit`], for what takes its time by itself.
    pub fn wait_for_audit_within(&self, patience: Duration, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.watch_audit(patience, what, |lines| lines.into_iter().find(&fits))
    }

    /// Waits until so many audit lines fit.
    pub fn wait_for_audits(&self, what: &str, number: usize, fits: impl Fn(&Value) -> bool) -> Value {
        let fitting = |lines: Vec<Value>| lines.into_iter().filter(&fits).nth(number.checked_sub(1)?);
        self.watch_audit(PATIENCE, what, fitting)
    }

    fn watch_audit(&self, patience: Duration, what: &str, find: impl Fn(Vec<Value>) -> Option<Value>) -> Value {
        use rustix::{event, fs::inotify};
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
        inotify::add_watch(&watch, self.dir().join("audit"), inotify::WatchFlags::MODIFY).unwrap();
        let end = Instant::now() + patience;
        loop {
            if let Some(found) = find(self.audit()) {
                return found;
            }
            let left = end.checked_duration_since(Instant::now());
            let left = left.unwrap_or_else(|| panic!("no audit line of {what} in {:#?}", self.audit()));
            let timeout = event::Timespec { tv_sec: left.as_secs() as i64 + 1, tv_nsec: 0 };
            let ready = event::poll(&mut [event::PollFd::new(&watch, event::PollFlags::IN)], Some(&timeout)).unwrap();
            if ready > 0 {
                rustix::io::read(&watch, &mut [0_u8; 4096]).unwrap();
            }
        }
    }

    /// An audit line of this event with this verdict.
    pub fn wait_for_verdict(&self, event: &str, verdict: &str) -> Value {
        self.wait_for_audit(event, |line| line["event"] == event && line["verdict"] == verdict)
    }
}

/// The files before the newest, in the order of their lines.
fn older_files(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_older = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("audit-") && name.ends_with(".jsonl")
    };
    let mut files: Vec<_> = files.filter(is_older).collect();
    files.sort();
    files
}
