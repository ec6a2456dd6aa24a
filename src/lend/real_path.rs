//! Where a path of the lender leads, and files at the end of such a way.
//!
//! # Security
//! Links are followed here, by hand, so that the policy judges where they lead. What is then opened is opened along that
//! way with no link at all: whoever puts a link in between gets ELOOP, and never what was not judged. What does not exist
//! is judged by where it would be, so that a refusal does not tell whether it does.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat2, readlinkat},
    io::Errno,
};

use crate::{
    policy::{Kind, LenderPath},
    session::SocketFile,
};

/// As many as the kernel follows (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// Whether a link at the end of a path is followed: to connect, yes; to create, no.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    Followed,
    Kept,
}

/// Follows every link of `path`. The second value is why the walk could not go on, where it could not: what is
/// behind that place stands as it was given.
pub(super) fn real_path(path: &LenderPath, last: Last) -> (LenderPath, Option<Errno>) {
    let mut ahead = Vec::new();
    push_ahead(&mut ahead, Path::new(OsStr::from_bytes(path.as_bytes())));
    let (mut done, mut links, mut stopped) = (PathBuf::from("/"), 0, None);
    while let Some(part) = ahead.pop() {
        if part == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&part);
        if stopped.is_none() && (last == Last::Followed || !ahead.is_empty()) {
            match readlinkat(CWD, &next, Vec::new()) {
                Ok(_) if links == LINKS_MAX => stopped = Some(Errno::LOOP),
                Ok(target) => {
                    links += 1;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        done = PathBuf::from("/");
                    }
                    push_ahead(&mut ahead, &target);
                    continue;
                }
                // It is there, and no link.
                Err(Errno::INVAL) => {}
                Err(errno) => stopped = Some(errno),
            }
        }
        done = next;
    }
    match LenderPath::parse(done.as_os_str().as_bytes()) {
        Ok(real) => (real, stopped),
        // Only its length can be wrong.
        Err(_) => (path.clone(), Some(Errno::NAMETOOLONG)),
    }
}

/// A pattern of an admin's for sockets, by where its links lead now: what is asked for is judged by that.
pub(super) fn real_pattern(kind: Kind, pattern: &str) -> String {
    let (path, all) = match pattern.strip_suffix("/*") {
        Some(folder) => (folder, "/*"),
        None => (pattern, ""),
    };
    let Ok(named) = LenderPath::parse(path) else { return pattern.to_owned() };
    match std::str::from_utf8(real_place(kind, &named, !all.is_empty()).as_bytes()) {
        Ok("/") if !all.is_empty() => all.to_owned(),
        Ok(real) if !real.contains('*') => format!("{real}{all}"),
        // No pattern can say it.
        Ok(_) | Err(_) => pattern.to_owned(),
    }
}

/// Where the links of a path that a rule names lead now; `all`: the rule is for what is directly in it.
pub(super) fn real_place(kind: Kind, named: &LenderPath, all: bool) -> LenderPath {
    let is_folder = || Path::new(OsStr::from_bytes(named.as_bytes())).is_dir();
    let last = match kind {
        // A socket is created in the place of a link, and not where that leads.
        Kind::UnixListen if !all && !is_folder() => Last::Kept,
        // A program goes by what it is called, which may be a link to one that is called otherwise.
        Kind::Exec => Last::Kept,
        _ => Last::Followed,
    };
    real_path(named, last).0
}

/// The parts of a path, so that its first is popped first.
fn push_ahead(ahead: &mut Vec<OsString>, path: &Path) {
    ahead.extend(path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    }));
}

/// Opens a place that was judged, if no link has come in the way: not its contents, only the place.
///
/// # Errors
/// ELOOP for a link, and what the system says.
fn open_place(path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS)
}

/// The Unix socket at a place that was judged, and the path by which it is connected to for as long as it is open: the very
/// file, whatever its own path leads to by then.
///
/// # Errors
/// As of [`open_place`]; ECONNREFUSED for what is no socket, as connect(2) says it.
pub(super) fn open_socket(path: &Path) -> io::Result<(OwnedFd, String)> {
    let place = open_place(path, OFlags::empty())?;
    match FileType::from_raw_mode(fstat(&place)?.st_mode) {
        FileType::Socket => {
            let address = format!("/proc/self/fd/{}", place.as_raw_fd());
            Ok((place, address))
        }
        _ => Err(Errno::CONNREFUSED.into()),
    }
}

