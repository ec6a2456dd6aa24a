//! Puts policy.toml in force again whenever it changes: a broken file keeps the old policy, and says so.

use std::{convert::Infallible, io, path::Path};

use super::{
    LendError, Lender,
    audit::Event,
    blocking::blocking,
    file_version::FileVersion,
    folder_watch::{FolderWatch, WatchFlags},
    lender::load_policy,
};

impl Lender {
    /// Reads policy.toml again. Handles that it no longer allows are taken back; gives how many.
    ///
    /// # Errors
    /// If the file is missing, too open or broken. The policy of before stays in force.
    pub async fn reload_policy(&self) -> Result<usize, LendError> {
        let _turn = self.shared.reloading.lock().await;
        let dir = self.shared.dir.clone();
        let loaded = blocking(move || load_policy(&dir)).await;
        let outcome = match loaded {
            Ok(policy) => Ok(self.put_in_force(policy).await),
            Err(error) => Err(error),
        };
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
        // A log that hangs must not keep the next change from being read.
        let (audit, event) = (self.shared.audit.clone(), Event { event, why, ..Event::default() });
        tokio::spawn(async move { audit.log(event).await });
        outcome
    }

    /// Reads policy.toml again after each change of it, however it is written, for as long as the lender serves.
    pub(super) async fn follow_policy(&self) {
        let path = self.shared.dir.policy_toml();
        // The folder and not the file: an editor replaces the file. ATTRIB: chmod mends one that was too open.
        let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::ATTRIB;
        let follow = async {
            let mut watch = FolderWatch::new(path.parent().unwrap_or(&path), flags)?;
            // Of the file as it was opened: what changed while the lender started is read now.
            let mut seen = self.shared.policy_version;
            if version(&path) != seen {
                let _ = self.reload_policy().await;
                seen = version(&path);
            }
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

/// Of the file itself; `None` when it is not there.
pub(super) fn version(path: &Path) -> Option<FileVersion> {
    std::fs::symlink_metadata(path).ok().map(FileVersion::from)
}
