//! Puts policy.toml in force again whenever it changes: a broken file keeps the old policy, and says so.

use std::{
    convert::Infallible,
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use rustix::fs::{Mode, OFlags};
use tokio::time::Instant;

use super::{
    LendError, Lender, LenderDir,
    audit::Event,
    blocking::blocking,
    file_version::FileVersion,
    folder_watch::{FolderWatch, ReadFlags, WatchFlags},
    lender::load_policy,
};
use crate::{policy::Policy, sys};

impl Lender {
    /// Reads policy.toml again. Handles that it no longer allows are taken back; gives how many.
    ///
    /// # Errors
    /// If the file is missing, too open or broken. The policy of before stays in force.
    pub async fn reload_policy(&self) -> Result<usize, LendError> {
        let _turn = self.shared.reloading.lock().await;
        let dir = self.shared.dir.clone();
        self.take_over(blocking(move || load_policy(&dir)).await).await
    }

    /// As [`Self::reload_policy`], if the file is of this version to the end. `false`: it has changed again while it was read,
    /// perhaps by somebody who began to write after it was asked whether anybody does, and nothing was done.
    async fn reload_version(&self, expected: Option<FileVersion>) -> bool {
        let _turn = self.shared.reloading.lock().await;
        let dir = self.shared.dir.clone();
        let Some(loaded) = blocking(move || load_version(&dir, expected)).await else { return false };
        // What went wrong has been logged.
        let _ = self.take_over(loaded).await;
        true
    }

    /// Reads a file that has not changed since it was refused, if the reason may have gone elsewhere. What is refused as before
    /// is not told again.
    async fn read_again(&self, expected: Option<FileVersion>) {
        let _turn = self.shared.reloading.lock().await;
        let Some(refused) = self.refused_policy().filter(|refused| refused.is_by_access) else { return };
        let dir = self.shared.dir.clone();
        let loaded = blocking(move || load_version(&dir, expected)).await;
        if let Some(loaded) =
            loaded.filter(|loaded| loaded.as_ref().err().is_none_or(|error| error.line() != refused.why))
        {
            let _ = self.take_over(loaded).await;
        }
    }

    /// Why policy.toml is not what is in force, if it was refused when it was read last.
    pub(super) fn refused_policy(&self) -> Option<RefusedPolicy> {
        self.refused().clone()
    }

    fn refused(&self) -> MutexGuard<'_, Option<RefusedPolicy>> {
        self.shared.refused_policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn take_over(&self, loaded: Result<Policy, LendError>) -> Result<usize, LendError> {
        let outcome = match loaded {
            Ok(policy) => Ok(self.put_in_force(policy).await),
            Err(error) => Err(error),
        };
        let refused = outcome.as_ref().err().map(RefusedPolicy::of);
        let before = std::mem::replace(&mut *self.refused(), refused);
        let (event, why) = match &outcome {
            Ok(taken) => {
                self.tell_covered();
                match before {
                    // As loud as what it ends.
                    Some(_) => tracing::warn!(taken, "policy.toml is in force: what was wrong with it is mended"),
                    None => tracing::info!(taken, "policy.toml is in force"),
                }
                ("policy-loaded", (*taken > 0).then(|| format!("{taken} handles were taken back")))
            }
            Err(error) => {
                tracing::error!(error = %error.line(), "policy.toml is broken; the policy of before stays in force");
                ("policy-kept", Some(error.line()))
            }
        };
        // A log that hangs must not keep the next change from being read.
        let (audit, event) = (self.shared.audit.clone(), Event { event, why, ..Event::default() });
        tokio::spawn(async move { audit.log(event).await });
        outcome
    }

    /// Tells the log of rules of policy.toml that allow nothing.
    pub(super) fn tell_covered(&self) {
        for warning in self.policy().covered() {
            tracing::warn!(warning, "a rule of policy.toml can never take effect");
        }
    }

    /// Reads policy.toml again after each change of it, however it is written, for as long as the lender serves. Not every change
    /// is told of, so it is looked at as well.
    pub(super) async fn follow_policy(&self) -> Infallible {
        let path = self.shared.dir.policy_toml();
        let mut watch = Watch::new(&path).await;
        // Of the file as it was opened: what changed while the lender started is looked at now.
        let mut seen = self.shared.policy_version;
        let now = version_of(&path).await;
        let mut pending = (now != seen).then(|| Pending { due: Instant::now(), ..Pending::new(now) });
        loop {
            let due = pending.map_or_else(|| Instant::now() + LOOK_AGAIN_AFTER, |pending| pending.due);
            let done = tokio::select! {
                done = watch.changed(&path) => Some(done),
                () = tokio::time::sleep_until(due) => None,
            };
            let now = version_of(&path).await;
            let told = done.filter(|_| now.is_some()).and_then(Told::of);
            if now == seen {
                pending = None;
                self.read_again(now).await;
                continue;
            }
            let known = pending.filter(|pending| pending.version == now);
            let mut next = known.unwrap_or_else(|| Pending::new(now));
            next.told = next.told.max(told);
            pending = if next.is_whole(&path).await && self.reload_version(now).await {
                seen = now;
                None
            } else {
                Some(next.later(told.is_some()))
            };
        }
    }
}

/// A policy.toml that was read, and is not in force.
#[derive(Clone)]
pub(super) struct RefusedPolicy {
    /// What is wrong with it, in a line.
    pub(super) why: String,
    /// Who may write it is wrong, say, or it is missing; not what it says. That can be mended without a change of the file: its
    /// folder is judged as well.
    is_by_access: bool,
}

impl RefusedPolicy {
    fn of(error: &LendError) -> Self {
        Self { why: error.line(), is_by_access: matches!(error, LendError::File(_)) }
    }
}

/// The policy, if the file is of this version to the end.
fn load_version(dir: &LenderDir, expected: Option<FileVersion>) -> Option<Result<Policy, LendError>> {
    let loaded = load_policy(dir);
    (version(&dir.policy_toml()) == expected).then_some(loaded)
}

/// The folder of policy.toml, as long as the kernel tells of it.
struct Watch(Option<FolderWatch>);

impl Watch {
    // The folder is watched and not the file: an editor replaces the file.
    async fn new(path: &Path) -> Self {
        let flags = WRITTEN | WRITING | MENDED | PLACED | WatchFlags::EXCL_UNLINK;
        let folder = path.parent().unwrap_or(path).to_owned();
        Self(blocking(move || FolderWatch::new(&folder, flags)).await.inspect_err(not_told).ok())
    }

    /// As [`FolderWatch::changed`]; never ready where nothing is told any more.
    async fn changed(&mut self, path: &Path) -> Option<ReadFlags> {
        if let Some(watch) = &mut self.0 {
            match watch.changed(path.file_name()).await {
                Ok(done) => return done,
                Err(error) => not_told(&error),
            }
            self.0 = None;
        }
        std::future::pending().await
    }
}

fn not_told(error: &io::Error) {
    tracing::warn!(?error, "a change of policy.toml is seen only seconds later: its folder cannot be watched");
}

/// Of the file itself; `None` when it is not there.
pub(super) fn version(path: &Path) -> Option<FileVersion> {
    std::fs::symlink_metadata(path).ok().map(FileVersion::from)
}

/// As [`version`], on a thread that may wait: who follows the policy has a task with others, and its disk may hang.
async fn version_of(path: &Path) -> Option<FileVersion> {
    let path = path.to_owned();
    blocking(move || version(&path)).await
}

/// So often the file is looked at where nothing is told of it: inotify(7) is silent when it is a mount of its own, is written by
/// another of its names, or on a server of files by another machine. A rule that was taken out must not be lent for long, and
/// one look is one stat(2).
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// A file is there as a whole.
const WRITTEN: WatchFlags = WatchFlags::CLOSE_WRITE.union(WatchFlags::MOVED_TO);
/// It is written, perhaps by another than who has closed it.
const WRITING: WatchFlags = WatchFlags::MODIFY;
/// chmod mends a file that was too open, whoever still writes it.
const MENDED: WatchFlags = WatchFlags::ATTRIB;
/// A name has come or gone: by link(2), symlink(2), mkdir(2) or mknod(2) this is all that is seen, while an editor that
/// removes the file makes another one and will have finished it soon.
const PLACED: WatchFlags = WatchFlags::CREATE.union(WatchFlags::DELETE).union(WatchFlags::MOVED_FROM);
/// What is put in the place of the file, or its absence, stands for this long before it is read and told. So often it is
/// also looked whether somebody still writes it.
const SETTLED_AFTER: Duration = Duration::from_secs(2);
/// The end of writing is told a moment before it is there (inotify(7) tells of a close that has begun).
const CLOSING: Duration = Duration::from_millis(20);
/// Who has the file open for writing, and changes nothing for this long, has left it open: it is read as it is. Each change
/// waits so long where the kernel never says that nobody writes: on a file system that refuses every lease with EAGAIN, and
/// for a chmod of root's file, or a change of it that is not told, where the daemon is not root. SIGHUP reads it at once.
const LEFT_OPEN_AFTER: Duration = Duration::from_secs(60);

/// Another version of the file that is not in force yet.
///
/// Half a policy is a policy too, and may allow what its second half denies. So a file is not read while somebody has it open
/// for writing, however long he pauses: who makes it anew, writes in place, or types it.
#[derive(Clone, Copy)]
struct Pending {
    version: Option<FileVersion>,
    since: Instant,
    /// When it is looked at again, whether anything is told or not.
    due: Instant,
    /// What said that it may be whole.
    told: Option<Told>,
    /// Whether it was said that it is waited for.
    said: bool,
}

/// What is told of the file, the weaker first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    /// It is worth a look whether somebody writes it.
    Mended,
    /// Whoever wrote it has closed it, or it came from elsewhere, with its whole folder perhaps.
    Written,
}

