//! Files of settings, in TOML.

use serde::de::DeserializeOwned;

/// Reads one; what is wrong with it begins with the line.
///
/// # Errors
/// It is no TOML, or not of this shape: a line for people.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let why = error.message().trim_end().replace('\n', "; ");
        format!("line {}: {why}", 1 + before.matches('\n').count())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_one_line_that_begins_with_its_place() {
        for (text, line) in [("a = 1\nb = \n", "line 2: "), ("a = 1\n\n[c\nd = 1\n", "line 3: "), ("a = x", "line 1: ")]
        {
            let why = read::<toml::Table>(text).unwrap_err();
            assert!(why.starts_with(line) && !why.contains('\n') && why.len() > line.len(), "{text:?}: {why:?}");
        }
        assert_eq!(read::<toml::Table>("a = 1").unwrap()["a"].as_integer(), Some(1));
    }
}
