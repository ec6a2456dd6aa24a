//! What a stream asks for in its first message, and the lender's answer.
//!
//! A request is a map whose key 0 is its name, so that a lender that does not know it can refuse it by name. Everything
//! behind the request and behind the answer are the resource's own bytes.

use std::net::{IpAddr, SocketAddr};

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use super::{Errno, ErrorKind, ProtocolError, message};

/// Longest host in a request, in bytes: the longest DNS name (RFC 1035 §2.3.4), or an address.
pub const HOST_BYTES_MAX: usize = 255;
/// Longest text of a refusal and of each of its notes, in bytes.
pub const REFUSAL_TEXT_MAX: usize = 1024;
/// Longest kind in an [`Ask`], in bytes: twice the longest that there is.
pub const ASK_KIND_MAX: usize = 32;
/// Longest target in an [`Ask`], in bytes: a command line of several of the longest paths, half of a message.
pub const ASK_TARGET_MAX: usize = 32 * 1024;
/// The requests that are planned, by name, each with the kinds that it can be.
pub const PLANNED: [(&str, &[&str]); 10] = [
    ("udp-bind", &["udp", "listen"]),
    ("tcp-listen", &["listen"]),
    ("unix-connect", &["unix"]),
    ("unix-listen", &["unix_listen"]),
    ("profile", &["profile"]),
    ("spawn", &["exec", "shell", "python"]),
    ("files", &["read", "write"]),
    ("service-connect", &["services.use"]),
    ("service-listen", &["services.offer"]),
    ("objects", &["python"]),
];
/// Most notes of a refusal.
pub const REFUSAL_NOTES_MAX: usize = 8;

/// A borrowed resource.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// A TCP connection made by the lender; answered with [`TcpConnected`].
    TcpConnect(Target),
    /// Names from the lender's resolvers; answered with [`Resolving`].
    Resolve,
    /// Asks the gate about a request of any kind and does nothing; answered with a [`Verdict`].
    Check(Ask),
    /// A new certificate for the key of this device, before the old one ends: a PKCS #10 request in DER, of which only
    /// the key counts. Answered with [`RenewedCertificate`].
    RenewCertificate(Vec<u8>),
    /// A new ticket that goes back to the same login; answered with an [`IssuedTicket`](super::IssuedTicket).
    RenewTicket,
    /// A request that has its name and its place at the gate, and that no lender of this version serves: one of
    /// [`PLANNED`]. It is decided, and refused by the policy or as not offered.
    Planned {
        /// Its name.
        name: &'static str,
        /// What it wants.
        ask: Ask,
    },
}

/// A request in words: what the policy calls its kind, and its target as a person writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ask {
    /// The kind, e.g. `connect`; the lender says whether it knows it.
    pub kind: String,
    /// What is wanted, e.g. `db.internal:5432`; empty where a kind needs nothing more.
    pub target: String,
}

/// `host:port` as the borrower wrote it; the lender resolves and judges it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port; never 0.
    pub port: u16,
}

impl Request {
    /// The request's name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TcpConnect(_) => "tcp-connect",
            Self::Resolve => "resolve",
            Self::Check(_) => "check",
            Self::RenewCertificate(_) => "renew-certificate",
            Self::RenewTicket => "renew-ticket",
            Self::Planned { name, .. } => name,
        }
    }

    /// Reads a request.
    ///
    /// # Errors
    /// What cannot be read breaks the protocol; a name that is not known is an [`UnknownRequest`] and only refused.
    pub fn decode(bytes: &[u8]) -> Result<Result<Self, UnknownRequest>, ProtocolError> {
        let Head { name } = message::decode("request", bytes)?;
        Ok(Ok(match name.as_str() {
            "tcp-connect" => {
                let TargetBody { host, port } = message::decode("request", bytes)?;
                let fits = (1..=HOST_BYTES_MAX).contains(&host.len()) && port > 0;
                Self::TcpConnect(
                    fits.then_some(Target { host, port })
                        .ok_or_else(|| malformed("a host of 1 to 255 bytes and a port above 0 are needed"))?,
                )
            }
            "resolve" => Self::Resolve,
            "check" => Self::Check(Ask::decode(bytes)?),
            "renew-certificate" => {
                let CertificateRequest { csr } = message::decode("request", bytes)?;
                Self::RenewCertificate(csr)
            }
            "renew-ticket" => Self::RenewTicket,
            other => match PLANNED.into_iter().find(|(name, _)| *name == other) {
                Some((name, kinds)) => {
                    let ask = Ask::decode(bytes)?;
                    if !kinds.contains(&ask.kind.as_str()) {
                        return Err(malformed("the kind is none of this request"));
                    }
                    Self::Planned { name, ask }
                }
                None => return Ok(Err(UnknownRequest { name: name.chars().take(64).collect() })),
            },
        }))
    }
}

