//! `config.toml`: what a user of this machine has settled for its hosts, so that it need not stand on each command line.
//!
//! ```toml
//! [defaults]                          # for every host
//! user = "ana"
//!
//! [host.lab]
//! address = ["lab.example.org"]       # HOST or HOST:PORT, one or several: instead of those that are known
//! user = "ana"                        # who is meant when no user is named
//! forwards = ["-L 8080:intranet:80"]  # what a bare `capuchin forward lab` does
//! share = true                        # the first command that can be shared begins the session of `capuchin connect lab`
//! ```
//! What is given on the command line counts more, then `CAPUCHIN_USER` and `CAPUCHIN_PORT`, then a host's own table, then the
//! defaults.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use super::{
    BorrowError,
    profile::{Alias, lender_address},
};
use crate::{
    proto::UserName,
    trust::{keyfile, settings_file},
};

/// The settings of one host, its own before the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostSettings {
    /// Where it is, each `host:port`; empty: where the profile says.
    pub addresses: Vec<String>,
    /// Who is meant when no user is named.
    pub user: Option<UserName>,
    /// The options of a bare `capuchin forward`, each as on its command line.
    pub forwards: Vec<String>,
    /// A command that can share a session begins one in the background, where there is none.
    pub share: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    defaults: Table,
    #[serde(default)]
    host: BTreeMap<String, Table>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    address: Option<Addresses>,
    user: Option<String>,
    forwards: Option<Vec<String>>,
    share: Option<bool>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Addresses {
    One(String),
    Several(Vec<String>),
}

impl HostSettings {
    /// Reads what `path` says of a host; a file that is not there says nothing.
    ///
    /// # Errors
    /// It cannot be read, others may write it, or it is not what it should be: the error names file and line.
    pub(super) fn load(path: &Path, alias: &Alias) -> Result<Self, BorrowError> {
        let bytes = match keyfile::read_admin_file(path) {
            Err(error) if error.is_missing() => return Ok(Self::default()),
            bytes => bytes?,
        };
        let broken = |why: String| BorrowError::Profile { path: path.display().to_string(), why };
        let text = String::from_utf8(bytes).map_err(|error| broken(error.to_string()))?;
        let mut file: File = settings_file::read(&text).map_err(broken)?;
        for name in file.host.keys() {
            name.parse::<Alias>().map_err(|error| broken(format!("[host.{name}]: {error}")))?;
        }
        let own = file.host.remove(alias.as_str()).unwrap_or_default();
        let Table { address, user, forwards, share } = Table {
            address: own.address.or(file.defaults.address),
            user: own.user.or(file.defaults.user),
            forwards: own.forwards.or(file.defaults.forwards),
            share: own.share.or(file.defaults.share),
        };
        let addresses: Vec<String> = match address {
            None => Vec::new(),
            Some(Addresses::One(address)) => vec![address],
            Some(Addresses::Several(addresses)) => addresses,
        };
        let read = |address: String| lender_address(&address).map(|target| target.to_string());
        let addresses = addresses.into_iter().map(read).collect::<Result<_, _>>();
        let addresses = addresses.map_err(|error| broken(format!("address of {alias}: {error}")))?;
        let user =
            user.map(|user| user.parse().map_err(|error| broken(format!("user of {alias}: {error}")))).transpose()?;
        Ok(Self { addresses, user, forwards: forwards.unwrap_or_default(), share: share.unwrap_or(false) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<HostSettings, BorrowError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        HostSettings::load(&path, &"lab".parse().unwrap())
    }

    #[test]
    fn a_hosts_own_table_counts_more_than_the_defaults() {
        let settings = read(
            "[defaults]\nuser = \"ana\"\nforwards = [\"-D 1080\"]\n[host.lab]\naddress = \"a:1\"\nuser = \"bob\"\n[host.attic]\nuser = \"eve\"\n",
        );
        let settings = settings.unwrap();
        assert_eq!(settings.addresses, ["a:1"]);
        assert_eq!(settings.user.unwrap().as_str(), "bob");
        assert_eq!(settings.forwards, ["-D 1080"]);
        assert!(!settings.share);
        let share = |text: &str| read(text).unwrap().share;
        assert!(share("[defaults]\nshare = true\n") && !share("[defaults]\nshare = true\n[host.lab]\nshare = false\n"));
        let several = read("[host.lab]\naddress = [\"a:1\", \"[::1]:2\"]\n").unwrap();
        assert_eq!(several.addresses, ["a:1", "[::1]:2"]);
        assert_eq!(read("[host.lab]\naddress = \"a\"\n").unwrap().addresses, ["a:2278"]);
    }

    #[test]
    fn no_file_says_nothing() {
        let none = HostSettings::load(Path::new("/nonexistent/config.toml"), &"lab".parse().unwrap());
        assert_eq!(none.unwrap(), HostSettings::default());
    }

    #[test]
    fn a_broken_file_is_named_with_what_is_wrong() {
        for (text, why) in [
            ("[host.lab]\nadress = \"a:1\"\n", "adress"),
            ("[host.lab]\naddress = \"a:0\"\n", "address of lab"),
            ("[host.lab]\nuser = \"Ana!\"\n", "user of lab"),
            ("[host.\"../x\"]\nuser = \"ana\"\n", "host.../x"),
            ("user = \"ana\"\n", "unknown field"),
            ("[host", "config.toml"),
        ] {
            let error = read(text).unwrap_err();
            assert_eq!(error.kind(), crate::proto::ErrorKind::Config);
            assert!(error.to_string().contains(why) && error.to_string().contains("config.toml"), "{error}");
        }
    }
}
