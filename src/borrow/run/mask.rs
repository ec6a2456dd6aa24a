//! What a program under `run` sees in the place of this machine's own: the lender's resolver files, and nothing of the
//! services of this machine that would look up names, or act, outside.
//!
//! ```text
//!   private tmpfs ──▶ resolv.conf, hosts, nsswitch.conf      each over the file that a link leads to
//!                 ──▶ an empty folder, an empty file         over nscd, resolved, the buses, docker, tmux, doors …
//!                 ──▶ ssh_config and its drop-ins            as copies that ssh takes, for an unprivileged user
//! ```
//! Nothing of it is on a path of this machine: all of it is mounted in the program's mount namespace and goes with it.
//!
//! The C library would read a name of hosts(5) without asking anybody, and the lender could not know that the address
//! was asked for by name. So hosts has the lender's names of loopback alone; the rest is asked for like any other name
//! and answered from the lender's file.
//!
//! # Security
//! No packet leaves the network namespace, but a socket with a path is no packet: every service that looks up names or
//! starts programs for others must be covered here. What comes to be while the program runs is not covered where its
//! folder did not exist (of a tmux that was started meanwhile), and a single socket is bare again when its service makes
//! it anew (`/run/docker.sock` of a docker that was restarted).

mod masters;
mod places;
mod private;
mod ssh;
mod texts;

use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::CWD,
    mount::{MountPropagationFlags, mount_change, open_tree},
};

pub use self::places::sockets_below;
use self::private::{CLONE, Private, put};
use crate::proto::Machine;

/// What is put in the place of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    resolv_conf: String,
    hosts: String,
    /// Sockets of this machine that stay what they are.
    local_unix: Vec<PathBuf>,
}

/// What could not be put in its place.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct MaskError {
    what: String,
    source: io::Error,
}

impl MaskError {
    /// What the system said.
    pub fn into_source(self) -> io::Error {
        self.source
    }

    fn at(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |source| Self { what, source }
    }
}

/// The places of this machine that a program must not connect to, by their true paths, as they are now: sockets, and folders
/// with all that is in them; but for the sockets in `kept`.
pub fn covered(kept: &[&Path]) -> Vec<PathBuf> {
    places::covers(kept).into_keys().collect()
}

impl Mask {
    /// The mask for a lender's machine; the sockets of `local_unix` stay reachable.
    pub fn of(machine: &Machine, local_unix: &[PathBuf]) -> Self {
        let own_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self {
            resolv_conf: machine.resolv_conf(),
            hosts: texts::hosts(machine, &own_name),
            local_unix: local_unix.to_vec(),
        }
    }

    /// Mounts all of it. The caller is alone in its process, in a mount namespace of its own, and may mount there. What it
    /// gets is to be dropped when nobody waits any more.
    ///
    /// # Errors
    /// What could not be put in its place: the program must not run then.
    pub fn put_on(&self) -> Result<Private, MaskError> {
        // What is mounted outside still arrives; nothing that is mounted here leaves.
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
            .map_err(|error| MaskError::at("cannot keep mounts to ourselves")(error.into()))?;
        let kept = self.kept()?;
        let mut covers = places::covers(&kept.iter().map(|(path, _)| path.as_path()).collect::<Vec<_>>());
        let etc = places::EtcFiles::find();
        let below_etc = places::mounts_below_etc();
        let ssh = ssh::copies();
        let private = Private::mount().map_err(MaskError::at("cannot mount a private tmpfs"))?;
        self.write(&private, &etc, &covers).map_err(MaskError::at("cannot write private files"))?;
        if !etc.missing.is_empty() {
            // Without it the C library asks 127.0.0.1, where we are as well.
            if let Err(error) = private.lay_over_etc(&etc.missing, below_etc) {
                tracing::debug!(%error, "no overlay of /etc");
            }
        }
        for (name, place) in &etc.places {
            private.put(name, place).map_err(MaskError::at(place.display()))?;
        }
        for name in &etc.missing {
            let place = Path::new("/etc").join(name);
            if place.exists() {
                private.put(name, &place).map_err(MaskError::at(place.display()))?;
            }
        }
        ssh::put(&private, &ssh)?;
        // Folders before what is kept in them.
        for (place, cover) in std::mem::take(&mut covers) {
            private.put(&cover.source, &place).map_err(MaskError::at(place.display()))?;
        }
        for (place, tree) in kept {
            put(&tree, &place).map_err(MaskError::at(place.display()))?;
        }
        private.leave().map_err(MaskError::at("cannot leave the private tmpfs"))?;
        Ok(private)
    }

    /// Each socket that stays, by its true path, with a hold on it from before it is covered.
    fn kept(&self) -> Result<Vec<(PathBuf, OwnedFd)>, MaskError> {
        let hold = |given: &PathBuf| {
            let path = fs::canonicalize(given).map_err(MaskError::at(given.display()))?;
            let tree = open_tree(CWD, &path, CLONE).map_err(|error| MaskError::at(given.display())(error.into()))?;
            Ok((path, tree))
        };
        self.local_unix.iter().map(hold).collect()
    }

    /// Writes every file that will be mounted, or that has to stand in a folder that will.
    fn write(
        &self,
        private: &Private,
        etc: &places::EtcFiles,
        covers: &BTreeMap<PathBuf, places::Cover>,
    ) -> io::Result<()> {
        private.write(Path::new(places::EMPTY_FILE), b"", 0o444)?;
        for (place, cover) in covers {
            if let Some(mode) = cover.folder_mode {
                private.create_folder(&cover.source)?;
                private.set_mode(&cover.source, mode)?;
            }
            for kept in &cover.keeps {
                let inside = kept.strip_prefix(place).unwrap_or(kept);
                private.write(&cover.source.join(inside), b"", 0o600)?;
            }
        }
        for (name, text) in [
            ("resolv.conf", self.resolv_conf.clone()),
            ("hosts", self.hosts.clone()),
            ("nsswitch.conf", etc.nsswitch()),
        ] {
            private.write(Path::new(name), text.as_bytes(), 0o644)?;
            // A file that a link has put into a folder that is covered stands in what covers it.
            let Some(place) = etc.places.get(name) else { continue };
            if let Some((folder, cover)) =
                covers.iter().find(|(folder, cover)| cover.is_folder() && place.starts_with(folder))
            {
                let inside = place.strip_prefix(folder).unwrap_or(place);
                private.write(&cover.source.join(inside), text.as_bytes(), 0o644)?;
            }
        }
        Ok(())
    }
}
