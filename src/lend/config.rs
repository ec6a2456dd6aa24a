//! Where a lender's files lie, and what lender.toml says.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    os::{fd::RawFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::{LendError, admission};
use crate::{
    policy::LenderPath,
    proto::{LenderName, Target},
    session,
    trust::{keyfile, settings_file},
};

/// The folders of one lender; with `--dir` all are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LenderDir {
    config: PathBuf,
    state: PathBuf,
    /// `None`: there is no folder for it.
    door: Option<PathBuf>,
}

impl LenderDir {
    /// Everything in one folder.
    pub fn single(dir: impl Into<PathBuf>) -> Self {
        let config = dir.into();
        Self { state: config.clone(), door: Some(config.join(session::DOOR)), config }
    }

    /// Where a lender of this user lies by default: `/etc/capuchin` and `/var/lib/capuchin` for root, else
    /// `$XDG_CONFIG_HOME/capuchin/lender` (or `~/.config/…`). `None` without a home. The door is where
    /// [`own_door`](session::own_door) says.
    pub fn of_this_user() -> Option<Self> {
        let door = session::own_door();
        if rustix::process::geteuid().is_root() {
            return Some(Self { config: "/etc/capuchin".into(), state: "/var/lib/capuchin".into(), door });
        }
        Some(Self { door, ..Self::single(session::config_folder()?.join("capuchin/lender")) })
    }

    /// The admin's folder.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The daemon's folder.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Its own settings.
    pub fn lender_toml(&self) -> PathBuf {
        self.config.join("lender.toml")
    }

    /// The admin's policy.
    pub fn policy_toml(&self) -> PathBuf {
        self.config.join("policy.toml")
    }

    pub(super) fn ca_key(&self) -> PathBuf {
        self.config.join("ca.key")
    }

    pub(super) fn ca_crt(&self) -> PathBuf {
        self.config.join("ca.crt")
    }

    pub(super) fn server_key(&self) -> PathBuf {
        self.config.join("server.key")
    }

    pub(super) fn server_crt(&self) -> PathBuf {
        self.config.join("server.crt")
    }

    pub(super) fn store(&self) -> PathBuf {
        self.state.join("state.redb")
    }

    /// The admin's socket, there while the daemon runs.
    pub fn admin_sock(&self) -> PathBuf {
        self.state.join("admin.sock")
    }

    /// The socket for users of this machine.
    pub fn door_sock(&self) -> Option<&Path> {
        self.door.as_deref()
    }

    /// The sockets that it answers at itself.
    pub(super) fn own_sockets(&self) -> Vec<PathBuf> {
        self.door.iter().cloned().chain([self.admin_sock()]).collect()
    }

    /// Its folders as they are named and where they really are, for the policy to keep out of every loan.
    pub(super) fn own_folders(&self) -> Vec<LenderPath> {
        let door = self.door.as_deref().and_then(Path::parent);
        let folders = || [&*self.config, &*self.state].into_iter().chain(door);
        let real = folders().map(real_path);
        let paths = folders().map(std::path::absolute).chain(real).flatten();
        let mut folders: Vec<_> =
            paths.filter_map(|path| LenderPath::parse(path.as_os_str().as_bytes()).ok()).collect();
        folders.sort();
        folders.dedup();
        folders
    }

    /// The audit log's folder.
    pub fn audit(&self) -> PathBuf {
        self.state.join("audit")
    }
}

/// Where a folder really is, or where it will be once it is made.
fn real_path(folder: &Path) -> std::io::Result<PathBuf> {
    folder.canonicalize().or_else(|error| match (folder.parent(), folder.file_name()) {
        (Some(above), Some(name)) => Ok(above.canonicalize()?.join(name)),
        _ => Err(error),
    })
}

/// lender.toml.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LenderConfig {
    /// What borrowers check in the certificate.
    pub name: LenderName,
    /// Where to accept connections.
    pub listen: Listen,
    /// Where borrowers find it, `host:port`, at most four; empty: found out from `listen`.
    pub advertise: Vec<String>,
    /// Handshakes at once from one address, or from one IPv6 /64; default 8, at most 128. More wait.
    pub per_source: usize,
    /// Whether an address, or a user at the door, that failed too often is not heard for a while; default true. To be `false`
    /// only behind a proxy that hides where connections come from.
    pub penalties: bool,
}

/// Where to accept connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// An address; port 0 lets the system choose.
    Address(SocketAddr),
    /// An inherited listening socket.
    Fd(RawFd),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    listen: String,
    #[serde(default)]
    advertise: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    per_source: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    penalties: Option<bool>,
}

