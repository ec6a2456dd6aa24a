//! Which session commands may share: what they have to have in common, and where its socket is.

use std::path::PathBuf;

use data_encoding::HEXLOWER;
use rustls::pki_types::CertificateDer;

use crate::{
    borrow::Alias,
    proto::{LenderName, UserName},
    session::runtime_folder,
    trust::proof::sha256,
};

/// Bytes of a digest in the name of a socket: nobody meets another's by chance, and the path stays short (unix(7)).
const NAME_BYTES: usize = 8;

/// What sessions that are the same to the user have in common.
pub(in crate::borrow) struct Key {
    /// The host as its profile is called.
    pub(in crate::borrow) alias: Alias,
    /// The port that is insisted on.
    pub(in crate::borrow) port: Option<u16>,
    /// As whom.
    pub(in crate::borrow) user: UserName,
    /// The lender there.
    pub(in crate::borrow) lender: LenderName,
    /// What that is known by: another of the same name is another, as where a profile was replaced.
    pub(in crate::borrow) ca: CertificateDer<'static>,
}

impl Key {
    /// The socket of who shares such a session. `None`: this user has no runtime folder.
    pub(super) fn path(&self) -> Option<PathBuf> {
        Some(runtime_folder()?.join("capuchin/share").join(format!("{}.sock", self.name())))
    }

    /// What those who begin to share such a session have locked.
    #[cfg(feature = "cli")]
    pub(super) fn lock(&self) -> Option<PathBuf> {
        Some(runtime_folder()?.join("capuchin/beginning").join(format!("{}.lock", self.name())))
    }

    fn name(&self) -> String {
        let Self { alias, port, user, lender, ca } = self;
        let port = port.map_or_else(String::new, |port| port.to_string());
        let names = format!("{}\0{port}\0{user}\0{lender}\0", alias.as_str());
        let digest = sha256(&[names.as_bytes(), &sha256(ca)].concat());
        HEXLOWER.encode(digest.get(..NAME_BYTES).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(alias: &str, port: Option<u16>, user: &str, lender: &str, ca: u8) -> String {
        let (alias, user, lender) = (alias.parse().unwrap(), user.parse().unwrap(), lender.parse().unwrap());
        Key { alias, port, user, lender, ca: vec![ca].into() }.name()
    }

    #[test]
    fn what_differs_in_anything_is_another_session() {
        let all = [
            name("lab", None, "ana", "lab", 1),
            name("attic", None, "ana", "lab", 1),
            name("lab", Some(22), "ana", "lab", 1),
            name("lab", None, "bob", "lab", 1),
            name("lab", None, "ana", "attic", 1),
            name("lab", None, "ana", "lab", 2),
        ];
        let apart: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(apart.len(), all.len());
        assert_eq!(all[0], name("lab", None, "ana", "lab", 1));
        assert_eq!(all[0].len(), 2 * NAME_BYTES);
    }
}
