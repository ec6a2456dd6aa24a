//! bash, which takes `user@host`, `--cwd=/etc` and `a:b` for several words (COMP_WORDBREAKS), and all words with their quotes.
//!
//! It types what it is answered as it is, in the place of the last of these pieces. So it is asked with the line itself, and
//! answered with what stood there and what follows, quoted.

use std::{
    ffi::OsString,
    io::{self, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

use clap::Command;
use clap_complete::{
    engine,
    env::{Bash as Plain, EnvCompleter},
};

use super::{is_plain, line::Words};

/// In the place of clap's, which splits the line as bash does. What stands behind `<` or `>` is a file of this machine.
const SCRIPT: &str = r#"
_complete_NAME() {
    COMPREPLY=()
    if [[ ${COMP_WORDS[COMP_CWORD]} == [\<\>]* || ${COMP_WORDS[COMP_CWORD-1]} == [\<\>]* ]]; then
        compopt -o default
        return
    fi
    mapfile -t COMPREPLY < <(
        VAR=bash COMPLETER -- "${COMP_LINE:0:COMP_POINT}" "${COMP_LINE:COMP_POINT}" "$2" 2>/dev/null
    )
    if [[ ${COMPREPLY-} == *[=/:] ]]; then
        compopt -o nospace
    fi
}
complete -o bashdefault -o nosort -F _complete_NAME BIN 2>/dev/null || complete -o bashdefault -F _complete_NAME BIN
"#;

/// As clap has it, with the words that a person typed.
pub struct Bash;

impl EnvCompleter for Bash {
    fn name(&self) -> &'static str {
        Plain.name()
    }

    fn is(&self, name: &str) -> bool {
        Plain.is(name)
    }

    fn write_registration(
        &self,
        var: &str,
        name: &str,
        bin: &str,
        completer: &str,
        script: &mut dyn Write,
    ) -> io::Result<()> {
        let completer = format!("'{}'", completer.replace('\'', r"'\''"));
        let of_name = SCRIPT.replace("NAME", name).replace("BIN", bin).replace("VAR", var);
        script.write_all(of_name.replace("COMPLETER", &completer).as_bytes())
    }

    /// Answers [`SCRIPT`].
    fn write_complete(
        &self,
        command: &mut Command,
        asked: Vec<OsString>,
        folder: Option<&Path>,
        reply: &mut dyn Write,
    ) -> io::Result<()> {
        let piece = asked.get(2).cloned().unwrap_or_default();
        let (Words { words, at }, quote) = typed(&asked);
        let word = words.get(at).cloned().unwrap_or_default();
        for candidate in engine::complete(command, words, at, folder)? {
            let Some(more) = candidate.get_value().as_bytes().strip_prefix(word.as_bytes()) else { continue };
            let Some(more) = quote.around(more) else { continue };
            reply.write_all(&[piece.as_bytes(), &more, b"\n"].concat())?;
        }
        Ok(())
    }
}

/// What [`SCRIPT`] asks with: the line in front of the cursor, and behind it. The word at the cursor ends there.
pub fn typed(asked: &[OsString]) -> (Words, Quote) {
    let half = |index: usize| asked.get(index).map(|half| half.as_bytes()).unwrap_or_default();
    let (mut words, quote) = split(half(0));
    let at = words.len() - 1;
    let behind = half(1);
    let rest_of_word = usize::from(!behind.first().is_none_or(u8::is_ascii_whitespace));
    words.extend(split(behind).0.into_iter().skip(rest_of_word).filter(|word| !word.is_empty()));
    (Words { words, at }, quote)
}

/// The quotes in which a word is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quote {
    None,
    Single,
    Double,
}

impl Quote {
    fn closes(self, byte: u8) -> bool {
        matches!((self, byte), (Self::Single, b'\'') | (Self::Double, b'"'))
    }

