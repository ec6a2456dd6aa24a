//! Which places of this machine are covered, as they are when the program starts.

use std::{
    collections::BTreeMap,
    env, fs,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::CWD,
    mount::{OpenTreeFlags, open_tree},
};

use super::texts;

/// Folders of services that look up names, start programs or containers, or speak for others.
const FOLDERS: [&str; 7] = [
    "/run/nscd",
    "/var/run/nscd",
    "/run/systemd/resolve",
    "/run/avahi-daemon",
    // On it resolved, systemd and the package managers answer whoever asks.
    "/run/dbus",
    "/run/podman",
    "/run/systemd/machine",
];
/// The same, below the user's runtime folder: the user's service manager would start a program outside.
const USER_FOLDERS: [&str; 2] = ["systemd", "podman"];
/// Sockets of such services in folders that others need.
const SOCKETS: [&str; 5] = [
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/systemd/private",
];
const USER_SOCKETS: [&str; 2] = ["bus", "docker.sock"];
const HOME_SOCKETS: [&str; 2] = [".docker/run/docker.sock", ".docker/desktop/docker.sock"];
/// Variables that say where such a socket is.
const SOCKET_VARIABLES: [&str; 4] =
    ["DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS", "DOCKER_HOST", "CONTAINER_HOST"];
/// What covers a socket, in the private tmpfs: a connect() to a file that is no socket is refused.
pub(super) const EMPTY_FILE: &str = "empty";
/// Mounts below /etc that are kept: a container has three.
const BELOW_ETC_MAX: usize = 64;

/// What covers one place.
#[derive(Debug, PartialEq)]
pub(super) struct Cover {
    /// Its name in the private tmpfs.
    pub(super) source: PathBuf,
    pub(super) is_folder: bool,
    /// Sockets in it that stay what they are.
    pub(super) keeps: Vec<PathBuf>,
}

/// What is covered, by its true path, but for the sockets in `kept`.
pub(super) fn covers(kept: &[&Path]) -> BTreeMap<PathBuf, Cover> {
    let runtime = runtime_folder();
    let home = env::var_os("HOME").map(PathBuf::from);
    let below = |folder: &Path, names: &[&str]| names.iter().map(|name| folder.join(name)).collect::<Vec<_>>();
    let folders = FOLDERS.map(PathBuf::from).into_iter().chain(below(&runtime, &USER_FOLDERS));
    let mut covers = BTreeMap::new();
    // What is not there, or where we may not look, can be reached by nobody here.
    for place in folders.filter_map(|path| fs::canonicalize(path).ok()).filter(|path| path.is_dir()) {
        let source = PathBuf::from(format!("cover-{}", covers.len()));
        let keeps = kept.iter().filter(|path| path.starts_with(&place)).map(|path| path.to_path_buf()).collect();
        covers.entry(place).or_insert(Cover { source, is_folder: true, keeps });
    }
    let sockets = SOCKETS.map(PathBuf::from).into_iter().chain(below(&runtime, &USER_SOCKETS));
    let sockets = sockets.chain(home.iter().flat_map(|home| below(home, &HOME_SOCKETS)));
    let named = SOCKET_VARIABLES.iter().filter_map(env::var_os).flat_map(|value| socket_paths(value.as_bytes()));
    for place in sockets.chain(named).filter_map(|path| fs::canonicalize(path).ok()).filter(|path| !path.is_dir()) {
        let is_covered = covers.iter().any(|(folder, cover)| cover.is_folder && place.starts_with(folder));
        if !is_covered && !kept.contains(&place.as_path()) {
            covers.insert(place, Cover { source: EMPTY_FILE.into(), is_folder: false, keeps: Vec::new() });
        }
    }
    covers
}

fn runtime_folder() -> PathBuf {
    let named = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    named.unwrap_or_else(|| format!("/run/user/{}", rustix::process::getuid().as_raw()).into())
}

/// The paths in addresses of D-Bus (`unix:path=/run/user/1000/bus,guid=…;…`) and of docker (`unix:///run/docker.sock`).
fn socket_paths(addresses: &[u8]) -> Vec<PathBuf> {
    let path = |address: &[u8]| {
        let rest = address.strip_prefix(b"unix:")?;
        let path = match rest.strip_prefix(b"//") {
            Some(path) => path,
            None => rest.split(|byte| *byte == b',').find_map(|pair| pair.strip_prefix(b"path="))?,
        };
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(path)))
    };
    addresses.split(|byte| *byte == b';').filter_map(path).filter(|path| path.is_absolute()).collect()
}

/// The files of /etc that a resolver library reads.
#[derive(Debug)]
pub(super) struct EtcFiles {
    /// Where each of them really is.
    pub(super) places: BTreeMap<&'static str, PathBuf>,
    /// Those that are not there, or only as a link that leads nowhere.
    pub(super) missing: Vec<&'static str>,
    nsswitch: String,
}

impl EtcFiles {
    pub(super) fn find() -> Self {
        let (mut places, mut missing) = (BTreeMap::new(), Vec::new());
        for name in ["resolv.conf", "hosts", "nsswitch.conf"] {
            match fs::canonicalize(Path::new("/etc").join(name)) {
                Ok(place) => drop(places.insert(name, place)),
                // Without it, the C library reads hosts and asks the resolvers, as ours would say.
                Err(_) if name == "nsswitch.conf" => {}
                Err(_) => missing.push(name),
            }
        }
        let nsswitch = fs::read("/etc/nsswitch.conf").unwrap_or_default();
        Self { places, missing, nsswitch: texts::nsswitch(&String::from_utf8_lossy(&nsswitch)) }
    }

    /// This machine's nsswitch.conf, with names from files and resolvers only.
    pub(super) fn nsswitch(&self) -> String {
        self.nsswitch.clone()
    }
}

/// What is mounted below /etc, held so that it can be mounted again.
pub(super) fn mounts_below_etc() -> Vec<(PathBuf, OwnedFd)> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let places = table.lines().filter_map(|line| line.split(' ').nth(4)).filter(|place| place.starts_with("/etc/"));
    // A place with a space in it is written in another way there, and is not found.
    places.take(BELOW_ETC_MAX).filter_map(|place| Some((place.into(), open_tree(CWD, place, flags).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_in_addresses() {
        for (text, expected) in [
            ("unix:path=/run/user/1000/bus", &["/run/user/1000/bus"][..]),
            ("unix:guid=7,path=/tmp/a;unix:abstract=/tmp/b;unix:path=/tmp/c,guid=1", &["/tmp/a", "/tmp/c"]),
            ("unix:///run/docker.sock", &["/run/docker.sock"]),
            ("tcp://127.0.0.1:2375", &[]),
            ("unix:path=relative", &[]),
            ("", &[]),
        ] {
            let expected: Vec<_> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(socket_paths(text.as_bytes()), expected, "{text}");
        }
    }
}
