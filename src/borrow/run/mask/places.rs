//! Which places of this machine are covered, as they are when the program starts.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::{OsStr, OsString},
    fs,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::{FileTypeExt, MetadataExt},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{fs::CWD, mount::open_tree};

use super::{masters, private::CLONE, texts};
use crate::session;

/// Folders of services that look up names, start programs or containers, or speak for others.
const FOLDERS: [&str; 16] = [
    "/run/nscd",
    "/run/systemd/resolve",
    "/run/avahi-daemon",
    // On it resolved, systemd and the package managers answer whoever asks.
    "/run/dbus",
    "/run/podman",
    "/run/docker",
    "/run/buildkit",
    "/run/systemd/machine",
    "/run/libvirt",
    "/run/screen",
    "/run/uscreens",
    // A lender of this machine, whose door would open this machine's network again.
    "/run/capuchin",
    // So would the proxy of tor and of tailscale, and the ssh of this machine.
    "/run/tor",
    "/run/tailscale",
    "/run/ssh-unix-local",
    // Devices that send by themselves, whatever the namespace.
    "/dev/infiniband",
];
/// The same, below the user's runtime folder: the user's service manager, his editor, his terminals and what manages his windows
/// would start a program outside, and other sessions of capuchin lead to other networks.
const USER_FOLDERS: [&str; 13] = [
    "systemd",
    "podman",
    "libvirt",
    "containerd",
    "containerd-rootless",
    "buildkit",
    // Proxies of the session's bus.
    ".dbus-proxy",
    "emacs",
    "zellij",
    "wezterm",
    "i3",
    "hypr",
    "capuchin",
];
/// How the names of such sockets begin: of nvim, VS Code, sway, niri, Alacritty, foot, kitty and KDE.
const USER_SOCKETS_BEGIN: [&str; 8] =
    ["nvim.", "vscode-ipc-", "sway-ipc.", "niri.", "Alacritty-", "foot", "kitty", "kdeinit"];
/// And those of the system's services: one of them gives whoever asks a device of this machine's network (systemd-nsresourced).
const SYSTEMD: (&str, [&str; 1]) = ("/run/systemd", ["io.systemd."]);
/// Sockets of such services in folders that others need.
const SOCKETS: [&str; 17] = [
    "/run/docker.sock",
    "/run/cri-dockerd.sock",
    "/run/containerd/containerd.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/systemd/private",
    "/run/snapd.socket",
    "/run/snapd-snap.socket",
    "/var/lib/lxd/unix.socket",
    "/var/snap/lxd/common/lxd/unix.socket",
    "/var/lib/incus/unix.socket",
    "/run/multipass_socket",
    "/var/snap/multipass/common/multipass_socket",
    // Whoever asks it prints at any address (CUPS-Create-Local-Printer).
    "/run/cups/cups.sock",
    // They fetch for who builds.
    "/nix/var/nix/daemon-socket/socket",
    "/var/guix/daemon-socket/socket",
    // By it a process is a machine beside this one.
    "/dev/vhost-vsock",
];
/// The directory manager of GnuPG fetches keys from the network.
const USER_SOCKETS: [&str; 3] = ["bus", "docker.sock", "gnupg/S.dirmngr"];
const HOME_SOCKETS: [&str; 3] = [".docker/run/docker.sock", ".docker/desktop/docker.sock", ".gnupg/S.dirmngr"];
/// Folders with sockets by which ssh, and ansible, share connections with who asks, and pm2 and urxvt's daemon start programs for him.
const HOME_FOLDERS: [&str; 5] = [".ssh", ".ansible/cp", ".ansible/pc", ".pm2", ".urxvt"];
/// Variables that say where such a socket is.
const SOCKET_VARIABLES: [&str; 14] = [
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_SYSTEM_BUS_ADDRESS",
    "DOCKER_HOST",
    "CONTAINER_HOST",
    "NVIM",
    "NVIM_LISTEN_ADDRESS",
    "VSCODE_IPC_HOOK_CLI",
    "SWAYSOCK",
    "I3SOCK",
    "NIRI_SOCKET",
    "ALACRITTY_SOCKET",
    "WEZTERM_UNIX_SOCKET",
    "KITTY_LISTEN_ON",
    "RXVT_SOCKET",
];
/// Where ssh's shared connections are, and in folders: a few levels are looked through, and no more sockets found than a person opens.
const FOLDER_DEPTH: usize = 2;
const SOCKETS_MAX: usize = 256;
/// What covers a socket, in the private tmpfs: a connect() to a file that is no socket is refused.
pub(super) const EMPTY_FILE: &str = "empty";
/// Mounts below /etc that are kept: a container has three.
const BELOW_ETC_MAX: usize = 64;

