//! A host that is joined no more.

use std::{fs, io, path::Path};

use super::{Alias, BorrowError, Profiles};
use crate::{
    proto::{DeviceId, UserName},
    trust::identity::identity_of,
};

impl Profiles {
    /// Removes a host: its addresses, the keys of every user of it and their logins; what `config.toml` says of it stays.
    /// Nothing is said to its lender: the devices that are given, of each user whose certificate can be read, are known there
    /// until they are revoked or their certificates end. Sessions that there are go on.
    ///
    /// # Errors
    /// If the host is unknown, or a file cannot be removed; then as much as can be is gone, and it can be done again.
    ///
    /// # Example
    /// ```
    /// # let folder = tempfile::tempdir()?;
    /// let profiles = capuchin::Profiles::at(&folder.path().join("config"), &folder.path().join("state"));
    /// let lab = "lab".parse()?;
    /// assert!(profiles.remove(&lab).is_err(), "it was never joined");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn remove(&self, alias: &Alias) -> Result<Vec<(UserName, DeviceId)>, BorrowError> {
        let folder = self.folder(alias);
        // Also one that cannot be read.
        if folder.symlink_metadata().is_err() {
            return Err(self.unknown(alias.as_str()));
        }
        let users = self.profile(alias).map_or_else(|_| Vec::new(), |profile| profile.users);
        let device = |user: UserName| {
            let certificate = self.certificate(alias, &user).ok()?;
            Some((user, identity_of(&certificate).ok()?.device))
        };
        let devices = users.into_iter().filter_map(device).collect();
        // The host last: as long as it is listed it can be removed again.
        remove_tree(&self.tickets.join(alias.as_str()))?;
        remove_tree(&folder)?;
        Ok(devices)
    }
}

/// A link is removed, and never what it leads to.
fn remove_tree(path: &Path) -> Result<(), BorrowError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(BorrowError::local(format!("cannot remove {}", path.display()), error))
        }
        _ => Ok(()),
    }
}
