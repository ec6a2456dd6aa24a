//! The hosts that this machine has joined, as files.
//!
//! ```text
//!   $XDG_CONFIG_HOME/capuchin/hosts/ALIAS/lender.toml            name, addresses, default user
//!                                         ca.crt                 what the lender is known by
//!                                         USER/client.key        never leaves this machine (0600)
//!                                         USER/client.crt
//!   $XDG_CONFIG_HOME/capuchin/config.toml                        what its user has settled ([`HostSettings`])
//!   $XDG_STATE_HOME/capuchin/tickets/ALIAS/USER                  the last login (0600)
//! ```
//!
//! # Security
//! Every file is opened through [`keyfile`]: a key that others can read, or that is a link, is refused with the command
//! that mends it. Aliases and users become file names and are types that hold neither slash nor leading dot.

mod addresses;
mod certificates;
mod remove;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

pub use addresses::lender_address;
pub(super) use addresses::{LENDER_FILE, LenderFile};

use super::{BorrowError, settings::HostSettings};
use crate::{
    proto::{LenderName, Target, UserName},
    session,
    trust::{
        UnixTime,
        keyfile::{self, KeyFileError},
        ticket::{SavedTicket, TicketFileError},
    },
};

/// Longest alias, in bytes.
pub const ALIAS_MAX: usize = 63;

/// Where the profiles of a user of this machine are.
#[derive(Clone, Debug)]
pub struct Profiles {
    hosts: PathBuf,
    tickets: PathBuf,
    settings: PathBuf,
    /// Who is meant, and at which port, when neither the host's name nor the settings' file may say: from the environment.
    user: Option<UserName>,
    port: Option<u16>,
}

/// A lender that this machine has joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// What its user calls it.
    pub alias: Alias,
    /// Its own name.
    pub lender: LenderName,
    /// Where it is, each `host:port`.
    pub addresses: Vec<String>,
    /// Who is meant when no user is named.
    pub default_user: UserName,
    /// As whom this machine has joined.
    pub users: Vec<UserName>,
    /// Whether addresses that the lender tells are added to those it had.
    pub learns_addresses: bool,
}

/// What the user of this machine calls a lender: `[a-z0-9][a-z0-9._-]{0,62}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Alias(String);

/// A lender, and maybe as whom and at which port: `lab`, `ana@lab` or `ana@lab:2279`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// As whom; else `CAPUCHIN_USER`, the settings' user, the profile's default user.
    pub user: Option<UserName>,
    /// Which lender.
    pub alias: Alias,
    /// The port at each of its addresses, in place of their own; else `CAPUCHIN_PORT`.
    pub port: Option<u16>,
}

/// What a borrower shows and what it demands to see.
pub(super) struct Credentials {
    pub(super) ca: CertificateDer<'static>,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key_pem: Zeroizing<Vec<u8>>,
}

/// A host, and its profile if that can be read.
type Listed = (Alias, Result<Profile, BorrowError>);

impl Profiles {
    /// Those of the user who runs this program, below [`config_folder`](session::config_folder) and
    /// [`state_folder`](session::state_folder); with `CAPUCHIN_USER` and `CAPUCHIN_PORT` where they are set.
    ///
    /// # Errors
    /// If none of them says where, or one of the last two is no user or no port.
    pub fn from_env() -> Result<Self, BorrowError> {
        let missing = || BorrowError::usage("there is nowhere to keep profiles: set HOME or XDG_CONFIG_HOME");
        let config = session::config_folder().ok_or_else(missing)?;
        let state = session::state_folder().ok_or_else(missing)?;
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let wrong = |name: &str, why: String| BorrowError::usage(format!("{name} in the environment: {why}"));
        let user = variable("CAPUCHIN_USER").map(|user| user.parse::<UserName>());
        let user = user.transpose().map_err(|error| wrong("CAPUCHIN_USER", error.to_string()))?;
        let port = variable("CAPUCHIN_PORT").map(|port| parse_port(&port)).transpose();
        let port = port.map_err(|why| wrong("CAPUCHIN_PORT", why))?;
        Ok(Self { user, port, ..Self::at(&config, &state) })
    }