impl LenderConfig {
    /// Reads lender.toml.
    ///
    /// # Errors
    /// If there is none, others may write it, or a setting is wrong.
    pub fn load(dir: &LenderDir) -> Result<Self, LendError> {
        let path = dir.lender_toml();
        let bytes = keyfile::read_admin_file(&path).map_err(|error| match error.is_missing() {
            true => LendError::NoLender(dir.config().to_owned()),
            false => error.into(),
        })?;
        let wrong = |problem: String| LendError::Config { path: path.clone(), problem };
        let text = String::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".to_owned()))?;
        let file: File = settings_file::read(&text).map_err(wrong)?;
        let name = file.name.parse().map_err(|error| wrong(format!("name: {error}")))?;
        let listen = read_listen(&file.listen).map_err(|error| wrong(format!("listen: {error}")))?;
        let advertise = read_advertised(file.advertise).map_err(|problem| wrong(format!("advertise: {problem}")))?;
        let per_source = file.per_source.unwrap_or(admission::PER_SOURCE);
        if !(1..=admission::PLACES).contains(&per_source) {
            return Err(wrong(format!("per_source: {per_source} is outside 1 to {}", admission::PLACES)));
        }
        Ok(Self { name, listen, advertise, per_source, penalties: file.penalties.unwrap_or(true) })
    }

    pub(super) fn to_toml(&self) -> String {
        let file = File {
            name: self.name.to_string(),
            listen: self.listen.to_string(),
            advertise: self.advertise.clone(),
            per_source: Some(self.per_source).filter(|share| *share != admission::PER_SOURCE),
            penalties: Some(self.penalties).filter(|penalties| !penalties),
        };
        let body = toml::to_string(&file).unwrap_or_default();
        format!("{HEAD}\n{body}")
    }
}

/// What an admin needs to know who changes lender.toml.
const HEAD: &str = "\
# The lender's own settings. They are read when it starts: after a change restart it, SIGHUP does not read them. Who may borrow
# what stands in policy.toml. There are two more settings, here with their defaults:
#   per_source = 8      handshakes at once from one address, or from one IPv6 /64, 1 to 128; more wait
#   penalties = true    whether an address, or a user of this machine, that failed too often is not heard for a while; false
#                       only behind a proxy that hides where connections come from";

/// Of an older version's file, which says `fd:03` too: what has served goes on to serve.
fn read_listen(text: &str) -> Result<Listen, String> {
    let number = |fd: &str| fd.parse().ok().filter(|fd: &RawFd| *fd >= 0);
    text.strip_prefix("fd:").and_then(number).map_or_else(|| text.parse(), |fd| Ok(Listen::Fd(fd)))
}

/// As older versions have taken them: one that is an address, and that nobody can connect to, is left out with a warning. It
/// must not keep an admin from revoking.
fn read_advertised(addresses: Vec<String>) -> Result<Vec<String>, String> {
    check_number(&addresses)?;
    let mut good = Vec::new();
    for address in addresses {
        address.parse::<Target>().map_err(|error| error.to_string())?;
        match check_advertised(&address) {
            Ok(()) => good.push(address),
            Err(problem) => tracing::warn!("lender.toml: advertise: left out: {problem}"),
        }
    }
    Ok(good)
}

fn check_number(addresses: &[String]) -> Result<(), String> {
    match addresses.len() {
        0..=crate::proto::LENDER_ADDRESSES_MAX => Ok(()),
        number => Err(format!("{number} addresses, a join line carries 4 at most")),
    }
}

/// At most four addresses that a borrower can connect to.
pub(super) fn check_all_advertised(addresses: &[String]) -> Result<(), String> {
    check_number(addresses)?;
    addresses.iter().try_for_each(|address| check_advertised(address))
}