impl Told {
    /// By what was done to the file; `None` when the folder is another one.
    fn of(done: Option<ReadFlags>) -> Option<Self> {
        let has = |flags: WatchFlags| done.is_some_and(|done| done.bits() & flags.bits() != 0);
        match (done.is_none() || has(WRITTEN), has(MENDED)) {
            (true, _) => Some(Self::Written),
            (false, true) => Some(Self::Mended),
            (false, false) => None,
        }
    }
}

impl Pending {
    fn new(version: Option<FileVersion>) -> Self {
        let now = Instant::now();
        Self { version, since: now, due: now + SETTLED_AFTER, told: None, said: false }
    }

    /// Whether it may be read.
    async fn is_whole(&mut self, path: &Path) -> bool {
        let (now, is_due) = (Instant::now(), self.due <= Instant::now());
        if self.since + LEFT_OPEN_AFTER <= now || !(self.told.is_some() || is_due) {
            return is_due;
        }
        let (path, written) = (path.to_owned(), self.told == Some(Told::Written));
        let is_whole = !blocking(move || is_being_written(&path, written)).await;
        if !is_whole && is_due && !self.said {
            tracing::info!("policy.toml is being written; the policy of before stays in force until it is closed");
            self.said = true;
        }
        is_whole
    }

    fn later(self, told: bool) -> Self {
        let now = Instant::now();
        let due = match self.told {
            Some(_) if told => now + CLOSING,
            _ if self.due <= now => now + SETTLED_AFTER,
            _ => self.due,
        };
        Self { due, ..self }
    }
}

