//! The lender's answer to a request: granted, with what the resource has to tell, or refused, and why.

use std::net::{IpAddr, SocketAddr};

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use super::{Errno, ErrorKind, message};

/// Longest text of a refusal and of each of its notes, in bytes.
pub const REFUSAL_TEXT_MAX: usize = 1024;
/// Most notes of a refusal.
pub const REFUSAL_NOTES_MAX: usize = 8;

/// An address and port, as the wire has them: 4 or 16 bytes of address, then the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireAddr(pub SocketAddr);

impl<C> Encode<C> for WireAddr {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        let mut bytes = match self.0.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        bytes.extend_from_slice(&self.0.port().to_be_bytes());
        e.bytes(&bytes)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for WireAddr {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        let wrong = || decode::Error::message("an address has 4 or 16 bytes and a port");
        let (ip, port) = d.bytes()?.split_last_chunk::<2>().ok_or_else(wrong)?;
        let ip = match (<[u8; 4]>::try_from(ip), <[u8; 16]>::try_from(ip)) {
            (Ok(ip), _) => IpAddr::from(ip),
            (_, Ok(ip)) => IpAddr::from(ip),
            _ => return Err(wrong()),
        };
        Ok(Self(SocketAddr::new(ip, u16::from_be_bytes(*port))))
    }
}

/// The lender's answer to a [`Request`](super::Request): `G` says what the resource has to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<G> {
    /// The stream is the resource from here on.
    Granted(G),
    /// No; the stream ends.
    Refused(Refusal),
}

impl<G: Encode<()>> Encode<()> for Answer<G> {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut ()) -> Result<(), encode::Error<W::Error>> {
        match self {
            Self::Granted(body) => e.map(1)?.u8(0)?.encode(body)?.ok(),
            Self::Refused(body) => e.map(1)?.u8(1)?.encode(body)?.ok(),
        }
    }
}

impl<'b, G: Decode<'b, ()>> Decode<'b, ()> for Answer<G> {
    fn decode(d: &mut Decoder<'b>, _: &mut ()) -> Result<Self, decode::Error> {
        message::decode_one_of(d, |d, key| {
            Ok(match key {
                0 => Some(Self::Granted(d.decode()?)),
                1 => Some(Self::Refused(d.decode()?)),
                _ => None,
            })
        })
    }
}

/// The answer to [`Request::RenewCertificate`](super::Request::RenewCertificate).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RenewedCertificate {
    /// The certificate (X.509, DER).
    #[cbor(n(0), with = "minicbor::bytes")]
    pub certificate: Vec<u8>,
}

/// A TCP connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct TcpConnected {
    /// The address that the lender connected to.
    #[n(0)]
    pub peer: WireAddr,
    /// The lender's own address of this connection.
    #[n(1)]
    pub local: WireAddr,
}

/// The stream carries DNS messages from here on (RFC 1035 §4), each with its length before it as a u16, as over TCP.
/// Each question meets the gate of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Resolving {}

/// What the gate would say.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Verdict {
    /// The rule that allows it.
    #[n(0)]
    pub rule: String,
    /// Lines about rules of this user that say less than they seem to.
    #[n(1)]
    #[cbor(default)]
    pub warnings: Vec<String>,
}

impl Verdict {
    /// A yes by `rule`; of the warnings those over [`REFUSAL_NOTES_MAX`] are left out, as of a refusal's notes.
    pub fn new(rule: &impl std::fmt::Display, warnings: impl IntoIterator<Item = String>) -> Self {
        let warnings = warnings.into_iter().take(REFUSAL_NOTES_MAX).map(cut).collect();
        Self { rule: cut(rule.to_string()), warnings }
    }
}

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Refusal {
    /// Which of the error kinds, by number.
    #[n(0)]
    kind: u8,
    /// An error number, where one exists.
    #[n(1)]
    errno: Option<u16>,
    /// One line for a person; escape it before it reaches a terminal.
    #[n(2)]
    text: String,
    /// More lines: the rule that decided, the nearest that would allow it, the way to mend it.
    #[n(3)]
    notes: Vec<String>,
    /// Of a check alone; as [`Verdict::warnings`].
    #[n(4)]
    warnings: Option<Vec<String>>,
    /// Of a program alone: true where a step before it failed, so that nothing is said of the program itself.
    #[n(5)]
    before_program: Option<bool>,
}

impl Refusal {
    /// A refusal without errno or notes.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        let text = cut(text.into());
        Self { kind: kind as u8, errno: None, text, notes: Vec::new(), warnings: None, before_program: None }
    }

    /// With the error number that a system call would give.
    #[must_use]
    pub fn with_errno(self, errno: Option<Errno>) -> Self {
        Self { errno: errno.map(|errno| errno.0), ..self }
    }

    /// With lines that explain it; those over [`REFUSAL_NOTES_MAX`] are left out.
    #[must_use]
    pub fn with_notes(self, notes: impl IntoIterator<Item = String>) -> Self {
        Self { notes: notes.into_iter().take(REFUSAL_NOTES_MAX).map(cut).collect(), ..self }
    }

    /// With lines about rules of this user that say less than they seem to; those over [`REFUSAL_NOTES_MAX`] are left out.
    #[must_use]
    pub fn with_warnings(self, warnings: impl IntoIterator<Item = String>) -> Self {
        let warnings: Vec<_> = warnings.into_iter().take(REFUSAL_NOTES_MAX).map(cut).collect();
        Self { warnings: Some(warnings).filter(|warnings| !warnings.is_empty()), ..self }
    }

    /// Of a program: whether a step before it failed, as entering its working directory, and not the program.
    #[must_use]
    pub fn with_before_program(self, is_before: bool) -> Self {
        Self { before_program: is_before.then_some(true), ..self }
    }

    /// Which of the error kinds; one that we do not know yet counts as the target's.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::from_number(self.kind).unwrap_or(ErrorKind::Target)
    }

    /// The error number, where one exists.
    pub fn errno(&self) -> Option<Errno> {
        self.errno.filter(|number| *number > 0).map(Errno)
    }

    /// One line for a person, as the lender wrote it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Of a program: a step before it failed, as entering its working directory. Nothing is wrong with the program.
    pub fn is_before_program(&self) -> bool {
        self.before_program == Some(true)
    }

    /// The lines that explain it, as the lender wrote them.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Rules of this user that say less than they seem to, as the lender wrote it; of a check alone.
    pub fn warnings(&self) -> &[String] {
        self.warnings.as_deref().unwrap_or_default()
    }
}

pub(super) fn cut(mut text: String) -> String {
    let mut end = text.len().min(REFUSAL_TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests;