/// Whether a borrower could connect to this: `host:port`, a name or an address of one machine.
///
/// # Errors
/// What is wrong with it.
pub fn check_advertised(address: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("{address:?} is no address that borrowers can connect to: {why}"));
    let Target { host, .. } = address.parse::<Target>().map_err(|error| error.to_string())?;
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.to_canonical().is_unspecified() => wrong("it is every address of a machine, name one"),
        Ok(ip) if ip.to_canonical().is_multicast() => wrong("it is a group and no machine"),
        Ok(_) => Ok(()),
        Err(_) if host.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c)) => Ok(()),
        Err(_) => {
            wrong("a host is letters, digits, hyphens and dots; write one in other letters in its ASCII form, xn--…")
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(fd) = text.strip_prefix("fd:") {
            let number = fd.parse().ok().filter(|number: &RawFd| *number >= 0 && number.to_string() == fd);
            return number.map(Self::Fd).ok_or_else(|| format!("{text:?} is not fd:N with the number of a descriptor"));
        }
        text.parse().map(Self::Address).map_err(|_| format!("{text:?} is neither ADDRESS:PORT nor fd:N"))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Fd(fd) => write!(f, "fd:{fd}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_a_source_is_bounded_and_optional() {
        let folder = tempfile::tempdir().unwrap();
        let dir = LenderDir::single(folder.path());
        let load = |more: &str| {
            std::fs::write(dir.lender_toml(), format!("name = \"lab\"\nlisten = \"fd:3\"\n{more}")).unwrap();
            LenderConfig::load(&dir)
        };
        let config = load("").unwrap();
        assert_eq!((config.per_source, config.penalties), (8, true));
        let config = load("per_source = 128\npenalties = false\n").unwrap();
        assert_eq!((config.per_source, config.penalties), (128, false));
        std::fs::write(dir.lender_toml(), config.to_toml()).unwrap();
        assert_eq!(LenderConfig::load(&dir).unwrap(), config);
        for bad in ["per_source = 0", "per_source = 129", "per_source = -1", "penalties = 1"] {
            let error = load(bad).unwrap_err().to_string();
            assert!(error.contains("lender.toml"), "{error}");
        }
    }

    #[test]
    fn the_file_says_that_it_needs_a_restart_and_what_else_it_can_have() {
        let folder = tempfile::tempdir().unwrap();
        let dir = LenderDir::single(folder.path());
        std::fs::write(dir.lender_toml(), "name = \"lab\"\nlisten = \"fd:3\"\n").unwrap();
        let text = LenderConfig::load(&dir).unwrap().to_toml();
        assert!(text.contains("after a change restart it"), "{text}");
        // As an admin takes it from there, up to the words about it.
        for setting in ["per_source = 8", "penalties = true"] {
            assert!(text.contains(&format!("\n#   {setting}  ")), "{text}");
            std::fs::write(dir.lender_toml(), format!("{text}{setting}\n")).unwrap();
            assert_eq!(LenderConfig::load(&dir).unwrap().to_toml(), text, "the default");
        }
    }

    #[test]
    fn what_an_older_version_took_is_read_but_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let dir = LenderDir::single(folder.path());
        let load = |listen: &str, advertise: &str| {
            let text = format!("name = \"lab\"\nlisten = \"{listen}\"\nadvertise = [{advertise}]\n");
            std::fs::write(dir.lender_toml(), text).unwrap();
            LenderConfig::load(&dir)
        };
        assert_eq!(load("fd:03", r#""0.0.0.0:2278""#).unwrap().advertise, [""; 0], "found out from listen");
        let config = load("fd:03", r#""*:1", "lab.example:1", "[::]:1""#).unwrap();
        assert_eq!((config.listen, config.advertise), (Listen::Fd(3), vec!["lab.example:1".to_owned()]));
        for (listen, advertise) in
            [("fd:3", "\"lab\""), ("fd:3", "\"a:1\", \"a:2\", \"a:3\", \"a:4\", \"*:5\""), ("fd:-1", ""), ("fd:x", "")]
        {
            assert!(load(listen, advertise).is_err(), "{listen} {advertise}");
        }
        assert!(check_all_advertised(&["0.0.0.0:2278".to_owned()]).is_err());
    }

    #[test]
    fn what_is_advertised_can_be_connected_to() {
        for good in ["lab.example:2278", "10.0.0.1:1", "[fd00::1]:2278", "xn--bcher-kva.example:443", "my_host:1"] {
            check_advertised(good).unwrap();
        }
        for bad in [
            "",
            "lab",
            "lab:",
            "lab:0",
            "a b:1",
            "*:1",
            "0.0.0.0:1",
            "[::]:1",
            "[::ffff:0.0.0.0]:1",
            "224.0.0.1:1",
            "bücher:1",
            "a\n:1",
        ] {
            assert!(check_advertised(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_folder_of_the_door_is_the_lenders_own_before_it_is_made_and_by_its_real_name() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap().join("real");
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, folder.path().join("link")).unwrap();
        let door = Some(folder.path().join("link/capuchin/door.sock"));
        let dir = LenderDir { door, ..LenderDir::single(folder.path().join("lab")) };
        let own = dir.own_folders();
        for path in [folder.path().join("link/capuchin"), real.join("capuchin"), folder.path().join("lab")] {
            let path = LenderPath::parse(path.as_os_str().as_bytes()).unwrap();
            assert!(own.contains(&path), "{path:?} is not in {own:?}");
        }
    }

    #[test]
    fn listen_is_an_address_or_a_descriptor() {
        for text in ["0.0.0.0:2278", "[::]:0", "fd:3"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        for bad in ["", "2278", "localhost:1", "fd:", "fd:x", "fd:-1", "fd:+3", "fd:03", "fd:99999999999", ":2278"] {
            assert!(bad.parse::<Listen>().is_err(), "{bad}");
        }
    }
}
