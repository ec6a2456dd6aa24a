//! Passwords, and on the lender's side their hashes.
//!
//! argon2id is slow on purpose, and 64 MiB large: the lender hashes on a bounded queue and answers [`Busy`] beyond it,
//! so that a flood of logins costs neither its memory nor its other sessions.
//!
//! [`Busy`]: PasswordError::Busy

#[cfg(feature = "lend")]
mod hash;
#[cfg(feature = "lend")]
mod queue;

use zeroize::Zeroizing;

#[cfg(feature = "lend")]
pub use self::{
    hash::{hash, verify},
    queue::PasswordQueue,
};

/// Longest password, in bytes.
pub const PASSWORD_MAX: usize = 1024;
/// Shortest password that may be set, in characters.
pub const PASSWORD_MIN: usize = 8;

/// A password: wiped when dropped, never shown, never copied.
pub struct Password(Zeroizing<Vec<u8>>);

/// Why a password is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PasswordError {
    /// More than the bound.
    #[error("the password has more than {PASSWORD_MAX} bytes")]
    TooLong,
    /// There is none.
    #[error("the password is empty")]
    Empty,
    /// Nobody could type it.
    #[error("the password has a line break: it is one line, and nothing follows it")]
    Lines,
    /// Too easily guessed to be set.
    #[error("a password has at least {PASSWORD_MIN} characters")]
    TooShort,
    /// The store holds a hash that is not ours: of another kind, or costly enough to be an attack.
    #[error("the stored password hash is refused: {0}; set the password again")]
    Hash(&'static str),
    /// Too many at once.
    #[error("the lender is busy with other logins: try again in a moment")]
    Busy,
}

impl Password {
    /// A password exactly as given, at a prompt or in a frame.
    ///
    /// # Errors
    /// If it is longer than [`PASSWORD_MAX`].
    pub fn new(bytes: Vec<u8>) -> Result<Self, PasswordError> {
        let bytes = Zeroizing::new(bytes);
        if bytes.len() <= PASSWORD_MAX { Ok(Self(bytes)) } else { Err(PasswordError::TooLong) }
    }

    /// A password out of a file or a pipe: it loses one line end, which editors and `echo` put there.
    ///
    /// # Errors
    /// As [`Password::new`]; if nothing is left, or more than one line, which nobody could type.
    pub fn from_file(mut bytes: Zeroizing<Vec<u8>>) -> Result<Self, PasswordError> {
        for end in [b"\n", b"\r"] {
            if bytes.ends_with(end) {
                bytes.pop();
            }
        }
        if bytes.is_empty() {
            return Err(PasswordError::Empty);
        }
        if bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            return Err(PasswordError::Lines);
        }
        Self::new(std::mem::take(&mut *bytes))
    }

    /// The secret bytes, to be sent inside a session.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its length in characters; bytes that are not UTF-8 count one each.
    #[cfg(feature = "lend")]
    fn chars(&self) -> usize {
        std::str::from_utf8(&self.0).map_or(self.0.len(), |text| text.chars().count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_loses_one_line_end_and_nothing_else() {
        let read = |file: &str| Password::from_file(Zeroizing::new(file.as_bytes().to_vec()));
        for (file, password) in [("secret\n", "secret"), ("secret\r\n", "secret"), ("secret", "secret"), (" a ", " a ")]
        {
            assert_eq!(read(file).unwrap().as_bytes(), password.as_bytes());
        }
        for file in ["a\n\n", "a\nb", "a\r\r\n"] {
            assert!(matches!(read(file), Err(PasswordError::Lines)), "{file:?}");
        }
        for file in ["", "\n", "\r\n"] {
            assert!(matches!(read(file), Err(PasswordError::Empty)), "{file:?}");
        }
        assert_eq!(Password::new(b"typed\n".to_vec()).unwrap().as_bytes(), b"typed\n");
    }

    #[test]
    fn a_password_of_a_mebibyte_is_refused_before_it_is_hashed() {
        assert!(Password::new(vec![b'a'; PASSWORD_MAX]).is_ok());
        let error = Password::new(vec![b'a'; 1 << 20]).err().unwrap();
        assert_eq!(error.to_string(), "the password has more than 1024 bytes");
    }
}
