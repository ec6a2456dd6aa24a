//! What a borrower and its lender know each other by, as files of a profile.

use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;

use super::{Alias, BorrowError, Credentials, Profiles};
use crate::{
    proto::UserName,
    trust::{UnixTime, identity, keyfile, pem},
};

impl Profiles {
    /// From when to when the certificate of a user on this device is good.
    ///
    /// # Errors
    /// Its file is missing or broken.
    pub fn certificate_lasts(&self, alias: &Alias, user: &UserName) -> Result<(UnixTime, UnixTime), BorrowError> {
        let broken = |error: identity::IdentityError| BorrowError::Profile {
            path: self.certificate_path(alias, user).display().to_string(),
            why: error.to_string(),
        };
        identity::lasts(&self.certificate(alias, user)?).map_err(broken)
    }

    /// That of a user on this device.
    pub(super) fn certificate(&self, alias: &Alias, user: &UserName) -> Result<CertificateDer<'static>, BorrowError> {
        first_certificate(&self.certificate_path(alias, user))
    }

    pub(in crate::borrow) fn credentials(&self, alias: &Alias, user: &UserName) -> Result<Credentials, BorrowError> {
        let folder = self.folder(alias);
        Ok(Credentials {
            key_pem: keyfile::read_secret(&folder.join(user.as_str()).join("client.key"))?,
            chain: certificates(&self.certificate_path(alias, user))?,
            ca: self.ca(alias)?,
        })
    }

    /// The certificate of the lender's CA, as it was pinned at join.
    pub(in crate::borrow) fn ca(&self, alias: &Alias) -> Result<CertificateDer<'static>, BorrowError> {
        first_certificate(&self.folder(alias).join("ca.crt"))
    }

    /// Replaces the certificate of a device by the next one for the same key.
    pub(in crate::borrow) fn save_certificate(
        &self,
        alias: &Alias,
        user: &UserName,
        certificate: &CertificateDer<'_>,
    ) -> Result<(), BorrowError> {
        let path = self.certificate_path(alias, user);
        Ok(keyfile::write(&path, pem::certificate_pem(certificate).as_bytes(), keyfile::PUBLIC_MODE)?)
    }

    fn certificate_path(&self, alias: &Alias, user: &UserName) -> PathBuf {
        self.folder(alias).join(user.as_str()).join("client.crt")
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BorrowError> {
    let why = |error: pem::PemError| BorrowError::Profile { path: path.display().to_string(), why: error.to_string() };
    pem::certificates(&keyfile::read_admin_file(path)?).map_err(why)
}

fn first_certificate(path: &Path) -> Result<CertificateDer<'static>, BorrowError> {
    let none =
        || BorrowError::Profile { path: path.display().to_string(), why: pem::PemError::Certificate.to_string() };
    certificates(path)?.into_iter().next().ok_or_else(none)
}