impl Ask {
    fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let AskBody { kind, target } = message::decode("request", bytes)?;
        let fits = (1..=ASK_KIND_MAX).contains(&kind.len()) && target.len() <= ASK_TARGET_MAX;
        let why = "a kind of 1 to 32 bytes and a target of at most 32,768 are needed";
        fits.then_some(Self { kind, target }).ok_or_else(|| malformed(why))
    }
}

fn malformed(why: &str) -> ProtocolError {
    ProtocolError::Malformed { what: "request", why: why.to_owned() }
}

impl<C> Encode<C> for Request {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        let length = match self {
            Self::Resolve | Self::RenewTicket => 1,
            Self::RenewCertificate(_) => 2,
            Self::TcpConnect(_) | Self::Check(_) | Self::Planned { .. } => 3,
        };
        e.map(length)?.u8(0)?.str(self.name())?;
        match self {
            Self::Resolve => Ok(()),
            Self::TcpConnect(Target { host, port }) => e.u8(1)?.str(host)?.u8(2)?.u16(*port)?.ok(),
            Self::RenewCertificate(csr) => e.u8(1)?.bytes(csr)?.ok(),
            Self::RenewTicket => Ok(()),
            Self::Check(Ask { kind, target }) | Self::Planned { ask: Ask { kind, target }, .. } => {
                e.u8(1)?.str(kind)?.u8(2)?.str(target)?.ok()
            }
        }
    }
}

#[derive(Decode)]
#[cbor(map)]
struct Head {
    #[n(0)]
    name: String,
}

#[derive(Decode)]
#[cbor(map)]
struct TargetBody {
    #[n(1)]
    host: String,
    #[n(2)]
    port: u16,
}

#[derive(Decode)]
#[cbor(map)]
struct AskBody {
    #[n(1)]
    kind: String,
    #[n(2)]
    target: String,
}

#[derive(Decode)]
#[cbor(map)]
struct CertificateRequest {
    #[cbor(n(1), with = "minicbor::bytes")]
    csr: Vec<u8>,
}

/// The answer to [`Request::RenewCertificate`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RenewedCertificate {
    /// The certificate (X.509, DER).
    #[cbor(n(0), with = "minicbor::bytes")]
    pub certificate: Vec<u8>,
}

/// A request that this build does not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this lender does not know the request {name:?}")]
pub struct UnknownRequest {
    /// The name, cut at 64 characters.
    pub name: String,
}

impl std::fmt::Display for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.kind)?;
        if self.target.is_empty() { Ok(()) } else { write!(f, " {}", self.target) }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why a text is not a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not HOST:PORT: {why}")]
pub struct TargetError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// Reads `host:port`; an IPv6 address stands in brackets.
impl std::str::FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let wrong = |why| TargetError { text: text.chars().take(300).collect(), why };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| wrong("the port is missing, as in db.internal:5432"))?;
        let port = match port.parse::<u16>() {
            Ok(0) | Err(_) => return Err(wrong("a port is a number from 1 to 65535")),
            Ok(port) => port,
        };
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(inside)) => inside,
            Some(None) => return Err(wrong("the bracket is not closed")),
            None if host.contains(':') => return Err(wrong("an IPv6 address stands in brackets, as in [::1]:80")),
            None => host,
        };
        match host.len() {
            0 => Err(wrong("the host is missing")),
            1..=HOST_BYTES_MAX => Ok(Self { host: host.to_owned(), port }),
            _ => Err(wrong("the host is longer than 255 bytes")),
        }
    }
}

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

/// The lender's answer to a [`Request`]: `G` says what the resource has to tell.
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
}

impl Refusal {
    /// A refusal without errno or notes.
    pub fn new(kind: ErrorKind, text: impl Into<String>) -> Self {
        Self { kind: kind as u8, errno: None, text: cut(text.into()), notes: Vec::new() }
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

    /// The lines that explain it, as the lender wrote them.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

fn cut(mut text: String) -> String {
    let mut end = text.len().min(REFUSAL_TEXT_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests;
