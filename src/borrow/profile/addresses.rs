//! `lender.toml`, and where a lender is: told by itself, or set by its borrower.

use serde::{Deserialize, Serialize};

use super::{Alias, BorrowError, Profile, Profiles};
use crate::{
    proto::{DEFAULT_PORT, LENDER_ADDRESSES_MAX, Target, TargetError},
    trust::{keyfile, settings_file},
};

/// `lender.toml`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::borrow) struct LenderFile {
    pub(in crate::borrow) name: String,
    pub(in crate::borrow) addresses: Vec<String>,
    pub(in crate::borrow) user: String,
    /// Whether addresses that the lender tells are added; `false` once its user has set them.
    #[serde(default = "learns", skip_serializing_if = "Clone::clone")]
    pub(in crate::borrow) auto: bool,
}

fn learns() -> bool {
    true
}

/// Reads where a lender is: `HOST` or `HOST:PORT`, with [`DEFAULT_PORT`] if none is named.
///
/// # Errors
/// It is none.
pub fn lender_address(text: &str) -> Result<Target, BorrowError> {
    let whole = match text.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]:{DEFAULT_PORT}"),
        Err(_) if !text.contains(':') || text.ends_with(']') => format!("{text}:{DEFAULT_PORT}"),
        Err(_) => text.to_owned(),
    };
    let target: Target = whole.parse().map_err(|error: TargetError| BorrowError::usage(error.to_string()))?;
    match target.host.contains(|c: char| c.is_whitespace() || c.is_control() || c == '@') {
        true => Err(BorrowError::usage(format!("{text:?} is not an address: write HOST or HOST:PORT"))),
        false => Ok(target),
    }
}

impl LenderFile {
    /// Adds these addresses to those that are known, the latest first, unless its user has set them.
    pub(in crate::borrow) fn learn(&mut self, told: Vec<String>) {
        if !self.auto {
            return;
        }
        let earlier = std::mem::replace(&mut self.addresses, told);
        let earlier: Vec<_> = earlier.into_iter().filter(|address| !self.addresses.contains(address)).collect();
        self.addresses.extend(earlier);
        self.addresses.truncate(ADDRESSES_KNOWN_MAX);
    }

    pub(in crate::borrow) fn to_toml(&self) -> String {
        toml::to_string(self).expect("strings, a list of strings and a flag are always TOML")
    }
}

impl Profiles {
    /// Replaces every address of a host. What its lender tells is then not added, until [`Self::learn_again`].
    ///
    /// # Errors
    /// If the host is unknown, there is no address or more than 16, or its file cannot be written.
    pub fn set_addresses(&self, alias: &Alias, addresses: &[Target]) -> Result<(), BorrowError> {
        if !(1..=ADDRESSES_KNOWN_MAX).contains(&addresses.len()) {
            return Err(BorrowError::usage(format!("a host has 1 to {ADDRESSES_KNOWN_MAX} addresses")));
        }
        let file = self.lender_file(alias)?;
        let addresses = addresses.iter().map(ToString::to_string).collect();
        self.write_lender_file(alias, &LenderFile { addresses, auto: false, ..file })
    }

    /// Adds again what the lender of a host tells.
    ///
    /// # Errors
    /// If the host is unknown, or its file cannot be written.
    pub fn learn_again(&self, alias: &Alias) -> Result<(), BorrowError> {
        let file = self.lender_file(alias)?;
        self.write_lender_file(alias, &LenderFile { auto: true, ..file })
    }

    /// Adds the addresses that a lender has told to those that are known, the latest first. What is no address is left out;
    /// a profile that cannot be written is no reason to end a session.
    pub(in crate::borrow) fn learn_addresses(&self, profile: &Profile, told: &[String]) {
        let told = told.iter().take(LENDER_ADDRESSES_MAX);
        let is_address = |address: &&String| address.parse::<Target>().is_ok() && lender_address(address).is_ok();
        let told: Vec<_> = told.filter(is_address).cloned().collect();
        let news = told.iter().any(|address| !profile.addresses.contains(address));
        if !profile.learns_addresses || !news {
            return;
        }
        // Perhaps they were set since the profile was read.
        let learned = self.lender_file(&profile.alias).and_then(|mut file| {
            file.learn(told);
            self.write_lender_file(&profile.alias, &file)
        });
        if let Err(error) = learned {
            tracing::warn!(alias = %profile.alias, %error, "where the lender is now could not be noted");
        }
    }

    pub(in crate::borrow) fn lender_file(&self, alias: &Alias) -> Result<LenderFile, BorrowError> {
        let folder = self.folder(alias);
        if !folder.is_dir() {
            return Err(self.unknown(alias.as_str()));
        }
        let path = folder.join(LENDER_FILE);
        let broken = |why: String| BorrowError::Profile { path: path.display().to_string(), why };
        let text = String::from_utf8(keyfile::read_admin_file(&path)?).map_err(|error| broken(error.to_string()))?;
        settings_file::read(&text).map_err(broken)
    }

    fn write_lender_file(&self, alias: &Alias, file: &LenderFile) -> Result<(), BorrowError> {
        Ok(keyfile::write(&self.folder(alias).join(LENDER_FILE), file.to_toml().as_bytes(), keyfile::PUBLIC_MODE)?)
    }
}

/// Most addresses of one lender that are kept: those of a machine that moves between a few networks.
pub const ADDRESSES_KNOWN_MAX: usize = 16;
/// A lender's settings in its folder.
pub(in crate::borrow) const LENDER_FILE: &str = "lender.toml";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_the_default_port_if_none_is_named() {
        for (text, read) in [
            ("lab.example", "lab.example:2278"),
            ("lab.example:1", "lab.example:1"),
            ("10.0.0.1", "10.0.0.1:2278"),
            ("fd00::1", "[fd00::1]:2278"),
            ("[fd00::1]", "[fd00::1]:2278"),
            ("[fd00::1]:1", "[fd00::1]:1"),
        ] {
            assert_eq!(lender_address(text).unwrap().to_string(), read);
        }
        for bad in ["", "a b", "a:0", "a:b", "user@a", ":1"] {
            assert!(lender_address(bad).is_err(), "{bad}");
        }
    }
}
