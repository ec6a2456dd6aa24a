//! Finds the file of a program, as `execvp` does with the PATH that programs are given.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Access, access};

use super::environment::PATH;
use crate::policy::LenderPath;

/// A program file: as it is named, and where it really is if that is elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: LenderPath,
    pub(super) real: Option<LenderPath>,
}

/// Finds `program`; a name without a slash in PATH, another from `folder` on. `None`: there is none.
///
/// A path is found whether or not there is a file: the policy judges it first, and what the system then says of it is
/// said to who may run it.
pub(super) fn find(program: &[u8], folder: &Path) -> Option<Found> {
    let named = Path::new(OsStr::from_bytes(program));
    if program.is_empty() || program.contains(&0) {
        return None;
    }
    let path = if program.contains(&b'/') {
        plain(&folder.join(named))
    } else {
        let mut candidates = PATH.split(':').map(|folder| Path::new(folder).join(named));
        candidates.find(|path| path.is_file() && access(path, Access::EXEC_OK).is_ok())?
    };
    let real = path.canonicalize().ok().filter(|real| *real != path);
    let lender = |path: PathBuf| LenderPath::parse(path.as_os_str().as_bytes()).ok();
    Some(Found { path: lender(path)?, real: real.and_then(lender) })
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

    fn found(program: &str, folder: &str) -> Option<String> {
        find(program.as_bytes(), Path::new(folder)).map(|found| found.path.to_string())
    }

    #[test]
    fn a_name_is_looked_for_in_path_and_a_path_is_taken_from_the_folder() {
        assert!(found("sh", "/nowhere").unwrap().ends_with("/sh"));
        assert_eq!(found("no-such-program-here", "/bin"), None, "the folder is not searched");
        assert_eq!(found("./x", "/srv/a").unwrap(), "/srv/a/x");
        assert_eq!(found("../b/./x", "/srv/a").unwrap(), "/srv/b/x");
        assert_eq!(found("/../../etc//x/", "/srv").unwrap(), "/etc/x");
        for none in ["", "a\0b"] {
            assert_eq!(found(none, "/"), None);
        }
    }

    #[test]
    fn where_a_link_leads_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        std::fs::write(folder.join("real"), "").unwrap();
        std::os::unix::fs::symlink("real", folder.join("link")).unwrap();
        let found = |name: &str| find(format!("./{name}").as_bytes(), &folder).unwrap();
        assert_eq!(found("link").real.unwrap().to_string(), folder.join("real").display().to_string());
        assert_eq!(found("real").real, None);
        assert_eq!(found("missing").real, None);
    }
}
