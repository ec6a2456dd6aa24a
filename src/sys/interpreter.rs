//! What a program needs besides its own file: the interpreter that its first line names, or the loader of an ELF file.

use std::{fs::File, io::Read, path::Path};

/// As much of a file as the kernel looks at, in bytes (BINPRM_BUF_SIZE of Linux 5.1 and newer).
const FIRST_BYTES: u64 = 256;

/// The interpreter of a file that is there, although execve(2) says ENOENT: then that is what is missing. Empty where the
/// file does not say it in words, as ELF does not, or may not be read. `None`: the file itself is missing.
pub fn interpreter_of_existing(file: &Path) -> Option<Vec<u8>> {
    file.metadata().ok()?;
    let mut first = Vec::new();
    // What cannot be read has no name for us.
    let _ = File::open(file).and_then(|file| file.take(FIRST_BYTES).read_to_end(&mut first));
    Some(named_in(&first).to_vec())
}

fn named_in(first: &[u8]) -> &[u8] {
    let Some(rest) = first.strip_prefix(b"#!") else { return &[] };
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let rest = rest.iter().position(|byte| !is_blank(byte)).and_then(|at| rest.get(at..)).unwrap_or_default();
    let ends = |byte: &u8| is_blank(byte) || matches!(byte, b'\n' | 0);
    rest.split(ends).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_names_the_interpreter() {
        let named: [(&[u8], &[u8]); 8] = [
            (b"#!/bin/sh\nexit\n", b"/bin/sh"),
            (b"#! \t/usr/bin/env python3 -u\n", b"/usr/bin/env"),
            (b"#!/bin/sh\r\n", b"/bin/sh\r"),
            (b"#!/bin/sh", b"/bin/sh"),
            (b"#!\n/bin/sh\n", b""),
            (b"#!", b""),
            (b"\x7fELF", b""),
            (b"", b""),
        ];
        for (first, interpreter) in named {
            assert_eq!(named_in(first), interpreter, "{:?}", String::from_utf8_lossy(first));
        }
    }

    #[test]
    fn a_file_that_is_missing_itself_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("script");
        assert_eq!(interpreter_of_existing(&file), None);
        std::fs::write(&file, "#!/no/such/shell\n").unwrap();
        assert_eq!(interpreter_of_existing(&file), Some(b"/no/such/shell".to_vec()));
    }
}