    /// Those below two folders, which stand for `XDG_CONFIG_HOME` and `XDG_STATE_HOME`.
    pub fn at(config: &Path, state: &Path) -> Self {
        Self {
            hosts: config.join("capuchin/hosts"),
            tickets: state.join("capuchin/tickets"),
            settings: config.join("capuchin/config.toml"),
            user: None,
            port: None,
        }
    }

    /// Every host that was joined, by alias. One that cannot be read stands in the list with its error.
    ///
    /// # Errors
    /// If the folder of hosts cannot be listed.
    pub fn list(&self) -> Result<Vec<Listed>, BorrowError> {
        let aliases = names(&self.hosts)?.into_iter().filter_map(|name| name.parse::<Alias>().ok());
        Ok(aliases.map(|alias| (alias.clone(), self.profile(&alias))).collect())
    }

    /// The profile of one host.
    ///
    /// # Errors
    /// If it is unknown, or its files are missing, broken or open to others.
    pub fn profile(&self, alias: &Alias) -> Result<Profile, BorrowError> {
        let folder = self.folder(alias);
        let path = folder.join(LENDER_FILE);
        let broken = |why: String| BorrowError::Profile { path: path.display().to_string(), why };
        let file = self.lender_file(alias)?;
        let is_user = |name: &String| folder.join(name).join("client.key").symlink_metadata().is_ok();
        let users = names(&folder)?.into_iter().filter(is_user).filter_map(|name| name.parse().ok()).collect();
        Ok(Profile {
            alias: alias.clone(),
            lender: file.name.parse().map_err(|error| broken(format!("{error}")))?,
            addresses: file.addresses,
            default_user: file.user.parse().map_err(|error| broken(format!("{error}")))?,
            users,
            learns_addresses: file.auto,
        })
    }

    /// Where `config.toml` is.
    #[cfg(feature = "cli")]
    pub(crate) fn settings_file(&self) -> &Path {
        &self.settings
    }

    /// What the user has settled for a host in `config.toml`.
    ///
    /// # Errors
    /// That file cannot be read, or is broken.
    pub fn settings(&self, alias: &Alias) -> Result<HostSettings, BorrowError> {
        HostSettings::load(&self.settings, alias)
    }

    /// The profile of a host and the user who is meant, with what environment and settings say.
    ///
    /// # Errors
    /// As [`Self::profile`] and [`Self::settings`]; also if this machine has not joined as that user.
    pub fn find(&self, host: &Host) -> Result<(Profile, UserName), BorrowError> {
        let (mut profile, settings) = (self.profile(&host.alias)?, self.settings(&host.alias)?);
        let named = host.user.as_ref().or(self.user.as_ref()).or(settings.user.as_ref());
        let user = named.unwrap_or(&profile.default_user).clone();
        if !settings.addresses.is_empty() {
            // Set by the user, as by `hosts set`.
            (profile.addresses, profile.learns_addresses) = (settings.addresses, false);
        }
        if let Some(port) = self.port_of(host) {
            profile.addresses = at_port(&profile.addresses, port);
            profile.learns_addresses = false;
        }
        if profile.users.contains(&user) {
            return Ok((profile, user));
        }
        let users: Vec<_> = profile.users.iter().map(|user| format!("{user}@{}", profile.alias)).collect();
        let notes = vec![
            format!("joined so far: {}", if users.is_empty() { "nobody".to_owned() } else { users.join(", ") }),
            format!("to join as {user}: on {} run `capuchind invite {user}`, here `capuchin join`", profile.lender),
        ];
        Err(BorrowError::UnknownHost { host: format!("{user}@{}", host.alias), notes })
    }

    /// The port that is insisted on, at each address of a host, by its name or by the environment.
    pub(super) fn port_of(&self, host: &Host) -> Option<u16> {
        host.port.or(self.port)
    }

    /// When the saved login of a user ends; `None` if there is none, or it is over at `now`.
    pub fn logged_in_until(&self, alias: &Alias, user: &UserName, now: UnixTime) -> Option<UnixTime> {
        SavedTicket::load(&self.ticket_path(alias, user))
            .ok()
            .map(|saved| saved.expires)
            .filter(|expires| now < *expires)
    }

