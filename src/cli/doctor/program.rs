//! A program: will it work under `capuchin run`?

use std::{
    ffi::OsStr,
    fs::File,
    io::Read,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use super::{Check, machine::Mode};
use crate::borrow::run::{Way, find};

/// Read of a program, in bytes: its ELF header, and where its program headers nearly always are.
const HEAD_BYTES: u64 = 4096;
/// Longest capabilities of a file, in bytes (`struct vfs_ns_cap_data`).
const CAPABILITIES_BYTES: usize = 24;
/// Set-user-ID and set-group-ID.
const SET_ID: u32 = 0o6000;
// elf(5): the magic number, the class byte, and the program headers that name a dynamic loader.
const ELF: &[u8] = b"\x7fELF";
const CLASS_64: u8 = 2;
const PT_INTERP: u32 = 3;

/// What can be seen of it from outside, and how `run` would hold it on this machine.
pub fn checks(name: &OsStr, mode: Mode) -> Vec<Check> {
    let Some(path) = find(name) else {
        return vec![not_run(name)];
    };
    let shown = path.display();
    let (head, about) = match File::open(&path).and_then(|file| {
        let (about, mut head) = (file.metadata()?, Vec::new());
        file.take(HEAD_BYTES).read_to_end(&mut head)?;
        Ok((head, about))
    }) {
        Ok(read) => read,
        Err(error) => {
            let text = format!("{shown} cannot be read: {error}");
            let unread = Check::warn("program", text, "note: it may still run; nothing more can be said of it");
            return vec![unread, held(mode)];
        }
    };
    let kind = Kind::of(&head);
    let mut checks = vec![kind.check(&path), held(mode)];
    if let Some(lost) = kind.loses(mode) {
        checks.push(Check::warn("32 bits", format!("{shown} {lost}"), "help: run its build for 64 bits"));
    }
    let gains = match (about.mode() & SET_ID != 0, has_capabilities(&path)) {
        (true, _) => Some("is set-user-ID or set-group-ID"),
        (false, true) => Some("has capabilities of its own (getcap)"),
        (false, false) => None,
    };
    if let Some(gains) = gains {
        let text = format!("{shown} {gains}, and gains nothing under `capuchin run`");
        checks.push(Check::warn("set-id", text, "help: run capuchin itself as the user that the program needs"));
    }
    checks
}

/// Why a name leads to no program.
fn not_run(name: &OsStr) -> Check {
    let (path, shown) = (Path::new(name), name.to_string_lossy());
    // A bare name is looked for in PATH alone, as a shell does.
    let about = Some(path).filter(|path| path.components().count() > 1).and_then(|path| path.metadata().ok());
    let name_another = "name a program in PATH, or a path".to_owned();
    let (what, help) = match about {
        Some(about) if about.is_file() => ("cannot be executed", format!("chmod +x {shown}")),
        Some(_) => ("is not a file", name_another),
        None => ("is not found", name_another),
    };
    Check::fail("program", format!("{shown} {what}"), vec![format!("help: {help}")])
}

/// Whether it gives who runs it capabilities(7).
fn has_capabilities(path: &Path) -> bool {
    rustix::fs::getxattr(path, "security.capability", &mut [0_u8; CAPABILITIES_BYTES]).is_ok()
}

/// How it would run, and what would not work in it.
fn held(mode: Mode) -> Check {
    match mode {
        Mode::Namespaces(Way::Nftables) => {
            Check::ok("mode", "it would run in a network namespace of its own, led by nf_tables")
        }
        Mode::Namespaces(Way::Tun) => Check::warn(
            "mode",
            "it would run in a network namespace of its own, led by a TUN device: slower, and [::1] is the program's own",
            "help: sudo modprobe -a nf_tables nft_tproxy",
        ),
        Mode::Filter => Check::warn(
            "mode",
            "it would run with --no-netns alone, held by a filter of its calls: it listens on loopback alone, strangers' \
             datagrams do not come to it, and debuggers do not work in it",
            "help: mend what is named above, or add --no-netns (capuchin run --help says how it is weaker)",
        ),
        Mode::None => {
            let help = "help: mend what is named above; `capuchin forward` needs none of it".to_owned();
            Check::fail("mode", "it would not run: nothing on this machine can hold it", vec![help])
        }
        Mode::Nested => {
            Check::warn("mode", "it would not be given another network inside this one", "help: leave this one first")
        }
    }
}

/// What a program is; nothing is put into it, so that `run` treats all alike.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Script(String),
    /// And its loader.
    Dynamic(PathBuf),
    Static,
    Of32Bits,
    Unknown,
}

impl Kind {
    fn of(head: &[u8]) -> Self {
        if let Some(line) = head.strip_prefix(b"#!") {
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
            // What else is blank belongs to the name, as the kernel reads it.
            return Self::Script(String::from_utf8_lossy(line).trim_matches([' ', '\t']).to_owned());
        }
        if !head.starts_with(ELF) {
            return Self::Unknown;
        }
        match loader(head) {
            Some(Some(loader)) => Self::Dynamic(loader),
            Some(None) => Self::Static,
            None => Self::Of32Bits,
        }
    }

