//! ssh(1) takes a file that its settings include only from root or from the user. In an unprivileged user namespace
//! root's files are nobody's, so that it would refuse to start: there it sees copies that are the user's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{MaskError, private::Private};

/// The settings of this machine.
pub(super) const MAIN: &str = "/etc/ssh/ssh_config";
const DROP_INS: &str = "/etc/ssh/ssh_config.d";
/// Files that are read: distributions have five.
pub(super) const FILES_MAX: usize = 64;
/// Longest file that is read, in bytes; settings of hundreds of hosts are shorter.
const FILE_BYTES_MAX: u64 = 256 * 1024;

/// Where it goes, and what it holds.
type FileCopy = (PathBuf, Vec<u8>);

/// What ssh reads on this machine, to be mounted over itself.
#[derive(Default)]
pub(super) struct Copies {
    /// The folder of drop-ins, if there is one.
    drop_ins: Option<(PathBuf, Vec<FileCopy>)>,
    /// Files by their true path.
    files: Vec<FileCopy>,
}

/// Reads them; root needs none.
pub(super) fn copies() -> Copies {
    if rustix::process::geteuid().is_root() {
        return Copies::default();
    }
    let drop_ins = fs::canonicalize(DROP_INS).ok().and_then(|folder| {
        let entries = fs::read_dir(&folder).ok()?;
        let files =
            entries.flatten().filter_map(|entry| Some((PathBuf::from(entry.file_name()), read(&entry.path())?)));
        Some((folder, files.take(FILES_MAX).collect::<Vec<_>>()))
    });
    let mut copies = Copies { drop_ins, files: Vec::new() };
    let mut included: Vec<PathBuf> = vec![MAIN.into()];
    included.extend(copies.drop_ins.iter().flat_map(|(_, files)| files).flat_map(|(_, text)| includes(text)));
    while let Some(path) = included.pop().filter(|_| copies.files.len() < FILES_MAX) {
        let Ok(place) = fs::canonicalize(path) else { continue };
        let is_in_folder = copies.drop_ins.as_ref().is_some_and(|(folder, _)| place.starts_with(folder));
        if is_in_folder || copies.files.iter().any(|(known, _)| *known == place) {
            continue;
        }
        if let Some(text) = read(&place) {
            included.extend(includes(&text));
            copies.files.push((place, text));
        }
    }
    copies
}

/// Puts the copies over the files.
pub(super) fn put(private: &Private, copies: &Copies) -> Result<(), MaskError> {
    let folder = Path::new("ssh");
    if let Some((place, files)) = &copies.drop_ins {
        let drop_ins = folder.join("drop-ins");
        private.create_folder(&drop_ins).map_err(MaskError::at(place.display()))?;
        for (name, text) in files {
            private.write(&drop_ins.join(name), text, 0o644).map_err(MaskError::at(place.display()))?;
        }
        private.put(&drop_ins, place).map_err(MaskError::at(place.display()))?;
    }
    for (number, (place, text)) in copies.files.iter().enumerate() {
        let copy = folder.join(number.to_string());
        private.write(&copy, text, 0o644).map_err(MaskError::at(place.display()))?;
        private.put(&copy, place).map_err(MaskError::at(place.display()))?;
    }
    Ok(())
}

/// A file of settings, if it is one and not too long.
pub(super) fn read(path: &Path) -> Option<Vec<u8>> {
    let known = fs::metadata(path).ok()?;
    (known.is_file() && known.len() <= FILE_BYTES_MAX).then(|| fs::read(path).ok()).flatten()
}

/// The words that lines of settings begin with and what stands behind them, without quotes.
pub(super) fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.trim().split_once([' ', '\t', '='])?;
        Some((key, value.trim_matches([' ', '\t', '=', '"'])))
    })
}

/// The absolute paths that settings include by name; those with wildcards are the folder of drop-ins.
fn includes(text: &[u8]) -> Vec<PathBuf> {
    let text = String::from_utf8_lossy(text);
    let included = lines(&text).filter(|(key, _)| key.eq_ignore_ascii_case("include"));
    let words = included.map(|(_, rest)| rest).flat_map(|rest| rest.split([' ', '\t', '=']));
    let words = words
        .map(|word| word.trim_matches('"'))
        .filter(|word| word.starts_with('/') && !word.contains(['*', '?', '[']));
    words.map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_settings_include_by_name_is_found() {
        let text = b"# Include /no\nHost *\n  Include /etc/crypto.config \"/etc/b\"\ninclude=/etc/c\nInclude /etc/d/*.conf ~/e\n";
        assert_eq!(includes(text), ["/etc/crypto.config", "/etc/b", "/etc/c"].map(PathBuf::from));
    }
}
