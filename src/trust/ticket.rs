//! A ticket stands for a password that was given a while ago: 32 random bytes, of which the lender keeps only a key.
//!
//! It is bound to the user and device it was issued to. The borrower keeps it in a file of mode 0600 and proves that it
//! holds it (see [`proof`](super::proof)); the ticket itself travels once, inside the session that issued it.

use std::{path::Path, time::Duration};

use zeroize::Zeroizing;

use super::{
    UnixTime,
    keyfile::{self, KeyFileError},
    proof::derive,
    random::random,
};
use crate::proto::{LenderName, UserName};

/// Longest life of a ticket; the user's `limits.hours` may shorten it.
pub const TICKET_LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// The ticket: wiped when dropped, never shown.
pub struct Ticket(Zeroizing<[u8; 32]>);

/// Which ticket a proof is for; derived from the ticket, tells nothing about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TicketId(pub [u8; 8]);

/// A ticket as the borrower keeps it.
pub struct SavedTicket {
    /// The ticket.
    pub ticket: Ticket,
    /// When it ends.
    pub expires: UnixTime,
    /// Whose ticket it is.
    pub user: UserName,
    /// Who issued it.
    pub lender: LenderName,
}

/// Why there is no ticket to use. A new login with the password makes a new one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TicketFileError {
    /// The file is missing, not safe, or not readable.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// The file is not a ticket.
    #[error("{0} holds no ticket: log in again")]
    Malformed(String),
}

impl Ticket {
    /// A new one.
    pub fn random() -> Self {
        Self(Zeroizing::new(random()))
    }

    /// A ticket as it came in a session.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The secret bytes, to be sent once to its owner.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Which ticket it is.
    pub fn id(&self) -> TicketId {
        let [a, b, c, d, e, f, g, h, ..] = *derive(b"capuchin-ticket", self.as_bytes(), b"id");
        TicketId([a, b, c, d, e, f, g, h])
    }
}

impl SavedTicket {
    /// Writes it to a file that only we may read.
    ///
    /// # Errors
    /// If the folder is not safe, or the system refuses.
    pub fn save(&self, path: &Path) -> Result<(), KeyFileError> {
        let file = TicketFile {
            version: FILE_VERSION,
            ticket: *self.ticket.as_bytes(),
            expires: self.expires,
            user: self.user.as_str(),
            lender: self.lender.as_str(),
        };
        let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_MAX));
        minicbor::encode(&file, &mut *bytes).expect("encoding into memory cannot fail");
        keyfile::write(path, &bytes, keyfile::SECRET_MODE)
    }

    /// Reads it back.
    ///
    /// # Errors
    /// If there is none, others may read it, or it is not a ticket.
    pub fn load(path: &Path) -> Result<Self, TicketFileError> {
        let bytes = keyfile::read_secret(path)?;
        let malformed = || TicketFileError::Malformed(path.display().to_string());
        let file: TicketFile<'_> = minicbor::decode(&bytes).map_err(|_| malformed())?;
        if file.version != FILE_VERSION {
            return Err(malformed());
        }
        Ok(Self {
            ticket: Ticket::from_bytes(file.ticket),
            expires: file.expires,
            user: file.user.parse().map_err(|_| malformed())?,
            lender: file.lender.parse().map_err(|_| malformed())?,
        })
    }
}

/// When a ticket issued now ends: after 12 h, but never later than the login it goes back to allows.
pub fn ticket_expiry(login: UnixTime, allowed: Duration, now: UnixTime) -> UnixTime {
    now.plus(TICKET_LIFETIME).min(login.plus(allowed))
}

/// CBOR with integer keys, as everywhere.
#[derive(minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
struct TicketFile<'a> {
    #[n(0)]
    version: u8,
    #[cbor(n(1), with = "minicbor::bytes")]
    ticket: [u8; 32],
    #[n(2)]
    expires: UnixTime,
    #[b(3)]
    user: &'a str,
    #[b(4)]
    lender: &'a str,
}

const FILE_VERSION: u8 = 1;
/// Room for the largest ticket file, so that writing it leaves no copy behind.
const FILE_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_ticket_is_the_same_when_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ticket");
        let saved = SavedTicket {
            ticket: Ticket::random(),
            expires: UnixTime(1_700_000_000),
            user: "ana".parse().unwrap(),
            lender: "lab".parse().unwrap(),
        };
        saved.save(&path).unwrap();
        let loaded = SavedTicket::load(&path).unwrap();
        assert_eq!(loaded.ticket.as_bytes(), saved.ticket.as_bytes());
        assert_eq!(loaded.ticket.id(), saved.ticket.id());
        assert_eq!((loaded.expires, loaded.user, loaded.lender), (saved.expires, saved.user, saved.lender));
    }

    #[test]
    fn a_missing_ticket_is_told_from_a_broken_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ticket");
        assert!(matches!(SavedTicket::load(&path), Err(TicketFileError::File(error)) if error.is_missing()));
        keyfile::write(&path, b"not a ticket", 0o600).unwrap();
        assert!(matches!(SavedTicket::load(&path), Err(TicketFileError::Malformed(_))));
    }

    #[test]
    fn a_ticket_ends_after_twelve_hours_or_when_the_login_does() {
        let (login, hour) = (UnixTime(1_000_000), Duration::from_secs(3600));
        assert_eq!(ticket_expiry(login, 8 * hour, login), login.plus(8 * hour));
        assert_eq!(ticket_expiry(login, 24 * hour, login), login.plus(12 * hour));
        assert_eq!(ticket_expiry(login, 24 * hour, login.plus(20 * hour)), login.plus(24 * hour));
    }
}
