//! A program: will it work under `capuchin run`?

use std::{
    ffi::OsStr,
    fs::File,
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::Check;

/// Read of a program, in bytes: its ELF header, and where its program headers nearly always are.
const HEAD_BYTES: u64 = 4096;
/// Set-user-ID and set-group-ID.
const SET_ID: u32 = 0o6000;
// elf(5): the magic number, the class byte, and the program headers that name a dynamic loader.
const ELF: &[u8] = b"\x7fELF";
const CLASS_64: u8 = 2;
const PT_INTERP: u32 = 3;

/// What can be seen of it from outside.
pub fn checks(name: &OsStr) -> Vec<Check> {
    let Some(path) = find(name) else {
        let text = format!("{} is not found", name.to_string_lossy());
        return vec![Check::fail("program", text, vec!["help: name a program in PATH, or a path".to_owned()])];
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
            return vec![Check::warn("program", text, "note: it may still run; nothing more can be said of it")];
        }
    };
    let mut checks = vec![Check::ok("program", format!("{shown}: {}", kind(&head)))];
    if about.mode() & SET_ID != 0 {
        let text = format!("{shown} is set-user-ID or set-group-ID, and gains nothing under `capuchin run`");
        checks.push(Check::warn("set-id", text, "help: run capuchin itself as the user that the program needs"));
    }
    checks
}

/// What it is, and how `run` treats it: all alike, since nothing is put into it.
fn kind(head: &[u8]) -> String {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        return format!("a script of {}; it runs as it is", String::from_utf8_lossy(line).trim());
    }
    if !head.starts_with(ELF) {
        return "no ELF program and no script; the kernel may refuse it".to_owned();
    }
    match has_interpreter(head) {
        Some(true) => "dynamic; it runs as it is, in a network namespace of its own".to_owned(),
        Some(false) => "static; it runs as it is, in a network namespace of its own".to_owned(),
        None => "of 32 bits; it runs, but cannot open sockets that a second system call table would hide".to_owned(),
    }
}

/// Whether an ELF program of 64 bits names a loader; `None` for one of 32 bits.
fn has_interpreter(head: &[u8]) -> Option<bool> {
    let at = |offset: usize, length: usize| head.get(offset..offset.checked_add(length)?);
    if head.get(4) != Some(&CLASS_64) {
        return None;
    }
    // Little-endian, as every architecture that `run` knows.
    let number =
        |offset, length| at(offset, length).map(|bytes| bytes.iter().rev().fold(0_u64, |n, b| n << 8 | u64::from(*b)));
    let (headers, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let interpreter = (0..count).any(|index| {
        let offset = headers.checked_add(index * size).and_then(|offset| usize::try_from(offset).ok());
        offset.and_then(|offset| number(offset, 4)) == Some(u64::from(PT_INTERP))
    });
    Some(interpreter)
}

/// As a shell finds it.
fn find(name: &OsStr) -> Option<PathBuf> {
    let runs =
        |path: &Path| path.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0);
    if Path::new(name).components().count() > 1 {
        return Some(PathBuf::from(name)).filter(|path| runs(path));
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).map(|folder| folder.join(name)).find(|path| runs(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_is_dynamic_and_a_script_is_its_interpreters() {
        assert!(kind(&std::fs::read("/bin/sh").unwrap()).starts_with("dynamic"));
        assert_eq!(kind(b"#!/bin/sh -e\nexit\n"), "a script of /bin/sh -e; it runs as it is");
        assert!(kind(b"hello").contains("refuse"));
    }

    #[test]
    fn a_cut_or_lying_header_is_no_panic() {
        let own = std::fs::read("/bin/sh").unwrap();
        for length in 0..200 {
            kind(&own[..length]);
        }
        let mut lying = own[..64].to_vec();
        lying[32..40].fill(0xff);
        lying[54..58].fill(0xff);
        assert!(kind(&lying).starts_with("static"));
    }

    #[test]
    fn what_is_not_there_says_so() {
        assert_eq!(checks("no-such-program".as_ref())[0].state, super::super::State::Fail);
        assert_eq!(checks("/dev/null".as_ref())[0].state, super::super::State::Fail);
    }
}
