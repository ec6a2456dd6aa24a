//! The keys that steer the session and not the program: `~` behind a newline, as in ssh(1).

/// What stands in the output of a terminal for `~?`, with the character as it is typed in the place of each `~`.
const HELP: &str = "\
Supported escape sequences:\r
 ~.   - end the session\r
 ~^Z  - suspend capuchin\r
 ~#   - list what the session holds\r
 ~?   - this message\r
 ~~   - send the escape character\r
(They are recognized at the beginning of a line.)\r
";
const SUSPEND: u8 = 0x1a;

/// What was typed, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// For the program.
    Bytes(Vec<u8>),
    /// `~.`
    End,
    /// `~^Z`
    Suspend,
    /// `~?`
    Help,
    /// `~#`
    List,
}

/// Where in a line the typist is.
///
/// `Start --escape--> Escaped --key--> Start`, and from anywhere a newline leads to `Start`, any other key to `Inside`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Start,
    Escaped,
    Inside,
}

/// Tells keys for the session from those for the program.
#[derive(Clone, Copy, Debug)]
pub struct EscapeKeys {
    /// None: every key is the program's.
    escape: Option<u8>,
    place: Place,
}

impl EscapeKeys {
    /// At the beginning of a line.
    pub fn new(escape: Option<u8>) -> Self {
        Self { escape, place: Place::Start }
    }

    /// What keys there are.
    pub fn help(&self) -> String {
        HELP.replace('~', &self.shown())
    }

    /// A key behind the escape character as a person sees it typed, for what nobody else echoes; and a new line.
    pub fn echo(&self, key: &str) -> String {
        format!("{}{key}\r\n", self.shown())
    }

    fn shown(&self) -> String {
        match self.escape.unwrap_or_default() {
            control @ ..0x20 => format!("^{}", char::from(control ^ 0x40)),
            plain => char::from(plain).to_string(),
        }
    }

    /// Takes what was typed.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Typed> {
        let Some(escape) = self.escape else { return vec![Typed::Bytes(bytes.to_vec())] };
        let (mut typed, mut plain) = (Vec::new(), Vec::new());
        for byte in bytes.iter().copied() {
            match (self.place, byte) {
                (Place::Start, byte) if byte == escape => self.place = Place::Escaped,
                (Place::Escaped, byte) if byte == escape => {
                    plain.push(byte);
                    self.place = Place::Inside;
                }
                (Place::Escaped, byte) => match meaning(byte) {
                    Some(key) => {
                        if !plain.is_empty() {
                            typed.push(Typed::Bytes(std::mem::take(&mut plain)));
                        }
                        typed.push(key);
                        self.place = Place::Start;
                    }
                    None => {
                        plain.extend([escape, byte]);
                        self.place = after(byte);
                    }
                },
                (Place::Start | Place::Inside, byte) => {
                    plain.push(byte);
                    self.place = after(byte);
                }
            }
        }
        if !plain.is_empty() {
            typed.push(Typed::Bytes(plain));
        }
        typed
    }
}

fn meaning(key: u8) -> Option<Typed> {
    match key {
        b'.' => Some(Typed::End),
        SUSPEND => Some(Typed::Suspend),
        b'?' => Some(Typed::Help),
        b'#' => Some(Typed::List),
        _ => None,
    }
}

fn after(byte: u8) -> Place {
    if matches!(byte, b'\r' | b'\n') { Place::Start } else { Place::Inside }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Typed {
        Typed::Bytes(text.as_bytes().to_vec())
    }

    #[test]
    fn escapes_count_behind_a_newline_and_nowhere_else() {
        let typed = |text: &str| EscapeKeys::new(Some(b'~')).take(text.as_bytes());
        assert_eq!(typed("~."), [Typed::End], "a session begins with a line");
        assert_eq!(typed("a~."), [bytes("a~.")]);
        assert_eq!(typed("a\r~."), [bytes("a\r"), Typed::End]);
        assert_eq!(typed("\n~?~#x~."), [bytes("\n"), Typed::Help, Typed::List, bytes("x~.")]);
        assert_eq!(typed("~~."), [bytes("~.")]);
        assert_eq!(typed("~x\r~\x1a"), [bytes("~x\r"), Typed::Suspend]);
        assert_eq!(typed("~\r~."), [bytes("~\r"), Typed::End]);
    }

    #[test]
    fn keys_may_come_one_by_one() {
        let mut keys = EscapeKeys::new(Some(b'~'));
        assert_eq!(keys.take(b"ls\r"), [bytes("ls\r")]);
        assert_eq!(keys.take(b"~"), []);
        assert_eq!(keys.take(b"."), [Typed::End]);
    }

    #[test]
    fn the_help_and_the_echo_have_the_character_that_is_typed() {
        assert_eq!(EscapeKeys::new(Some(b'~')).help(), HELP);
        let keys = EscapeKeys::new(Some(2));
        assert!(keys.help().contains("\n ^B^Z  - suspend") && keys.help().contains("\n ^B^B   - send"));
        assert_eq!(keys.echo("."), "^B.\r\n");
    }

    #[test]
    fn without_an_escape_every_key_is_the_programs() {
        assert_eq!(EscapeKeys::new(None).take(b"\r~."), [bytes("\r~.")]);
    }
}
