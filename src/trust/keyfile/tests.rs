use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    chmod(dir.path(), 0o700);
    dir
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o7777
}

/// A file of this mode in a folder of its own.
fn file(mode: u32) -> (tempfile::TempDir, PathBuf) {
    let dir = folder();
    let path = dir.path().join("client.key");
    std::fs::write(&path, b"key").unwrap();
    chmod(&path, mode);
    (dir, path)
}

#[test]
fn a_secret_is_read_back_and_is_for_its_owner_only() {
    let dir = folder();
    let path = dir.path().join("client.key");
    write(&path, b"first", SECRET_MODE).unwrap();
    write(&path, b"second", SECRET_MODE).unwrap();
    assert_eq!(read_secret(&path).unwrap().as_slice(), b"second");
    assert_eq!(mode_of(&path), 0o600);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing temporary stays behind");
}

#[test]
fn a_file_gets_the_mode_asked_for() {
    let dir = folder();
    let path = dir.path().join("ca.crt");
    write(&path, b"public", 0o644).unwrap();
    assert_eq!(mode_of(&path), 0o644);
}

#[test]
fn a_write_that_fails_leaves_the_old_file_and_nothing_else() {
    let dir = folder();
    let path = dir.path().join("client.key");
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(write(&path, b"key", SECRET_MODE), Err(KeyFileError::Io { verb: "write", .. })));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn writing_over_a_link_replaces_the_link_and_not_what_it_points_to() {
    let dir = folder();
    let (elsewhere, path) = (dir.path().join("elsewhere"), dir.path().join("client.key"));
    std::fs::write(&elsewhere, b"old").unwrap();
    symlink(&elsewhere, &path).unwrap();
    write(&path, b"new", SECRET_MODE).unwrap();
    assert_eq!(std::fs::read(&elsewhere).unwrap(), b"old");
    assert_eq!(read_secret(&path).unwrap().as_slice(), b"new");
}

#[test]
fn a_folder_is_made_for_its_owner_only_and_checked_when_it_exists() {
    let dir = folder();
    let path = dir.path().join("a/b");
    create_dir(&path).unwrap();
    assert_eq!((mode_of(&dir.path().join("a")), mode_of(&path)), (0o700, 0o700));
    create_dir(&path).unwrap();
    chmod(&path, 0o775);
    let error = create_dir(&path).unwrap_err().to_string();
    assert_eq!(error, format!("{0} is open to others (mode 0775): chmod go-w {0}", path.display()));
}

#[test]
fn a_secret_that_others_may_read_or_write_is_refused_with_the_chmod_that_mends_it() {
    for mode in [0o644, 0o640, 0o604, 0o620, 0o602, 0o610] {
        let (_dir, path) = file(mode);
        let error = read_secret(&path).unwrap_err().to_string();
        assert_eq!(error, format!("{0} is open to others (mode {mode:04o}): chmod 600 {0}", path.display()));
        chmod(&path, 0o600);
        assert_eq!(read_secret(&path).unwrap().as_slice(), b"key");
    }
}

#[test]
fn an_admin_file_may_be_read_by_all_but_written_by_nobody_else() {
    let (_dir, path) = file(0o644);
    assert_eq!(read_admin_file(&path).unwrap(), b"key");
    for mode in [0o664, 0o646] {
        chmod(&path, mode);
        let error = read_admin_file(&path).unwrap_err().to_string();
        assert!(error.ends_with(&format!("chmod go-w {}", path.display())), "{error}");
    }
}

#[test]
fn a_file_in_a_folder_that_others_may_write_to_is_refused_unless_the_folder_is_sticky() {
    let (dir, path) = file(0o600);
    chmod(dir.path(), 0o770);
    for read in [read_secret(&path).map(drop), read_admin_file(&path).map(drop), write(&path, b"x", SECRET_MODE)] {
        let error = read.unwrap_err().to_string();
        assert!(error.ends_with(&format!("chmod go-w {}", dir.path().display())), "{error}");
    }
    chmod(dir.path(), 0o1777);
    assert!(read_secret(&path).is_ok());
    chmod(dir.path(), 0o755);
    assert!(read_secret(&path).is_ok());
}