    /// What bash reads as `text` there. `None`: nothing, or a terminal would act on it.
    fn around(self, text: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(text).ok().filter(|text| !text.contains(char::is_control))?;
        let must_be_escaped = |character: char| match self {
            Self::None => !is_plain(character),
            Self::Single => false,
            Self::Double => "$`\"\\".contains(character),
        };
        let has_none = |characters: &str| !text.contains(|character| characters.contains(character));
        let can_be = match self {
            Self::None => true,
            Self::Single => has_none("'"),
            // It stands for an earlier line, and a backslash in front of it would stay.
            Self::Double => has_none("!"),
        };
        let escaped = |character: char| [must_be_escaped(character).then_some('\\'), Some(character)];
        can_be.then(|| text.chars().flat_map(escaped).flatten().collect::<String>().into_bytes())
    }
}

/// Words as bash reads them, without expansion. The last one is open: empty behind a blank, or in the quotes that are told.
fn split(line: &[u8]) -> (Vec<OsString>, Quote) {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote = Quote::None;
    let mut bytes = line.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (Quote::None, b' ' | b'\t' | b'\n') => {
                words.extend(word.take().map(OsString::from_vec));
                continue;
            }
            (Quote::None, b'\'') => quote = Quote::Single,
            (Quote::None, b'"') => quote = Quote::Double,
            (_, byte) if quote.closes(byte) => quote = Quote::None,
            (Quote::None, b'\\') => word.get_or_insert_default().extend(bytes.next()),
            (Quote::Double, b'\\') => {
                let special = bytes.next_if(|next| b"$`\"\\".contains(next));
                word.get_or_insert_default().push(special.unwrap_or(b'\\'));
            }
            (_, byte) => word.get_or_insert_default().push(byte),
        }
        word.get_or_insert_default();
    }
    words.push(OsString::from_vec(word.unwrap_or_default()));
    (words, quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_bash_reads_it() {
        for (line, words, open) in [
            ("capuchin exec la", &["capuchin", "exec", "la"][..], Quote::None),
            ("capuchin exec ana@lab -- ", &["capuchin", "exec", "ana@lab", "--", ""], Quote::None),
            ("c --cwd=/us", &["c", "--cwd=/us"], Quote::None),
            ("c  a:b=c\t'' x", &["c", "a:b=c", "", "x"], Quote::None),
            (r#"c "a b"/'c d' e\ f"#, &["c", "a b/c d", "e f"], Quote::None),
            (r#"c "a\$b\c "#, &["c", r"a$b\c "], Quote::Double),
            (r"c 'a\ b", &["c", r"a\ b"], Quote::Single),
            (r"c a\", &["c", "a"], Quote::None),
            ("", &[""], Quote::None),
        ] {
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            assert_eq!(split(line.as_bytes()), (words, open), "{line}");
        }
    }

    #[test]
    fn the_word_at_the_cursor_ends_there_and_those_behind_it_count() {
        for (front, behind, words, at) in [
            ("c shell --cwd /u", " lab", &["c", "shell", "--cwd", "/u", "lab"][..], 3),
            ("c shell --cwd /u", "sr/bin lab ", &["c", "shell", "--cwd", "/u", "lab"], 3),
            ("c shell ", "", &["c", "shell", ""], 2),
        ] {
            let asked = [front, behind, ""].map(OsString::from);
            let words = words.iter().map(OsString::from).collect();
            assert_eq!(typed(&asked), (Words { words, at }, Quote::None), "{front}|{behind}");
        }
    }

    #[test]
    fn what_is_answered_is_nothing_but_text_to_bash() {
        for (quote, text, answered) in [
            (Quote::None, "$(reboot) größe", Some(r"\$\(reboot\)\ größe")),
            (Quote::Double, "$(reboot) \"", Some("\\$(reboot) \\\"")),
            (Quote::Double, "a!!", None),
            (Quote::Single, "$(reboot)", Some("$(reboot)")),
            (Quote::Single, "it's", None),
            (Quote::None, "\u{1b}[2J", None),
        ] {
            assert_eq!(
                quote.around(text.as_bytes()),
                answered.map(|text| text.as_bytes().to_vec()),
                "{quote:?} {text}"
            );
        }
        assert_eq!(Quote::None.around(b"\xff"), None);
    }
}
