//! Command lines as text: one word after the other, quoted as a POSIX shell reads them, and never given to a shell.

use std::fmt::Write as _;

/// Why a text is not a command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandLineError {
    /// A quote or a backslash at the end.
    #[error("a quote is not closed: quote words as a shell reads them")]
    Unclosed,
    /// No word at all.
    #[error("a program is missing: write its path, then its arguments")]
    Empty,
}

/// Splits a command line into its words. Quotes and backslashes are a shell's; nothing is expanded.
pub(super) fn split(line: &str) -> Result<Vec<String>, CommandLineError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut rest = line.chars();
    while let Some(c) = rest.next() {
        match c {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => quoted(&mut rest, word.get_or_insert_default(), '\'')?,
            '"' => quoted(&mut rest, word.get_or_insert_default(), '"')?,
            '\\' => word.get_or_insert_default().push(rest.next().ok_or(CommandLineError::Unclosed)?),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if words.is_empty() { Err(CommandLineError::Empty) } else { Ok(words) }
}

/// Reads up to the closing `quote`; in double quotes a backslash escapes what a shell lets it escape.
fn quoted(rest: &mut std::str::Chars<'_>, word: &mut String, quote: char) -> Result<(), CommandLineError> {
    loop {
        match rest.next().ok_or(CommandLineError::Unclosed)? {
            c if c == quote => return Ok(()),
            '\\' if quote == '"' => match rest.next().ok_or(CommandLineError::Unclosed)? {
                c @ ('"' | '\\' | '$' | '`') => word.push(c),
                c => word.extend(['\\', c]),
            },
            c => word.push(c),
        }
    }
}

/// The words as [`split`] reads them.
pub(super) fn join<'w>(words: impl IntoIterator<Item = &'w str>) -> String {
    let quoted: Vec<String> = words.into_iter().map(single_quoted).collect();
    quoted.join(" ")
}

/// One word for a shell to read as it stands. What would not survive a terminal is written as `$'\xNN'`, so that the
/// line can be copied.
pub(super) fn shell_word(text: &str) -> String {
    if text.chars().all(|c| c.is_ascii() && !c.is_ascii_control() || c.is_alphanumeric()) {
        return single_quoted(text);
    }
    let mut word = "$'".to_owned();
    for c in text.chars() {
        match c {
            '\'' | '\\' => word.extend(['\\', c]),
            ' '..='~' => word.push(c),
            c if c.is_alphanumeric() => word.push(c),
            c => {
                for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                    // Writing to a String cannot fail.
                    let _ = write!(word, "\\x{byte:02x}");
                }
            }
        }
    }
    word + "'"
}

fn single_quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,=+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(line: &str) -> Vec<String> {
        split(line).unwrap()
    }

    #[test]
    fn words_are_split_as_a_shell_splits_them_and_nothing_is_expanded() {
        for (line, expected) in [
            ("/usr/bin/git status", vec!["/usr/bin/git", "status"]),
            ("  a \t b\n", vec!["a", "b"]),
            ("a 'b c' \"d e\" f\\ g", vec!["a", "b c", "d e", "f g"]),
            (r#"a "x\"\\\$\n" '\'"#, vec!["a", r#"x"\$\n"#, r"\"]),
            ("a ''", vec!["a", ""]),
            ("a $(b) `c`; d && e > f", vec!["a", "$(b)", "`c`;", "d", "&&", "e", ">", "f"]),
        ] {
            assert_eq!(words(line), expected, "{line}");
        }
        for (line, error) in [
            ("a 'b", CommandLineError::Unclosed),
            ("a \"b", CommandLineError::Unclosed),
            ("a \\", CommandLineError::Unclosed),
            ("", CommandLineError::Empty),
            ("  ", CommandLineError::Empty),
        ] {
            assert_eq!(split(line), Err(error), "{line}");
        }
    }

    #[test]
    fn a_word_for_a_shell_is_quoted_where_it_must_be() {
        for (text, word) in [
            ("db.internal:5432", "db.internal:5432"),
            ("/usr/bin/git status", "'/usr/bin/git status'"),
            ("[::1]:80", "'[::1]:80'"),
            ("0.0.0.0:*", "'0.0.0.0:*'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
            ("a\nb'\\", r"$'a\x0ab\'\\'"),
            ("\u{202e}é", r"$'\xe2\x80\xaeé'"),
        ] {
            assert_eq!(shell_word(text), word);
        }
    }

    proptest! {
        #[test]
        fn joined_words_split_again(words in prop::collection::vec(".{0,12}", 1..5)) {
            let line = join(words.iter().map(String::as_str));
            prop_assert_eq!(split(&line), Ok(words));
        }
    }

    proptest! {
        // One shell for all words: while a process is started, it has everything open that the tests of other modules have.
        #![proptest_config(ProptestConfig::with_cases(1))]
        #[test]
        fn a_shell_reads_the_word_as_it_was(
            texts in prop::collection::vec("[ -~\\n\\tä\u{202e}\u{7f}]{0,20}", 256),
        ) {
            // bash and not sh: $'…' came to POSIX in 2024 only.
            let words: Vec<_> = texts.iter().map(|text| shell_word(text)).collect();
            let script = format!("printf '%s\\0' {}", words.join(" "));
            let output = std::process::Command::new("bash").args(["-c", &script]).output();
            if let Ok(output) = output {
                let said = String::from_utf8(output.stdout).unwrap();
                prop_assert_eq!(said.split_terminator('\0').collect::<Vec<_>>(), texts);
            }
        }
    }
}