/// What covers one place.
#[derive(Debug, PartialEq)]
pub(super) struct Cover {
    /// Its name in the private tmpfs.
    pub(super) source: PathBuf,
    /// Of a folder: who may look into it.
    pub(super) folder_mode: Option<u32>,
    /// Sockets in it that stay what they are.
    pub(super) keeps: Vec<PathBuf>,
}

impl Cover {
    pub(super) fn is_folder(&self) -> bool {
        self.folder_mode.is_some()
    }
}

/// What is covered, by its true path, but for the sockets in `kept`.
pub(super) fn covers(kept: &[&Path]) -> BTreeMap<PathBuf, Cover> {
    let homes = home_folders();
    let runtime = runtime_folders(&homes);
    let below = |folder: &Path, names: &[&str]| names.iter().map(|name| folder.join(name)).collect::<Vec<_>>();
    let below_runtime = |names: &'static [&str]| runtime.iter().flat_map(move |folder| below(folder, names));
    let below_homes = |names: &'static [&str]| homes.iter().flat_map(move |home| below(home, names));
    let folders = by_both_names(&FOLDERS).chain(below_runtime(&USER_FOLDERS)).chain(own_folders(&homes));
    let mut covers = BTreeMap::new();
    // What is not there, or where we may not look, can be reached by nobody here.
    for place in folders.filter_map(|path| fs::canonicalize(path).ok()).filter(|path| path.is_dir()) {
        let source = PathBuf::from(format!("cover-{}", covers.len()));
        let keeps = kept.iter().filter(|path| path.starts_with(&place)).map(|path| path.to_path_buf()).collect();
        // Whose it is looks at its mode before he makes a socket of his own in it, as tmux does.
        let mode = fs::metadata(&place).map_or(0o755, |found| found.mode() & 0o777);
        covers.entry(place).or_insert(Cover { source, folder_mode: Some(mode), keeps });
    }
    let (systemd, begins) = SYSTEMD;
    let sockets = by_both_names(&SOCKETS).chain(sockets_that_begin(Path::new(systemd), &begins));
    let sockets = sockets.chain(below_runtime(&USER_SOCKETS));
    let sockets = sockets.chain(runtime.iter().flat_map(|folder| sockets_that_begin(folder, &USER_SOCKETS_BEGIN)));
    let sockets = sockets.chain(below_homes(&HOME_SOCKETS));
    let named = SOCKET_VARIABLES.iter().filter_map(env::var_os).flat_map(|value| socket_paths(value.as_bytes()));
    // The socket, the server's process and the session.
    let tmux =
        env::var_os("TMUX").and_then(|value| Some(value.as_bytes().split(|byte| *byte == b',').next()?.to_vec()));
    let named = named.chain(lender_sockets(&homes));
    let named = named.chain(tmux.map(|path| PathBuf::from(OsString::from_vec(path))));
    // An agent has keys and no network, wherever its socket is.
    let agent = env::var_os("SSH_AUTH_SOCK").and_then(|path| fs::canonicalize(path).ok());
    let at_home = below_homes(&HOME_FOLDERS).flat_map(|folder| sockets_below(&folder));
    // Without a home there are this machine's settings.
    let owners = homes.iter().map(|home| Some(home.as_path())).chain(homes.is_empty().then_some(None));
    let ssh = at_home.chain(owners.flat_map(masters::sockets));
    let ssh = ssh.filter(|path| agent.is_none() || fs::canonicalize(path).ok() != agent);
    for place in
        sockets.chain(named).chain(ssh).filter_map(|path| fs::canonicalize(path).ok()).filter(|path| !path.is_dir())
    {
        let is_covered = covers.iter().any(|(folder, cover)| cover.is_folder() && place.starts_with(folder));
        if !is_covered && !kept.contains(&place.as_path()) {
            covers.insert(place, Cover { source: EMPTY_FILE.into(), folder_mode: None, keeps: Vec::new() });
        }
    }
    covers
}

/// Places of /run by their old name as well, where that is no link but a mount of its own.
fn by_both_names(places: &'static [&'static str]) -> impl Iterator<Item = PathBuf> {
    places.iter().flat_map(|place| [PathBuf::from(place), Path::new("/var").join(place.trim_start_matches('/'))])
}

