//! JSON in nothing but printable ASCII: what a log or a terminal shows then cannot steer it.

/// Rewrites JSON text so that it means the same and holds printable ASCII only.
///
/// JSON itself escapes the control characters below 0x20, but not DEL, nor the C1 controls (0x9b begins an escape
/// sequence), nor the marks that turn the direction of text.
pub fn ascii_json(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            ' '..='~' => ascii.push(c),
            // All others stand inside strings; outside of them JSON allows blanks only, which compact JSON has not.
            c => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| ascii.push_str(&format!("\\u{unit:04x}"))),
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_stays_and_nothing_in_it_can_steer_a_terminal() {
        for (json, ascii) in [
            (r#"{"a":"plain"}"#, r#"{"a":"plain"}"#),
            ("{\"a\":\"é\u{7f}\u{9b}31m\"}", r#"{"a":"\u00e9\u007f\u009b31m"}"#),
            ("{\"a\":\"\u{202e}\u{1f412}\"}", r#"{"a":"\u202e\ud83d\udc12"}"#),
        ] {
            assert_eq!(ascii_json(json), ascii);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_reads_back_as_it_was(text: String) {
            let ascii = ascii_json(&serde_json::to_string(&text).unwrap());
            proptest::prop_assert!(ascii.bytes().all(|byte| (0x20..0x7f).contains(&byte)));
            proptest::prop_assert_eq!(serde_json::from_str::<String>(&ascii).unwrap(), text);
        }
    }
}
