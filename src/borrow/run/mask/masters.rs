//! The sockets by which this machine's ssh shares its connections (ControlPath of ssh_config(5)): whoever asks at one of them gets a
//! session of a connection that is outside.
//!
//! Those below `~/.ssh` are covered whatever they are called. Of the others the settings say where they are, with words for the host,
//! the port and the like: there is no telling which of these this program will ask for, and so each socket goes that fits.

use std::{
    env, fs,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt},
    path::{Path, PathBuf},
};

use super::ssh::{FILES_MAX, MAIN, lines, read};

/// Anything, in the place of what ssh fills in.
const ANYTHING: char = '\0';
/// Files and folders that fit one part of a path; a person has a few.
const FOUND_MAX: usize = 256;

/// The sockets of masters that the settings of the user with this home, and those of this machine, name.
pub(super) fn sockets(home: Option<&Path>) -> Vec<PathBuf> {
    let own = home.map(|home| home.join(".ssh/config"));
    let mut settings: Vec<PathBuf> = own.into_iter().chain([MAIN.into()]).collect();
    let (mut found, mut looked_at) = (Vec::new(), 0);
    while let Some(path) = settings.pop().filter(|_| looked_at < FILES_MAX) {
        looked_at += 1;
        let Some(text) = read(&path) else { continue };
        for (key, value) in lines(&String::from_utf8_lossy(&text)) {
            match key.to_ascii_lowercase().as_str() {
                "controlpath" => found.extend(written_out(value, home).as_deref().into_iter().flat_map(fitting)),
                "include" => settings.extend(included(value, home)),
                _ => {}
            }
        }
    }
    found.retain(|path: &PathBuf| fs::metadata(path).is_ok_and(|it| it.file_type().is_socket()));
    found
}

/// The files that one line includes.
fn included(value: &str, home: Option<&Path>) -> Vec<PathBuf> {
    let words = value.split([' ', '\t']).map(|word| word.trim_matches('"')).filter(|word| !word.is_empty());
    let whole = words.filter_map(|word| match word.strip_prefix("~/") {
        Some(rest) => Some(home?.join(rest)),
        // As ssh reads it in a user's file; one of the machine's names it whole.
        None => Some(home.map(|home| home.join(".ssh")).unwrap_or_default().join(word)),
    });
    whole.flat_map(|path| fitting(&path.to_string_lossy().replace(['*', '?'], "\0"))).collect()
}

/// A ControlPath with what is known filled in, and [`ANYTHING`] for the rest; `None` where it names no path.
fn written_out(value: &str, home: Option<&Path>) -> Option<String> {
    let at_home = home.map(|home| home.to_string_lossy().into_owned());
    let mut rest = value;
    let mut path = String::new();
    if let Some(below) = value.strip_prefix("~/") {
        path.push_str(at_home.as_deref()?);
        path.push('/');
        rest = below;
    }
    while let Some(at) = rest.find(['%', '$']) {
        let (before, token) = rest.split_at(at);
        path.push_str(before);
        if let Some((name, behind)) = token.strip_prefix("${").and_then(|token| token.split_once('}')) {
            path.push_str(&env::var(name).ok()?);
            rest = behind;
            continue;
        }
        let mut token = token.chars();
        match (token.next()?, token.next()) {
            ('%', Some('%')) => path.push('%'),
            ('%', Some('d')) => path.push_str(at_home.as_deref()?),
            ('%', Some('i')) => path.push_str(&rustix::process::getuid().as_raw().to_string()),
            ('%', Some(_)) => path.push(ANYTHING),
            (plain, _) => {
                path.push(plain);
                rest = &rest[at + 1..];
                continue;
            }
        }
        rest = token.as_str();
    }
    path.push_str(rest);
    path.starts_with('/').then_some(path)
}

/// Whatever is there at a path, of which parts may be anything.
fn fitting(path: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if !part.contains(ANYTHING) {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        }
        let entries = found.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
        let fits = entries.filter(|entry| is_fit(part.as_bytes(), entry.file_name().as_bytes()));
        found = fits.take(FOUND_MAX).map(|entry| entry.path()).collect();
    }
    found
}

/// Whether a name is `part`. As in a shell, anything does not begin with a dot.
fn is_fit(part: &[u8], name: &[u8]) -> bool {
    let mut words = part.split(|byte| *byte == ANYTHING as u8);
    let (first, last) = (words.next().unwrap_or_default(), words.next_back());
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let Some(last) = last else { return rest.is_empty() };
    if first.is_empty() && rest.starts_with(b".") {
        return false;
    }
    for word in words.filter(|word| !word.is_empty()) {
        let Some(at) = rest.windows(word.len()).position(|window| window == word) else { return false };
        rest = &rest[at + word.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_control_path_is_written_out_as_far_as_it_is_known() {
        let home = Path::new("/home/ana");
        let uid = rustix::process::getuid().as_raw();
        for (value, expected) in [
            ("~/.cache/ssh/%C", Some("/home/ana/.cache/ssh/\0".to_owned())),
            ("/tmp/ssh_mux_%h_%p_%r", Some("/tmp/ssh_mux_\0_\0_\0".to_owned())),
            ("/run/user/%i/100%%-$x/%d", Some(format!("/run/user/{uid}/100%-$x//home/ana"))),
            ("${NO_SUCH_VARIABLE_OF_OURS}/%C", None),
            ("none", None),
            ("/tmp/%", Some("/tmp/%".to_owned())),
            ("", None),
        ] {
            assert_eq!(written_out(value, Some(home)), expected, "{value}");
        }
        assert_eq!(written_out("~/m/%C", None), None);
    }

    #[test]
    fn a_name_fits_where_every_word_of_it_is_there_in_order() {
        for (part, name, fits) in [
            ("\0@\0:\0", "ana@lab:22", true),
            ("\0@\0:\0", "lab:22", false),
            ("mux_\0_\0", "mux_lab_22", true),
            ("mux_\0_\0", "mux_lab", false),
            ("\0", ".s.PGSQL.5432", false),
            ("ab\0ba", "aba", false),
            ("ab\0ba", "abba", true),
            ("plain", "plain", true),
            ("plain", "plainer", false),
        ] {
            assert_eq!(is_fit(part.as_bytes(), name.as_bytes()), fits, "{part:?} {name}");
        }
    }

    #[test]
    fn sockets_that_settings_name_are_found_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at(".ssh/config.d")).unwrap();
        fs::create_dir(at("m")).unwrap();
        fs::write(at(".ssh/config"), "Include config.d/*\nHost a\n  ControlPath none\n").unwrap();
        fs::write(at(".ssh/config.d/one"), "host b\n\tcontrolpath=\"~/m/%r@%h:%p\"\n").unwrap();
        let _open = ["m/ana@lab:22", "m/other"].map(|name| UnixListener::bind(at(name)).unwrap());
        fs::write(at("m/no@socket:22"), "").unwrap();
        assert_eq!(sockets(Some(folder.path())), [at("m/ana@lab:22")]);
    }
}