    pub(super) fn ticket(&self, alias: &Alias, user: &UserName) -> Result<SavedTicket, TicketFileError> {
        SavedTicket::load(&self.ticket_path(alias, user))
    }

    pub(super) fn save_ticket(&self, alias: &Alias, ticket: &SavedTicket) -> Result<(), KeyFileError> {
        let path = self.ticket_path(alias, &ticket.user);
        keyfile::create_dir(&self.tickets.join(alias.as_str()))?;
        ticket.save(&path)
    }

    pub(super) fn hosts(&self) -> &Path {
        &self.hosts
    }

    pub(super) fn folder(&self, alias: &Alias) -> PathBuf {
        self.hosts.join(alias.as_str())
    }

    fn ticket_path(&self, alias: &Alias, user: &UserName) -> PathBuf {
        self.tickets.join(alias.as_str()).join(user.as_str())
    }

    /// The error for a host that was never joined.
    fn unknown(&self, host: &str) -> BorrowError {
        let known: Vec<_> = names(&self.hosts).unwrap_or_default();
        let known = if known.is_empty() {
            "this machine has joined no host yet".to_owned()
        } else {
            format!("joined so far: {}", known.join(", "))
        };
        let how = "to join one: on the lender run `capuchind invite USER`, here `capuchin join`".to_owned();
        BorrowError::UnknownHost { host: host.to_owned(), notes: vec![known, how] }
    }
}

/// The names of the folders in a folder, sorted; what begins with a dot is half made and left out.
fn names(folder: &Path) -> Result<Vec<String>, BorrowError> {
    let failed = |error| BorrowError::local(format!("cannot list {}", folder.display()), error);
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().into_string().unwrap_or_default();
        if !name.starts_with('.') && entry.path().is_dir() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

impl Alias {
    /// The alias as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Alias {
    type Err = BorrowError;

    fn from_str(text: &str) -> Result<Self, BorrowError> {
        let first = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
        let rest = |c: u8| first(c) || matches!(c, b'.' | b'_' | b'-');
        match text.as_bytes() {
            [head, tail @ ..] if first(*head) && tail.len() < ALIAS_MAX && tail.iter().all(|c| rest(*c)) => {
                Ok(Self(text.to_owned()))
            }
            _ if text == super::door::HERE => {
                let why = "`.` is the lender of this machine itself: it needs no join and no login";
                Err(BorrowError::usage(why))
            }
            _ => {
                let shown: String = text.chars().take(80).collect();
                let rule = "use 1 to 63 of a-z 0-9 . _ - and begin with a letter or digit";
                Err(BorrowError::usage(format!("{shown:?} is not a name for a host: {rule}")))
            }
        }
    }
}

/// A lender's own name is always a good alias.
impl From<&LenderName> for Alias {
    fn from(name: &LenderName) -> Self {
        Self(name.as_str().to_owned())
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Host {
    type Err = BorrowError;

    fn from_str(text: &str) -> Result<Self, BorrowError> {
        let (user, place) = match text.split_once('@') {
            Some((user, place)) => (Some(user.parse().map_err(|error| BorrowError::usage(format!("{error}")))?), place),
            None => (None, text),
        };
        let (alias, port) = match place.split_once(':') {
            Some((alias, port)) => (alias, Some(parse_port(port).map_err(BorrowError::usage)?)),
            None => (place, None),
        };
        Ok(Self { user, alias: alias.parse()?, port })
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| format!("{text:?} is not a port, a number from 1 to 65535"))
}

/// The same hosts, at another port.
fn at_port(addresses: &[String], port: u16) -> Vec<String> {
    let mut moved: Vec<String> = Vec::new();
    for target in addresses.iter().filter_map(|address| address.parse::<Target>().ok()) {
        let address = Target { port, ..target }.to_string();
        if !moved.contains(&address) {
            moved.push(address);
        }
    }
    moved
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        self.alias.fmt(f)?;
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests;