/// The sockets in a folder whose names begin in one of these ways.
fn sockets_that_begin(folder: &Path, begins: &[&str]) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let begins = |name: &OsStr| begins.iter().any(|begin| name.as_bytes().starts_with(begin.as_bytes()));
    let found = entries.filter(|entry| begins(&entry.file_name()));
    let found = found.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    found.take(SOCKETS_MAX).map(|entry| entry.path()).collect()
}

/// Where the user's services have their sockets: the folder that a variable names, the one that his service manager was given, which
/// does not ask that variable of ours, and where ours have theirs without either.
fn runtime_folders(homes: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let of_login = format!("/run/user/{}", rustix::process::getuid().as_raw());
    let states = homes.iter().map(|home| home.join(".local/state")).chain(session::state_folder());
    let of_states = states.map(|state| state.join("run"));
    session::runtime_folder().into_iter().chain([of_login.into()]).chain(of_states).collect()
}

/// Where the user's programs have their sockets: in the home that a variable names, and in the one that he has.
fn home_folders() -> BTreeSet<PathBuf> {
    session::home_folder().into_iter().chain(session::listed_home()).collect()
}

/// Folders of tmux and of screen: where variables say, and where they are without.
fn own_folders(homes: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let named = session::folder_named_by;
    let tmux = format!("tmux-{}", rustix::process::getuid().as_raw());
    let of_tmux = named("TMUX_TMPDIR").into_iter().chain(["/tmp".into()]).map(|folder| folder.join(&tmux));
    // Anybody may make one of this name in /tmp: a link of his would have what it leads to covered, and tmux takes it no more than we.
    let of_tmux = of_tmux.filter(|path| {
        let found = fs::symlink_metadata(path);
        found.is_ok_and(|found| found.is_dir() && found.uid() == rustix::process::getuid().as_raw())
    });
    let of_screen = homes.iter().map(|home| home.join(".screen"));
    of_tmux.chain(named("SCREENDIR")).chain(of_screen).collect()
}

/// The sockets of a lender of this machine in its own folder: the one that was named, where this user's lies, and root's.
fn lender_sockets(homes: &BTreeSet<PathBuf>) -> impl Iterator<Item = PathBuf> {
    let named = env::var_os("CAPUCHIND_DIR").filter(|value| !value.is_empty()).map(PathBuf::from);
    let configs = homes.iter().map(|home| home.join(".config")).chain(session::config_folder());
    let own = configs.map(|config| config.join("capuchin/lender"));
    let folders = named.into_iter().chain(own).chain(["/var/lib/capuchin".into()]);
    folders.flat_map(|folder| ["door.sock", "admin.sock"].map(|name| folder.join(name)))
}

/// Every socket in a folder, and a few levels below it; of what is no folder, none.
pub fn sockets_below(folder: &Path) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![(folder.to_owned(), 0)]);
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_socket() && found.len() < SOCKETS_MAX => found.push(entry.path()),
                Ok(kind) if kind.is_dir() && depth < FOLDER_DEPTH => folders.push((entry.path(), depth + 1)),
                _ => {}
            }
        }
    }
    found
}

/// The paths in addresses of D-Bus (`unix:path=/run/user/1000/bus,guid=…;…`), of docker (`unix:///run/docker.sock`), of kitty
/// (`unix:/tmp/kitty`), and a path as it is.
fn socket_paths(addresses: &[u8]) -> Vec<PathBuf> {
    let path = |address: &[u8]| {
        let path = match address.strip_prefix(b"unix:") {
            None => address,
            Some(rest) if rest.starts_with(b"/") => rest.strip_prefix(b"//").unwrap_or(rest),
            Some(rest) => rest.split(|byte| *byte == b',').find_map(|pair| pair.strip_prefix(b"path="))?,
        };
        Some(PathBuf::from(OsStr::from_bytes(path)))
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
    let places = table.lines().filter_map(|line| line.split(' ').nth(4)).filter(|place| place.starts_with("/etc/"));
    // A place with a space in it is written in another way there, and is not found.
    places.take(BELOW_ETC_MAX).filter_map(|place| Some((place.into(), open_tree(CWD, place, CLONE).ok()?))).collect()
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
            ("unix:/tmp/kitty", &["/tmp/kitty"]),
            ("/run/user/1000/nvim.1.0", &["/run/user/1000/nvim.1.0"]),
            ("tcp://127.0.0.1:2375", &[]),
            ("unix:path=relative", &[]),
            ("", &[]),
        ] {
            let expected: Vec<_> = expected.iter().map(PathBuf::from).collect();
            assert_eq!(socket_paths(text.as_bytes()), expected, "{text}");
        }
    }
}
