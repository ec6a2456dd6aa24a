//! Puts policy.toml in force again whenever it changes: a broken file keeps the old policy, and says so.

use std::{convert::Infallible, io, os::unix::fs::MetadataExt, path::Path};

use super::{
    LendError, Lender,
    audit::Event,
    folder_watch::{FolderWatch, WatchFlags},
    lender::load_policy,
};

impl Lender {
    /// Reads policy.toml again. Handles that it no longer allows are taken back; gives how many.
    ///
    /// # Errors
    /// If the file is missing, too open or broken. The policy of before stays in force.
    pub async fn reload_policy(&self) -> Result<usize, LendError> {
        let dir = self.shared.dir.clone();
        let loaded = tokio::task::spawn_blocking(move || load_policy(&dir)).await;
        // A task that was not cancelled ends only by panicking.
        let loaded = loaded.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
        let outcome = loaded.map(|policy| self.put_in_force(policy));
        let (event, why) = match &outcome {
            Ok(taken) => {
                tracing::info!(taken, "policy.toml is in force");
                ("policy-loaded", (*taken > 0).then(|| format!("{taken} handles were taken back")))
            }
            Err(error) => {
                tracing::error!(error = %error.line(), "policy.toml is broken; the policy of before stays in force");
                ("policy-kept", Some(error.line()))
            }
        };
        self.shared.audit.log(Event { event, why, ..Event::default() }).await;
        outcome
    }

    /// Reads policy.toml again after each change of it, however it is written, for as long as the lender serves.
    pub(super) async fn follow_policy(&self) {
        let path = self.shared.dir.policy_toml();
        // The folder and not the file: an editor replaces the file. ATTRIB: chmod mends one that was too open.
        let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::ATTRIB;
        let follow = async {
            let watch = FolderWatch::new(path.parent().unwrap_or(&path), flags)?;
            let mut seen = version(&path);
            loop {
                watch.changed().await?;
                let now = version(&path);
                if now != seen {
                    seen = now;
                    // What went wrong has been logged.
                    let _ = self.reload_policy().await;
                }
            }
        };
        let error: io::Result<Infallible> = follow.await;
        tracing::warn!(?error, "changes of policy.toml are not seen by themselves: send SIGHUP after one");
        std::future::pending().await
    }
}

/// What tells one version of a file from another; `None` when it is not there.
fn version(path: &Path) -> Option<impl PartialEq + use<>> {
    let file = std::fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.size(), file.ctime(), file.ctime_nsec()))
}