/// Whether somebody may still write the file. What cannot be opened, and what is no file, is told as it is.
fn is_being_written(path: &Path, written: bool) -> bool {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()).map(std::fs::File::from) else { return false };
    let Some(about) = file.metadata().ok().filter(Metadata::is_file) else { return false };
    // Where the kernel does not say, because the file is root's, say: one that link(2) put there has another name, as a rule,
    // and any other was opened to be written, and its close will be told. Its chmod alone tells nothing then.
    sys::is_open_for_writing(&file).unwrap_or(!written && about.nlink() == 1)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::lend::test_lender::lender;

    #[tokio::test]
    async fn a_file_that_changes_while_it_is_read_is_not_taken() {
        let (_folder, dir, lender) = lender();
        let path = dir.policy_toml();
        let before = lender.policy();
        let write = |text: &str| {
            std::fs::write(&path, text).unwrap();
            version(&path)
        };
        let asked_of = write("[[allow]]\nwho = \"ana\"\nconnect = \"*:*\"\n");
        let now = write("[[allow]]\nwho = \"ana\"\nconnect = \"127.0.0.1:1\"\n");
        assert!(!lender.reload_version(asked_of).await);
        assert!(std::sync::Arc::ptr_eq(&before, &lender.policy()), "nothing was done");
        assert!(lender.reload_version(now).await);
        assert!(!std::sync::Arc::ptr_eq(&before, &lender.policy()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_half_written_when_it_begins_to_serve_is_left_until_it_is_whole() {
        let (_folder, dir, lender) = lender();
        let before = lender.policy();
        let mut writer = std::fs::File::create(dir.policy_toml()).unwrap();
        writer.write_all(b"[[allow]]\nwho = \"ana\"\nconnect = \"*:*\"\n").unwrap();
        let is_other = || !std::sync::Arc::ptr_eq(&before, &lender.policy());
        let look = async {
            tokio::time::sleep(LEFT_OPEN_AFTER / 2).await;
            assert!(!is_other(), "half of it is in force");
            writer.write_all(b"[[deny]]\nwho = \"ana\"\nconnect = \"*:1\"\n").unwrap();
            drop(writer);
            while !is_other() {
                tokio::time::sleep(CLOSING).await;
            }
        };
        tokio::select! {
            never = lender.follow_policy() => match never {},
            () = look => {}
        }
    }

    #[tokio::test]
    async fn who_waits_to_put_a_policy_in_force_holds_up_nobody_else() {
        let (_folder, _dir, lender) = lender();
        let (held_tx, held_rx) = std::sync::mpsc::channel();
        let (let_go_tx, let_go_rx) = std::sync::mpsc::channel();
        // As somebody whose disk hangs while he reads the grants.
        let other = lender.clone();
        let holder = std::thread::spawn(move || {
            let _held = other.shared.file_policy.lock().unwrap();
            held_tx.send(()).unwrap();
            let_go_rx.recv_timeout(Duration::from_secs(30)).is_ok()
        });
        held_rx.recv().unwrap();
        let policy = Policy::parse("", "policy.toml").unwrap();
        // All on one thread: if the first waited on it, the second would not come to its turn.
        tokio::join!(lender.put_in_force(policy), async { let_go_tx.send(()).unwrap() });
        assert!(holder.join().unwrap(), "it held up the thread");
    }
}
