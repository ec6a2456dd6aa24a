//! The names that cross the wire: users, lenders, devices, sessions.
//!
//! Each is checked where it enters and is a type afterwards, so that no later code has to ask whether a user name may
//! hold a slash. All of them are safe in a path, in a log line and on a terminal.

use std::{fmt, str::FromStr};

/// Longest user name, in bytes: what `useradd` accepts.
pub const USER_NAME_MAX: usize = 32;
/// Longest lender name, in bytes: one DNS label (RFC 1035 §2.3.4).
pub const LENDER_NAME_MAX: usize = 63;

/// A user of the lender, `[a-z_][a-z0-9_.-]{0,31}`.
///
/// ```
/// use capuchin::proto::UserName;
/// assert!("ana".parse::<UserName>().is_ok());
/// assert!("../ana".parse::<UserName>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UserName(String);

/// A lender, named by one lower-case DNS label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LenderName(String);

/// A borrower's device: the first 8 bytes of the SHA-256 of its public key (SubjectPublicKeyInfo, DER). Those that begin with
/// four zero bytes are kept for the users of the lender's own machine; no certificate with such a key is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId([u8; 8]);

/// One authenticated, logged-in relationship: 16 random bytes chosen by the lender.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub [u8; 16]);

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Not a user name.
    #[error("{0:?} is not a user name: use 1 to 32 of a-z 0-9 _ . - and begin with a letter or _")]
    User(String),
    /// Not a lender name.
    #[error("{0:?} is not a lender name: use 1 to 63 of a-z 0-9 - with a letter or digit at both ends")]
    Lender(String),
    /// Not a device id.
    #[error("{0:?} is not a device id: it has 16 hexadecimal digits")]
    Device(String),
}

impl UserName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl LenderName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in the lender's certificate, checked by every borrower: `NAME.capuchin.internal`.
    pub fn dns_name(&self) -> String {
        format!("{}.capuchin.internal", self.0)
    }
}

impl DeviceId {
    /// The device whose public key has this SHA-256.
    pub fn from_digest(sha256: &[u8; 32]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *sha256;
        Self([a, b, c, d, e, f, g, h])
    }

    /// The device of these eight bytes.
    pub fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// What stands in the place of a device for a user of the lender's own machine: four zero bytes and the uid.
    pub fn of_local_user(uid: u32) -> Self {
        Self(u64::from(uid).to_be_bytes())
    }

    /// The uid, if it stands for a user of the lender's own machine.
    pub fn local_uid(&self) -> Option<u32> {
        u32::try_from(u64::from_be_bytes(self.0)).ok()
    }

    /// The eight bytes.
    pub fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }
}

impl FromStr for UserName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let first = |c: u8| c.is_ascii_lowercase() || c == b'_';
        let rest = |c: u8| first(c) || c.is_ascii_digit() || c == b'.' || c == b'-';
        match text.as_bytes() {
            [head, tail @ ..] if first(*head) && tail.len() < USER_NAME_MAX && tail.iter().all(|c| rest(*c)) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(NameError::User(shortened(text))),
        }
    }
}

impl FromStr for LenderName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let fits = (1..=LENDER_NAME_MAX).contains(&text.len()) && text.bytes().all(inner);
        if fits && !text.starts_with('-') && !text.ends_with('-') {
            Ok(Self(text.to_owned()))
        } else {
            Err(NameError::Lender(shortened(text)))
        }
    }
}

impl FromStr for DeviceId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        data_encoding::HEXLOWER
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| NameError::Device(shortened(text)))
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for LenderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// Keeps an error about a hostile megabyte readable.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_names_are_those_of_design_and_nothing_else() {
        for good in ["a", "_x", "ana.b-c_9", &"a".repeat(32)] {
            assert!(good.parse::<UserName>().is_ok(), "{good}");
        }
        for bad in ["", "9a", "-a", ".a", "Ana", "a/b", "a\n", "a b", "é", &"a".repeat(33)] {
            assert!(bad.parse::<UserName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn lender_names_are_one_dns_label() {
        for good in ["lab", "a", "0", "lab-2", &"a".repeat(63)] {
            assert!(good.parse::<LenderName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a.b", "Lab", "a_b", &"a".repeat(64)] {
            assert!(bad.parse::<LenderName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_local_user_has_a_device_id_that_tells_the_uid_and_no_other_has_one() {
        assert_eq!(DeviceId::of_local_user(1000).to_string(), "00000000000003e8");
        for uid in [0, 1000, u32::MAX] {
            assert_eq!(DeviceId::of_local_user(uid).local_uid(), Some(uid));
        }
        assert_eq!(DeviceId::from_bytes([0, 0, 0, 1, 0, 0, 3, 0xe8]).local_uid(), None);
        assert_eq!(DeviceId::from_digest(&[0xab; 32]).local_uid(), None);
    }

    #[test]
    fn device_ids_are_sixteen_hex_digits_both_ways() {
        let device = DeviceId::from_digest(&[0xab; 32]);
        assert_eq!(device.to_string(), "abababababababab");
        assert_eq!("abababababababab".parse(), Ok(device));
        assert!("abab".parse::<DeviceId>().is_err());
    }
}
