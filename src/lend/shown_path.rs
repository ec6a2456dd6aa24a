//! A path as it stands in a line for a person.

use std::fmt::Write;

use crate::{proto::REFUSAL_TEXT_MAX, sys::WHAT_BYTES_MAX};

/// Longest such path, in bytes, without the mark that says it goes on.
const SHOWN_BYTES_MAX: usize = 384;
/// Two paths leave room in a refusal for what is said of them: the error stands last.
const _: () = assert!(2 * (SHOWN_BYTES_MAX + '…'.len_utf8()) + 200 <= REFUSAL_TEXT_MAX);
/// One that was cut before it came here is marked all the same.
const _: () = assert!(SHOWN_BYTES_MAX < WHAT_BYTES_MAX);

/// The path on one line, whatever bytes it has; of a long one, how it begins.
pub(super) fn shown_path(path: &[u8]) -> String {
    let (mut shown, mut escaped) = (String::new(), String::new());
    for c in String::from_utf8_lossy(path).chars() {
        escaped.clear();
        let _ = if c.is_control() { write!(escaped, "{}", c.escape_default()) } else { write!(escaped, "{c}") };
        if shown.len() + escaped.len() > SHOWN_BYTES_MAX {
            shown.push('…');
            break;
        }
        shown.push_str(&escaped);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_on_its_line_and_leaves_room_behind_it() {
        assert_eq!(shown_path(b"/usr/bin/ls"), "/usr/bin/ls");
        assert_eq!(shown_path("/a\n\r\u{1b}\u{7f}é\\ b".as_bytes()), "/a\\n\\r\\u{1b}\\u{7f}é\\ b");
        assert_eq!(shown_path(b"/\xff"), "/\u{fffd}");
        assert_eq!(shown_path(&[b'x'; SHOWN_BYTES_MAX]), "x".repeat(SHOWN_BYTES_MAX));
        for hostile in [&b"\n"[..], b"\x1b", b"\xff", b"x", "é".as_bytes(), b"\xc2\x85", b"\xf0\x9f\x98"] {
            let shown = shown_path(&hostile.repeat(WHAT_BYTES_MAX / hostile.len()));
            assert!(shown.ends_with('…') && shown.len() <= SHOWN_BYTES_MAX + 3, "{hostile:?}: {}", shown.len());
        }
    }
}