    fn check(&self, path: &Path) -> Check {
        let shown = path.display();
        let what = match self {
            Self::Script(line) => {
                if let Some(missing) = missing_of_script(line) {
                    let text = format!("{shown} is a script of {missing}, which is not there");
                    let help = match missing.strip_suffix('\r') {
                        Some(_) => format!("help: its lines end as another system's do: sed -i 's/\\r$//' {shown}"),
                        None => format!("help: install {missing}"),
                    };
                    return Check::fail("program", text, vec![help]);
                }
                format!("a script of {line}; it runs as it is")
            }
            Self::Dynamic(loader) if !loader.exists() => {
                let text = format!("{shown} needs the loader {}, which is not there", loader.display());
                let help = "help: install the C library that it was built for, or take its build for this system";
                return Check::fail("program", text, vec![help.to_owned()]);
            }
            Self::Dynamic(_) => "dynamic; it runs as it is".to_owned(),
            Self::Static => "static; it runs as it is".to_owned(),
            Self::Of32Bits => "of 32 bits; it runs as it is".to_owned(),
            Self::Unknown => {
                let text = format!("{shown} is no ELF program and no script");
                return Check::warn("program", text, "note: the kernel may refuse it");
            }
        };
        Check::ok("program", format!("{shown}: {what}"))
    }

    /// What does not work in it.
    fn loses(&self, mode: Mode) -> Option<&'static str> {
        match (self, mode) {
            (Self::Of32Bits, Mode::Filter) => Some("has no sockets at all under --no-netns"),
            (Self::Of32Bits, _) => {
                Some("can neither bind nor listen, and has no sockets if it makes them by socketcall(2)")
            }
            _ => None,
        }
    }
}

/// What the first line of a script names and is not there: its interpreter, or the program that env(1) looks for.
fn missing_of_script(line: &str) -> Option<&str> {
    let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
    let interpreter = words.next().unwrap_or_default();
    if !Path::new(interpreter).exists() {
        return Some(interpreter);
    }
    let is_env = Path::new(interpreter).file_name() == Some("env".as_ref());
    // Other options have words of their own.
    let looked_for = words.find(|word| *word != "-S" && !word.contains('='));
    let looked_for = looked_for.filter(|word| is_env && !word.starts_with('-'))?;
    find(looked_for.as_ref()).is_none().then_some(looked_for)
}

/// The loader that an ELF program of 64 bits names, if it does; the outer `None` for one of 32 bits.
fn loader(head: &[u8]) -> Option<Option<PathBuf>> {
    let at = |offset: usize, length: usize| head.get(offset..offset.checked_add(length)?);
    if head.get(4) != Some(&CLASS_64) {
        return None;
    }
    // Little-endian, as every architecture that `run` knows.
    let number =
        |offset, length| at(offset, length).map(|bytes| bytes.iter().rev().fold(0_u64, |n, b| n << 8 | u64::from(*b)));
    let (headers, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let header = (0..count).find_map(|index| {
        let offset = usize::try_from(headers.checked_add(index * size)?).ok()?;
        (number(offset, 4)? == u64::from(PT_INTERP)).then_some(offset)
    });
    let named = header.map(|header| {
        let place = |offset| number(header.checked_add(offset)?, 8).and_then(|number| usize::try_from(number).ok());
        let name = place(8).zip(place(32)).and_then(|(from, length)| at(from, length)).unwrap_or_default();
        PathBuf::from(OsStr::from_bytes(name.split(|byte| *byte == 0).next().unwrap_or_default()))
    });
    // One that lies further behind is believed to be there.
    Some(named.map(|loader| if loader.as_os_str().is_empty() { "/".into() } else { loader }))
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    const BEST: Mode = Mode::Namespaces(Way::Nftables);

    #[test]
    fn programs_are_told_apart_by_their_first_bytes() {
        assert!(matches!(Kind::of(&std::fs::read("/bin/sh").unwrap()), Kind::Dynamic(loader) if loader.exists()));
        assert_eq!(Kind::of(b"#!/bin/sh -e\nexit\n"), Kind::Script("/bin/sh -e".to_owned()));
        assert_eq!(Kind::of(b"hello"), Kind::Unknown);
        assert_eq!(Kind::of(b"\x7fELF\x01"), Kind::Of32Bits);
    }

    #[test]
    fn a_cut_or_lying_header_is_no_panic() {
        let own = std::fs::read("/bin/sh").unwrap();
        for length in 0..200 {
            Kind::of(&own[..length]);
        }
        let mut lying = own[..64].to_vec();
        lying[32..40].fill(0xff);
        lying[54..58].fill(0xff);
        assert_eq!(Kind::of(&lying), Kind::Static);
    }

    #[test]
    fn what_does_not_work_depends_on_how_it_is_held() {
        for (mode, state, word) in [
            (BEST, State::Ok, "nf_tables"),
            (Mode::Namespaces(Way::Tun), State::Warn, "TUN device"),
            (Mode::Filter, State::Warn, "--no-netns"),
            (Mode::Nested, State::Warn, "inside"),
            (Mode::None, State::Fail, "would not run"),
        ] {
            let Check { state: found, text, mend, .. } = held(mode);
            assert!(found == state && text.contains(word) && mend.is_empty() == (state == State::Ok), "{text}");
        }
        assert!(Kind::Of32Bits.loses(Mode::Filter).unwrap().contains("no sockets at all"));
        assert_eq!((Kind::Static.loses(Mode::Filter), Kind::Unknown.loses(BEST)), (None, None));
    }

    #[test]
    fn what_is_not_there_says_so() {
        assert_eq!(checks("no-such-program".as_ref(), BEST)[0].state, State::Fail);
    }

    #[test]
    fn what_is_there_and_is_no_program_is_not_called_missing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (path, word) in [("/dev/null".as_ref(), "not a file"), (file.path(), "cannot be executed")] {
            let Check { state, text, .. } = checks(path.as_os_str(), BEST).swap_remove(0);
            assert!(state == State::Fail && text.contains(word), "{text}");
        }
    }
}
