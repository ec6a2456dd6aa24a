//! Finds the file of a program, as `execvp` does with the PATH that programs are given.
//!
//! # Security
//! What a program may be is known from its name alone, and is judged before anything is looked at. What is then seen
//! decides between those files only that the user may run, so that no answer tells what the others are.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Access, access};

use super::environment::PATH;
use crate::policy::LenderPath;

/// The folder of PATH that most programs are in: of a name that is refused, it says best what was meant.
const USUAL: &str = "/usr/bin";

/// The files that a program may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Candidates {
    /// In the order in which they count; never empty.
    pub(super) paths: Vec<LenderPath>,
    /// Which of them stands for all in a refusal.
    pub(super) usual: usize,
    /// It was named by a path: the system says what is wrong with that file, and not we.
    pub(super) is_path: bool,
}

/// What lies at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Where it really is, if that is elsewhere.
    pub(super) real: Option<LenderPath>,
    /// It is a file that can be executed.
    pub(super) is_program: bool,
}

impl Candidates {
    /// Those of `program`: a name without a slash in PATH, another from `folder` on. `None`: no file is called so.
    pub(super) fn of(program: &[u8], folder: &Path) -> Option<Self> {
        let named = Path::new(OsStr::from_bytes(program));
        if program.is_empty() {
            return None;
        }
        let lender = |path: &Path| LenderPath::parse(path.as_os_str().as_bytes()).ok();
        if program.contains(&b'/') {
            return Some(Self { paths: vec![lender(&plain(&folder.join(named)))?], usual: 0, is_path: true });
        }
        let paths: Option<Vec<_>> = PATH.split(':').map(|folder| lender(&Path::new(folder).join(named))).collect();
        let usual = PATH.split(':').position(|folder| folder == USUAL).unwrap_or(0);
        Some(Self { paths: paths?, usual, is_path: false })
    }
}

/// Looks at a file. It waits for the file system, which may be another machine's.
pub(super) fn look(path: &LenderPath) -> Seen {
    let path = Path::new(OsStr::from_bytes(path.as_bytes()));
    let real = path.canonicalize().ok().filter(|real| real != path);
    Seen {
        real: real.and_then(|real| LenderPath::parse(real.as_os_str().as_bytes()).ok()),
        is_program: path.is_file() && access(path, Access::EXEC_OK).is_ok(),
    }
}

/// Without `.` and `..`, by the letters alone: what is run is the plain path, so that links make no difference.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => plain.push(name),
            Component::ParentDir => drop(plain.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(program: &str, folder: &str) -> Vec<String> {
        let candidates = Candidates::of(program.as_bytes(), Path::new(folder)).unwrap();
        candidates.paths.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_name_is_looked_for_in_path_and_a_path_is_taken_from_the_folder() {
        let found = paths("git", "/nowhere");
        assert_eq!(found, PATH.split(':').map(|folder| format!("{folder}/git")).collect::<Vec<_>>());
        assert_eq!(found[Candidates::of(b"git", Path::new("/")).unwrap().usual], "/usr/bin/git");
        assert_eq!(paths("./x", "/srv/a"), ["/srv/a/x"]);
        assert_eq!(paths("../b/./x", "/srv/a"), ["/srv/b/x"]);
        assert_eq!(paths("/../../etc//x/", "/srv"), ["/etc/x"]);
        for none in [&b""[..], b"a\0b", b"..", &[b'x'; 5000]] {
            assert_eq!(Candidates::of(none, Path::new("/")), None);
        }
    }

    #[test]
    fn what_lies_there_and_where_a_link_leads_is_seen() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        std::fs::write(folder.join("real"), "").unwrap();
        std::fs::set_permissions(folder.join("real"), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(folder.join("text"), "").unwrap();
        symlink("real", folder.join("link")).unwrap();
        let seen = |name: &str| look(&LenderPath::parse(folder.join(name).as_os_str().as_bytes()).unwrap());
        let real = LenderPath::parse(folder.join("real").as_os_str().as_bytes()).unwrap();
        assert_eq!(seen("link"), Seen { real: Some(real), is_program: true });
        assert_eq!(seen("real"), Seen { real: None, is_program: true });
        for none in ["text", "missing", "."] {
            let path = LenderPath::parse(folder.join(none).as_os_str().as_bytes());
            assert!(path.is_err() || look(&path.unwrap()) == Seen { real: None, is_program: false }, "{none}");
        }
    }
}
