//! The one line that joins a device: `cap1_` and base64url of who lends, where, until when, and a one-time secret.
//!
//! It carries the public key of the lender's CA, so the borrower trusts nothing that it learns from the network. It is
//! the only secret that may stand on a command line: it works once, for minutes. A CRC tells a line that was cut off
//! while copying from one that was never a line; it protects against accidents, the secret against everything else.
//!
//! The digit of the prefix is the version. Layout: expiry u64, id 8, secret 16, CA key 32, then the lender's name and
//! one to four addresses as length-prefixed text with a count before the addresses, and a CRC-32 of all before it.

use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use zeroize::Zeroizing;

use super::{UnixTime, random::random};
use crate::proto::{LENDER_ADDRESS_MAX, LENDER_ADDRESSES_MAX, LENDER_NAME_MAX, LenderName};

/// Longest line, in characters; longer text is refused unread.
pub const JOIN_LINE_MAX: usize =
    PREFIX.len() + (FIXED_LEN + 1 + LENDER_NAME_MAX + LENDER_ADDRESSES_MAX * (1 + LENDER_ADDRESS_MAX)).div_ceil(3) * 4;

/// An invitation to one device, as it is printed, pasted and parsed.
pub struct JoinLine {
    /// When the invitation ends.
    pub expires: UnixTime,
    /// Who lends; the name its certificate must carry.
    pub lender: LenderName,
    /// Where to find it: one to four `host:port` or `name@hub`.
    pub addresses: Vec<String>,
    /// Which invitation this is.
    pub id: InvitationId,
    /// What both ends prove to know.
    pub secret: JoinSecret,
    /// The Ed25519 public key of the lender's CA.
    pub ca_key: [u8; 32],
}

/// Which invitation a line belongs to. Not a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvitationId(pub [u8; 8]);

/// The secret of an invitation: wiped when dropped, never shown, never sent.
pub struct JoinSecret(Zeroizing<[u8; 16]>);

/// Why a text is not a join line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinLineError {
    /// It does not begin as one.
    #[error("not a join line: it begins with cap1_, as printed by `capuchind invite`")]
    NotALine,
    /// It was made by a newer lender.
    #[error("the join line is of version {0} and this program knows version 1: update capuchin")]
    Newer(u32),
    /// It lost or changed characters on the way.
    #[error("the join line is damaged or cut off: copy the whole line")]
    Damaged,
    /// It is whole, but says what no lender says.
    #[error("the join line has a wrong {0}")]
    Invalid(&'static str),
}

impl JoinLine {
    /// The line as text; [`JoinLine::from_str`] reads it.
    ///
    /// # Errors
    /// If the addresses are none, too many, too long or not printable.
    pub fn encode(&self) -> Result<Zeroizing<String>, JoinLineError> {
        if !(1..=LENDER_ADDRESSES_MAX).contains(&self.addresses.len()) || !self.addresses.iter().all(|a| is_address(a))
        {
            return Err(JoinLineError::Invalid("address"));
        }
        // Room at once, so that growing leaves no copy of the secret behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(JOIN_LINE_MAX));
        bytes.extend_from_slice(&self.expires.0.to_be_bytes());
        bytes.extend_from_slice(&self.id.0);
        bytes.extend_from_slice(self.secret.as_bytes());
        bytes.extend_from_slice(&self.ca_key);
        put_text(&mut bytes, self.lender.as_str());
        // At most four, see above.
        bytes.push(self.addresses.len() as u8);
        for address in &self.addresses {
            put_text(&mut bytes, address);
        }
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_be_bytes());

        let mut line = Zeroizing::new(String::with_capacity(JOIN_LINE_MAX));
        line.push_str(PREFIX);
        BASE64URL_NOPAD.encode_append(&bytes, &mut line);
        Ok(line)
    }

    /// `true` once the invitation has ended; saying so before dialling saves the user a puzzling refusal.
    pub fn is_expired(&self, now: UnixTime) -> bool {
        now >= self.expires
    }
}

impl FromStr for JoinLine {
    type Err = JoinLineError;

    fn from_str(text: &str) -> Result<Self, JoinLineError> {
        let body = body_of(text.trim())?;
        let bytes = Zeroizing::new(BASE64URL_NOPAD.decode(body.as_bytes()).map_err(|_| JoinLineError::Damaged)?);
        let (content, crc) = bytes.split_last_chunk::<4>().ok_or(JoinLineError::Damaged)?;
        if crc32fast::hash(content) != u32::from_be_bytes(*crc) {
            return Err(JoinLineError::Damaged);
        }
        let mut reader = Reader(content);
        let line = Self {
            expires: UnixTime(u64::from_be_bytes(reader.array("expiry")?)),
            id: InvitationId(reader.array("id")?),
            secret: JoinSecret(Zeroizing::new(reader.array("secret")?)),
            ca_key: reader.array("CA key")?,
            lender: reader.text("lender name")?.parse().map_err(|_| JoinLineError::Invalid("lender name"))?,
            addresses: reader.addresses()?,
        };
        if reader.0.is_empty() { Ok(line) } else { Err(JoinLineError::Invalid("length")) }
    }
}

impl JoinSecret {
    /// A new one.
    pub fn random() -> Self {
        Self(Zeroizing::new(random()))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }
}

impl InvitationId {
    /// A new one.
    pub fn random() -> Self {
        Self(random())
    }
}

/// The base64 of a line of our version.
fn body_of(text: &str) -> Result<&str, JoinLineError> {
    if text.len() > JOIN_LINE_MAX {
        return Err(JoinLineError::NotALine);
    }
    let (version, body) =
        text.strip_prefix("cap").and_then(|rest| rest.split_once('_')).ok_or(JoinLineError::NotALine)?;
    match version.parse() {
        Ok(1) if version == "1" => Ok(body),
        Ok(newer) if newer > 1 => Err(JoinLineError::Newer(newer)),
        _ => Err(JoinLineError::NotALine),
    }
}

/// What may stand in a line as an address. Dialling decides whether it leads anywhere.
fn is_address(text: &str) -> bool {
    (1..=LENDER_ADDRESS_MAX).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_graphic())
        && (text.contains(':') || text.contains('@'))
}

/// Appends a text of at most 255 bytes: lender names have 63, addresses were checked.
fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(text.len() as u8);
    bytes.extend_from_slice(text.as_bytes());
}

/// Takes what is there and never more.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], JoinLineError> {
        let (head, rest) = self.0.split_at_checked(count).ok_or(JoinLineError::Invalid(what))?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], JoinLineError> {
        self.take(N, what)?.try_into().map_err(|_| JoinLineError::Invalid(what))
    }

    fn text(&mut self, what: &'static str) -> Result<&'a str, JoinLineError> {
        let [length] = self.array(what)?;
        std::str::from_utf8(self.take(length.into(), what)?).map_err(|_| JoinLineError::Invalid(what))
    }

    fn addresses(&mut self) -> Result<Vec<String>, JoinLineError> {
        let [count] = self.array("address count")?;
        if !(1..=LENDER_ADDRESSES_MAX).contains(&count.into()) {
            return Err(JoinLineError::Invalid("address count"));
        }
        (0..count)
            .map(|_| {
                let address = self.text("address")?;
                if is_address(address) { Ok(address.to_owned()) } else { Err(JoinLineError::Invalid("address")) }
            })
            .collect()
    }
}

const PREFIX: &str = "cap1_";
/// Expiry, id, secret, CA key, address count, CRC.
const FIXED_LEN: usize = 8 + 8 + 16 + 32 + 1 + 4;

#[cfg(test)]
mod tests;