/// Binds a Unix socket at a place that was judged, in the very folder.
///
/// # Errors
/// As of [`open_place`] and [`SocketFile::bind`]; EADDRINUSE for the root folder.
pub(super) fn bind_socket(path: &Path) -> io::Result<(OwnedFd, SocketFile)> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::ADDRINUSE.into()) };
    SocketFile::bind(open_place(folder, OFlags::DIRECTORY)?, name)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::symlink,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    use super::*;

    fn real(path: &Path, last: Last) -> (String, Option<Errno>) {
        let (real, stopped) = real_path(&LenderPath::parse(path.as_os_str().as_bytes()).unwrap(), last);
        (real.to_string(), stopped)
    }

    #[test]
    fn links_are_followed_to_where_they_lead_whether_it_exists_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "").unwrap();
        symlink("b/../b", root.join("a/relative")).unwrap();
        symlink(root.join("a"), root.join("absolute")).unwrap();
        symlink("/nowhere/x", root.join("dangling")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let text = |path: &str| root.join(path).to_str().unwrap().to_owned();
        for (path, leads, stopped) in [
            ("a/b/file", text("a/b/file"), None),
            ("absolute/relative/file", text("a/b/file"), None),
            ("absolute/relative/none/deep", text("a/b/none/deep"), Some(Errno::NOENT)),
            ("dangling", "/nowhere/x".to_owned(), Some(Errno::NOENT)),
            ("dangling/y", "/nowhere/x/y".to_owned(), Some(Errno::NOENT)),
            ("a/b/file/below", text("a/b/file/below"), Some(Errno::NOTDIR)),
        ] {
            assert_eq!(real(&root.join(path), Last::Followed), (leads, stopped), "{path}");
        }
        assert_eq!(real(&root.join("loop"), Last::Followed).1, Some(Errno::LOOP));
        assert_eq!(
            real(&root.join("dangling"), Last::Kept),
            (text("dangling"), None),
            "what is created is no link's end"
        );
    }

    #[test]
    fn a_pattern_is_one_for_where_its_links_lead() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::create_dir(root.join("run")).unwrap();
        symlink("run", root.join("var")).unwrap();
        symlink("elsewhere", root.join("run/link")).unwrap();
        symlink("/", root.join("all")).unwrap();
        symlink("a*", root.join("star")).unwrap();
        let at = |path: &str| root.join(path).to_str().unwrap().to_owned();
        for (kind, pattern, leads) in [
            (Kind::Unix, at("var/app.sock"), at("run/app.sock")),
            (Kind::Unix, at("var/*"), at("run/*")),
            (Kind::Unix, at("var/link"), at("run/elsewhere")),
            (Kind::UnixListen, at("var/link"), at("run/link")),
            (Kind::UnixListen, at("var"), at("run")),
            (Kind::Unix, at("all/*"), "/*".to_owned()),
            (Kind::Unix, at("star"), at("star")),
            (Kind::Unix, "/*".to_owned(), "/*".to_owned()),
        ] {
            assert_eq!(real_pattern(kind, &pattern), leads, "{kind} {pattern}");
        }
    }

    /// Attack 36: what is opened is what was judged, or nothing.
    #[test]
    fn a_link_swapped_in_behind_the_judgement_is_never_followed() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for place in ["open", "secret"] {
            fs::create_dir(root.join(place)).unwrap();
            fs::write(root.join(place).join("s"), place).unwrap();
        }
        fs::create_dir(root.join("other")).unwrap();
        symlink(root.join("secret"), root.join("link")).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let swapping = {
            let (root, stop) = (root.clone(), stop.clone());
            std::thread::spawn(move || {
                use rustix::fs::{RenameFlags, renameat_with};
                while !stop.load(Ordering::Relaxed) {
                    renameat_with(CWD, root.join("open"), CWD, root.join("link"), RenameFlags::EXCHANGE).unwrap();
                }
            })
        };
        let secret = fs::metadata(root.join("secret/s")).unwrap();
        let secret = std::os::unix::fs::MetadataExt::ino(&secret);
        let (asked, mut opened) = (root.join("open/s"), 0);
        for _ in 0..100_000 {
            let (judged, _) = real_path(&LenderPath::parse(asked.as_os_str().as_bytes()).unwrap(), Last::Followed);
            let judged = judged.to_string();
            let Ok(place) = open_place(Path::new(&judged), OFlags::empty()) else { continue };
            opened += 1;
            let is_secret = rustix::fs::fstat(&place).unwrap().st_ino == secret;
            assert_eq!(is_secret, judged.contains("/secret/"), "{judged} led elsewhere");
        }
        stop.store(true, Ordering::Relaxed);
        swapping.join().unwrap();
        assert!(opened > 0, "nothing was ever opened");
    }
}
