//! A profile in the making: all of it is written beside its place, and one rename puts it there.
//!
//! ```text
//!   a new host:                  hosts/.ALIAS.DEVICE.tmp/{lender.toml, ca.crt, USER/…}   ──rename──▶ hosts/ALIAS
//!   another user of a known one: hosts/ALIAS/.USER.DEVICE.tmp/{client.key, client.crt}   ──rename──▶ hosts/ALIAS/USER
//! ```
//! The key is written before the invitation is redeemed, so that a full disk costs no invitation. Where another join of the same
//! lender made the host meanwhile, the user joins what that one made.
//!
//! # Cancellation
//! A draft that is dropped before [`Draft::finish`] leaves nothing behind.

use std::path::{Path, PathBuf};

use rustix::{
    fs::{CWD, RenameFlags},
    io::Errno,
};
use rustls::pki_types::CertificateDer;

use super::{
    BorrowError,
    profile::{Alias, LENDER_FILE, LenderFile, Profiles},
};
use crate::{
    proto::{DeviceId, LenderName, UserName},
    trust::{issued::is_certificate_of, keyfile, pem},
};

/// What a join line says about its lender.
pub(super) struct Lender<'a> {
    pub(super) name: &'a LenderName,
    pub(super) addresses: &'a [String],
    pub(super) ca_key: &'a [u8; 32],
}

pub(super) struct Draft {
    profiles: Profiles,
    alias: Alias,
    lender: LenderName,
    ca_key: [u8; 32],
    /// Removed when dropped.
    temporary: PathBuf,
    /// Where it goes.
    place: PathBuf,
    /// Where key and certificate are written.
    own: PathBuf,
    /// The profile exists: only a user joins it.
    known: bool,
    lender_toml: String,
}

impl Profiles {
    /// `true` if the alias is that of this very lender, `false` if it is free.
    ///
    /// # Errors
    /// If it is another lender's.
    pub(super) fn knows(&self, alias: &Alias, lender: &Lender<'_>) -> Result<bool, BorrowError> {
        if self.folder(alias).symlink_metadata().is_err() {
            return Ok(false);
        }
        let profile = self.profile(alias)?;
        if profile.lender == *lender.name && is_certificate_of(&self.ca(alias)?, lender.ca_key) {
            return Ok(true);
        }
        Err(BorrowError::Usage {
            text: format!("{alias} is the name of another lender here"),
            notes: vec![format!("give this one another name: capuchin join --as NAME")],
        })
    }

    /// Begins the profile of a user, with everything that is known before the certificate is.
    pub(super) fn draft(
        &self,
        alias: &Alias,
        lender: &Lender<'_>,
        user: &UserName,
        device: DeviceId,
        key_pem: &[u8],
    ) -> Result<Draft, BorrowError> {
        if matches!(user.as_str(), LENDER_FILE | "ca.crt") {
            return Err(BorrowError::usage(format!("the user {user} would stand in the way of a file of that name")));
        }
        let known = self.knows(alias, lender)?;
        let (parent, name) =
            if known { (self.folder(alias), user.as_str()) } else { (self.hosts().to_owned(), alias.as_str()) };
        let temporary = parent.join(format!(".{name}.{device}.tmp"));
        let own = if known { temporary.clone() } else { temporary.join(user.as_str()) };
        let mut file = match known {
            // What its user has set stays as it is.
            true => self.lender_file(alias)?,
            false => {
                LenderFile { name: lender.name.to_string(), addresses: Vec::new(), user: user.to_string(), auto: true }
            }
        };
        file.learn(lender.addresses.to_vec());
        let lender_toml = file.to_toml();
        keyfile::create_dir(&parent)?;
        let draft = Draft {
            profiles: self.clone(),
            alias: alias.clone(),
            lender: lender.name.clone(),
            ca_key: *lender.ca_key,
            temporary,
            place: parent.join(name),
            own,
            known,
            lender_toml,
        };
        keyfile::create_dir(&draft.own)?;
        keyfile::write(&draft.own.join("client.key"), key_pem, keyfile::SECRET_MODE)?;
        Ok(draft)
    }
}

impl Draft {
    /// Completes the profile and puts it in its place. An earlier key of the same user is replaced.
    ///
    /// # Errors
    /// The disk; or another lender has become the alias's meanwhile.
    pub(super) fn finish(self, certificate: &CertificateDer<'_>, ca: &CertificateDer<'_>) -> Result<(), BorrowError> {
        let write = |path: PathBuf, text: &str| keyfile::write(&path, text.as_bytes(), keyfile::PUBLIC_MODE);
        write(self.own.join("client.crt"), &pem::certificate_pem(certificate))?;
        let top = if self.known { self.place.parent().unwrap_or(Path::new("/")) } else { &self.temporary };
        write(top.join(LENDER_FILE), &self.lender_toml)?;
        if !self.known {
            write(top.join("ca.crt"), &pem::certificate_pem(ca))?;
        }
        match put(&self.temporary, &self.place, self.known) {
            Err(Errno::EXIST) if !self.known && self.is_known_by_now()? => {
                let place = self.place.join(self.own.file_name().unwrap_or_default());
                put(&self.own, &place, true).map_err(cannot_make(&place))
            }
            put => put.map_err(cannot_make(&self.place)),
        }
    }

    fn is_known_by_now(&self) -> Result<bool, BorrowError> {
        let lender = Lender { name: &self.lender, addresses: &[], ca_key: &self.ca_key };
        self.profiles.knows(&self.alias, &lender)
    }
}

/// `replaces` what is there, which is then in the temporary place, and goes with it.
fn put(temporary: &Path, place: &Path, replaces: bool) -> rustix::io::Result<()> {
    let rename = |flags| rustix::fs::renameat_with(CWD, temporary, CWD, place, flags);
    match rename(RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) if replaces => rename(RenameFlags::EXCHANGE),
        renamed => renamed,
    }
}

fn cannot_make(place: &Path) -> impl FnOnce(Errno) -> BorrowError {
    let what = format!("cannot make {}", place.display());
    |errno| BorrowError::local(what, errno.into())
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After a rename there is nothing here, or an earlier key that was replaced.
        let _ = std::fs::remove_dir_all(&self.temporary);
    }
}
