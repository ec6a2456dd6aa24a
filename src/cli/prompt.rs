//! Where secrets come from: a terminal, a file, or stdin. Never an argument, never the environment.

mod terminal;

use std::{
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use zeroize::Zeroizing;

use self::terminal::NoAnswer;
use super::report::Failure;
use crate::{
    proto::ErrorKind,
    trust::{
        join_line::JOIN_LINE_MAX,
        password::{PASSWORD_MAX, Password},
    },
};

/// Most that is read from stdin, in bytes: a join line, a password, and their newlines.
const STDIN_MAX: usize = JOIN_LINE_MAX + PASSWORD_MAX + 4;

/// What stdin holds, read once: a join line, a password, or the one and then the other.
pub struct Stdin(Zeroizing<Vec<u8>>);

impl Stdin {
    /// Reads all of it, as far as it makes sense.
    pub fn read() -> Result<Self, Failure> {
        // Room at once, so that growing leaves no copy behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(STDIN_MAX + 1));
        let read = io::stdin().lock().take(STDIN_MAX as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| Failure::new(ErrorKind::Local, format!("cannot read stdin: {error}")))?;
        if bytes.len() > STDIN_MAX {
            return Err(Failure::new(ErrorKind::Usage, format!("stdin has more than {STDIN_MAX} bytes")));
        }
        Ok(Self(bytes))
    }

    /// Takes the first line; the rest stays.
    pub fn take_line(&mut self) -> Result<Zeroizing<String>, Failure> {
        let end = self.0.iter().position(|byte| *byte == b'\n').map_or(self.0.len(), |newline| newline + 1);
        let (line, rest) = self.0.split_at(end);
        let text = std::str::from_utf8(line).map(|line| Zeroizing::new(line.trim().to_owned()));
        let text = text.map_err(|_| Failure::new(ErrorKind::Usage, "the first line of stdin is not a join line"));
        self.0 = Zeroizing::new(rest.to_vec());
        text
    }

    /// The line that is left.
    pub fn into_password(self) -> Result<Password, Failure> {
        password_of(self.0)
    }
}

/// A password file, or a pipe such as a shell's `<(…)`; `-` was dealt with before. A file that others may read is theirs
/// to worry about, and said.
pub fn password_file(path: &Path) -> Result<Password, Failure> {
    let shown = path.display();
    let failed = |error: io::Error| Failure::new(ErrorKind::Config, format!("cannot read {shown}: {error}"));
    let file = std::fs::File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if about.is_file() && about.permissions().mode() & 0o077 != 0 {
        super::report::warn(&format!("warning: others may read {shown}: chmod 600 {shown}"));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(PASSWORD_MAX + 3));
    file.take(PASSWORD_MAX as u64 + 2).read_to_end(&mut bytes).map_err(failed)?;
    password_of(bytes)
}

/// Asks for a password on the terminal, without showing it.
pub fn password(prompt: &str) -> Result<Password, Failure> {
    password_of(ask(prompt, "password", "give the password with --password-file FILE, or - for stdin")?)
}

/// Asks twice for a password that is to be set.
pub fn new_password(prompt: &str) -> Result<Password, Failure> {
    let first = password(prompt)?;
    if first.as_bytes() != password("The same again: ")?.as_bytes() {
        return Err(Failure::new(ErrorKind::Usage, "the two passwords differ"));
    }
    Ok(first)
}

/// Asks for a join line; it is a secret too.
pub fn join_line() -> Result<Zeroizing<String>, Failure> {
    let typed = ask("Join line (cap1_…): ", "join line", "give the line as an argument, or - for stdin")?;
    let line = std::str::from_utf8(&typed).map(|line| Zeroizing::new(line.trim().to_owned()));
    line.map_err(|_| Failure::new(ErrorKind::Usage, "what was typed is not a join line"))
}

/// Whether there is somebody to ask: a terminal, and a stderr at it, where a question would be seen.
pub fn has_terminal() -> bool {
    io::IsTerminal::is_terminal(&io::stderr()) && std::fs::File::open("/dev/tty").is_ok()
}

/// The line that is typed, with its newline. /dev/tty and nothing else is asked, so a pipe is never taken for a person.
fn ask(prompt: &str, what: &str, instead: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let usage = |text: String| Failure { notes: vec![instead.to_owned()], ..Failure::new(ErrorKind::Usage, text) };
    match terminal::ask(&super::report::escape(prompt)) {
        Ok(typed) => Ok(typed),
        Err(NoAnswer::NoTerminal(error)) => Err(usage(format!("there is no terminal to ask on: {error}"))),
        Err(NoAnswer::Nothing) => Err(usage(format!("no {what} was typed"))),
        Err(NoAnswer::Signal(signal)) => Err(Failure::silent(signal)),
    }
}

fn password_of(bytes: Zeroizing<Vec<u8>>) -> Result<Password, Failure> {
    Password::from_file(bytes).map_err(|error| Failure::new(ErrorKind::Usage, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stdin_holds_the_line_first_and_then_the_password() {
        let mut stdin = Stdin(Zeroizing::new(b"cap1_x\r\n pass word\r\n".to_vec()));
        assert_eq!(stdin.take_line().unwrap().as_str(), "cap1_x");
        assert_eq!(stdin.into_password().unwrap().as_bytes(), b" pass word");
        let mut line_alone = Stdin(Zeroizing::new(b"cap1_x".to_vec()));
        assert_eq!(line_alone.take_line().unwrap().as_str(), "cap1_x");
        assert_eq!(line_alone.into_password().err().unwrap().text, "the password is empty");
    }

    #[test]
    fn a_password_file_holds_one_line_and_has_a_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        for content in ["secret", "secret\n", "secret\r\n"] {
            std::fs::write(&path, content).unwrap();
            assert_eq!(password_file(&path).unwrap().as_bytes(), b"secret");
        }
        let lines = "the password has a line break: it is one line, and nothing follows it";
        for (content, why) in [
            (vec![b'x'; 1 << 20], "the password has more than 1024 bytes"),
            (b"\r\n".to_vec(), "the password is empty"),
            (b"secret\n\n".to_vec(), lines),
            (b"secret\nother\n".to_vec(), lines),
        ] {
            std::fs::write(&path, content).unwrap();
            let failure = password_file(&path).err().unwrap();
            assert_eq!((failure.kind, &*failure.text), (ErrorKind::Usage, why));
        }
        assert!(password_file(&dir.path().join("none")).err().unwrap().text.contains("cannot read"));
    }
}