#[test]
fn a_linked_secret_is_refused() {
    let (dir, path) = file(0o600);
    let link = dir.path().join("link.key");
    symlink(&path, &link).unwrap();
    assert!(matches!(read_secret(&link), Err(KeyFileError::Symlink { .. })));
    assert!(matches!(read_admin_file(&link), Err(KeyFileError::Symlink { .. })));
    assert!(matches!(open_secret(&link), Err(KeyFileError::Symlink { .. })));
}

#[test]
fn a_pipe_or_a_folder_in_place_of_a_key_is_refused_at_once() {
    let dir = folder();
    let pipe = dir.path().join("pipe");
    fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    assert!(matches!(read_secret(&pipe), Err(KeyFileError::Kind { wanted: "plain file", .. })));
    assert!(matches!(read_secret(dir.path()), Err(KeyFileError::Kind { .. })));
    assert!(matches!(read_secret(Path::new("/")), Err(KeyFileError::Kind { .. })));
}

#[test]
fn someone_elses_file_is_refused_with_the_chown_that_mends_it() {
    let (_dir, path) = file(0o600);
    let stat = fs::stat(&path).unwrap();
    let we = stat.st_uid + 1;
    let error = Guard::Secret.judge(&path, &stat, we).unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "{0} belongs to uid {1}, not to uid {we}: do this as uid {1}, or chown {we} {0}",
            path.display(),
            stat.st_uid
        )
    );
}

#[test]
fn roots_file_is_fine_for_rules_and_folders_but_not_for_secrets() {
    let stat = |mode| {
        let mut stat = fs::stat("/").unwrap();
        (stat.st_uid, stat.st_mode) = (0, mode);
        stat
    };
    let path = Path::new("x");
    assert!(Guard::Secret.judge(path, &stat(0o100600), 1000).is_err());
    assert!(Guard::Admin.judge(path, &stat(0o100644), 1000).is_ok());
    assert!(Guard::Folder.judge(path, &stat(0o040755), 1000).is_ok());
    assert!(Guard::Folder.judge(path, &stat(0o041777), 1000).is_ok());
}

#[test]
fn a_file_beyond_the_bound_is_refused() {
    let (_dir, path) = file(0o600);
    std::fs::write(&path, vec![0; SECRET_FILE_MAX]).unwrap();
    assert_eq!(read_secret(&path).unwrap().len(), SECRET_FILE_MAX);
    std::fs::write(&path, vec![0; SECRET_FILE_MAX + 1]).unwrap();
    assert!(matches!(read_secret(&path), Err(KeyFileError::TooLarge { limit: SECRET_FILE_MAX, .. })));
    std::fs::write(&path, vec![0; ADMIN_FILE_MAX + 1]).unwrap();
    assert!(matches!(read_admin_file(&path), Err(KeyFileError::TooLarge { limit: ADMIN_FILE_MAX, .. })));
}

#[test]
fn a_missing_file_can_be_told_from_a_bad_one() {
    let dir = folder();
    assert!(read_secret(&dir.path().join("none")).unwrap_err().is_missing());
    assert!(read_secret(&dir.path().join("no/folder")).unwrap_err().is_missing());
    let (_dir, bad) = file(0o644);
    assert!(!read_secret(&bad).unwrap_err().is_missing());
}

#[test]
fn the_command_in_an_error_can_be_pasted_whatever_the_path() {
    assert_eq!(quoted(Path::new("/etc/capuchin/ca.key")), "/etc/capuchin/ca.key");
    assert_eq!(quoted(Path::new("/home/a b/$(x)'s")), r"'/home/a b/$(x)'\''s'");
}
