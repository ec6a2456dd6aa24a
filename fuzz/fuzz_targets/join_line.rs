//! Whatever a person pastes as a join line: an error or a line, never a panic; and a line survives being said again.

#![no_main]

use capuchin::trust::join_line::JoinLine;
use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Text(&'a str),
    /// The inside of a line, put behind a prefix and in front of a checksum that fits.
    Inside(&'a [u8]),
    /// A line that is whole but for one byte of its inside.
    Damaged(&'a [u8], u8, u8),
}

fn line(text: &str) -> Option<JoinLine> {
    let line = text.parse::<JoinLine>().ok()?;
    let again = line.encode().expect("what was read can be written");
    assert_eq!(again.as_str(), text.trim());
    Some(line)
}

fn written(whole: &[u8]) -> String {
    format!("cap1_{}", data_encoding::BASE64URL_NOPAD.encode(whole))
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Text(text) => drop(line(text)),
    Input::Inside(inside) => {
        drop(line(&written(&[inside, &crc32fast::hash(inside).to_be_bytes()].concat())));
    }
    Input::Damaged(inside, at, flip) => {
        let mut whole = [inside, &crc32fast::hash(inside).to_be_bytes()].concat();
        let at = usize::from(at) % whole.len();
        whole[at] ^= flip;
        assert!(flip == 0 || line(&written(&whole)).is_none(), "a checksum of 32 bits sees 8 that changed");
    }
});
